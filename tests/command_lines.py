"""Command lines of our programs: lines that they accept, what begins their work, and files to name."""

import importlib
import json
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from tiny_samples import TINY

from golf.command import parse_run as train_gpt_command
from golf.pack.artifact import decode_artifact
from golf.run_folder import RunFolder
from golf.system.stored import config_to_dict
from golf.train.checkpoint import save_weights

OUTPUTS = "--out --json --png --plot --per-document --rows --results --work --stages --write".split()
"""Options that name a file or a folder to make."""


class Began(Exception):
    """A program began its work."""


@dataclass(frozen=True)
class Program:
    """A program, a line that it accepts, and what of it begins the work."""

    module: str
    line: str
    begins: str = ""
    """The name, in a module, of what is replaced so that nothing runs."""
    help: str = "--help-all"
    fine: tuple[str, ...] = ()
    """Words that make no line wrong."""

    def __str__(self) -> str:
        return f"{self.module} {self.line}"


PROGRAMS = (
    Program("train_gpt", f"{' '.join(TINY)} --data DATA --steps 1 --out NEW",
            "golf.programs.train:train_stage"),
    Program("train_gpt", "--score ARTIFACT --data DATA", "golf.evaluate:score_once", "--score x --help-all"),
    Program("train_gpt", "--resume RUN", "golf.programs.train:train_stage"),
    Program("quantize", "RUN --no-compare --pack.scheme int5", "golf.programs.quantize:pack"),
    Program("quantize", "--forecast --preset cpu", "golf.programs.quantize:charged_script"),
    Program("eval_bpb", "ARTIFACT --data DATA", "golf.evaluate:score_once", fine=("--json",)),
    Program("eval_bpb", "ARTIFACT --data DATA --audit", "golf.audit.rescore:run_project",
            fine=("EMPTY", "EMPTYFOLDER", "GARBAGE", "MISSING", "LONG")),
    Program("ttt", "ARTIFACT --data DATA", "golf.evaluate:score_once", fine=("--json",)),
    Program("golf.__main__", "check FOLDER", "", "check --help-all", ("EMPTYFOLDER",)),
    Program("golf.__main__", "compare FOLDER FOLDER", "", "compare --help-all"),
    Program("golf.__main__", "build FOLDER", "", "build --help-all"),
    Program("golf.__main__", "report --records FOLDER --runs FOLDER", "", "report --help-all",
            ("EMPTYFOLDER",)),
    Program("golf.lab.__main__", "STUDY --data DATA --out NEW", "golf.lab.__main__:run_trials"),
    Program("benchmarks.training", "--quick", "benchmarks.training:run_alone"),
    Program("benchmarks.packing", "--run RUN --data DATA", "benchmarks.packing:Judge"),
    Program("benchmarks.scoring", "--preset cpu", "multiprocessing:get_context"),
    Program("benchmarks.ttt", "ARTIFACT --data DATA", "benchmarks.ttt:measure_gains"),
    Program("benchmarks.ttt", "", "benchmarks.ttt_steps:measure_arm"),
    Program("benchmarks.recipe", "--data DATA --rows NEW", "benchmarks.recipe:run_arm"),
    Program("benchmarks.parity", "--data DATA --rows NEW", "benchmarks.parity:run_arm"),
    Program("benchmarks.cpu_record", "--data DATA --rows NEW --arms seed", "benchmarks.cpu_record:run_arm"),
    Program("benchmarks.auditing", "ARTIFACT --data DATA", "golf.evaluate:score_once"),
    Program("benchmarks.checking", "", "benchmarks.checking:make_folder"),
    Program("benchmarks.preparing", "", "benchmarks.preparing:measure"),
    Program("benchmarks.gpu", "--out NEW", "benchmarks.gpu:Session",
            fine=("EMPTY", "GARBAGE", "EMPTYFOLDER", "")),
    Program("benchmarks.check_torch", "", "benchmarks.check_torch:check_presets", fine=("",)),
)  # fmt: skip


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """TimeoutError for a block that takes longer."""

    def end(signum: int, frame: Any) -> None:
        raise TimeoutError(f"still at work after {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def stop_at(patch: pytest.MonkeyPatch, names: Iterable[str]) -> None:
    """Lets the functions that begin the work, by module:name, raise Began."""

    def begin(*arguments: object, **named: object) -> None:
        raise Began

    for place in names:
        module, name = place.split(":")
        patch.setattr(importlib.import_module(module), name, begin)


def write_stopped_run(folder: Path, artifact: Path, data: Path) -> RunFolder:
    """A run of the artifact's weights that was stopped before it packed them."""
    run = RunFolder(folder)
    run.path.mkdir()
    header, weights = decode_artifact(artifact.read_bytes())
    save_weights(run.weights, weights)
    save_weights(run.calibration, {"num_tokens": torch.tensor(1)})
    run.script.write_text("#")
    command = train_gpt_command(["--data", str(data), "--steps", "1", *TINY])
    described = {
        "options": msgspec.to_builtins(command.options, enc_hook=str),
        "config": config_to_dict(command.config),
    }
    run.config.write_text(json.dumps({"command": "x", **described, "header": header}))
    return run


def write_study(path: Path) -> None:
    """A study of two arms and a search."""
    path.write_text(
        'title = "t"\npreset = "cpu"\ntokens = 9999\n'
        'arms = [{name = "a"}, {name = "b", set = {model = {qk_gain = 1.0}}}]\n'
        "[search.optim.matrix_lr]\nlow = 0.01\nhigh = 0.1\n"
    )
