"""Finds the artifact and the dataset of an entry or a run folder."""

from pathlib import Path


def find_artifacts(folder: Path) -> list[Path]:
    """The artifacts of an entry (artifact_seed<N>.bin) or a run (artifact.bin), sorted by name."""
    return sorted([*folder.glob("artifact_seed*.bin"), *folder.glob("artifact.bin")])


def find_artifact(path: Path) -> Path:
    """`path` itself if it is a file, else the one artifact in that folder; ValueError unless there is one."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if not path.is_dir():
        return path
    found = find_artifacts(path)
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"{path}: holds no artifact; expected artifact.bin or artifact_seed<N>.bin")
    raise ValueError(f"{path}: holds {', '.join(file.name for file in found)}; give one of them")


def find_data(given: Path | None, path: Path) -> Path:
    """`given` if it is not None, else the dataset folder in `path`; ValueError without either."""
    if given is not None:
        return given
    for folder in (path, path / "data"):
        if (folder / "manifest.json").is_file():
            return folder
    raise ValueError(f"{path} contains no dataset; give --data DIR")
