import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from golf.data.shards import DataError
from golf.prepare import rows, text
from golf.prepare.rows import read_rows
from golf.prepare.text import BadRows, stream_files

ROOT = Path(__file__).parents[2]
TEXTS = ["first", "zweites\nStück", "\u2028 😀"]
LINES = b"".join(json.dumps({"text": t}, ensure_ascii=False).encode() + b"\n" for t in TEXTS)
LIST = json.dumps([{"text": t} for t in TEXTS], indent=1).encode()
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def texts_of(path: Path, skip: bool = False) -> tuple[list[str], BadRows]:
    bad = BadRows(skip)
    return list(stream_files([path], "text", None, bad)), bad


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (".jsonl", LINES),
        (".ndjson", LINES),
        (".json", LINES),
        (".json", LIST),
        (".JSON", b"\n\n " + LIST),
        (".json", b"\n".join(json.dumps({"text": t}, indent=1).encode() for t in TEXTS)),
    ],
)
def test_rows_are_the_same_in_every_form_and_case(tmp_path: Path, kind: str, data: bytes, suffix: str):
    for name in (f"a.b{kind}{suffix}", f"A{kind}{suffix}".upper()):
        path = write(tmp_path / name, COMPRESS[suffix](data))
        assert texts_of(path)[0] == TEXTS
        assert texts_of(write(path, COMPRESS[suffix](b"\xef\xbb\xbf" + data)))[0] == TEXTS


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESS if suffix])
def test_damaged_and_cut_archives_are_named(tmp_path: Path, suffix: str):
    data = COMPRESS[suffix](LINES * 100)
    with pytest.raises(DataError, match=rf"a\.jsonl\{suffix}: ends in the middle of its \{suffix} data"):
        texts_of(write(tmp_path / f"a.jsonl{suffix}", data[: len(data) // 2]), skip=True)
    with pytest.raises(DataError, match=rf"a\.jsonl\{suffix}: damaged \{suffix} data"):
        texts_of(write(tmp_path / f"a.jsonl{suffix}", LINES), skip=True)
    with pytest.raises(DataError, match=r"is empty"):
        texts_of(write(tmp_path / f"a.jsonl{suffix}", COMPRESS[suffix](b"")))


@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_a_list_is_read_item_by_item_in_any_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", block)
    items = [{"a": '] " \\'}, 12345, [1, [2]], "x,y", None, 1.5e-7, {}]
    path = write(tmp_path / "a.json", b"\n" + json.dumps(items, indent=2).encode() + b"\n")
    found = list(read_rows(path))
    assert [row.value for row in found] == items
    assert [row.place for row in found][:2] == [f"{path}, line 3", f"{path}, line 6"]


BROKEN_LISTS = {
    "no end": (b'[{"text": "a"}, {"text": "b"}', r"line 1: the list has no end"),
    "cut item": (b'[{"text": "a"},\n {"text": "b', r"line 2: not JSON \(Unterminated string"),
    "no item": (b'[{"text": "a"},\n oh]', r"line 2: not JSON \(Expecting value"),
    "deep": (b'[{"text": "a"},\n' + b"[" * 5000, r"line 2: not readable JSON \(nested too deeply\)"),
    "not utf-8": (b'[{"text": "a"},\n {"text": "\xff"}]', r"line 2: not UTF-8"),
    "cut object": (b'{\n"text": "a"\n}\n{\n"text": "b"\n', r"line 4: not JSON"),
    "no object": (b'{\n"text": "a",\n}\n', r"line 1: not JSON"),
    "other text": (b'[{"text": "a"}\n'.decode().encode("utf-16"), r"a\.json: is UTF-16; convert it: iconv"),
}


@pytest.mark.parametrize("case", BROKEN_LISTS)
def test_a_broken_list_is_named_with_its_line(tmp_path: Path, case: str):
    data, message = BROKEN_LISTS[case]
    with pytest.raises(DataError, match=message):
        texts_of(write(tmp_path / "a.json", data), skip=True)


BAD_ROWS = {
    b'{"text": null}': "'text' is null; expected text",
    b'{"text": 5}': "'text' is 5; expected text",
    b'{"text": ["a"]}': r"'text' is \['a'\]; expected text",
    b'{"text": {"en": "a"}}': r"'text' is \{'en': 'a'\}; expected text",
    b'{"body": "a"}': r"has body; expected text in 'text' \(--text-field",
    b"{}": r"has nothing; expected text in 'text'",
    b'"a"': "is a str; expected an object with text in 'text'",
    b"17": "is a int; expected an object",
    b"{'text': 'a'}": "not JSON",
    b'{"text": "\xff"}': "not UTF-8",
    b'{"text": "a", "m": ' + b"[" * 5000 + b"]" * 5000 + b"}": r"not readable JSON \(nested too deeply\)",
    b'{"text": "a", "n": ' + b"1" * 5000 + b"}": "not JSON",
    b'{"text": "' + b"x" * 900 + b'"}': "is longer than",
}


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda bad: str(bad[:20]))
def test_a_bad_row_is_named_or_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bytes
):
    if len(bad) < 1000:
        monkeypatch.setattr(rows, "MAX_ROW_BYTES", 800)
    path = write(tmp_path / "a.jsonl", LINES + bad + b"\n" + LINES)
    with pytest.raises(DataError, match=rf"a\.jsonl, line 4: {BAD_ROWS[bad]}.*--skip-bad-rows"):
        texts_of(path)
    texts, found = texts_of(path, skip=True)
    assert texts == TEXTS * 2
    assert found.count == 1 and found.first.startswith(f"{path}, line 4: ")


def test_what_was_left_out_and_what_was_cut_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text, "MAX_DOCUMENT_CHARACTERS", 10)
    path = write(tmp_path / "a.jsonl", b'{"text": "one two three"}\n{"text": null}\n')
    stream = stream_files([path], "text", None, BadRows(skip=True))
    assert list(stream) == ["one two ", "three"]
    bad, cut = stream.notes()
    assert bad == f"1 bad rows were left out, the first: {path}, line 2: 'text' is null; expected text"
    assert cut == "1 texts of more than 10 characters were cut into parts"


