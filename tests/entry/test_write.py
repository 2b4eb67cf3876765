import datetime
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from entry_toys import SCRIPT, audit, draw_nothing, edit, make_run, scale_documents

import train_gpt
from golf.entry.build import build, slug
from golf.entry.results import EntryError, read_entry_results, read_results
from golf.entry.runs import check_plan, parse_events
from golf.entry.selfextract import pack_script
from golf.entry.submission import TOOLKIT, best_entry, find_identity

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_drawing")
DATE = datetime.date(2026, 5, 2)

SUBMISSION_KEYS = (
    "author github_id name blurb date track val_loss val_bpb val_loss_std val_bpb_std seeds seed_results "
    "pre_quant_val_bpb bytes_total bytes_model bytes_code artifact_sha256 train_seconds eval_seconds "
    "tokens_scored bytes_scored hardware versions toolkit_commit"
).split()


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "one")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records"


def submission_of(entry: Path) -> dict:
    return json.loads((entry / "submission.json").read_text())


def test_an_entry_holds_the_runs_own_files(run, records):
    entry = build([run], records, "local", date=DATE)
    assert entry == records / "local" / "2026-05-02_tiny-run"
    assert sorted(path.name for path in entry.iterdir()) == [
        "README.md",
        "artifact_seed7.bin",
        "per_document.npz",
        "requirements.txt",
        "results.json",
        "submission.json",
        "train_gpt.py",
        "train_seed7.log",
        "training.svg",
    ]
    for name, source in (
        ("train_gpt.py", "train_gpt.py"),
        ("artifact_seed7.bin", "artifact.bin"),
        ("train_seed7.log", "run.log"),
        ("per_document.npz", "per_document.npz"),
    ):
        assert (entry / name).read_bytes() == (run / source).read_bytes()
    assert (entry / "requirements.txt").read_text().startswith("numpy==")
    assert read_entry_results(entry / "results.json") == {7: read_results(run / "results.json")}


def test_the_submission_has_the_contracts_keys_and_the_runs_figures(run, records):
    entry = build([run], records, "local", blurb="What it is.", date=DATE)
    stored, results = submission_of(entry), read_results(run / "results.json")
    assert list(stored) == SUBMISSION_KEYS
    assert stored["val_bpb"] == results.final.tally.bits_per_byte
    assert stored["val_loss"] == results.final.tally.nats_per_token
    assert stored["pre_quant_val_bpb"] == results.stage("averaged").tally.bits_per_byte
    assert (stored["val_bpb_std"], stored["seeds"]) == (None, [7])
    artifact = (run / "artifact.bin").read_bytes()
    assert stored["bytes_total"] == len(artifact) + (run / "train_gpt.py").stat().st_size
    assert stored["artifact_sha256"] == hashlib.sha256(artifact).hexdigest()
    assert (stored["train_seconds"], stored["eval_seconds"]) == (62.5, 6.25)
    assert (stored["blurb"], stored["date"], stored["track"]) == ("What it is.", "2026-05-02", "local")
    assert stored["versions"] == {"python": "3.11.7", "torch": "2.13.0+cpu"}
    assert stored["seed_results"]["7"]["val_bpb"] == stored["val_bpb"]


def test_the_readme_says_what_was_scored_on_what(run, records):
    text = (build([run], records, "local", date=DATE) / "README.md").read_text()
    results = read_results(run / "results.json")
    for stage in results.stages:
        figures = f"{stage.tally.bits_per_byte:.6f} \\| {stage.tally.nats_per_token:.6f}"
        assert re.search(rf"^\| {stage.title}.* \| {figures} \|", text, re.M)
    for words in (
        "disjoint windows",
        "sliding, 256 tokens by 64",
        "zstd -22 2.6000, xz -9 2.5000",
        f"sha256 `{results.packing.artifact_sha256}`",
        "| limit | 16,000,000 |",
        "documentation of installed packages",
        "model.width = 128",
        "not on the challenge's validation text",
        "One seed",
        "Not audited",
        "python -I train_gpt.py --score artifact_seed7.bin --data DIR --ttt\n",
        "![training](training.svg)",
        "| dollars | 0.25 |",
    ):
        assert words in text


