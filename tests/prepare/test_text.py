import gzip
import json
from pathlib import Path

import pytest
import zstandard

from golf.data.shards import DataError
from golf.prepare import rows, text
from golf.prepare.text import stream_dataset, stream_files

TEXTS = ["first one", "zweites Stück\nin two lines", "\u2581 drittes 😀 \u2028 not a line end", ""]


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({field: t, "n": 1}, ensure_ascii=False).encode() + b"\n" for t in texts)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_json_lines_come_in_order_plain_and_zipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", block)
    monkeypatch.setattr(rows, "_ZSTD_INPUT_BYTES", block)
    zip_ = zstandard.ZstdCompressor().compress
    frames = (
        zip_(jsonl(TEXTS[:2])[:20]) + zip_(jsonl(TEXTS[:2])[20:]) + zip_(b"") + zip_(jsonl(TEXTS[2:])[:-1])
    )
    for path in (write(tmp_path / "a.jsonl", jsonl(TEXTS)), write(tmp_path / "a.jsonl.zst", frames)):
        stream = stream_files([path], "text")
        assert list(stream) == TEXTS
        assert stream.position == pytest.approx(stream.total) == path.stat().st_size / 1e6


def test_a_zipped_file_with_a_long_window_is_read(tmp_path: Path):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    data = zstandard.ZstdCompressor(compression_params=parameters).compress(jsonl(TEXTS))
    assert list(stream_files([write(tmp_path / "a.jsonl.zst", data)], "text")) == TEXTS


def test_parquet_rows_come_in_order(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    write_table(pa.table({"body": TEXTS, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet", row_group_size=2)
    stream = stream_files([tmp_path / "a.parquet"], "body")
    assert list(stream) == TEXTS
    assert stream.position == stream.total
    with pytest.raises(DataError, match=r"a\.parquet: has no column 'text'; it has body, n"):
        list(stream_files([tmp_path / "a.parquet"], "text"))
    with pytest.raises(DataError, match=r"b\.parquet: not a readable parquet file"):
        list(stream_files([write(tmp_path / "b.parquet", b"PAR1 but not really")], "text"))


def test_a_text_file_is_cut_at_marks_or_else_at_empty_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text, "TEXT_CHUNK_CHARACTERS", 10)
    marked = b"one\n\nstill the first\n<|endoftext|>\ntwo<|endoftext|>three"
    assert [t.strip() for t in stream_files([write(tmp_path / "m.txt", marked)], "text")] == [
        "one\n\nstill the first",
        "two",
        "three",
    ]
    plain = b"a paragraph\nof two lines\n\nb\n\nanother one\n\n"
    assert [t.strip() for t in stream_files([write(tmp_path / "p.txt", plain)], "text") if t.strip()] == [
        "a paragraph\nof two lines",
        "b\n\nanother one",
    ]


def test_a_zipped_text_becomes_the_documents_of_the_plain_one(tmp_path: Path):
    data = "".join(f"{number} a line of a text without marks\n\n" for number in range(2000)).encode()
    plain = list(stream_files([write(tmp_path / "a.txt", data)], "text"))
    zipped = zstandard.ZstdCompressor().compress(data), gzip.compress(data)
    for suffix, content in zip((".zst", ".gz"), zipped, strict=True):
        assert list(stream_files([write(tmp_path / f"a.txt{suffix}", content)], "text")) == plain


def test_several_files_follow_each_other_up_to_a_number_of_documents(tmp_path: Path):
    files = [
        write(tmp_path / "a.jsonl", jsonl(["1", "2"])),
        write(tmp_path / "b.txt", b"3"),
        write(tmp_path / "c.jsonl", jsonl(["4", "5"])),
    ]
    assert list(stream_files(files, "text")) == ["1", "2", "3", "4", "5"]
    assert list(stream_files(files, "text", max_documents=4)) == ["1", "2", "3", "4"]


BROKEN = {
    "not json": ("a.jsonl", jsonl(["x"]) + b"{'text'\n", r"a\.jsonl, line 2: not JSON"),
    "no field": ("a.jsonl", jsonl(["x"], "body"), r"a\.jsonl, line 1: has body, n; expected text in 'text'"),
    "no object": (
        "a.jsonl",
        b'\n"x"\n',
        r"a\.jsonl, line 2: is a str; expected an object with text in 'text'",
    ),
    "no text": ("a.jsonl", b'{"text": 5}\n', r"a\.jsonl, line 1: 'text' is 5; expected text"),
    "not utf-8": (
        "a.txt",
        b"fine\n\xff\xfe\n",
        r"a\.txt, line 2: not UTF-8 \(invalid start byte at byte 0\)",
    ),
    "not zstd": ("a.jsonl.zst", jsonl(["x"]), r"a\.jsonl\.zst: damaged .zst data"),
    "cut zstd": ("a.jsonl.zst", zstandard.compress(jsonl(TEXTS))[:-5], r"a\.jsonl\.zst: ends in the middle"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_content_is_named_with_its_place(tmp_path: Path, case: str):
    name, data, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        list(stream_files([write(tmp_path / name, data)], "text"))


def test_missing_and_unknown_files_are_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        stream_files([tmp_path / "none.txt"], "text")
    with pytest.raises(
        DataError, match=r"a\.csv: \.csv is not readable here; it is none of \.txt, \.jsonl, "
    ):
        stream_files([write(tmp_path / "a.csv", b"x")], "text")


def test_a_missing_library_is_named_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rows.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match="a dataset by name needs the package 'datasets', which is not installed: `pip"
    ):
        stream_dataset("x/y", None, "text")
    with pytest.raises(
        DataError, match="a \\.parquet file needs the package 'pyarrow', which is not installed"
    ):
        list(stream_files([write(tmp_path / "a.parquet", b"PAR1")], "text"))


def test_a_dataset_is_streamed_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", jsonl([f"document {n}" for n in range(10)]))
    stream = stream_dataset(str(folder), None, "text", max_documents=3)
    assert list(stream) == ["document 0", "document 1", "document 2"]
    assert (stream.position, stream.total) == (3, 3)
    with pytest.raises(DataError, match=r"has no column 'body'; it has text, n|expected text in 'body'"):
        list(stream_dataset(str(folder), None, "body"))
    with pytest.raises(DataError, match="absent: cannot be streamed"):
        stream_dataset(str(tmp_path / "absent"), None, "text")
