"""Speed and memory of scoring, compared with a plain scorer that computes one window at a time.

    python -m benchmarks.scoring [--preset cpu] [--tokens 32768] [--json FILE]

Weights and tokens are random, since the work does not depend on them. Each scorer runs in its own process, so
that its peak memory is measured alone.
"""

import math
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.command import find_preset, run_benchmark
from benchmarks.figures import write_figures
from golf.model.gpt import GPT
from golf.presets import PRESETS
from golf.score.scorer import Scoring, score
from golf.score.windows import ResolvedWindows, WindowConfig, plan_windows
from golf.system.device import choose_runtime, environment, seed_everything, synchronize
from golf.system.log import RunLog
from golf.ttt.sgd import ChunkAdapter


@dataclass(frozen=True)
class ScoringBenchmark:
    """The network and the size of the measurement."""

    preset: str = "cpu"
    """Preset of the network and the settings."""
    tokens: int = 32_768
    """Number of tokens to score."""
    plain_tokens: int = 2_048
    """Number of tokens for the plain scorer, which is slow; its speed does not depend on it."""
    stride: int = 64
    """Stride of the sliding windows."""
    batch_tokens: int | None = None
    """Input tokens of a forward pass."""
    repeats: int = 3
    """Number of runs of each scorer; the fastest is reported."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    json: Path | None = None
    """File for the results as JSON."""


class OneByteVocabulary:
    """A vocabulary in which every token is one byte, for random tokens."""

    size = 2**16
    bos_id = 1

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """1 for each target."""
        return np.ones(len(targets), dtype=np.int64)


@torch.no_grad()
def score_plainly(model: nn.Module, tokens: np.ndarray, windows: ResolvedWindows) -> float:
    """Nats of a stream: a forward pass for each window, logits for all of its positions."""
    device = next(model.parameters()).device
    total = 0.0
    for window in plan_windows(len(tokens) - 1, windows.context, windows.stride):
        ids = torch.from_numpy(tokens[window.start : window.end + 1].astype(np.int64)).to(device)
        nats = nn.functional.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")
        total += float(nats[-window.num_graded :].sum(dtype=torch.float64))
    return total


def measure(name: str, options: ScoringBenchmark, results: multiprocessing.Queue) -> None:
    """Runs one scorer and puts its results into the queue; a first, unmeasured run compiles and warms up."""
    preset = PRESETS[options.preset].config
    runtime = choose_runtime(options.device)
    seed_everything(0)
    model = GPT(preset.model)
    model.initialize()
    model.compute_dtype = runtime.compute_dtype
    model.to(runtime.device)
    if runtime.compiled:
        model.compile(dynamic=False)
    count = options.plain_tokens if name == "one by one" else options.tokens
    tokens = np.random.default_rng(0).integers(2, preset.model.vocab_size, count + 1).astype(np.uint16)
    given = WindowConfig(None, options.stride, options.batch_tokens)
    windows = given.resolve(preset.model.context, runtime.device.type)
    vocabulary: Any = OneByteVocabulary()
    chunk_tokens = min(preset.ttt.chunk_tokens, options.tokens // 4)

    def run(tokens: np.ndarray) -> float:
        if name == "one by one":
            return score_plainly(model, tokens, windows)
        adapter = ChunkAdapter(model, preset.ttt) if name == "with ttt" else None
        scoring = Scoring(model, tokens, vocabulary, windows)
        result = score(scoring, chunk_tokens=chunk_tokens, adapt=adapter)
        return result.tally.nats

    run(tokens[: windows.context + windows.batch_tokens * windows.stride // windows.context + 1])
    synchronize(runtime.device)
    before = peak_bytes(runtime.device)
    seconds = cpu_seconds = math.inf
    nats = math.nan
    for _ in range(options.repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        nats = run(tokens)
        seconds = min(seconds, time.perf_counter() - started)
        cpu_seconds = min(cpu_seconds, time.process_time() - cpu_started)
    results.put(
        {
            "scorer": name,
            "tokens": count,
            "tokens_per_second": count / seconds,
            "tokens_per_cpu_second": count / cpu_seconds,
            "peak_memory_bytes": peak_bytes(runtime.device),
            "memory_before_bytes": before,
            "nats_per_token": nats / count,
        }
    )


def peak_bytes(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on the GPU, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_command(options: ScoringBenchmark) -> None:
    """Measures the scorers one after the other and prints the table."""
    find_preset(options.preset)
    device = choose_runtime(options.device).device
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in ("one by one", "batched", "with ttt"):
        results = context.Queue()
        process = context.Process(target=measure, args=(name, options, results))
        process.start()
        rows.append(results.get(timeout=3600))
        process.join()
    log = RunLog()
    columns = ["scorer", "tokens/s", "tokens/CPU s", "speed-up", "peak MB", "nats/token"]
    # On a busy machine, the CPU time of a process is more precise than wall time, unless a GPU does the work.
    measure_of_speed = "tokens_per_second" if device.type == "cuda" else "tokens_per_cpu_second"
    first = rows[0][measure_of_speed]
    log.table(
        f"scoring, preset {options.preset}, stride {options.stride}",
        columns,
        [
            [
                row["scorer"],
                round(row["tokens_per_second"]),
                round(row["tokens_per_cpu_second"]),
                round(row[measure_of_speed] / first, 2),
                round(row["peak_memory_bytes"] / 1e6),
                round(row["nats_per_token"], 4),
            ]
            for row in rows
        ],
    )
    if options.json:
        write_figures(options.json, {"rows": rows}, options, environment(device))


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("scoring", ScoringBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
