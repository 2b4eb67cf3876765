"""Checks of record folders: the public samples, each rule on a folder spoilt for it, broken folders."""

import base64
import json
import lzma
import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from entry_toys import draw_nothing, make_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_toys import (
    BYTES,
    CODE,
    MODEL_BYTES,
    SEEDS,
    log_text,
    make_record,
    rewrite_logs,
    write_json,
)

from golf.__main__ import main
from golf.check.check import check_folder, check_folders, exit_code, render, to_json
from golf.entry.build import build
from golf.entry.results import read_results
from golf.system.log import format_event

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "records"
SAMPLES = ROOT.parent / "shared" / "samples" / "records"

# For each public folder, every finding and why it is true. Scripts and READMEs are cut from the samples, so
# "no-script" is in each; "export" says that the whole validation text was scored.
TRUTH: dict[str, dict[str, str]] = {
    "2026-03-17_NaiveBaseline": {
        "warning implied-bytes": "63,779,840 tokens, 155.77 M bytes: the launch-day export (#837)",
        "info train-overshoot": "600,038 ms: the step in which time ran out took 44 ms",
        "info few-seeds": "one log",
    },
    "2026-03-20_10L_Int5MLP_MuonWD04_SWA50": {
        "error json-no-score": "there is no val_bpb",
        "error val-loss-unit": "val_loss 1.14276 is the mean of the logs' val_bpb; their val_loss is 1.9295",
        "info size-unsupported": "15,900,000 is no seed's total, nor the mean; the largest is 15,965,978",
        "info stale-label": "int6+zstd, scored by sliding window, under the label final_int8_zlib_roundtrip",
        "info train-overshoot": "600,034 to 600,083 ms",
        "info export": "sp1024",
    },
    "2026-03-21_11L_XSA4_EMA_PartialRoPE_LateQAT_1.1248": {
        "warning score-one-seed": "1.12484502 is seed 2025's, the best of three; their mean is 1.12503",
        "info size-not-largest": "15,612,308 is seed 2025's; seed 1337 has 15,639,340",
        "info log-copy": "train.log is train_seed2025.log",
        "info train-overshoot": "two seeds end 46 and 99 ms late",
        "info export": "sp1024",
    },
    "2026-03-23_LeakyReLU_LegalTTT_ParallelMuon": {
        "info stale-label": "the int6 sliding score is printed again as final_int8_zlib_roundtrip_exact",
        "info train-overshoot": "600,110 to 600,128 ms",
        "info export": "sp1024",
    },
    "2026-04-01_Vocab4096_MLPMult4_WD085": {
        "error seeds-differ-code": "seed 42 ran 68,207 bytes of code, the others 68,246",
        "info code-size-unsupported": "the JSON says 68,206",
        "info size-is-mean": "15,916,170 is the mean; the largest seed has 15,927,782",
        "info export": "sp4096",
    },
    "2026-04-09_SP8192_3LayerRecur_ParResid_QK525_LegalTTT": {
        "error seeds-differ-code": "seed 42 ran 16,630 bytes of code, the others 16,594 (#1594)",
        "error seeds-differ-config": "seed 42 alone has ttt_hash_embed and ttt_hash_buckets (#1594)",
        "info calibration-over-budget": "588.1 s and Hessians of 12.7 s make 600.8 s",
        "info export": "sp8192",
    },
    "2026-04-10_VarLenAttn": {
        "error seeds-differ-code": "121,884, 116,636 and 116,694 bytes of code",
        "error seeds-differ-config": "seed 2 lacks four settings the others print",
        "info size-two-sums": "compressed code is charged; readable, seed 0 would be 16,091,238",
        "info export": "sp8192",
    },
    "2026-04-19_SP8192_CaseOps_GatedAttn_QuantGate_Loop45_PhasedTTT": {
        "info size-is-mean": "artifact_bytes_mean, and named so",
        "info size-two-sums": "compressed code is charged",
        "info export": "CaseOps",
    },
    "2026-04-27_SP8192_LQER_SparseGate_BOSSmearFix_9HpStack_1.0611": {
        "warning calibration-over-budget": "599.4 s and Hessians of 4.9 s make 604.3 s (reserve 0.5 s)",
        "info eval-warmup-outside": "seed 42: 508.8 s after 137.6 s of compile warm-up on random tokens",
        "info nats-unit": "-0.01992 bpb are -0.04359 nats per token of 3.157 bytes",
        "info std-population": "0.00090 divides by 3; with n - 1 it is 0.00111",
        "info size-two-sums": "compressed code is charged",
        "info export": "CaseOps",
    },
    "2026-03-18_Quasi10Bfrom50B_SP1024_9x512_KV4_4h_pgut3": {"info export": "sp1024"},
    "2026-03-19_SwiGLU_WarmdownFix_QuarterBatch_1x5090": {
        "error no-log": "there is a table of results and no log",
        "info json-who": "author and github_id are empty strings",
        "info json-no-number": "four keys are null",
    },
    "2026-03-21_Quasi10B_SP1024_11x512_KV4_8h_nathon-lee-v1": {
        "error size-over-limit": "the log ends on 16,182,081 bytes",
        "error size-claimed-over-limit": "the JSON says 17,396,551",
        "error json-of-another-run": "six figures, none of them the log's",
        "error no-final-score": "the log ends at starting_ttt, after packing and before any score",
        "error score-pre-quantisation": "the last score, 1.2207, is of the raw weights at step 3374",
    },
    "2026-03-29_HNet_ByteVsSubword_Study": {
        "info other-runs": "two ten-minute runs of other configurations beside the four-hour one claimed",
        "info export": "byte260",
    },
}


