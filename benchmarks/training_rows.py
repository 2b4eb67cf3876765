"""One row of the benchmark of training: a network's step on a device, timed whole and by its parts."""

import itertools
import math
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.distributed import TCPStore, init_process_group  # pyright: ignore[reportPrivateImportUsage]

from benchmarks.recipe_arms import Scale, frontier_recipe, seed_recipe
from benchmarks.scoring import peak_bytes
from golf.config import RunConfig
from golf.data.batches import TrainBatches
from golf.model.gpt import GPT
from golf.model.kernels import attention_kernels
from golf.model.layers import Linear
from golf.presets import PRESETS
from golf.system.clock import StageClock
from golf.system.device import Runtime, choose_runtime, seed_everything, synchronize
from golf.system.distributed import World
from golf.system.log import RunLog
from golf.train.loop import Trainer

PARTS = ("loader", "forward", "backward", "exchange", "optimiser", "averaging", "logging")
CONTEXT = 1024
CPU_STEP_TOKENS = 8_192
CUDA_STEP_TOKENS, CUDA_MICRO_BATCH_TOKENS = 262_144, 65_536


@dataclass(frozen=True)
class Case:
    """One row of the table; of several processes each has its part of the same step."""

    shape: str
    looping: bool = False
    processes: int = 1

    def config(self, device_type: str) -> RunConfig:
        """Its network and recipe, with one phase that lasts the whole run."""
        if device_type == "cuda":
            config = PRESETS["seed" if self.shape == "seed" else "h100-107min"].config
            sizes = {"batch_tokens": CUDA_STEP_TOKENS, "micro_batch_tokens": CUDA_MICRO_BATCH_TOKENS}
        else:
            scale = Scale(context=CONTEXT, batch_tokens=CPU_STEP_TOKENS)
            config = seed_recipe(scale) if self.shape == "seed" else frontier_recipe(scale)
            sizes = {}
        recurrence = 3 if self.looping else 1
        return replace(
            config,
            steps=10**6,
            minutes=None,
            model=replace(config.model, context=CONTEXT, recurrence=recurrence),
            schedule=replace(config.schedule, context_growth=(), recurrence_start=0.0),
            train=replace(config.train, held_out_tokens=0, warmup_steps=1, **sizes),
        )


def flops_per_token(model: GPT, context: int) -> float:
    """Floating-point operations of forward and backward for one token: matrix products and causal attention.

    The backward counts twice the forward; of the context, half is visible on average.
    """
    width = model.config.width
    forward = 2.0 * model.embedding.weight.numel()
    config = model.config
    num_tables = bool(config.bigram_buckets) + len(config.ngram_buckets)
    forward += 2.0 * num_tables * config.bigram_width * width
    for visit in model.plan:
        linear = [m for m in model.blocks[visit.layer].modules() if isinstance(m, Linear)]
        forward += sum(2.0 * module.weight.numel() for module in linear) + 2.0 * context * width
    return 3.0 * forward