def test_a_file_of_bad_rows_only_is_an_error_even_if_they_are_skipped(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", b'{"text": null}\n' * 3)
    with pytest.raises(DataError, match=r"a\.jsonl: has no text \(first bad row: .*, line 1: 'text' is null"):
        texts_of(path, skip=True)


def test_what_is_no_file_of_text_is_said_before_anything_is_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    write(tmp_path / "empty.txt", b"")
    messages = {
        "pipe.txt": "is a pipe or a device; expected a file",
        "zero.txt": "is a pipe or a device; expected a file",
        "folder.jsonl": "is a folder; expected a file",
        "empty.txt": "is empty",
        "none.txt": "no such file",
        "a.csv": r"\.csv is not readable here; it is none of \.txt, \.jsonl",
        "a.csv.gz": r"\.csv is not readable here",
        "a.tar.gz": r"\.tar is not readable here",
        "a.parquet.gz": r"\.parquet is not readable here; .*, all but the last also with \.gz",
        "enwik8": "a file without a suffix is not readable here",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=f"{name}: {message}"):
            stream_files([tmp_path / name], "text")


def test_a_text_without_empty_lines_or_line_ends_is_cut_by_its_size(tmp_path: Path):
    for lines in ("a ship goes out\n" * 5000, "a ship goes out " * 5000, "ship" * 20000, "ü" * 40000):
        texts, _ = texts_of(write(tmp_path / "a.txt", lines.encode()))
        assert "".join(texts) == lines
        assert 20 <= len(texts) <= 400 and max(map(len, texts)) <= 1200


def test_marks_cut_a_text_wherever_they_stand(tmp_path: Path):
    documents = ["one\n\ntwo " * 300, "three", "four " * 300]
    path = write(tmp_path / "a.txt", "<|endoftext|>".join(documents).encode())
    assert texts_of(path)[0] == documents


def test_a_line_that_is_not_utf_8_is_named_or_left_out(tmp_path: Path):
    path = write(tmp_path / "a.txt", b"fine\n\xff\xfe\nalso fine\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: not UTF-8 .*--skip-bad-rows"):
        texts_of(path)
    texts, bad = texts_of(path, skip=True)
    assert ("".join(texts), bad.count) == ("fine\nalso fine\n", 1)


def test_parquet_in_capitals_null_and_damaged(tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    path = tmp_path / "A.PARQUET"
    write_table(pa.table({"text": ["a", None, "b"]}), path)
    with pytest.raises(DataError, match=r"A\.PARQUET, row 2: 'text' is null"):
        texts_of(path)
    texts, bad = texts_of(path, skip=True)
    assert (texts, bad.count) == (["a", "b"], 1)
    with pytest.raises(DataError, match=r"A\.PARQUET: not a readable parquet file"):
        texts_of(write(path, path.read_bytes()[:-9]))


READ_IN_CHILD = """
import resource, sys
from pathlib import Path
from golf.prepare.text import BadRows, stream_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sizes = []
try:
    for text in stream_files([Path(sys.argv[1])], "text", None, BadRows(sys.argv[2] == "skip")):
        sizes.append(len(text))
except ValueError as error:
    print(error)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(sum(sizes), max(sizes, default=0), used // 1024)
"""


def read_in_child(path: Path, rows: str) -> tuple[list[str], int, int, int]:
    """What a process that reads the file prints: errors, characters, longest document, MiB of memory."""
    command = [sys.executable, "-c", READ_IN_CHILD, str(path), rows]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *errors, figures = done.stdout.splitlines()
    size, longest, used = map(int, figures.split())
    return errors, size, longest, used


def test_one_line_of_200_mb_takes_little_memory(tmp_path: Path):
    path = tmp_path / "bomb.jsonl.zst"
    with open(path, "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
        writer.write(b'{"text": "fine"}\n{"text": "')
        for _ in range(200):
            writer.write(b"a b " * (1 << 18))
        writer.write(b'"}\n{"text": "fine, too"}\n')
    assert path.stat().st_size < 100_000
    errors, size, _, used = read_in_child(path, "error")
    assert errors == [
        f"{path}, line 2: is longer than 32 MiB. --skip-bad-rows leaves such rows out and counts them"
    ]
    assert used < 200
    errors, size, _, used = read_in_child(path, "skip")
    assert (errors, size) == ([], len("fine") + len("fine, too"))
    assert used < 200


def test_a_long_text_without_line_ends_takes_little_memory(tmp_path: Path):
    path = tmp_path / "flat.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(50):
            file.write(b"sea and " * (1 << 17))
    errors, size, longest, used = read_in_child(path, "error")
    assert (errors, size) == ([], 50 << 20)
    assert longest < 300_000 and used < 100