def found(folder: Path) -> set[str]:
    return {f"{finding.level} {finding.code}" for finding in check_folder(folder).findings}


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the public samples are not beside the project")
@pytest.mark.parametrize("name", TRUTH)
def test_each_finding_on_a_public_sample_is_true_and_none_is_missing(name: str) -> None:
    (folder,) = SAMPLES.glob(f"*/{name}")
    assert found(folder) == {*TRUTH[name], "warning no-script"}


@pytest.mark.parametrize("folder", sorted(FIXTURES.glob("*/*/")), ids=lambda folder: folder.name[:30])
def test_shortened_public_folders_give_the_same_findings(folder: Path) -> None:
    assert found(folder) == {*TRUTH[folder.name], "warning no-script"}


def test_the_evidence_of_pull_request_334_names_the_lines() -> None:
    (folder,) = FIXTURES.glob("*/*nathon-lee-v1")
    text = render(check_folder(folder))
    for expected in (
        "artifact_bytes:16132620 code_bytes:49461 total:16182081",
        'submission.json:9: "val_bpb": 1.2108',
        "val_bpb:1.2207",
        "starting_ttt",
        "182,081 over",
    ):
        assert expected in text


def test_a_sound_folder_has_neither_error_nor_warning(tmp_path: Path) -> None:
    assert found(make_record(tmp_path)) == {"info export"}


def delete(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / name).write_bytes(data)


def change_json(**changes: object) -> Callable[[Path], None]:
    return lambda folder: write_json(folder, **changes)


def change_logs(**more: object) -> Callable[[Path], None]:
    return lambda folder: rewrite_logs(folder, **more)


