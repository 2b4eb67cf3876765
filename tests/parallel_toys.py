"""What a process of several does in the tests; importing it costs what the work needs."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.data.batches import TrainBatches
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.score.scorer import Scoring, score
from golf.score.tally import Tally
from golf.score.windows import WindowConfig
from golf.system.cli import Stopped
from golf.system.clock import StageClock
from golf.system.device import Runtime
from golf.system.distributed import World, WorldError
from golf.system.log import RunLog
from golf.train.config import Recipe, TrainConfig
from golf.train.loop import Trainer
from golf.train.schedule import Budget, ScheduleConfig

MODEL = ModelConfig(
    32,
    4,
    16,
    2,
    1,
    24,
    16,
    rotary_dims=4,
    bigram_buckets=16,
    bigram_width=4,
    recurrence_first=1,
    recurrence_last=2,
)
STEPS = 20


def toy_text() -> np.ndarray:
    """Documents in which a token mostly decides the next one."""
    draw = np.random.default_rng(0)
    tokens = [1]
    for _ in range(6000):
        tokens.append(1 if draw.random() < 0.02 else 2 + (tokens[-1] * 7 + draw.integers(2)) % 30)
    return np.array(tokens, dtype=np.uint16)


def toy_trainer(world: World, dtype: torch.dtype = torch.float32) -> Trainer:
    """A run through contexts, batches and recurrence, the same in every process."""
    torch.manual_seed(0)
    model = GPT(replace(MODEL, recurrence=2))
    model.initialize()
    model.compute_dtype = dtype
    recipe = Recipe(
        Budget(steps=STEPS),
        TrainConfig(batch_tokens=256, micro_batch_tokens=64, held_out_tokens=64, checkpoint_seconds=1e9),
        schedule=ScheduleConfig(recurrence_start=0.5, context_growth=(0.3,), batch_growth=(0.2,)),
    )
    return Trainer(
        model,
        TrainBatches([toy_text()], seed=0, held_out_tokens=64),
        recipe,
        Runtime(torch.device("cpu"), dtype, compiled=False, world=world),
        lambda *_: 1.0,
        StageClock(),
        RunLog(quiet=True),
    )


def losses_of(trainer: Trainer, steps: int) -> list[float]:
    """The loss of each of the next steps."""
    return [trainer.step().figures.read()[0] for _ in range(steps)]


class LetterVocabulary:
    """Every token stands for one byte."""

    size = MODEL.vocab_size

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.ones(len(targets), dtype=np.int64)


def score_toy(world: World) -> tuple[Tally, np.ndarray]:
    """The first 1,000 targets under windows of stride 4, in chunks of 64."""
    torch.manual_seed(0)
    model = GPT(MODEL)
    model.initialize()
    windows = WindowConfig(stride=4, batch_tokens=64)
    result = score(
        Scoring(model, toy_text()[:1001], LetterVocabulary(), windows, world=world), chunk_tokens=64
    )
    return result.tally, result.nats_N


def work_together(world: World, folder: Path) -> dict[str, Any]:
    """Everything that the tests look at, in one go: starting processes is what takes time."""
    trainer = toy_trainer(world)
    trainer.warm_up()
    found: dict[str, Any] = {
        "float32": losses_of(trainer, STEPS),
        "bfloat16": losses_of(toy_trainer(world, torch.bfloat16), 8),
    }
    found["weights"] = {name: weight.numpy() for name, weight in trainer.average.outputs()["ema"].items()}
    found["score"] = score_toy(world)
    stopped = toy_trainer(world)
    draw = stopped.batches.next

    def stop_in_one_process(num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        if stopped.steps == 2 and world.rank == 1:
            stopped._request_stop(signal.SIGINT, None)
        return draw(num_sequences, context)

    stopped.batches.next = stop_in_one_process
    try:
        stopped.train(folder / f"stopped{world.rank}.pt")
    except Stopped as stop:
        found["stopped"] = str(stop)
    found["agreed"] = world.all_reduce_any(5.0 + world.rank, world.rank == 1)
    found["least"] = world.all_reduce_min(7 - world.rank)
    found["shared"] = world.broadcast(lambda: f"from {world.rank}")
    try:
        world.require_same({"model.width": 16 + world.rank, "seed": 1})
    except WorldError as error:
        found["refused"] = str(error)
    return found
