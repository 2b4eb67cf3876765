"""Files appear whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest

from golf.system.files import (
    DamagedFileError,
    DiskFullError,
    atomic_write,
    name_standard_output,
    read_sealed_json,
    require_writable,
    write_json,
    write_sealed_json,
)


def test_a_file_appears_when_the_block_ends(tmp_path):
    with atomic_write(tmp_path / "a") as partial:
        partial.write_text("x")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path):
    (tmp_path / "a").write_text("earlier")
    with pytest.raises(OSError, match="full"):
        with atomic_write(tmp_path / "a") as partial:
            partial.write_text("half")
            raise OSError("disk full")
    assert (tmp_path / "a").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_links_are_not_followed_and_modes_are_as_the_umask_says(tmp_path):
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "a.part").symlink_to(tmp_path / "victim")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as partial:
            partial.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "victim").read_text() == "kept" and not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "x"),
        OSError(errno.EDQUOT, "x"),
        RuntimeError("No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_with_the_room_that_is_left(tmp_path, error):
    (tmp_path / "a").write_text("earlier")
    with pytest.raises(DiskFullError, match=r"/a: no space left on the disk, [\d,]+ bytes are free"):
        with atomic_write(tmp_path / "a"):
            try:
                raise error
            finally:
                # As torch does: what is raised in the end does not say why.
                raise RuntimeError("unexpected pos")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_every_flipped_bit_of_a_sealed_file_is_named(tmp_path):
    path = tmp_path / "a.json"
    fields = {"loss": 1.2345678901234567, "names": ["a", None, True], "by": {"ä": 3, "nested": {"x": -1e-9}}}
    write_sealed_json(path, fields)
    assert read_sealed_json(path) == fields
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            try:
                read = read_sealed_json(path)
            except (DamagedFileError, UnicodeDecodeError):
                continue
            # White space may change; else only the name of the checksum, which leaves an unknown field.
            assert read == fields or set(read) - set(fields)


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"bpb": 1.25})
    assert json.loads((tmp_path / "a.json").read_text()) == {"bpb": 1.25}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"bpb": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_a_folder_that_cannot_be_written_to_is_named_with_its_option(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere/run")):
        with pytest.raises(ValueError, match=f"--out {folder} cannot be written to"):
            require_writable(folder, "--out")
    require_writable(tmp_path / "new" / "run", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is left behind"
    (tmp_path / "kept").mkdir()
    require_writable(tmp_path / "kept", "--out")
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ([], []),
        (["--json"], ["--json", "-"]),
        (["--json", "--ttt"], ["--json", "-", "--ttt"]),
        (["--json", "out.json"], ["--json", "out.json"]),
    ],
)
def test_json_without_a_file_means_standard_output(given, read):
    assert name_standard_output(given) == read
