import html
import json
import math
import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from entry_toys import audit, draw_nothing, edit, make_results, make_run
from markupsafe import escape

from golf.__main__ import main
from golf.entry import plots
from golf.entry.build import build
from golf.entry.portrait import Portrait
from golf.entry.progress import curve_of
from golf.entry.submission import entry_figures
from golf.results import Results
from golf.site import render as report
from golf.site.render import (
    Audit,
    Documents,
    EntryView,
    Probe,
    best_of,
    group_by_text,
    load_entries,
    load_entry,
    render_page,
    signature,
    watch,
    write_report,
)
from golf.system.log import RunLog

NOW = datetime(2026, 5, 2, 12, 0, 0)
NASTY = "<script>alert('x')</script>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries of every shape."""
    place = tmp_path_factory.mktemp("shelf")
    root = place / "records"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("golf.entry.plots.plot_training", draw_nothing)
        runs = [make_run(place / f"seed{seed}", seed) for seed in (42, 7, 99)]
        for run in runs:
            audit(edit(run, name="three-seeds"))
        build(runs, root, "track_non_record_16mb")
        trial = edit(make_run(place / "trial", 2), name=NASTY, environment__hardware=NASTY)
        build([trial], root, "local", blurb=NASTY)
        part = edit(make_run(place / "part", 3), name="in-part", scores__stages__quantized__partial=True)
        build([part], root, "local")
        failed = edit(make_run(place / "failed", 1), name="failed")
        audit(failed, passed=False)
        build([failed], root, "local")
        portrayed = edit(make_run(place / "portrayed", 4), name="portrayed", portrait=PORTRAIT)
        feature = {"name": "ttt", "active": True, "evidence": ""}
        build([edit(portrayed, features=[feature])], root, "local")
        odd = edit(make_run(place / "odd", 5), name="odd", portrait={"codes": {"a": 3}})
        build([odd], root, "local")
    stranger = root / "track_10min_16mb" / "stranger"
    stranger.mkdir(parents=True)
    stated = {"name": NASTY, "author": "x", "val_bpb": "1.25", "artifact_size_mb": 15.9, "blurb": 3}
    (stranger / "submission.json").write_text(json.dumps(stated))
    (stranger / "train.log").write_text(
        "".join(f"step:{n}/9 train_loss:{5 - n / 3} val_bpb:2\n" for n in range(9))
    )
    (root / "local" / "broken").mkdir()
    (root / "local" / "broken" / "submission.json").write_bytes(b"\xff\x00{")
    (root / "local" / "broken" / "results.json").write_text('{"format": "golf-entry-1", "seeds": {"1": []}}')
    (root / "local" / "empty").mkdir()
    (root / "local" / "no-seeds").mkdir()
    (root / "local" / "no-seeds" / "results.json").write_text('{"format": "golf-entry-1", "seeds": {}}')
    (root / "local" / "strange").mkdir()
    (root / "local" / "strange" / "results.json").write_text('{"format": "golf-entry-1", "seeds": 3}')
    (root / "local" / "linked").symlink_to(stranger)
    return root


PORTRAIT = {
    "codes": {
        "attention": {"first_code": -30, "counts": list(range(61))},
        "none": {"first_code": 0, "counts": []},
    },
    "loss_by_position": {
        "context": 8,
        "tokens_scored": 64,
        "up_to_position": [1, 2, 4, 8],
        "nats": [4, 3, 2, 1],
    },
}


@pytest.fixture(scope="module")
def page(records: Path) -> str:
    return render_page(load_entries(records), [], NOW, None)


def test_every_folder_has_a_row_and_a_section(records: Path, page: str) -> None:
    folders = [path for path in records.glob("*/*") if not path.name.startswith(".")]
    assert len(folders) == 12
    for folder in folders:
        name = html.escape(f"{folder.parent.name}/{folder.name}")
        assert f'<a href="#{name}">' in page and f'<details class="entry" id="{name}">' in page
    assert page.count("cannot be read</span>") == 5


def test_what_folders_say_is_text_and_never_markup(page: str) -> None:
    assert "<script>alert" not in page and str(escape(NASTY)) in page
    assert page.count("<script>") == 1


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert not re.search(r'(src|href)="(https?:)?//|@import|url\([^#]', page)


