"""Files appear whole or not at all."""

import json
from pathlib import Path

import pytest

from golf.system.files import atomic_write, name_standard_output, require_writable, write_json


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
