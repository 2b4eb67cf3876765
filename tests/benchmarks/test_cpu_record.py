"""Networks and compressors are held to the same text and the same seconds."""

import json
import lzma
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import zstandard
from tiny_samples import write_tiny_dataset

from benchmarks import compressors, cpu_record
from benchmarks.compressors import CompressorError, find_compressors, grow, measure, program_size, xz_size
from benchmarks.cpu_record import CpuRecord, count_parameters, main, plan_networks
from golf.presets import CPU, PRESETS

MonkeyPatch, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]
TEXT = b"The quick brown fox jumps over the lazy dog. " * 20 + bytes(range(256))
TINY = replace(
    CPU,
    model=replace(CPU.model, width=32, num_heads=4, mlp_hidden=32, context=32, rotary_dims=4),
    train=replace(CPU.train, batch_tokens=64, micro_batch_tokens=64, held_out_tokens=256),
)


@pytest.fixture
def data(tmp_path: Path, tiny_model_bytes: bytes, monkeypatch: MonkeyPatch) -> tuple[Path, bytes]:
    """A dataset folder and the bytes of its validation text; the default is tiny."""
    documents = write_tiny_dataset(tmp_path / "data", tiny_model_bytes, 60)
    monkeypatch.setattr(cpu_record, "CPU", TINY)
    return tmp_path / "data", "".join(documents).encode()


def test_one_table_has_networks_and_compressors_and_is_taken_up_again(
    data: tuple[Path, bytes],
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: Capture,
) -> None:
    folder, text = data
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    command = [
        "--data",
        str(folder),
        "--rows",
        str(tmp_path / "rows.jsonl"),
        "--seconds",
        "0.2",
        "--seeds",
        "2",
    ]
    command += ["--clock", "cpu", "--evals", "2", "--json", str(figures), "--plot", str(picture)]
    command += ["--arms", "default", "zstd -22", "xz -9", "cmix"]
    monkeypatch.setattr(compressors.shutil, "which", lambda name: None)
    assert main(command) == 0
    first = json.loads(figures.read_text())
    rows = {row["arm"]: row for row in first["rows"]}
    assert rows["zstd -22"]["bpb"] == pytest.approx(8 * compressors.zstd_size(text) / len(text))
    assert rows["xz -9"]["bpb"] == 8 * len(lzma.compress(text, preset=9)) / len(text)
    assert rows["xz -9, primed"]["bpb"] < rows["xz -9"]["bpb"]
    assert rows["cmix"]["bpb"] == "not installed" and "cmix is not installed: " in capsys.readouterr().out
    assert rows["default"]["n"] == 2 and 0 < rows["default"]["steps"] and 0 < rows["default"]["bpb"] < 9
    assert first["settings"]["clock"] == "cpu"
    assert "default" in picture.read_text() and "seconds of the processor" in picture.read_text()
    runs = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    (curve,) = [run for run in runs if run["arm"] == "default" and run["seed"] == 1]
    assert len(curve["curve_seconds"]) >= 2 and curve["curve_seconds"] == sorted(curve["curve_seconds"])
    assert curve["curve_bpb"][-1] == curve["bpb"]

    monkeypatch.setattr(cpu_record, "run_arm", lambda *_: pytest.fail("a run was made again"))
    monkeypatch.setattr(cpu_record, "grow", lambda *_: pytest.fail("a text was compressed again"))
    assert main(command) == 0
    assert json.loads(figures.read_text())["rows"] == first["rows"]