def matmul_flops(runtime: Runtime) -> float:
    """The best rate of a large square product on this device, operations per second."""
    size = 8192 if runtime.device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=runtime.device, dtype=runtime.compute_dtype)
    best = math.inf
    for _ in range(20):
        synchronize(runtime.device)
        started = time.perf_counter()
        torch.mm(a, b)
        synchronize(runtime.device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


class Stopwatch:
    """Seconds by part of the step, the device's work awaited before and after each."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time booked under `part`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            synchronize(self.device)
            started = time.perf_counter()
            result = function(*args, **kwargs)
            synchronize(self.device)
            self.seconds[part] += time.perf_counter() - started
            return result

        return timed

    def attach(self, trainer: Trainer) -> None:
        """Times the parts of this process's trainer from now on."""
        trainer.next_micro_batch = self.wrap("loader", trainer.next_micro_batch)
        trainer.loss = self.wrap("forward", trainer.loss)
        torch.Tensor.backward = self.wrap("backward", torch.Tensor.backward)
        reduced = trainer.optimizers.all_reduce_gradients
        trainer.optimizers.all_reduce_gradients = self.wrap("exchange", reduced)
        trainer.optimizers.step = self.wrap("optimiser", trainer.optimizers.step)
        trainer.average.update = self.wrap("averaging", trainer.average.update)
        trainer.reports.launched = self.wrap("logging", trainer.reports.launched)


def make_trainer(config: RunConfig, runtime: Runtime) -> Trainer:
    """A trainer on random tokens.

    The weights are drawn on the device: orthogonal matrices take a processor's threads long, and several
    processes of them far longer.
    """
    seed_everything(0)
    model = GPT(config.model).to(runtime.device)
    model.initialize()
    model.compute_dtype = runtime.compute_dtype
    tokens = np.random.default_rng(0).integers(2, config.model.vocab_size, 4_000_000).astype(np.uint16)
    batches = TrainBatches([tokens], 0, 0, config.model.vocab_size)
    log = RunLog(quiet=True)
    return Trainer(model, batches, config.recipe(), runtime, lambda *_: math.nan, StageClock(), log)


def time_steps(trainer: Trainer, seconds: float, at_least: int) -> list[float]:
    """Seconds of each step until `seconds` have passed; the last one is waited for.

    On a GPU by its own clock, from the end of one step to the end of the next; the host is kept at most two
    steps ahead.
    """
    device = trainer.runtime.device
    synchronize(device)
    started, marks = time.perf_counter(), [mark_time(device)]
    with (
        trainer.log.progress("steps", 1.0, "of the run") as bar,
        attention_kernels(trainer.model, trainer.attention),
    ):
        while not trainer.world.all_reduce_any(
            0.0,
            trainer.world.is_first and len(marks) > at_least and time.perf_counter() - started >= seconds,
        )[1]:
            trainer.reports.launched(trainer.step(), bar)
            marks.append(mark_time(device))
            earlier = marks[max(0, len(marks) - 3)]
            if isinstance(earlier, torch.cuda.Event):
                earlier.synchronize()
    synchronize(device)
    if isinstance(marks[0], float):
        marks[-1] = time.perf_counter()
    return [seconds_between(*pair) for pair in itertools.pairwise(marks)]


def mark_time(device: torch.device) -> float | torch.cuda.Event:
    """Where the device's queue, or the clock, stands now."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(first: float | torch.cuda.Event, second: float | torch.cuda.Event) -> float:
    """The time between two marks of one kind, which the device has passed."""
    if isinstance(first, torch.cuda.Event) and isinstance(second, torch.cuda.Event):
        return first.elapsed_time(second) / 1e3
    assert isinstance(first, float) and isinstance(second, float)
    return second - first


def measure(
    case: Case, device: str, seconds: float, results: multiprocessing.Queue, rank: int, port: int
) -> None:
    """One row, in a process of its own, or in one of several that train together; the first says it."""
    world = World(rank, case.processes, rank, case.processes)
    runtime = choose_runtime(device, world=world)
    if world.size > 1:
        store = TCPStore("127.0.0.1", port, world.size, is_master=world.is_first)
        backend = "cpu:gloo,cuda:nccl" if runtime.device.type == "cuda" else "gloo"
        init_process_group(backend, store=store, rank=rank, world_size=world.size)
    config = case.config(runtime.device.type)
    trainer = make_trainer(config, runtime)
    with trainer.clock.stage("train"):
        trainer.warm_up()
        warmed_bytes = peak_bytes(runtime.device)
        durations = time_steps(trainer, 0.6 * seconds, at_least=2)
        watch = Stopwatch(runtime.device)
        watch.attach(trainer)
        timed = time_steps(trainer, 0.3 * seconds, at_least=2)
    if not world.is_first:
        return
    speed = len(durations) * config.train.batch_tokens / sum(durations)
    flops = flops_per_token(trainer.model, CONTEXT)
    total, parts = sum(timed), {part: watch.seconds[part] for part in PARTS}
    low, middle, high = np.percentile(durations, (10, 50, 90)) * 1e3
    results.put(
        {
            "shape": case.shape,
            "recurrence": case.looping,
            "context": CONTEXT,
            "compiled": runtime.compiled,
            "attention": list(trainer.attention),
            "processes": case.processes,
            "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
            "batch_tokens": config.train.batch_tokens,
            "steps": len(durations),
            "tokens_per_second": speed,
            "step_ms_p10": low,
            "step_ms_p50": middle,
            "step_ms_p90": high,
            "part_ms": {part: 1e3 * value / len(timed) for part, value in parts.items()}
            | {"rest": 1e3 * (total - sum(parts.values())) / len(timed)},
            "optimiser_and_averaging_share": (parts["optimiser"] + parts["averaging"]) / total,
            "loader_share": parts["loader"] / total,
            "flops_per_token": flops,
            "matmul_flops_per_second": (rate := matmul_flops(runtime)),
            "matmul_rate_used": flops * speed / (rate * case.processes),
            "peak_memory_bytes": max(warmed_bytes, peak_bytes(runtime.device)),
        }
    )
