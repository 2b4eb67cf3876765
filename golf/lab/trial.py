"""The runs of a study: one process for each arm and seed, several at a time; finished runs are not repeated.

`python -m golf.lab.trial FOLDER` is one run. FOLDER holds trial.json; the run writes measured.json, or
failed.json with a reason. It ends when its standard input is closed, that is, when the process that started
it ends. One process at a time runs in a folder: another waits, and finds the run done.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from golf.config import RunConfig, fit_to_vocabulary
from golf.data.manifest import Dataset, open_dataset
from golf.lab.job import start_trial
from golf.lab.study import Study
from golf.model.gpt import GPT
from golf.pack.layout import artifact_bytes_at, implied_layout
from golf.results import Averaging, Training
from golf.run import LiveTrainer, RunContext, average_stage, train_stage
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring, score
from golf.system.cli import STOP_SIGNALS, Stopped
from golf.system.device import choose_runtime, environment
from golf.system.files import write_json
from golf.system.lock import owned_folder
from golf.system.log import RunLog
from golf.system.stored import config_from_dict, config_to_dict, flat_fields
from golf.train.checkpoint import load_weights
from golf.train.objective import export_config

FIRST_SEED = 1
STATED_BITS = 6.0
"""Bits a weight at which a study states the size of an artifact."""
FAILURES = (ValueError, OSError, RuntimeError, ArithmeticError)
"""What a run can fail with: bad data or settings, divergence, an error of a kernel, too little memory."""
STANDARD_INPUT = 0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Trial:
    """A run of an arm with a seed; the name of `folder` has a hash of everything that decides the result."""

    arm: str
    seed: int
    config: RunConfig
    folder: Path

    def outcome(self) -> dict[str, Any] | None:
        """The measurements, or the `reason` of a failure; None if the run has not ended.

        With `again`, the run was killed and has to be repeated.
        """
        return outcome_in(self.folder)


class RunningTrial(Protocol):
    """A trial that was started somewhere."""

    returncode: int | None

    def poll(self) -> int | None:
        """Its exit code, which `returncode` is from then on; None while it runs."""
        ...

    def stop(self, signum: int) -> None:
        """Asks it to save and end, because `signum` asked this process."""
        ...

    def wait(self) -> Any:
        """Waits for its end."""
        ...


def outcome_in(folder: Path) -> dict[str, Any] | None:
    """As `Trial.outcome`, of the trial in a folder."""
    for name in ("measured.json", "failed.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text(encoding="utf-8"))
    return None


def has_to_run(outcome: dict[str, Any] | None) -> bool:
    """Whether a trial with this outcome is still to be run."""
    return outcome is None or outcome.get("again", False)


def fitted(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The config with the vocabulary size and BOS of the data."""
    return fit_to_vocabulary(config, config, dataset.vocabulary.size, dataset.vocabulary.bos_id)


def changed_fields(config: RunConfig) -> dict[str, Any]:
    """The fields that differ from their default, by dotted name; a field added later does not change them."""
    defaults = flat_fields(config_to_dict(RunConfig()))
    return {
        name: value for name, value in flat_fields(config_to_dict(config)).items() if value != defaults[name]
    }


def plan_trials(study: Study, dataset: Dataset, device: str, threads: int, out: Path) -> list[Trial]:
    """Every arm with every seed, seed by seed, so that an interrupted study has compared all arms.

    A changed arm, dataset or device has another folder: old measurements are never used for it.
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
            identity = json.dumps({**described, "config": None}, sort_keys=True)
            digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
            folder = out / study.name / f"{arm.name}_seed{seed}_{digest}"
            trials.append(Trial(arm.name, seed, config, folder))
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "trial.json", described)
    return trials


def run_trials(
    trials: list[Trial], jobs: int, log: RunLog, start: Callable[[Trial], RunningTrial] | None = None
) -> None:
    """Runs the unfinished trials, `jobs` at a time; Stopped once all have stopped and saved.

    `start` begins one; by default as a process of this machine.
    """
    start = start or _start
    waiting = [trial for trial in trials if has_to_run(trial.outcome())]
    log.info(f"{len(trials)} runs, {len(trials) - len(waiting)} of them already done, {jobs} at a time")
    running: dict[RunningTrial, Trial] = {}
    with log.progress("study", len(trials), "runs") as bar:
        bar.advance(len(trials) - len(waiting))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    trial = waiting.pop(0)
                    running[start(trial)] = trial
                for process in list(running):
                    code = process.poll()
                    if code is None:
                        continue
                    trial = running.pop(process)
                    _finish(trial, code, log)
                    bar.advance(1, f"{trial.arm}, seed {trial.seed}")
                time.sleep(_POLL_SECONDS)
        except Stopped as stop:
            for process in running:
                process.stop(stop.signum)
            raise
        finally:
            for process in running:
                process.wait()


def _start(trial: Trial) -> RunningTrial:
    return start_trial(trial.folder)


def stop_signal_of(code: int) -> int:
    """The signal that stopped a program which ended with this exit code; 0 for another end."""
    return code - 128 if code - 128 in STOP_SIGNALS else 0


def _finish(trial: Trial, code: int, log: RunLog) -> None:
    """Logs the result of a run; one that ended without a result is marked as failed, a stopped one is not."""
    outcome = trial.outcome() if code in (0, 1) else None
    if stop_signal_of(code):
        raise Stopped(signum=stop_signal_of(code))
    if outcome is None:
        lines = (trial.folder / "output.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        reason = f"the process ended with code {code}: {last.strip()}"
        outcome = {"reason": reason, "again": code < 0}
        write_json(trial.folder / "failed.json", outcome)
    figure = outcome.get("reason") or f"{outcome['validation_bpb']:.4f} bpb"
    log.info(f"{trial.arm}, seed {trial.seed}: {figure}")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WatchedLog(RunLog):
    """A log that passes each evaluation on held-out text (step, bits per byte) to `watch`."""

    def __init__(self, path: Path, watch: Callable[[int, float], None]):
        super().__init__(path, quiet=True)
        self.watch = watch

    def event(self, kind: str, **fields: Any) -> None:
        """As RunLog's; `watch` may raise to end the run."""
        super().event(kind, **fields)
        if kind == "held_out":
            self.watch(fields["step"], fields["bpb"])


