"""Where a training step's time goes, part by part, and what several processes gain; on a CPU, or on GPUs.

    python -m benchmarks.training [--quick] [--minutes 8] [--json FILE]

`python -m benchmarks.gpu` has the speeds of one card, by context and kernels. Weights and tokens are random:
neither changes the work. Each row is measured in a process of its own, so that the peak memory is its own:
first steps as in a run, for the speed, then steps that wait for the device after each part, for the parts. On
a CPU the networks have width 256 and a step 8,192 tokens, and each process has the threads that
OMP_NUM_THREADS gives it.
"""

import multiprocessing
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from benchmarks.training_rows import CONTEXT, PARTS, Case, measure
from golf.system.device import choose_runtime, environment
from golf.system.log import RunLog


@dataclass(frozen=True)
class TrainingBenchmark:
    """What to measure."""

    quick: bool = False
    """Only seed and frontier in one process, with the fewest steps; a minute on a CPU."""
    minutes: float = 8.0
    """Bound on the whole program, compilation aside."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """Also write the figures here."""


def plan_cases(device: torch.device, quick: bool) -> list[Case]:
    """The rows: seed and frontier, and unless `quick` the frontier with recurrence and several processes.

    2, 4 and 8 of them as far as there are GPUs, two on a CPU.
    """
    cases = [Case("seed"), Case("frontier")]
    if quick:
        return cases
    most = torch.cuda.device_count() if device.type == "cuda" else 2
    return [
        *cases,
        Case("frontier", looping=True),
        *(Case("seed", processes=n) for n in (2, 4, 8) if n <= most),
    ]


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


def run_command(options: TrainingBenchmark) -> None:
    """Measures the rows one after the other and prints the table."""
    device = choose_runtime(options.device).device
    log, rows = RunLog(), []
    cases = plan_cases(device, options.quick)
    seconds = 4.0 if options.quick else 60 * options.minutes / len(cases)
    for case in cases:
        log.info(f"measuring {case}")
        rows.append(run_alone(case, options.device, seconds))
    names = [
        f"{row['shape']}{', loops' * row['recurrence']}"
        f"{', {} processes'.format(row['processes']) * (row['processes'] > 1)}"
        for row in rows
    ]
    log.table(
        f"a training step at T {CONTEXT} on {environment(device)['hardware']}",
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
        write_figures(options.json, {"rows": rows}, options, environment(device))


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("training", TrainingBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
