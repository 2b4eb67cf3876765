"""The files of a run folder and of an entry folder, each named in one place."""

import itertools
import os
import time
from pathlib import Path


class RunFolder(os.PathLike[str]):
    """The files that a run leaves, stage by stage; a stage is done when its JSON file is there."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.json"
        """Command, options and resolved configuration, and the artifact's header."""
        self.spent_seconds = self.path / "spent_seconds.txt"
        """Wall clock used so far, for runs with a time plan."""
        self.log_stem = self.path / "run"
        """RunLog adds the suffixes of the next two."""
        self.log = self.path / "run.log"
        self.events = self.path / "run.jsonl"
        self.trackers = self.path / "trackers"
        """Folder of what trackers keep."""
        self.checkpoint = self.path / "checkpoint.pt"
        """Training's state; at its end also the last weights."""
        self.training = self.path / "training.json"
        self.weights = self.path / "weights.safetensors"
        """The averaged weights, which are packed."""
        self.averaging = self.path / "averaging.json"
        self.calibration = self.path / "calibration.safetensors"
        self.calibrating = self.path / "calibration.json"
        self.script = self.path / "train_gpt.py"
        """The file whose bytes are charged, and which scores the artifact."""
        self.artifact = self.path / "artifact.bin"
        self.packing = self.path / "pack.json"
        self.score_weights = self.path / "score_weights.json"
        """Scores of the last and of the averaged weights."""
        self.per_document = self.path / "per_document.npz"
        self.results = self.path / "results.json"
        self.audit = self.path / "audit.json"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def score(self, stage: str) -> Path:
        """Scores of the artifact: `quantized` or `test_time_trained`."""
        return self.path / f"score_{stage}.json"

    def documents(self, stage: str) -> Path:
        """Sums by document of such a score."""
        return self.path / f"score_{stage}.npz"

    def forget_from(self, stage: str) -> None:
        """Removes the marks of `stage` and of what follows it, because it is done again."""
        marks = {
            "train": [self.training],
            "average": [self.averaging, self.score_weights],
            "calibrate": [self.calibrating],
            "pack": [self.packing],
            "score": [self.score("quantized"), self.score("test_time_trained"), self.results, self.audit],
        }
        for later in list(marks)[list(marks).index(stage) :]:
            for path in marks[later]:
                path.unlink(missing_ok=True)


def new_run_folder(name: str) -> Path:
    """Makes a folder under runs/, called by the time; those made in the same second differ."""
    first = Path("runs") / f"{time.strftime('%Y-%m-%d_%H%M%S')}_{name}"
    for number in itertools.count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise AssertionError


class EntryFolder(os.PathLike[str]):
    """The files of an entry under records/."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.readme = self.path / "README.md"
        self.submission = self.path / "submission.json"
        self.results = self.path / "results.json"
        self.script = self.path / "train_gpt.py"
        self.requirements = self.path / "requirements.txt"
        self.per_document = self.path / "per_document.npz"
        self.audit = self.path / "audit.json"
        self.training_plot = self.path / "training.svg"
        self.ignored = self.path / ".gitignore"

    def __fspath__(self) -> str:
        return str(self.path)

    def artifact(self, seed: int) -> Path:
        """A seed's artifact."""
        return self.path / f"artifact_seed{seed}.bin"

    def log(self, seed: int) -> Path:
        """A seed's training log."""
        return self.path / f"train_seed{seed}.log"


def find_artifacts(folder: Path) -> list[Path]:
    """The artifacts of an entry (artifact_seed<N>.bin) or a run (artifact.bin), in order of their names."""
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
    """The dataset folder that was `given`, else the one in the entry's folder; ValueError without either."""
    if given is not None:
        return given
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    for folder in (path, path / "data"):
        if (folder / "manifest.json").is_file():
            return folder
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    raise ValueError(f"{path} brings no text to score along; give --data DIR")