def test_the_best_committed_score_that_counts_comes_first(records: Path, page: str) -> None:
    best = best_of(load_entries(records))
    assert (best.name, best.track) == ("three-seeds", "track_non_record_16mb")
    first = re.search(r'<div class="score">([\d.]+)<small>bits per byte', page)
    assert first[1] == f"{best.bpb:.4f}"
    assert f"± {best.figures['val_bpb_std']:.4f} over 3 seeds" in page


def test_scores_are_ranked_on_their_own_text_alone_and_failed_ones_last(records: Path) -> None:
    groups = group_by_text(load_entries(records))
    assert [(text.name, text.partial) if text else None for text, _ in groups] == [
        ("docs", False), ("docs", True), None,
    ]  # fmt: skip
    whole = groups[0][1]
    assert whole[-1].verdict == "failed" and whole[-1].bpb < whole[0].bpb
    counted = [entry.bpb for entry in whole[:-1]]
    assert counted == sorted(counted)


def test_a_strangers_folder_shows_what_its_json_says(records: Path) -> None:
    shown = load_entry(records / "track_10min_16mb" / "stranger")
    assert (shown.bpb, shown.figures["bytes_total"], shown.verdict) == (1.25, 15_900_000, "not audited")
    assert shown.problem == "has no results.json"
    assert shown.curves["train"].steps.tolist() == list(range(9))
    assert np.isnan(shown.curves["train"].tokens).all()


ODD_PORTRAITS = [
    {"codes": {"a": 3}},
    {"codes": {"a": {"first_code": 0, "counts": [-1]}}},
    {"codes": {"a": {"first_code": 0, "counts": [10**400]}}},
    {"codes": [1]},
    {"loss_by_position": {"context": 8, "tokens_scored": 1, "up_to_position": [0], "nats": [1]}},
    {"loss_by_position": {"context": 8, "tokens_scored": 1, "up_to_position": [1], "nats": [1e99]}},
    {"loss_by_position": 7},
]