def test_a_score_worse_than_a_general_compressors_says_so(run, records):
    assert "worse than" not in (build([run], records, "local") / "README.md").read_text()
    edit(run, data__xz_bits_per_byte=0.5)
    text = (build([run], records, "local") / "README.md").read_text()
    assert "**The model is worse than xz -9 on the same text.**" in text


def test_all_bytes_of_the_artifact_are_in_the_table_of_bytes(run, records):
    text = (build([run], records, "local") / "README.md").read_text()
    parts = [
        int(count.replace(",", "")) for count in re.findall(r"^\| artifact: \w+ \| ([\d,]+)", text, re.M)
    ]
    assert sum(parts) == (run / "artifact.bin").stat().st_size and len(parts) == 3


def test_an_entry_that_exists_is_never_touched(run, records):
    first = build([run], records, "local", date=DATE)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    second = build([edit(run, preset="seed")], records, "local", date=DATE)
    assert second.name == "2026-05-02_tiny-run-2"
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_nothing_half_written_is_left(run, records, monkeypatch):
    def no_space(*arguments: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("golf.entry.build.render_readme", no_space)
    with pytest.raises(OSError, match="no space left"):
        build([run], records, "local")
    assert not (records / "local").exists()


def test_large_artifacts_are_kept_but_ignored_by_git(tmp_path, records):
    small = build([make_run(tmp_path / "a", artifact=bytes(999_999))], records, "local")
    large = build([make_run(tmp_path / "b", artifact=bytes(1_000_000))], records, "local")
    assert not (small / ".gitignore").exists()
    assert (large / ".gitignore").read_text() == "artifact_seed7.bin\n"
    assert (large / "artifact_seed7.bin").stat().st_size == 1_000_000
    assert "Too large to commit" in (large / "README.md").read_text()


def test_code_and_artifact_may_fill_the_limit_to_the_byte(tmp_path, records):
    room = 16_000_000 - len(SCRIPT)
    run = make_run(tmp_path / "full", artifact=bytes(room))
    assert submission_of(build([run], records, "local"))["bytes_total"] == 16_000_000
    with pytest.raises(EntryError, match=r"16,000,001 bytes; the limit is 16,000,000"):
        build([make_run(tmp_path / "over", artifact=bytes(room + 1))], records, "local")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scores__stages__quantized": ...}, "has no stage 'quantized'"),
        ({"scores__stages__last__tally": ...}, "missing required field `tally` - at `\\$.scores.stages"),
        ({"scores__stages__last__tally__nats": "1.5"}, "Expected `float`, got `str` .*tally.nats"),
        ({"scores__stages__last__tally__nats": float("nan")}, "not readable as JSON: NaN"),
        ({"seed": True}, "Expected `int`, got `bool` .*seed"),
        ({"seconds__train": "long"}, "Expected `float`, got `str` .*seconds"),
        ({"data": []}, "Expected `object`, got `array` .*data"),
        ({"version": 99}, "version is 99; this toolkit reads 2"),
        ({"packing__artifact_bytes": 5}, "artifact.bin is 1,600 bytes; the results say 5"),
        ({"packing__limit_bytes": 16_777_216}, "held against 16,777,216 bytes"),
        ({"scores__artifact_sha256": "0" * 64}, "the artifact that was scored has sha256 000"),
        (
            {"packing__artifact_sha256": "0" * 64, "scores__artifact_sha256": "0" * 64},
            "artifact.bin has sha256 .* are of 000",
        ),
        ({"packing__code_sha256": "0" * 64}, "train_gpt.py has sha256"),
    ],
)
def test_results_that_contradict_the_files_or_themselves_are_refused(run, records, changes, complaint):
    edit(run, **changes)
    with pytest.raises(EntryError, match=complaint):
        build([run], records, "local")
    assert not (records / "local").exists()


@pytest.mark.parametrize(
    "name", ["artifact.bin", "train_gpt.py", "run.log", "run.jsonl", "results.json", "per_document.npz"]
)
def test_a_missing_file_is_named(run, records, name):
    (run / name).unlink()
    with pytest.raises(EntryError, match=f"has no {name}"):
        build([run], records, "local")