def train_trial(
    folder: Path, config: RunConfig, dataset: Dataset, device: str, watch: Callable[[int, float], None]
) -> tuple[RunContext, Training, Averaging]:
    """Trains in `folder`, or resumes there, up to the averaged weights."""
    files, live = RunFolder(folder), LiveTrainer()
    log = WatchedLog(files.log_stem, watch)
    run = RunContext(config, dataset, choose_runtime(device), log)
    try:
        return run, train_stage(files, run, live), average_stage(files, run, live)
    finally:
        log.close()


def measure_trial(folder: Path, trial: dict[str, Any]) -> dict[str, Any]:
    """Trains and measures the trial: the content of measured.json."""
    config = config_from_dict(RunConfig, trial["config"])
    dataset = open_dataset(Path(trial["data"]))
    run, training, averaging = train_trial(folder, config, dataset, trial["device"], lambda step, bpb: None)
    exported = export_config(config.model)
    model = GPT(exported)
    model.load_state_dict(load_weights(RunFolder(folder).weights))
    model.compute_dtype = run.runtime.compute_dtype
    with run.clock.stage("score"):
        tokens = dataset.validation_tokens(run.clock)
        limit = trial["validation_tokens"] if trial["validation_tokens"] < len(tokens) - 1 else None
        model.to(run.runtime.device)
        tally = score(Scoring(model, tokens, dataset.vocabulary, config.score, limit)).tally
    return {
        "validation_bpb": tally.bits_per_byte,
        "validation_tokens": tally.num_tokens,
        "held_out_bpb": averaging.held_out_bpb[averaging.output],
        "train_tokens": training.train_tokens,
        "tokens_per_second": training.tokens_per_second,
        "train_seconds": training.seconds["train"],
        "steps": training.steps,
        "parameters": training.model_parameters,
        "artifact_bytes": artifact_bytes_at(implied_layout(asdict(exported)), STATED_BITS),
        "curve": held_out_curve(RunFolder(folder).events),
        "environment": environment(run.runtime.device),
    }


def held_out_curve(path: Path) -> list[tuple[int, float]]:
    """(training tokens, held-out bits per byte) of each evaluation; of a repeated one, the later."""
    curve = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "held_out":
            curve[event["tokens"]] = event["bpb"]
    return sorted(curve.items())


def run_trial(folder: Path) -> int:
    """Exit code: 0 with measured.json written, 1 with failed.json, 128 and a signal's number if stopped."""
    trial = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    torch.set_num_threads(trial["threads"])
    try:
        with owned_folder(folder, partial(print, file=sys.stderr, flush=True)):
            outcome = outcome_in(folder)
            if has_to_run(outcome):
                write_json(folder / "measured.json", measure_trial(folder, trial))
            elif outcome is not None and "reason" in outcome:
                return 1
    except Stopped as stop:
        return stop.code
    except FAILURES as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        write_json(folder / "failed.json", {"reason": reason})
        print(f"{folder}: {reason}", file=sys.stderr)
        return 1
    return 0


def end_with_starter() -> None:
    """Waits for the end of standard input, then ends the process."""
    while os.read(STANDARD_INPUT, 1):
        pass
    os._exit(130)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    sys.exit(run_trial(Path(sys.argv[1])))
