"""Speed of a training step, where its time goes, and the memory it takes.

    python -m benchmarks.training [--quick] [--minutes 8] [--json FILE]

Weights and tokens are random: neither changes the work. Each row is measured in a process of its own, so that
the peak memory is its own: first steps as in a run, for the speed, then steps that wait for the device after
each part, for the parts. On a CPU the networks have width 256 and a step 8,192 tokens, and each process has
the threads that OMP_NUM_THREADS gives it.
"""

import multiprocessing
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.training_rows import PARTS, Case, measure
from golf.files import write_json
from golf.kernels.attention import present_kernels
from golf.kernels.fused import present_training_kernels
from golf.log import RunLog
from golf.runtime import choose_runtime, environment


@dataclass(frozen=True)
class TrainingBenchmark:
    """What to measure."""

    quick: bool = False
    """Only the rows at 1,024 tokens of context, with the fewest steps; a minute on a CPU."""
    minutes: float = 8.0
    """Bound on the whole program, compilation aside."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """Also write the figures here."""


def plan_cases(device: torch.device, quick: bool) -> list[Case]:
    """The rows: seed and frontier by context, eager and compiled (on a CPU only eager), with recurrence.

    Unless `quick`, then each of the machine's attention kernels, a GPU's fused kernels if it has them, and 2,
    4, 8 processes as far as it has GPUs, two on a CPU.
    """
    cuda = device.type == "cuda"
    contexts = (1024,) if quick else (1024, 2048)
    modes = (True, False) if cuda else (False,)
    cases = [
        Case(shape, context, compiled, looping)
        for context in contexts
        for shape, looping in (("seed", False), ("frontier", False), ("frontier", True))
        for compiled in modes
        if not (looping and (quick or context == contexts[0]))
    ]
    if quick:
        return cases
    most = torch.cuda.device_count() if cuda else 2
    cases += [Case("seed", 1024, cuda, False, attention=name) for name in present_kernels(device)]
    if cuda and "triton" in present_training_kernels(device):
        cases += [Case(shape, 1024, cuda, False, kernels="triton") for shape in ("seed", "frontier")]
    return cases + [Case("seed", 1024, cuda, False, processes=n) for n in (2, 4, 8) if n <= most]


def run_alone(case: Case, device: str, seconds: float) -> dict[str, Any]:
    """`measure` in fresh processes, as many as the case has; RuntimeError if the first dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=measure, args=(case, device, seconds, results, rank, port))
        for rank in range(case.processes)
    ]
    for process in processes:
        process.start()
    while results.empty() and processes[0].is_alive():
        time.sleep(0.1)
    if not processes[0].is_alive() and results.empty():
        raise RuntimeError(f"measuring {case} failed, as said above")
    row = results.get()
    for process in processes:
        process.join()
    return row


def main() -> None:
    """Measures the rows one after the other and prints the table."""
    options = tyro.cli(TrainingBenchmark, description=__doc__)
    device = choose_runtime(options.device).device
    log, rows = RunLog(), []
    cases = plan_cases(device, options.quick)
    if not any(case.kernels == "triton" for case in cases):
        reason = "--quick leaves them out" if options.quick else "they need a GPU and Triton"
        log.say(f"fused kernels are not measured: {reason}")
    seconds = 4.0 if options.quick else 60 * options.minutes / len(cases)
    for case in cases:
        log.say(f"measuring {case}")
        rows.append(run_alone(case, options.device, seconds))
    names = [
        f"{row['shape']}{', loops' * row['recurrence']}, T {row['context']}, "
        f"{'compiled' if row['compiled'] else 'eager'}, {row['attention'][0]}"
        f"{', triton' * (row['kernels'] == 'triton')}"
        f"{', {} processes'.format(row['processes']) * (row['processes'] > 1)}"
        for row in rows
    ]
    log.table(
        f"a training step on {environment(device)['hardware']}",
        ["network", "tokens/s", "step ms", "of matmul rate", "peak MB"],
        [
            [
                name,
                round(row["tokens_per_second"]),
                round(row["step_ms_p50"]),
                f"{row['matmul_rate_used']:.0%}",
                round(row["peak_memory_bytes"] / 1e6),
            ]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    log.table(
        "where its time goes, share of the step",
        ["network", *PARTS, "rest"],
        [
            [name, *(f"{value / sum(row['part_ms'].values()):.1%}" for value in row["part_ms"].values())]
            for name, row in zip(names, rows, strict=True)
        ],
    )
    if options.json:
        write_json(options.json, {"rows": rows, "environment": environment(device)})


if __name__ == "__main__":
    main()