def test_a_script_that_does_not_compile_is_refused(tmp_path, records):
    with pytest.raises(EntryError, match=r"train_gpt\.py does not compile"):
        build([make_run(tmp_path / "broken", script=b"def f(:\n")], records, "local")


def test_a_packed_script_is_shipped_as_it_is_and_its_needs_are_known(tmp_path, records):
    packed = pack_script(SCRIPT.decode())
    entry = build([make_run(tmp_path / "packed", script=packed)], records, "local")
    assert (entry / "train_gpt.py").read_bytes() == packed
    assert (entry / "requirements.txt").read_text().startswith("numpy==")
    assert f"{len(packed):,} bytes (packed; " in (entry / "README.md").read_text()


@pytest.mark.parametrize("name", ["ttt_nats", "tokens", "bytes"])
def test_documents_that_do_not_add_up_to_the_score_are_refused(run, records, name):
    with np.load(run / "per_document.npz") as stored:
        arrays = dict(stored)
    np.savez(run / "per_document.npz", **{**arrays, name: arrays[name] + 1})
    with pytest.raises(EntryError, match=r"per_document\.npz adds up to"):
        build([run], records, "local")
    np.savez(run / "per_document.npz", **{key: value for key, value in arrays.items() if key != name})
    with pytest.raises(EntryError, match=f"has no array '{name}'"):
        build([run], records, "local")


@pytest.mark.parametrize(
    ("track", "changes", "complaint"),
    [
        ("track_10min", {}, "expected one of local, track_non_record_16mb"),
        (
            "track_non_record_16mb",
            {"scores__stages__quantized__partial": True},
            "scored part of the validation text",
        ),
        ("track_10min_16mb", {"seconds__train": 598.0}, "training took 600.5 s"),
        ("track_10min_16mb", {"scores__stages__test_time_trained__seconds": 600.01}, "scoring took 600.8 s"),
    ],
)
def test_a_track_admits_only_what_its_rules_allow(run, records, track, changes, complaint):
    audit(edit(run, **changes))
    with pytest.raises(EntryError, match=complaint):
        build([run], records, track)


def test_an_audit_of_another_artifact_is_refused(run, records):
    (run / "audit.json").write_text('{"passed": true, "artifact_sha256": "0"}')
    with pytest.raises(EntryError, match="audit it again"):
        build([run], records, "local")


def test_what_a_track_cannot_admit_is_refused_before_any_training(capsys):
    check_plan("local", max_tokens=100, minutes=60)
    check_plan("track_10min_16mb", max_tokens=None, minutes=10)
    check_plan("track_non_record_16mb", max_tokens=None, minutes=60)
    with pytest.raises(EntryError, match=r"--minutes 10.1 is over the 10 of track_10min_16mb"):
        check_plan("track_10min_16mb", max_tokens=None, minutes=10.1)
    options = ["--preset", "cpu", "--record-track", "track_non_record_16mb", "--max-tokens", "100"]
    assert train_gpt.main(options) == 2
    assert "scores part of the validation text" in capsys.readouterr().err


def test_a_partial_score_is_said_to_be_one(run, records):
    entry = build([edit(run, scores__stages__quantized__partial=True)], records, "local")
    assert "Partial: 100 tokens of the validation text were scored." in (entry / "README.md").read_text()


def test_an_audit_travels_with_the_entry_and_must_have_passed_for_a_record(run, records):
    with pytest.raises(EntryError, match=r"was not audited; .* needs an audit that passed"):
        build([run], records, "track_non_record_16mb")
    found = audit(run)
    entry = build([run], records, "track_non_record_16mb")
    assert json.loads((entry / "audit.json").read_text()) == found
    assert "Audited" in (entry / "README.md").read_text()
    audit(run, passed=False)
    with pytest.raises(EntryError, match="its audit did not pass"):
        build([run], records, "track_non_record_16mb")
    assert "The audit did not pass" in (build([run], records, "local") / "README.md").read_text()