def test_what_cannot_be_compared_is_refused(
    data: tuple[Path, bytes], tmp_path: Path, capsys: Capture
) -> None:
    command = ["--data", str(data[0]), "--rows", str(tmp_path / "rows.jsonl")]
    for wrong, message in (
        (["--arms", "gzip"], "no arm 'gzip'; there are default, seed, pr334, gpt2, zstd -22"),
        (["--seconds", "0"], "--seconds"),
        (["--arms", "default", "--seeds", "0"], "nothing to compare"),
        (["--max-tokens", "8", "--arms", "default"], "--max-tokens"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_recipes_keep_their_semantics_at_the_size_of_the_default() -> None:
    arms = plan_networks(CpuRecord(seconds=90), CPU.model.vocab_size, 1)
    default = arms["default"]
    assert default.optim == CPU.optim and default.minutes == 1.5
    for name in cpu_record.SCALED:
        preset, arm = PRESETS[name].config, arms[name]
        changed = {key for key, value in asdict(arm.model).items() if value != asdict(preset.model)[key]}
        assert changed <= {*cpu_record.SHARED_MODEL, "mlp_hidden", "bigram_buckets"}
        assert (arm.optim, arm.schedule, arm.averaging) == (preset.optim, preset.schedule, preset.averaging)
        assert arm.model.mlp_hidden / arm.model.width == preset.model.mlp_hidden / preset.model.width
    wanted = count_parameters(replace(default.model, bigram_buckets=0, ngram_buckets=()))
    for arm in arms.values():
        own = replace(arm.model, bigram_buckets=0, ngram_buckets=())
        assert arm.train.batch_tokens == default.train.batch_tokens
        assert count_parameters(own) == pytest.approx(wanted, rel=0.1)
    assert arms["gpt2"].optim.matrix == "adamw" and arms["gpt2"].model.positions == "learned"


def test_what_a_text_adds_to_another_counts() -> None:
    seconds = iter((1.0, 3.5))
    one = measure(xz_size, TEXT, TEXT, lambda: next(seconds))
    assert one.seconds == 2.5 and one.before_compressed_bytes == xz_size(TEXT)
    assert one.compressed_bytes == xz_size(TEXT + TEXT) - xz_size(TEXT) and one.before_bytes == len(TEXT)
    assert one.bpb == 8 * one.compressed_bytes / len(TEXT) < measure(xz_size, b"", TEXT, lambda: 0.0).bpb


@pytest.mark.parametrize(("seconds", "least", "most"), [(1e9, 2_000_000, 2_000_000), (1, 800_000, 999_000)])
def test_a_compressor_reads_what_its_seconds_allow(seconds: float, least: int, most: int) -> None:
    read = [0]

    def compress(text: bytes) -> int:
        read[0] += len(text)
        return len(text) // 4

    points = grow(compress, bytes(2_000_000), bytes(1000), seconds, lambda: read[0] / 1e6)
    assert points[0].before_bytes == 0 and least <= points[-1].before_bytes <= most
    assert all(point.compressed_bytes == 250 and point.seconds <= seconds for point in points)
    assert len(grow(compress, bytes(2_000_000), bytes(3_000_000), 1.0, lambda: read[0] / 1e6)) == 1


def program(folder: Path, body: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_program_is_judged_by_the_file_that_it_writes(tmp_path: Path) -> None:
    cut = program(tmp_path, 'head -c 7 "$2" > "$3"')
    assert program_size([cut, "-c", "{in}", "{out}"], TEXT) == 7
    with pytest.raises(CompressorError, match="failed with exit code 3: no room"):
        program_size([program(tmp_path, "echo; echo no room >&2; exit 3"), "{in}", "{out}"], TEXT)
    with pytest.raises(CompressorError, match="cannot be run: No such file"):
        program_size([str(tmp_path / "none"), "{in}", "{out}"], TEXT)


def test_a_program_that_fails_is_a_line(
    data: tuple[Path, bytes],
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
    capsys: Capture,
) -> None:
    broken = program(tmp_path, "echo out of memory; exit 1")
    monkeypatch.setattr(compressors.shutil, "which", lambda name: broken)
    assert main(["--data", str(data[0]), "--rows", str(tmp_path / "rows.jsonl"), "--arms", "cmix"]) == 0
    out = capsys.readouterr().out
    assert "cmix failed with exit code 1: out of memory" in out and not (tmp_path / "rows.jsonl").exists()


def test_installed_compressors_make_what_their_libraries_make() -> None:
    found = {one.name: one.compress for one in find_compressors()}
    assert list(found)[:3] == ["zstd -22", "xz -9", "brotli -11"]
    assert found["xz -9"] is not None and found["xz -9"](TEXT) == len(lzma.compress(TEXT, preset=9))
    plain = len(zstandard.ZstdCompressor(level=22).compress(TEXT))
    assert found["zstd -22"] is not None and found["zstd -22"](TEXT) == pytest.approx(plain, abs=2)
    brotli = pytest.importorskip("brotli")
    assert found["brotli -11"] is not None
    assert found["brotli -11"](TEXT) == len(brotli.compress(TEXT, quality=11, lgwin=24))
