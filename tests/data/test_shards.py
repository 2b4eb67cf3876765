import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golf.data.shards import DataError, check_token_ids, read_shard, write_shard

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@same_folder
@given(tokens=st.lists(st.integers(0, 65535), min_size=1, max_size=300))
def test_a_shard_reads_back_what_was_written(tmp_path: Path, tokens: list[int]):
    write_shard(tmp_path / "s.bin", np.array(tokens))
    read = read_shard(tmp_path / "s.bin")
    assert read.tolist() == tokens
    assert read.dtype == np.uint16
    assert not read.flags.writeable


def test_the_file_is_the_challenges_format_byte_for_byte(tmp_path: Path):
    write_shard(tmp_path / "s.bin", np.array([1, 1023, 65535], dtype=np.uint16))
    expected = struct.pack("<256i", 20240520, 1, 3, *[0] * 253) + struct.pack("<3H", 1, 1023, 65535)
    assert (tmp_path / "s.bin").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["s.bin"]


CORRUPTIONS = {
    "empty file": (lambda data: b"", "0 bytes; a shard's header alone is 1024"),
    "cut header": (lambda data: data[:1000], "1000 bytes; a shard's header alone is 1024"),
    "magic": (
        lambda data: b"\1\2\3\4" + data[4:],
        r"starts with \[67305985, 1\]; a shard starts with \(20240520, 1\)",
    ),
    "version": (
        lambda data: data[:4] + b"\2\0\0\0" + data[8:],
        r"starts with \[20240520, 2\]; a shard",
    ),
    "one byte less": (lambda data: data[:-1], "1033 bytes; its header says 5 tokens, which is 1034 bytes"),
    "one token more": (lambda data: data + b"\0\0", "1036 bytes; its header says 5 tokens"),
    "negative count": (lambda data: data[:8] + b"\xff" * 4 + data[12:], "its header says -1 tokens"),
    "no tokens": (lambda data: data[:8] + bytes(4) + data[12:1024], "its header says 0 tokens"),
    "huge count": (
        lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:],
        "2147483647 tokens, which is 4294968318",
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_every_corruption_is_refused_with_what_was_found(tmp_path: Path, corruption: str):
    change, message = CORRUPTIONS[corruption]
    path = tmp_path / "s.bin"
    write_shard(path, np.arange(5))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        read_shard(path)
    assert str(path) in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent\.bin: cannot be read \(No such file"):
        read_shard(tmp_path / "absent.bin")


@pytest.mark.parametrize("tokens", [[], [-1, 3], [65536]])
def test_what_does_not_fit_a_shard_is_refused_and_leaves_no_file(tmp_path: Path, tokens: list[int]):
    with pytest.raises(DataError):
        write_shard(tmp_path / "s.bin", np.array(tokens, dtype=np.int64))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_shard_and_leaves_nothing_else(tmp_path: Path, monkeypatch):
    path = tmp_path / "s.bin"
    write_shard(path, np.arange(5))

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("golf.system.files.os.replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_shard(path, np.arange(9))
    assert read_shard(path).tolist() == list(range(5))
    assert [file.name for file in tmp_path.iterdir()] == ["s.bin"]


def test_a_token_outside_the_vocabulary_is_named_with_its_position():
    tokens = np.array([3, 9, 10, 11], dtype=np.uint16)
    check_token_ids(tokens, 12, "s.bin")
    check_token_ids(tokens[:0], 12, "s.bin")
    with pytest.raises(DataError, match=r"s\.bin: token 102 is 10; the vocabulary has ids 0 to 9"):
        check_token_ids(tokens, 10, "s.bin", offset=100)