def test_a_run_without_optional_figures_makes_an_entry(run, records):
    edit(
        run,
        scores__stages__last=...,
        scores__stages__averaged=...,
        scores__stages__test_time_trained=...,
        dollars=...,
        packing__parts=...,
    )
    edit(run, data__xz_bits_per_byte=..., data__zstd22_bits_per_byte=..., data__manifest_sha256=...)
    stored = submission_of(build([run], records, "local"))
    assert stored["pre_quant_val_bpb"] is None
    assert stored["val_bpb"] == read_results(run / "results.json").quantized.tally.bits_per_byte


def test_a_score_on_the_challenges_text_stands_among_public_ones(tmp_path, records):
    run = make_run(tmp_path / "run")
    other = (build([run], records, "local") / "README.md").read_text()
    assert "Compared with public scores" not in other
    scale_documents(run, num_bytes=151_080_000)
    text = (build([run], records, "local") / "README.md").read_text()
    assert "## Compared with public scores" in text and "512 pieces" in text
    assert "not on the challenge's validation text" not in text


def test_pictures_of_the_run_come_along(run, records):
    (run / "bytes.png").write_bytes(b"picture")
    entry = build([run], records, "local")
    assert (entry / "bytes.png").read_bytes() == b"picture"
    assert "![bytes](bytes.png)" in (entry / "README.md").read_text()


def test_a_line_cut_by_a_kill_is_left_out_of_the_events():
    assert parse_events('{"event": "a"}\n{"event": "b\n3\n{"event": "c"}\n') == [
        {"event": "a"},
        {"event": "c"},
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My run: 11L, width 512", "My-run-11L-width-512"),
        ("../up", "up"),
        ("...", "run"),
        ("é", "run"),
        ("a.b", "a.b"),
    ],
)
def test_names_become_folder_names(name, expected):
    assert slug(name) == expected


def test_the_author_is_who_was_asked_for_or_the_projects_or_gits(tmp_path, run, records, monkeypatch):
    def settings(text: str) -> None:
        (tmp_path / "gitconfig").write_text(text)

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    settings("")
    assert find_identity(tmp_path) == {"author": TOOLKIT, "github_id": TOOLKIT}
    settings("[user]\nname = Grace Hopper\n")
    assert find_identity(tmp_path) == {"author": "Grace Hopper", "github_id": "unknown"}
    settings("[user]\nname = Grace Hopper\n[github]\nuser = grace\n")
    (tmp_path / "submission.json").write_text(f'{{"author": "{TOOLKIT}", "github_id": "{TOOLKIT}"}}')
    assert find_identity(tmp_path) == {"author": "Grace Hopper", "github_id": "grace"}
    assert find_identity(tmp_path, "Edsger") == {"author": "Edsger", "github_id": "grace"}
    (tmp_path / "submission.json").write_text('{"author": "Ada", "github_id": "ada", "val_bpb": 1.0}')
    stored = submission_of(build([run], records, "local"))
    assert (stored["author"], stored["github_id"]) == ("Ada", "ada")
    stored = submission_of(build([run], records, "local", author="A|B", github_id="ab"))
    assert (stored["author"], stored["github_id"]) == ("A|B", "ab")
    (tmp_path / "submission.json").write_text('{"author": "Ada"}')
    with pytest.raises(EntryError, match="github_id is None"):
        build([run], records, "local")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "submission.json").unlink()
    assert find_identity(tmp_path)["author"] == TOOLKIT


def test_the_best_committed_entry_is_the_one_with_the_lowest_score(tmp_path, records):
    assert best_entry(records) is None
    for name, seed in (("a", 9), ("b", 2)):
        audit(make_run(tmp_path / name, seed=seed))
    worse = build([tmp_path / "a"], records, "track_non_record_16mb")
    better = build([tmp_path / "b"], records, "track_non_record_16mb")
    build([make_run(tmp_path / "c", seed=1)], records, "local")
    assert worse != better == best_entry(records)


def test_the_projects_submission_is_that_of_its_best_entry():
    stored = json.loads((ROOT / "submission.json").read_text())
    best = best_entry(ROOT / "records")
    if best is None:
        assert set(stored) == {"author", "github_id"}
    else:
        assert stored == submission_of(best)