def change_seed(seed: int, **more: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        bpb = more.pop("bpb", SEEDS[seed])
        text = log_text(seed, bpb, more.pop("model_bytes", MODEL_BYTES[seed]), **more)
        (folder / f"train_seed{seed}.log").write_text(text)

    return spoil


def edit_logs(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for path in folder.glob("*.log"):
            text = path.read_text()
            assert re.search(old, text), old
            path.write_text(re.sub(old, new, text))

    return spoil


def both(*spoils: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


SPOILT: list[tuple[str, Callable[[Path], None]]] = [
    ("error no-submission", delete("submission.json")),
    ("error json-invalid", write("submission.json", '{"val_bpb": 1.0,}')),
    ("error json-invalid", write("submission.json", "")),
    ("error json-invalid", write("submission.json", "\ufeff{}")),
    ("error json-invalid", write("submission.json", "[" * 100_000)),
    ("error json-invalid", write("submission.json", "[]")),
    ("error json-no-score", write("submission.json", '{"name": "x"}')),
    ("error json-no-score", change_json(val_bpb=float("nan"))),
    ("error json-no-score", change_json(val_bpb=None)),
    ("error json-no-score", change_json(val_bpb="pending")),
    ("info json-text-number", change_json(val_bpb="1.08100288")),
    ("info json-who", change_json(github_id=...)),
    ("error no-readme", delete("README.md")),
    ("error no-script", delete("train_gpt.py")),
    ("error seed-missing", delete("train_seed999.log")),
    ("error size-over-limit", change_seed(999, model_bytes=15_999_990)),
    (
        "error size-says-fits",
        change_logs(after=["Total submission size: 17,000,000 bytes (under 16MB: OK)"]),
    ),
    ("error size-claimed-over-limit", change_json(bytes_total=16_000_001)),
    ("warning size-unsupported", change_json(bytes_total=15_123_456)),
    (
        "error size-unsupported",
        both(change_json(bytes_total=15_999_999), change_seed(42, model_bytes=16_400_000)),
    ),
    ("info size-is-mean", change_json(bytes_total=15_900_111 + len(CODE))),
    ("info size-not-largest", change_json(bytes_total=15_900_000 + len(CODE))),
    ("info size-weights-only", change_json(bytes_total=15_900_222)),
    ("info size-unit", change_json(bytes_total=15.9)),
    ("info figure-unsupported", change_json(step_stop=17)),
    ("info figure-unsupported", change_json(bytes_model=12_345_678)),
    ("info figure-unsupported", change_json(pre_quant_val_bpb=1.0123)),
    ("info code-size-unsupported", change_json(bytes_code=77)),
    ("error no-final-score", edit_logs(r"\nquantized.*", "")),
    (
        "warning no-final-score",
        both(edit_logs(r"\nquantized.*", ""), edit_logs(r"\n(Serialized|Code|Total).*", "")),
    ),
    (
        "warning size-over-limit",
        edit_logs(r"\nSerialized model quantized.*\nTotal.*", "\nTotal submission size: 67272625 bytes"),
    ),
    ("error score-not-finite", change_seed(42, bpb=float("nan"))),
    ("error score-unsupported", change_json(val_bpb=1.0700)),
    ("info score-unsupported", change_json(val_bpb=1.08001)),
    ("warning score-one-seed", change_json(val_bpb=1.08079352)),
    ("error score-pre-quantisation", change_json(val_bpb=1.0873)),
    ("info score-earlier-stage", change_json(val_bpb=1.09979352)),
    ("error val-loss-unit", change_json(val_loss=1.08100288)),
    ("info val-loss-unit", change_json(val_loss=0.74929)),
    ("info val-loss-unit", change_json(val_loss=2.70)),
    (
        "warning gain-too-large",
        edit_logs(r"quantized val_loss:\S+ val_bpb:\S+", "quantized val_loss:3.1 val_bpb:1.2"),
    ),
    ("warning ngram-cache", change_logs(before=["ngram_cache: hits=7612859/7754688 alpha=0.2 order=5"])),
    ("warning implied-bytes", change_logs(num_bytes=176_900_000)),
    ("error implied-bytes", change_logs(tokens=9_662_464, num_bytes=29_900_000)),
    ("warning implied-bytes-differ", change_seed(42, num_bytes=BYTES + 40_000)),
    ("warning val-tokens-differ", change_seed(42, tokens=40_500_000)),
    ("info ratio-changes", change_logs(after=["final_check val_loss:2.79 val_bpb:0.97"])),
    ("warning partial-validation", change_logs(before=["ppm_mix bytes=29365687 mix_bpb=1.2 nn_only=1.08"])),
    (
        "warning bytes-miscounted",
        change_logs(before=["cond_ppm bytes=164594398 mix_bpb=1.2"]),
    ),
    ("warning train-val-overlap", edit_logs("train_shards: 128", "train_shards: 1499")),
    ("error seeds-differ-code", change_seed(42, code_bytes=len(CODE) + 36)),
    ("error seeds-differ-config", change_seed(42, lr=0.023)),
    ("warning seed-name", lambda folder: (folder / "train_seed42.log").rename(folder / "train_seed7.log")),
    (
        "error seed-name",
        lambda folder: (folder / "train_seed42.log").write_text((folder / "train_seed314.log").read_text()),
    ),
    (
        "error seed-twice",
        lambda folder: (folder / "train_seed314.log").write_text(
            (folder / "train_seed42.log").read_text().replace("seed: 42", "seed: 314")
        ),
    ),
    ("info log-copy", lambda folder: shutil.copy(folder / "train_seed42.log", folder / "train.log")),
    ("info std-population", change_json(val_bpb_std=0.00016069)),
    ("info std-unsupported", change_json(val_bpb_std=0.00055)),
    ("error seed-result-unsupported", change_json(seed_results={"42": 1.07})),
    ("info seed-result-unsupported", change_json(seed_results={"42": 1.0805})),
    ("info nats-unit", change_json(delta_bpb=-0.01, delta_nats=-0.02583)),
    ("info nats-unit", change_json(delta_bpb=-0.01, delta_nats=-0.00693)),
    ("error nats-unit", change_json(delta_bpb=-0.01, delta_nats=-0.01)),
    ("info nats-unit", change_json(delta_bpb=-0.01, delta_nats=-0.5)),
    ("info train-overshoot", change_logs(train_ms=600_128)),
    ("warning train-over-budget", change_logs(train_ms=600_700)),
    ("error train-over-budget", change_logs(train_ms=601_153)),
    ("info train-overshoot", edit_logs("train_time: 588047ms", "train_time: 10.005m")),
    ("info calibration-over-budget", change_logs(before=["GPTQ:collected 67 Hessians in 12.7s"])),
    ("warning calibration-over-budget", change_logs(before=["GPTQ:collected 67 Hessians in 14.7s"])),
    ("error eval-over-budget", change_logs(eval_ms=617_000)),
    ("error eval-over-budget", change_logs(after=["total_eval_time:688.0s"])),
    ("info eval-over-budget", change_logs(eval_ms=580_000)),
    ("info eval-over-budget", edit_logs("eval_time:25515ms", "eval_time:700000ms")),
    ("warning hardware", change_logs(world_size=1)),
    ("info time-unsupported", change_json(train_seconds=412.0)),
    ("error script-syntax", write("train_gpt.py", "def f(:\n")),
    ("info script-python", write("train_gpt.py", "try:\n    pass\nexcept* OSError:\n    pass\n")),
    ("error script-import", write("train_gpt.py", "import numpy, env_utils\n")),
    ("info script-import", write("train_gpt.py", "import zstandard\n")),
    (
        "info script-import",
        both(write("train_gpt.py", "import oddlib\n"), write("README.md", "pip install oddlib")),
    ),
    ("info code-changed", write("train_gpt.py", CODE + b"# one more line\n")),
    (
        "info codec-fallback",
        write("train_gpt.py", "try:\n    import zstandard\nexcept ImportError:\n    CODEC = 'zlib'\n"),
    ),
    (
        "info codec-fallback",
        change_logs(before=["zstandard not installed, falling back to zlib"]),
    ),
    ("info mebibytes", write("train_gpt.py", "LIMIT = 16 * 1024 * 1024\n")),
    ("info network", write("train_gpt.py", "import huggingface_hub as h\nh.snapshot_download('x')\n")),
    ("warning traceback", change_logs(before=["Traceback (most recent call last):"])),
    ("warning traceback", change_logs(after=["Traceback (most recent call last):"])),
    ("info large-file", write("final_model.int6.ptz", b"x" * 1_000_001)),
    ("error size-measured-over-limit", lambda folder: sparse(folder / "final_model.ptz", 16_000_000)),
    ("warning link", lambda folder: (folder / "extra.log").symlink_to("/etc/passwd")),
    ("warning log-binary", write("other.log", b"\x00\x01" * 100)),
]


def sparse(path: Path, num_bytes: int) -> None:
    with open(path, "wb") as file:
        file.truncate(num_bytes)


@pytest.mark.parametrize(("expected", "spoil"), SPOILT, ids=[f"{i}-{s[0]}" for i, s in enumerate(SPOILT)])
def test_a_folder_spoilt_in_one_way_gets_the_finding_for_it(
    tmp_path: Path, expected: str, spoil: Callable[[Path], None]
) -> None:
    folder = make_record(tmp_path)
    spoil(folder)
    assert expected in found(folder)


def test_a_packed_script_counts_as_shipped_and_both_sums_are_told(tmp_path: Path) -> None:
    padding = "\n".join(f"# {random.Random(line).getrandbits(200):x}" for line in range(2000))
    source = CODE + padding.encode()
    packed = b"import lzma,base64\nexec(lzma.decompress(base64.b85decode(%r)))\n" % base64.b85encode(
        lzma.compress(source)
    )
    folder = make_record(tmp_path, bytes_total=15_900_222 + len(packed), seed_results=..., bytes_code=...)
    (folder / "train_gpt.py").write_bytes(packed)
    for seed, bpb in SEEDS.items():
        text = log_text(seed, bpb, MODEL_BYTES[seed], code_bytes=len(source))
        (folder / f"train_seed{seed}.log").write_text(text)
    assert 15_900_222 + len(source) > 16_000_000 > 15_900_222 + len(packed)
    report = check_folder(folder)
    codes = {f"{finding.level} {finding.code}" for finding in report.findings}
    assert codes == {"info export", "info size-two-sums", "info script-packed"}
    assert max(report.logged["bytes_total"]) == 15_900_222 + len(packed)


def test_an_entry_this_project_builds_has_neither_error_nor_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("golf.entry.plots.plot_training", draw_nothing)
    run = make_run(tmp_path / "run")
    results = read_results(run / "results.json")
    packing = results.packing
    size = {"code_bytes": packing.code_bytes, "artifact_bytes": packing.artifact_bytes}
    lines = [
        format_event("config", {"seed": 7, "steps": 30, "model": {"width": 128}}),
        format_event("step", {"step": "30/30", "train_loss": 2.1, "tokens": 122880, "train_seconds": 60.0}),
        format_event("held_out", {"step": 30, "tokens": 122880, "bpb": 2.0}),
        format_event("size", size),
        f"Total submission size: {packing.total_bytes} bytes",
        *(format_event("stage", stage.figures()) for stage in results.stages),
        format_event("scoring", {"total_eval_time": f"{results.eval_seconds:.3f}s"}),
        "train | 60.0",
        "calibrate | 2.5",
    ]
    (run / "run.log").write_text("\n".join(lines) + "\n")
    entry = build([run], tmp_path / "records", "local")
    assert found(entry) == {"info other-text"}


def test_every_code_of_a_finding_is_in_the_page_on_the_rules() -> None:
    page = (ROOT / "docs" / "rules.md").read_text()
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+|export|hardware|link|mebibytes|network|traceback)`", page))
    codes = set()
    for path in (ROOT / "golf" / "check").rglob("*.py"):
        for call in re.findall(r'\b(?:error|warning|info|level|warn)\)?\(\s*"([a-z-]+)"', path.read_text()):
            codes.add(call)
    assert len(codes) > 60
    assert codes - named == set()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python parses f-strings of Python 3.12")
def test_a_script_that_only_a_newer_python_may_parse_is_reported_as_not_checked(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    (folder / "train_gpt.py").write_text("print(f'{x['b']}')\n")
    (finding,) = (f for f in check_folder(folder).findings if f.code.startswith("script"))
    assert (finding.level, finding.code) == ("info", "script-syntax-unsure")
    assert "Python 3.11, which ran this check" in finding.message


def test_the_readme_may_not_lead_with_a_score_before_quantisation(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    (folder / "README.md").write_text("# Mine\n\nval_bpb: **1.0873**\n")
    assert "error score-pre-quantisation" in found(folder)
    (folder / "README.md").write_text("# Mine\n\nval_bpb: **1.0810**\n")
    assert "error score-pre-quantisation" not in found(folder)


def test_time_rules_are_for_the_ten_minute_track_alone(tmp_path: Path) -> None:
    folder = make_record(tmp_path, track="track_non_record_16mb")
    rewrite_logs(folder, train_ms=6_400_210, eval_ms=2_000_000, world_size=1)
    assert found(folder) == {"info export"}


def test_figures_of_a_neighbour_are_pointed_out(tmp_path: Path) -> None:
    mine = make_record(tmp_path / "a", bytes_total=15_777_777)
    other = make_record(tmp_path / "b")
    (other / "train_seed42.log").write_text(log_text(42, SEEDS[42], 15_777_777 - len(CODE)))
    first, _ = check_folders([mine, other], workers=1)
    assert "json-of-neighbour" in {finding.code for finding in first.findings}


def test_links_out_of_the_folder_are_never_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "train.log").write_text("final val_loss:1.0 val_bpb:0.1234\n")
    folder = make_record(tmp_path)
    (folder / "logs").symlink_to(secret)
    (folder / "copy.log").symlink_to(secret / "train.log")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret / "train.log")
    report = check_folder(folder)
    assert "0.1234" not in json.dumps(to_json(report))
    assert sum(finding.code == "link" for finding in report.findings) == 3
    assert "no-readme" in {finding.code for finding in report.findings}


def test_a_pipe_in_the_folder_is_not_opened(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    os.mkfifo(folder / "train.log")
    assert "warning odd-file" in found(folder)


def test_a_log_of_hundred_megabytes_is_read_at_both_ends_with_its_line_numbers(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    path = folder / "train_seed42.log"
    lines = path.read_text().splitlines(keepends=True)
    filler = b"0123456789abcdef" * 15 + b"\n"
    with open(path, "wb") as file:
        file.write("".join(lines[:-2]).encode())
        for _ in range(100):
            file.write(filler * 4352)
        file.write("".join(lines[-2:]).encode())
    assert path.stat().st_size > 100_000_000
    assert found(folder) == {"info export", "info log-read-in-part"}
    text = path.read_text().splitlines()
    report = check_folder(folder)
    assert report.logged["val_bpb"] == pytest.approx([SEEDS[314], SEEDS[42], SEEDS[999]], abs=1e-8)
    (export,) = (finding for finding in report.findings if finding.code == "export")
    assert text[check_line(folder, "train_seed42.log") - 1].startswith("quantized_ttt")
    assert export.evidence


def check_line(folder: Path, name: str) -> int:
    from golf.check.folder import read_record

    (log,) = (log for log in read_record(folder).logs if log.file == name)
    assert log.final_score
    return log.final_score.at.line


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_logs_in_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    folder = make_record(tmp_path)
    for path in folder.glob("*.log"):
        path.write_bytes(("caf\u00e9\n" + path.read_text()).encode(encoding))
    assert found(folder) == {"info export"}


BROKEN = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [
            b"step:1/2 val_loss:nan val_bpb:inf\n",
            b"val_bpb:-1 val_loss:-1\nfinal val_loss:0 val_bpb:0\n",
            b"Total submission size: 99999999999999999999 bytes\n",
            b"val_tokens: 0\nfinal val_loss:1e308 val_bpb:1e-308\n",
            b"train_time:9.9.9ms step:9999999999999/0\n",
            b"Hyperparameters:\n  seed: 99999999999999999999\n",
            b'{"val_bpb": 1e999, "seeds": [null, {}, "x", -1], "seed_results": {"a": 1, "1": null, "2": {}}}',
            b'{"val_bpb": {"mean": "1,0"}, "bytes_total": "", "val_loss": [1], "seeds": {"1": 2}}',
            b'{"val_bpb": true, "bytes_total": -5, "seeds": 7, "seed_results": [[1], {"seed": 3}]}',
            b"exec('" + b"A" * 500 + b"')\n",
            b"x = " + b"(" * 3000 + b"\n",
        ]
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(
            ["submission.json", "train.log", "train_seed1.log", "a.txt", "train_gpt.py", "README.md", "x.bin"]
        ),
        BROKEN,
        min_size=1,
    )
)
def test_no_content_of_the_files_makes_a_check_fail(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    report = check_folder(folder)
    assert report.exit_code in (0, 1)
    json.dumps(to_json(report), allow_nan=False)
    assert render(report).startswith(str(folder))
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("train.log", (b"ppm" * 660 + b" bytes\n") * 200),
        ("train.log", (b"total submission artifact bytes code " * 54 + b"\n") * 200),
        ("train.log", (b"total 12345 bytes + " * 99 + b"\n") * 200),
        ("train.log", (b"size: " + b"1,234,567 + " * 160 + b"\n") * 200),
        ("train.log", (b"delta_" * 330 + b"bpb: 1.0\n") * 200),
        ("train.log", (b"config " + b"a:{" * 660 + b"\n") * 200),
        ("train_gpt.py", b"try:\n pass\nexcept x:" + b"\n" * 1_000_000),
        ("train_gpt.py", b"f'{" * 300_000),
        ("train_gpt.py", b"a[" * 500_000),
        ("train_gpt.py", b"def " * 250_000),
        ("submission.json", b'{"a":' * 150_000),
    ],
    ids=range(11),
)
def test_files_made_to_take_forever_do_not(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert check_folder(tmp_path).exit_code == 1


def test_exit_codes_tell_errors_from_folders_that_cannot_be_read(tmp_path: Path) -> None:
    sound = make_record(tmp_path)
    bad = make_record(tmp_path / "x", val_bpb=None)
    empty = tmp_path / "empty"
    empty.mkdir()
    file = tmp_path / "file"
    file.write_text("")
    assert exit_code(check_folders([sound])) == 0
    assert exit_code(check_folders([sound, bad])) == 1
    for unreadable in (empty, file, tmp_path / "missing"):
        assert exit_code(check_folders([sound, bad, unreadable])) == 2


def test_a_pool_of_processes_gives_the_same_reports_in_the_same_order(tmp_path: Path) -> None:
    folders = [make_record(tmp_path / str(i), val_bpb=1.08 + i / 1000) for i in range(9)]
    assert check_folders(folders, workers=2) == [check_folder(folder) for folder in folders]


def test_the_report_says_what_was_looked_at_and_what_was_not_and_never_clean(tmp_path: Path) -> None:
    text = render(check_folder(make_record(tmp_path)))
    assert "looked at: submission.json (12 keys); 3 of 3 logs (seeds 314, 42, 999); train_gpt.py" in text
    assert "not seen: the packed weights; the validation text; whether scoring is causal" in text
    assert "clean" not in text.lower()


def test_the_command_prints_one_json_object_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_record(tmp_path / "a"), make_record(tmp_path / "b", val_bpb=1.0)]
    assert main(["check", *map(str, folders), "--json"]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["exit_code"] for report in reports] == [0, 1]
    assert reports[1]["findings"][0]["evidence"][0]["file"] == "submission.json"


def test_the_command_without_a_folder_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    assert "no folder was given" in capsys.readouterr().err


def test_a_pre_quantisation_score_that_the_readme_calls_so_is_no_claim(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    (folder / "README.md").write_text("pre-quant val_bpb: 1.0873\n")
    assert "error score-pre-quantisation" not in found(folder)
    (folder / "README.md").write_text("Our score: val_bpb: 1.0873\n")
    assert "error score-pre-quantisation" in found(folder)
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("notes")
    assert "error score-pre-quantisation" in found(folder)


def test_a_placeholder_and_a_warning_of_a_library_state_nothing(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    lines = ["applying best EMA (bpb=inf)", '[WARNING] File "/torch/bytecode_transformation.py", line 1033']
    rewrite_logs(folder, before=lines)
    assert found(folder) == {"info export"}


def test_escape_codes_of_a_log_are_shown_escaped(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    rewrite_logs(folder, before=["Traceback (most recent call last):\x1b[1A\x1b[2K"])
    text = render(check_folder(folder))
    assert "\x1b" not in text and r"Traceback (most recent call last):\x1b[1A" in text


def test_a_second_log_of_a_seed_hides_no_other_seed(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    change_seed(42, model_bytes=16_400_000)(folder)
    (folder / "train_other.log").write_text(log_text(999, 1.2, MODEL_BYTES[999]))
    assert {"error size-over-limit", "info other-runs"} <= found(folder)


def own_readme(text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "README.md").write_text(text)

    return spoil


def nested(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)

    return spoil


HARMLESS: list[Callable[[Path], None]] = [
    own_readme("# Mine\n\nval_bpb before quantization: 1.0873\n"),
    own_readme("# Mine\n\n## Before quantization\n\nval_bpb: 1.0873\n"),
    own_readme("# Mine\n\nval_bpb: 1.0873\n\nThe packed model scores 1.0810.\n"),
    own_readme("# Mine\n\nAt the last step: val_bpb 1.0873\n"),
    nested("docs/README.md", "val_bpb: 1.0873\n"),
    nested("old/submission.json", "{"),
    nested("old/train_gpt.py", "def f(:\n"),
    change_json(pre_quant_val_bpb=-1, bytes_model=0, step_stop=0, train_seconds=-1),
    change_json(val_bpb_std=0, val_loss="n/a"),
    change_json(seed_results={"42": {"val_bpb": 0, "steps": -1}}),
    *(
        change_logs(before=[line])
        for line in (
            "best_val_bpb: inf",
            "best so far val_bpb:1000000000.0",
            "best val_bpb: 0.0000",
            "best val_bpb: -1",
            "val_bpb: n/a",
            "eval seed: 7",
            "estimated_train_time: 900s",
            "quantized_copy val_loss:2.79 val_bpb:1.0810 seconds:900",
            '  File "/usr/lib/python3/code.py", line 17000000, in total_size',
            "/opt/torch/artifact/total_bytes_17000000/code.py:1033: UserWarning: total size 17000000 bytes",
            "W0326 16:00:00.000000 99 torch/_dynamo/code.py:17000000] total code size 17000000 bytes",
            "[rank0]: [WARNING] total code size 17000000 bytes",
            "total = artifact_bytes(17000000)  # bytes",
            "Traceback (most recent call last):\n  total submission size: 17000000 bytes\nfinished",
        )
    ),
    edit_logs("train_shards: 128", "train_shards: 128\nnames: {'b', 'a'}"),
]


@pytest.mark.parametrize("spoil", HARMLESS, ids=range(len(HARMLESS)))
def test_what_has_another_label_or_none_is_no_error(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = make_record(tmp_path)
    spoil(folder)
    assert not {finding for finding in found(folder) if finding.startswith("error")}


def test_sets_that_print_in_another_order_are_one_setting(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    for seed, names in zip(SEEDS, ("{'a', 'b'}", "{'b', 'a'}", "{'a', 'b'}"), strict=True):
        path = folder / f"train_seed{seed}.log"
        path.write_text(re.sub(r"(\n  \w+: \S+)", rf"\1\n  names: {names}", path.read_text(), count=1))
        assert names in path.read_text()
    assert "error seeds-differ-config" not in found(folder)


@pytest.mark.parametrize("name", ["train.log", "a/train_seed1337.log", "train_partial_rope_k4.log"])
def test_a_further_log_never_hides_an_oversize_seed(tmp_path: Path, name: str) -> None:
    folder = make_record(tmp_path)
    change_seed(999, model_bytes=16_400_000)(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(log_text(42, 1.2, MODEL_BYTES[42]))
    assert "error size-over-limit" in found(folder)


def test_a_vocabulary_other_than_the_tokenizers_is_a_warning(tmp_path: Path) -> None:
    folder = make_record(tmp_path)
    rewrite_logs(folder, before=["WARNING: VOCAB_SIZE=1024 != tokenizer vocab_size=8192"])
    assert "warning vocab-mismatch" in found(folder)


@pytest.mark.parametrize("folder", sorted((ROOT / "records").glob("track_*/*/")), ids=lambda path: path.name)
def test_a_committed_entry_has_neither_error_nor_warning(folder: Path) -> None:
    assert not {finding for finding in found(folder) if not finding.startswith("info")}
