"""What a run of train_gpt.py has reached, read from its folder while it goes on, for `benchmarks.gpu`."""

import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_jobs import Post, read_results
from golf.entry.results import read_results as read_run_results
from golf.results import Training
from golf.run import read_stage
from golf.run_folder import RunFolder

REPEATED = (
    "attention", "kernels", "model_params", "forecast", "held_out", "train_seconds", "average", "code",
    "size", "stage", "compressors", "audit",
)  # fmt: skip
"""Events of the run's log that become lines of results as they come."""
TRAINS = ("attention", "model_params", "step", "forecast")
"""Events that come just before training or in it."""


class RunWatch:
    """A run's folder and how much of its log has been repeated."""

    def __init__(self, folder: Path, post: Post, job: str):
        self.folder, self.post = folder, replace(post, job=job)
        self._num_lines = 0
        self.shared_seconds = 0.0
        """In which it wanted the card alone and another process of this command had it, too."""
        self.warms_up = False
        """Whether it is about to compile, so that training comes within a minute."""

    def look(self) -> None:
        """Repeats what is new in the log; what a line calls seconds is the stage's."""
        lines = read_results(RunFolder(self.folder).events)
        for line in lines[self._num_lines :]:
            kind = line.pop("event")
            self.warms_up |= kind in TRAINS
            if "seconds" in line:
                line["stage_seconds"] = line.pop("seconds")
            if kind in REPEATED:
                self.post.add(f"run {kind}", **line)
        self._num_lines = len(lines)

    @property
    def has_trained(self) -> bool:
        """Whether its training has ended."""
        return RunFolder(self.folder).training.is_file()

    @property
    def wants_card(self) -> bool:
        """Whether the card should be the run's alone: while it trains, and from its packing's end."""
        return self.is_packed if self.has_trained else self.warms_up

    @property
    def is_packed(self) -> bool:
        """Whether there is an artifact, which is then scored."""
        return RunFolder(self.folder).artifact.is_file()

    def close(self, entry: Path | None) -> None:
        """Writes the line of figures of a run that has ended, as far as it came."""
        self.look()
        figures: dict[str, Any] = {
            "entry": None if entry is None else entry.name,
            "card_shared_seconds": round(self.shared_seconds, 1),
        }
        files = RunFolder(self.folder)
        if files.training.is_file():
            training = asdict(read_stage(files.training, Training))
            figures |= {"phase_seconds": training.pop("seconds"), **training}
        if files.results.is_file():
            results = read_run_results(files.results)
            figures |= {"averaging": asdict(results.averaging), "packing": asdict(results.packing)}
            figures |= {"phase_seconds": results.seconds, "partial": results.partial}
            figures["stages"] = {
                stage.name: {
                    **stage.figures(),
                    "seconds": stage.seconds,
                    "tokens_per_second": stage.tally.num_tokens / stage.seconds if stage.seconds else None,
                }
                for stage in results.stages
            }
        self.post.add("figures", **figures)


def find_entry(records: Path) -> Path | None:
    """The newest entry below a folder of records."""
    entries = sorted(records.glob("*/*/submission.json"), key=lambda path: path.stat().st_mtime)
    return entries[-1].parent if entries else None


def junit_figures(path: Path) -> dict[str, Any]:
    """Counts and the names of tests that failed, from pytest's file."""
    if not path.is_file():
        return {"junit": None}
    suite = ElementTree.parse(path).getroot()
    suite = suite if suite.tag == "testsuite" else suite[0]
    cases = list(suite.iter("testcase"))
    failed = [case.get("name") for case in cases if {"failure", "error"} & {child.tag for child in case}]
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    slowest = sorted(cases, key=lambda case: -float(case.get("time", "0")))[:5]
    return {
        **counts,
        "pytest_seconds": float(suite.get("time", "0")),
        "failed": failed,
        "slowest": {case.get("name"): float(case.get("time", "0")) for case in slowest},
    }
