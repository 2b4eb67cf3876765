"""All runs of a study, several processes at a time; what is done already is not done again."""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import Dataset
from golf.lab.study import Study
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.system.stored import config_to_dict, flat_fields

FIRST_SEED = 1
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Trial:
    """A run of an arm with a seed; `folder` is named after everything that decides what it measures."""

    arm: str
    seed: int
    config: RunConfig
    folder: Path

    def outcome(self) -> dict[str, Any] | None:
        """What was measured, or a `reason` why nothing was; None while it was not run to an end.

        With `again` the run was killed, and is to be run once more.
        """
        for name in ("measured.json", "failed.json"):
            if (self.folder / name).is_file():
                return json.loads((self.folder / name).read_text(encoding="utf-8"))
        return None


def fitted(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The config with the vocabulary of the data."""
    return fit_to_vocabulary(config, config, dataset.vocabulary.size, dataset.vocabulary.bos_id)


def changed_fields(config: RunConfig) -> dict[str, Any]:
    """The fields that are not at their default, by dotted name: what a field added later leaves as it is."""
    defaults = flat_fields(config_to_dict(RunConfig()))
    return {
        name: value for name, value in flat_fields(config_to_dict(config)).items() if value != defaults[name]
    }


def plan_trials(study: Study, dataset: Dataset, device: str, threads: int, out: Path) -> list[Trial]:
    """Every arm with every seed, seed by seed, so that a study broken off has compared all arms.

    A changed arm, dataset or device is another folder: old measurements are never taken for new ones.
    """
    trials = []
    for seed in range(FIRST_SEED, FIRST_SEED + study.seeds):
        for arm in study.arms:
            config = replace(fitted(arm.config, dataset), seed=seed)
            described = {
                "config": config_to_dict(config),
                "changed": changed_fields(config),
                "data": str(dataset.folder),
                "data_sha256": [file.sha256 for file in dataset.manifest.files],
                "validation_tokens": study.validation_tokens,
                "device": device,
                "threads": threads,
            }
            told = json.dumps({**described, "config": None}, sort_keys=True)
            digest = hashlib.sha256(told.encode()).hexdigest()[:10]
            folder = out / study.name / f"{arm.name}_seed{seed}_{digest}"
            trials.append(Trial(arm.name, seed, config, folder))
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "trial.json", described)
    return trials


def run_trials(trials: list[Trial], jobs: int, log: RunLog) -> None:
    """Runs what is not done yet, `jobs` at a time; KeyboardInterrupt once all have stopped and saved."""
    waiting = [trial for trial in trials if (trial.outcome() or {"again": True}).get("again")]
    log.info(f"{len(trials)} runs, {len(trials) - len(waiting)} of them done already, {jobs} at a time")
    running: dict[subprocess.Popen[bytes], Trial] = {}
    with log.progress("study", len(trials), "runs") as bar:
        bar.advance(len(trials) - len(waiting))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    trial = waiting.pop(0)
                    running[_start(trial)] = trial
                for process in [process for process in running if process.poll() is not None]:
                    trial = running.pop(process)
                    _finish(trial, process.returncode, log)
                    bar.advance(1, f"{trial.arm}, seed {trial.seed}")
                time.sleep(_POLL_SECONDS)
        finally:
            for process in running:
                process.wait()


def _start(trial: Trial) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "golf.lab.trial", str(trial.folder)]
    with open(trial.folder / "output.txt", "ab") as output:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)


def _finish(trial: Trial, code: int, log: RunLog) -> None:
    """Says what came of a run; one that ended without a word is marked as failed, one stopped is not."""
    outcome = trial.outcome() if code in (0, 1) else None
    if code == 130:
        raise KeyboardInterrupt
    if outcome is None:
        lines = (trial.folder / "output.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        reason = f"the process ended with code {code}: {last.strip()}"
        outcome = {"reason": reason, "again": code < 0}
        write_json(trial.folder / "failed.json", outcome)
    figure = outcome.get("reason") or f"{outcome['validation_bpb']:.4f} bpb"
    log.info(f"{trial.arm}, seed {trial.seed}: {figure}")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