@pytest.mark.parametrize("portrait", ODD_PORTRAITS)
def test_a_portrait_of_an_unknown_shape_is_left_out_alone(
    portrait: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    entry = build([edit(make_run(tmp_path / "run", 5), portrait=portrait)], tmp_path / "records", "local")
    shown = load_entry(entry)
    assert shown.problem.startswith("portrait cannot be read") and shown.portrait == Portrait()
    text = render_page([shown], [], NOW, None)
    assert f"{shown.bpb:.4f}" in text and "portrait cannot be read" in text


@pytest.mark.parametrize("broken", ["audit.json", "per_document.npz"])
def test_a_side_file_that_cannot_be_read_is_left_out_alone(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    entry = build([make_run(tmp_path / "run", 5)], tmp_path / "records", "local")
    (entry / broken).write_bytes(b"{")
    shown = load_entry(entry)
    assert shown.bpb is not None and shown.runs and "cannot be read" in shown.problem


def test_the_page_has_the_figures_of_results_json(records: Path, page: str) -> None:
    for path in records.glob("*/*three-seeds*/results.json"):
        seeds = json.loads(path.read_text())["seeds"]
        section = page[page.index(f'<details class="entry" id="{path.parent.parent.name}') :]
        section = section[: section.index("</details>")]
        bits, nats = {}, {}
        for seed, raw in seeds.items():
            for stage in raw["scores"]["stages"]:
                tally = stage["tally"]
                bits.setdefault(stage["name"], []).append(tally["nats"] / math.log(2) / tally["num_bytes"])
                nats.setdefault(stage["name"], []).append(tally["nats"] / tally["num_tokens"])
            assert f"<td>{seed}</td><td>{bits['test_time_trained'][-1]:.6f}</td>" in section
            sizes = raw["packing"]
            assert f"<td>{sizes['code_bytes'] + sizes['artifact_bytes']:,}</td>" in section
        assert set(bits) == {"last", "averaged", "quantized", "test_time_trained"}
        for values in (*bits.values(), *nats.values()):
            assert f"<td>{np.mean(values):.6f}</td>" in section
        largest = max((raw["packing"] for raw in seeds.values()), key=lambda sizes: sizes["artifact_bytes"])
        for count in (*largest["parts"].values(), largest["code_bytes"]):
            assert f"<td>{count:,}</td>" in section


def test_the_same_entries_make_the_same_page(records: Path, page: str) -> None:
    plots._line_chart.cache_clear()
    plots._histogram.cache_clear()
    assert render_page(load_entries(records), [], NOW, None) == page


def test_a_page_without_entries_says_how_to_make_one(tmp_path: Path) -> None:
    write_report(tmp_path / "none", tmp_path / "runs", tmp_path / "index.html")
    assert "No entry yet" in (tmp_path / "index.html").read_text()


def test_an_entry_with_everything_stays_below_forty_kilobytes() -> None:
    both = [len(render_page(entries, [], NOW, None).encode()) for entries in ([], [rich_entry()])]
    assert both[1] - both[0] < 40_000


def rich_entry() -> EntryView:
    values = np.random.default_rng(3).lognormal(0.8, 0.2, 2_000)
    steps = [{"step": n, "tokens": n, "train_loss": 9 / n**0.5 + 1, "bpb": 9 / n} for n in range(1, 301)]
    codes = {part: {"first_code": -128, "counts": [10**6] * 256} for part in ("a", "b", "c", "d")}
    results = make_results(7, bytes(16_000_000))
    results["packing"] |= {"code_bytes": 60_000, "artifact_bytes": 15_940_000}
    results["packing"]["parts"] = dict.fromkeys("abcd", 3_900_000)
    features = [{"name": "model.smear", "active": True, "evidence": "moves a logit"}] * 20
    runs = [msgspec.convert({**results, "features": features, "seed": seed}, Results) for seed in range(5)]
    said = {"author": "", "date": "2026-05-02", "blurb": "What it is. " * 20}
    return EntryView(
        folder="local/rich",
        name="rich",
        figures={**said, **entry_figures(runs)},
        runs=tuple(runs),
        curves={f"seed {seed}": curve_of(steps) for seed in range(5)},
        documents=Documents(values, values * 1.01),
        portrait=msgspec.convert({**PORTRAIT, "codes": codes}, Portrait),
        audit=Audit(True, [Probe("sliding windows", "causality", "targets " * 20)] * 10),
    )


def make_live(runs: Path, steps: int) -> None:
    folder = runs / "2026-05-02_live"
    folder.mkdir(parents=True, exist_ok=True)
    config = {"config": {"minutes": 1.0, "steps": None}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"event": "model_params", "model_params": 5}]
    for step in range(1, steps + 1):
        figures = {"train_loss": 4 - step / 10, "tokens": 100 * step, "train_seconds": 6.0 * step}
        lines.append({"event": "step", "step": f"{step}/10", **figures})
    (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_under_way_shows_how_far_it_is_and_a_finished_one_does_not(tmp_path: Path) -> None:
    make_live(tmp_path / "runs", 4)
    write_report(tmp_path / "records", tmp_path / "runs", tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert "2026-05-02_live" in text and "40.0% of the training budget" in text
    assert "loss 3.6000 nats per token" in text and "<meta http-equiv" not in text
    (tmp_path / "runs" / "2026-05-02_live" / "results.json").write_text("{}")
    write_report(tmp_path / "records", tmp_path / "runs", tmp_path / "index.html")
    assert "2026-05-02_live" not in (tmp_path / "index.html").read_text()


def test_a_run_whose_process_is_gone_is_stopped_on_the_page(tmp_path: Path) -> None:
    make_live(tmp_path / "runs", 4)
    run = tmp_path / "runs" / "2026-05-02_live"
    assert (str(run), 0, 0) in signature(tmp_path / "records", tmp_path / "runs")
    os.utime(run / "run.jsonl", (0, 0))
    assert (str(run), 1, 0) in signature(tmp_path / "records", tmp_path / "runs")
    write_report(tmp_path / "records", tmp_path / "runs", tmp_path / "index.html")
    assert '<span class="tag loud">stopped while training</span>' in (tmp_path / "index.html").read_text()


def test_a_score_worse_than_a_general_compressors_is_not_green(records: Path, tmp_path: Path) -> None:
    entry = next(records.glob("track_non_record_16mb/*three-seeds"))
    copied = shutil.copytree(entry, tmp_path / "records" / "track_non_record_16mb" / entry.name)
    page = render_page(load_entries(tmp_path / "records"), [], NOW, None)
    assert 'class="best"' in page and "worse than" not in page
    results = json.loads((copied / "results.json").read_text())
    for seed in results["seeds"].values():
        seed["data"]["xz_bits_per_byte"] = 0.5
    (copied / "results.json").write_text(json.dumps(results))
    page = render_page(load_entries(tmp_path / "records"), [], NOW, None)
    assert 'class="best"' not in page and '<div class="score plain">' in page
    assert page.count("worse than xz -9") == 2 and "Worse than xz -9 on the same text." in page


def test_watching_writes_the_page_when_a_log_grows_and_not_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "index.html"
    written, changes = [], iter((lambda: None, lambda: make_live(runs, 5), lambda: None))

    def sleep(seconds: float) -> None:
        written.append(out.read_text())
        out.write_text("as it was")
        try:
            next(changes)()
        except StopIteration:
            raise KeyboardInterrupt from None

    make_live(runs, 4)
    monkeypatch.setattr(report.time, "sleep", sleep)
    watch(tmp_path / "records", runs, out, 5.0, RunLog(quiet=True))
    assert ["40.0%" in text for text in written] == [True, False, False, False]
    assert ["50.0%" in text for text in written] == [False, False, True, False]
    assert 'http-equiv="refresh"' in written[0] and "<meta http-equiv" not in out.read_text()


def test_a_run_that_is_moved_away_changes_the_signature(tmp_path: Path) -> None:
    make_live(tmp_path / "runs", 1)
    before = signature(tmp_path / "records", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    assert before and signature(tmp_path / "records", tmp_path / "runs") == ()


def test_the_command_writes_the_page_and_refuses_no_time(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "page.html"
    assert main(["report", "--records", str(records), "--runs", str(tmp_path), "--out", str(out)]) == 0
    assert out.stat().st_size > 10_000
    assert main(["report", "--records", str(records), "--every-seconds", "0"]) == 2
    assert "--every-seconds is 0" in capsys.readouterr().err


def test_beside_the_first_run_of_a_folder_the_command_makes_the_page_and_without_one_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 2
    assert "records is no folder" in capsys.readouterr().err and not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    assert main(["report"]) == 0
    assert (tmp_path / "records" / "index.html").is_file()


PROBE = """
const frame = document.getElementById("page"), out = {};
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const table = page.querySelector("table.board");
  const column = name => [...table.tHead.rows[0].cells].findIndex(c => c.textContent.startsWith(name));
  const sort = name => { table.tHead.rows[0].cells[column(name)].querySelector("button").click();
    return [...table.tBodies[0].rows].map(row => row.cells[column(name)].dataset.value); };
  out.closed = root.scrollWidth;
  page.querySelectorAll("details").forEach(entry => { entry.open = true; });
  out.open = root.scrollWidth;
  out.hidden = [...page.querySelectorAll(".scroll, .board td")].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent);
  out.sizes = sort("size"); out.sizes_down = sort("size"); out.names = sort("entry");
  out.score_px = parseFloat(frame.contentWindow.getComputedStyle(page.querySelector(".score")).fontSize);
  document.getElementById("out").textContent = JSON.stringify(out);
};
frame.srcdoc = document.getElementById("source").value;
"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_a_browser_sorts_it_and_needs_no_sideways_scrolling_on_a_phone(page: str, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<textarea id="source">{html.escape(page)}</textarea><pre id="out"></pre>'
        f'<iframe id="page" style="width:375px;height:800px;border:0"></iframe><script>{PROBE}</script>'
    )
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.S)[1]))
    assert found["closed"] <= 375 and found["open"] <= 375
    assert found["hidden"] == []
    sizes = [float(size) for size in found["sizes"]]
    assert sizes == sorted(sizes) and len(set(sizes)) > 2
    assert [float(size) for size in found["sizes_down"]] == sorted(sizes, reverse=True)
    assert found["names"] == sorted(found["names"])
    assert found["score_px"] > 50


def test_an_entry_is_shown_as_its_submission_states_it(records: Path) -> None:
    (folder,) = (records / "track_non_record_16mb").iterdir()
    shown, stated = load_entry(folder), json.loads((folder / "submission.json").read_text())
    for name in ("val_bpb", "val_bpb_std"):
        assert shown.figures[name] == pytest.approx(stated[name])
    for name in ("bytes_total", "bytes_code", "bytes_model", "train_seconds", "eval_seconds", "hardware"):
        assert shown.figures[name] == stated[name]
    assert list(shown.figures["seeds"]) == stated["seeds"] and shown.verdict == "passed"
    assert shown.problem == ""
