from pathlib import Path

import pytest

from golf.run_folder import find_artifact


@pytest.mark.parametrize("name", ["artifact.bin", "artifact_seed42.bin"])
def test_an_artifact_is_found_in_a_run_and_in_an_entry(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "results.json").write_text("{}")
    assert find_artifact(tmp_path) == tmp_path / name
    assert find_artifact(tmp_path / name) == tmp_path / name


def test_a_folder_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no artifact"):
        find_artifact(tmp_path)


def test_a_choice_of_several_is_left_to_the_user(tmp_path: Path) -> None:
    for seed in (1, 2):
        (tmp_path / f"artifact_seed{seed}.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds artifact_seed1\.bin, artifact_seed2\.bin; give one"):
        find_artifact(tmp_path)
