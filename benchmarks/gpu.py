"""Is this machine all right, how fast is it, and what will a run on it come to? In a quarter of an hour.

    python -m benchmarks.gpu --minutes 12 --out DIR --text DOCUMENTS --tokenizer FILE.model

Stages, each in processes of their own with a limit and a log: environment, data, tests, speed, run, fallback,
score, archive. A stage that fails stops no other. Each figure is a line of DIR/results.jsonl as soon as it
is there; DIR/report.md has the tables. Without a GPU everything is tiny, and the figures mean nothing.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_jobs import ROOT, read_results, try_lock
from benchmarks.gpu_plan import Choice, GpuBenchmark, Machine, Plan
from benchmarks.gpu_session import Session
from golf.system.cli import run_program
from golf.system.options import read_options


class GpuBenchmarkError(ValueError):
    """Options that cannot be met."""


PROBE = """
import json, sys
from golf.system.device import choose_runtime, hardware_name
import torch
device = choose_runtime(sys.argv[1]).device
memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
print(json.dumps({"kind": device.type, "hardware": hardware_name(device), "memory_bytes": memory}))
"""


def find_machine(device: str) -> Machine:
    """Asks torch, in a process that lets go of the card.

    GpuBenchmarkError if it does not start, or sees no card where there is a driver (`unusable_gpu`).
    """
    command = [sys.executable, "-c", PROBE, device]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    except subprocess.TimeoutExpired as error:
        raise GpuBenchmarkError("torch has not started in 180 s") from error
    if done.returncode:
        raise GpuBenchmarkError((done.stderr.strip().splitlines() or ["torch does not start"])[-1])
    return Machine(**json.loads(done.stdout.splitlines()[-1]))


def choice_of(options: GpuBenchmark) -> Choice:
    """The stages and rows that are asked for."""
    only, skip = (tuple(name for name in text.split(",") if name) for text in (options.only, options.skip))
    return Choice(only, skip)


def absolute(options: GpuBenchmark) -> GpuBenchmark:
    """The options with whole paths, every file of them there; GpuBenchmarkError names one that is not."""
    changes: dict[str, Any] = {}
    for name, value in vars(options).items():
        paths = value if isinstance(value, tuple) else (value,)
        if paths and all(isinstance(path, Path) for path in paths):
            whole = tuple(path.absolute() for path in paths)
            changes[name] = whole if isinstance(value, tuple) else whole[0]
            for path in whole:
                if name not in ("out", "work", "resume") and not path.exists():
                    raise GpuBenchmarkError(f"--{name.replace('_', '-')}: {path} is not there")
    options = replace(options, **changes)
    if options.text and options.tokenizer is None:
        raise GpuBenchmarkError("--text needs the --tokenizer to encode it with")
    for name in ("minutes", "run_minutes"):
        value = vars(options)[name]
        if value is not None and not 0 < value < math.inf:
            raise GpuBenchmarkError(f"--{name.replace('_', '-')} is {value}; expected a number above 0")
    return options


def stored_options(folder: Path, given: GpuBenchmark) -> GpuBenchmark:
    """The options of an earlier call, with the minutes and the stages of this one."""
    plans = [line for line in read_results(folder / "results.jsonl") if line["event"] == "plan"]
    if not plans:
        raise GpuBenchmarkError(f"{folder} holds no results to go on with")
    for name, value in vars(given).items():
        if name not in ("resume", "minutes", "only", "skip") and value != vars(GpuBenchmark())[name]:
            raise GpuBenchmarkError(
                f"--resume takes --{name.replace('_', '-')} from the first call; leave it out"
            )
    stored = dict(plans[0]["options"])
    for name in ("out", "work", "tokenizer", "val_tokenizer", "data"):
        stored[name] = Path(stored[name]) if stored[name] else None
    for name in ("text", "val_shard"):
        stored[name] = tuple(map(Path, stored[name]))
    kept = {name: vars(given)[name] for name in ("minutes", "only", "skip")}
    return GpuBenchmark(**{**stored, **kept, "resume": folder, "out": folder})


def make_folders(options: GpuBenchmark) -> GpuBenchmark:
    """Makes the folders of results and of work; GpuBenchmarkError where results of another call lie."""
    if options.out is None:
        raise GpuBenchmarkError("--out DIR is missing: where to put the results (or --resume DIR)")
    work = options.work or options.out / "work"
    if options.resume is None and (options.out / "results.jsonl").exists():
        raise GpuBenchmarkError(f"{options.out} holds results already; go on with --resume {options.out}")
    for folder in (options.out, work, work / "logs", work / "state"):
        folder.mkdir(parents=True, exist_ok=True)
    return replace(options, work=work)


def work_for(arguments: list[str]) -> None:
    """The whole command."""
    started, begun = time.time(), time.monotonic()
    given = read_options(GpuBenchmark, arguments, "python -m benchmarks.gpu", __doc__)
    options = given if given.resume is None else stored_options(given.resume.absolute(), given)
    choice = choice_of(options)
    options = absolute(options)
    # Before anything is written, so that a device that is not there leaves no folder behind.
    machine = find_machine(options.device)
    options = make_folders(options)
    assert options.out is not None
    handle = os.open(options.out / "results.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if not try_lock(handle):
        raise GpuBenchmarkError(f"another call is at work in {options.out}")
    plan = Plan(options, machine, started)
    plan.post.add("plan", options=asdict(options), machine=asdict(plan.machine))
    Session(plan, choice, begun).run()


def main(arguments: list[str]) -> int:
    """Exit code: 0 when the time was used, whatever became of the stages; 2 bad input; 130 stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_program("benchmarks.gpu", lambda: work_for(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
