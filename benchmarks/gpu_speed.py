"""One row of the table of speeds: a preset's training step at one context, compiled first, then timed alone.

A stage's process of `benchmarks.gpu`. Tokens are random: they do not change the work.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.command import run_benchmark
from benchmarks.gpu_environment import (
    CLOCK_FIELDS,
    card_state,
    noise_of_a_pass,
    seconds_of,
    share_processor,
)
from benchmarks.gpu_jobs import SKIPPED, Post
from benchmarks.recipe_arms import Scale, frontier_recipe, seed_recipe
from benchmarks.scoring import peak_bytes
from benchmarks.training_rows import flops_per_token, make_trainer, matmul_flops, time_steps
from golf.config import RunConfig
from golf.model.kernels import KernelError, attention_kernels
from golf.presets import PRESETS
from golf.system.device import choose_runtime, release_memory
from golf.train.loop import Trainer
from golf.train.schedule import Phase

CPU_SHARE = 16
"""On a CPU a row's context is this part of its name's."""


@dataclass(frozen=True)
class SpeedStage:
    """The row and how long to time it."""

    post: Annotated[Post, tyro.conf.arg(name="")]
    device: str = "auto"
    """auto, cpu or cuda."""
    network: str = "frontier"
    """seed or frontier."""
    context: int = 2048
    """Tokens of a sequence."""
    attention: str = "auto"
    """Attention kernels, as train.attention."""
    seconds: float = 8.0
    """Time steps for so long, and at least `steps` of them."""
    steps: int = 20
    """Least number of steps."""


def row_config(stage: SpeedStage, device_type: str) -> RunConfig:
    """The preset with the row's kernels, without a limit of its own."""
    if device_type == "cuda":
        config = PRESETS["seed" if stage.network == "seed" else "h100-10min"].config
    else:
        scale = Scale(width=64, layers=2, context=2048 // CPU_SHARE, batch_tokens=2048)
        config = seed_recipe(scale) if stage.network == "seed" else frontier_recipe(scale)
    return replace(
        config,
        steps=10**6,
        minutes=None,
        train=replace(config.train, held_out_tokens=0, warmup_steps=2, attention=stage.attention),
    )


def row_trainer(stage: SpeedStage, config: RunConfig, trainer: Trainer, device_type: str) -> Trainer:
    """The trainer with one kind of step alone, as the preset's run makes it at that context.

    The network keeps the preset's context, so that what is compiled here serves the run, too.
    """
    context = stage.context if device_type == "cuda" else stage.context // CPU_SHARE
    trainer.phases = (Phase(0.0, context, config.train.batch_tokens, False),)
    config.train.check(trainer.phases)
    return trainer


def next_loss(trainer: Trainer) -> Callable[[], Tensor]:
    """The loss of the next pass's batch, by the kernels of training, as often as it is called."""
    context = trainer.phases[0].context
    tokens = trainer.next_micro_batch(context)

    def loss() -> Tensor:
        with attention_kernels(trainer.model, trainer.attention):
            return trainer.loss(trainer.model, *tokens)

    return loss


def optimiser_seconds(trainer: Trainer) -> float:
    """Median seconds of an optimiser step by itself, on the gradients of one pass."""
    next_loss(trainer)().backward()
    middle = seconds_of(trainer.optimizers.step, trainer.runtime.device, 10)[1]
    trainer.optimizers.zero_grad()
    return middle


def attention_seen(events: Any) -> list[str]:
    """Names of the attention kernels that ran, as the profiler has them."""
    words = ("cudnn", "flash", "fmha", "attention", "sdpa")
    names = {event.key.split("(")[0][:80] for event in events}
    return sorted(name for name in names if any(word in name.lower() for word in words))


def profile_step(trainer: Trainer, path: Path) -> list[str]:
    """Writes the 40 kernels with most time of one step; the names of those of attention."""
    on_card = trainer.runtime.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=kinds) as recorded:
        time_steps(trainer, 0.0, 1)
    events = recorded.key_averages()
    order = "self_device_time_total" if on_card else "self_cpu_time_total"
    table = events.table(sort_by=order, row_limit=40, max_name_column_width=90)
    path.write_text(table + "\n", encoding="utf-8")
    return attention_seen(events)


def measure(stage: SpeedStage) -> None:
    """Compiles, waits for its turn, times; writes a line as soon as there is one to write."""
    post = stage.post
    runtime = choose_runtime(stage.device)
    config = row_config(stage, runtime.device.type)
    trainer = row_trainer(stage, config, make_trainer(config, runtime), runtime.device.type)
    row = {
        "network": stage.network,
        "context": trainer.phases[0].context,
        "attention": list(trainer.attention),
        "compiled": runtime.compiled,
    }
    started = time.perf_counter()
    with trainer.clock.stage("train"):
        trainer.warm_up()
        row["warm_up_seconds"] = time.perf_counter() - started
        row["micro_batch_tokens"] = trainer.micro_batch_tokens
        post.add("compiled", **row)
        trainer.optimizers.zero_grad()
        release_memory(runtime.device)
        with post.timed():
            time_steps(trainer, 0.0, 2)
            durations = time_steps(trainer, stage.seconds, stage.steps)
            clocks = card_state(CLOCK_FIELDS)
            ceiling = matmul_flops(runtime)
            flops = flops_per_token(trainer.model, trainer.phases[0].context)
            low, middle, high = np.percentile(durations, (10, 50, 90)) * 1e3
            # By the median: other processes, which compile, use the card for moments.
            speed = 1e3 * config.train.batch_tokens / middle
            optimiser = 1e3 * optimiser_seconds(trainer)
            on_card = runtime.device.type == "cuda"
            post.add(
                "figures",
                **row,
                tokens_per_second=speed,
                tokens_per_second_mean=len(durations) * config.train.batch_tokens / sum(durations),
                batch_tokens=config.train.batch_tokens,
                steps=len(durations),
                step_ms_p10=low,
                step_ms_p50=middle,
                step_ms_p90=high,
                optimiser_ms=optimiser,
                flops_per_token=flops,
                matmul_flops_per_second=ceiling,
                matmul_share=flops * speed / ceiling,
                peak_memory_bytes=peak_bytes(runtime.device),
                reserved_bytes=torch.cuda.max_memory_reserved() if on_card else None,
                clocks=clocks,
            )
            post.add("noise", **row, **repeat_pass(trainer))
            path = post.work / "logs" / f"profile_{post.job.partition('.')[2]}.txt"
            post.add("profile", **row, attention_seen=profile_step(trainer, path), file=path.name)


def repeat_pass(trainer: Trainer) -> dict[str, float]:
    """Loss and gradients of the same batch, twice, by the pass as it is trained with."""
    return noise_of_a_pass(next_loss(trainer), list(trainer.model.parameters()))


def run_command(stage: SpeedStage) -> None:
    """Measures one row; kernels that the machine lacks leave it out, with a word."""
    share_processor()
    try:
        measure(stage)
    except KernelError as missing:
        print(missing)
        raise SystemExit(SKIPPED) from missing


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("gpu_speed", SpeedStage, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
