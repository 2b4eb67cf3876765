"""One run of one arm with one seed, in a process of its own: python -m golf.lab.trial FOLDER.

FOLDER holds trial.json; measured.json is what it leaves, or failed.json with a reason. It ends when its
standard input does, that is with the process that started it: the next call would start a second run there.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from golf.config import RunConfig
from golf.data.manifest import Dataset, open_dataset
from golf.model.gpt import GPT
from golf.pack.estimate import artifact_bytes_at
from golf.pack.layout import implied_shapes
from golf.results import Averaging, Training
from golf.run import LiveTrainer, RunContext, average_stage, train_stage
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring, score
from golf.system.device import choose_runtime, environment
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.train.checkpoint import load_weights
from golf.train.loop import Interrupted
from golf.train.objective import export_config

STATED_BITS = 6.0
"""Bits a weight at which a study states the bytes of an artifact."""
FAILURES = (ValueError, OSError, RuntimeError, ArithmeticError)
"""What an arm can fail by: bad data or settings, divergence, a kernel's refusal, memory."""

STANDARD_INPUT = 0


class WatchedLog(RunLog):
    """A log that hands each look at the held-out text (steps so far, bits per byte) on."""

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
    """Trains in `folder`, or goes on there, up to the averaged weights."""
    files, live = RunFolder(folder), LiveTrainer()
    log = WatchedLog(files.log_stem, watch)
    run = RunContext(config, dataset, choose_runtime(device), log)
    try:
        return run, train_stage(files, run, live), average_stage(files, run, live)
    finally:
        log.close()


def measure_trial(folder: Path, trial: dict[str, Any]) -> dict[str, Any]:
    """Trains and measures what `trial` describes: the content of measured.json."""
    config = config_from_dict(RunConfig, trial["config"])
    dataset = open_dataset(Path(trial["data"]))
    run, training, averaging = train_trial(folder, config, dataset, trial["device"], lambda step, bpb: None)
    served = export_config(config.model)
    model = GPT(served)
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
        "artifact_bytes": artifact_bytes_at(implied_shapes(asdict(served)), STATED_BITS),
        "curve": held_out_curve(RunFolder(folder).events),
        "environment": environment(run.runtime.device),
    }


def held_out_curve(path: Path) -> list[tuple[int, float]]:
    """(training tokens, held-out bits per byte) of each look; of a look taken twice the later one."""
    curve = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "held_out":
            curve[event["tokens"]] = event["bpb"]
    return sorted(curve.items())


def run_trial(folder: Path) -> int:
    """Exit code 0 with measured.json written, 1 with failed.json, 130 stopped."""
    trial = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    torch.set_num_threads(trial["threads"])
    try:
        write_json(folder / "measured.json", measure_trial(folder, trial))
    except Interrupted:
        return 130
    except FAILURES as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        write_json(folder / "failed.json", {"reason": reason})
        print(f"{folder}: {reason}", file=sys.stderr)
        return 1
    return 0


def end_with_starter() -> None:
    """Waits for the end of standard input, and ends the process then."""
    while os.read(STANDARD_INPUT, 1):
        pass
    os._exit(130)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    sys.exit(run_trial(Path(sys.argv[1])))
