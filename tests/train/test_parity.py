"""Whole runs of the trainer against the same formulas written out plainly: losses, gradients, weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from plain_recipe import (
    POLAR_EXPRESS,
    QUINTIC,
    PlainNetwork,
    PlainRates,
    PlainTraining,
    linear_to_floor,
    losses,
    warming,
)
from torch import Tensor

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.system.clock import StageClock
from golf.system.device import Runtime
from golf.system.log import RunLog
from golf.train.averaging import AveragingConfig
from golf.train.config import Recipe, TrainConfig
from golf.train.loop import Trainer
from golf.train.optim import OptimConfig
from golf.train.schedule import Budget, ScheduleConfig

STEPS, BATCH, CONTEXT, VOCABULARY = 40, 256, 32, 96
LR_REWARMUP, GROWTH = 0.1, 0.4


@dataclass(frozen=True)
class Arm:
    """A configuration of golf, and the same by the plain implementation."""

    model: ModelConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    network: PlainNetwork
    rates: PlainRates
    lr_scale: Callable[[float], float]
    momentum: Callable[[float], float]
    order: Callable[[float], list[int]]
    """The block of each visit at a progress."""
    micro_batches: int
    """Whose means' mean is the loss of a step."""
    noise: float
    """Deviation of what is added to every weight before the first step, so that nothing starts at zero."""


SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "width": 64,
    "context": CONTEXT,
    "rotary_dims": 8,
    "bigram_buckets": 64,
    "bigram_width": 8,
}


def frontier_rate(progress: float) -> float:
    climb = (progress - GROWTH) / LR_REWARMUP if GROWTH <= progress < GROWTH + LR_REWARMUP else 1.0
    return climb * linear_to_floor(progress, 0.75, 0.2)


ARMS = {
    "frontier": Arm(
        ModelConfig(
            **SIZES,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            mlp_hidden=256,
            rotary_base=10_000.0,
            qk_gain=5.25,
            xsa=True,
            attention_gate=0.5,
            activation_slope=0.3,
            skip_gates=True,
            parallel_residual_blocks=1,
            recurrence_first=1,
            recurrence_last=1,
            recurrence=3,
            smear="add-raw",
            output_init="zero",
        ),
        OptimConfig(
            matrix_lr=0.04,
            matrix_weight_decay=0.095,
            momentum=0.95,
            row_normalize=True,
            newton_schulz="polar-express",
            embedding_lr=0.03,
            embedding_weight_decay=0.085,
            scalar_lr=0.02,
            scalar_weight_decay=0.02,
            adam_beta2=0.99,
            gradient_clip=0.3,
        ),
        ScheduleConfig(
            warmdown=0.75,
            warmdown_shape="linear",
            floor=0.2,
            momentum_warmup=0.3,
            momentum_start=0.85,
            recurrence_start=0.5,
            context_growth=(GROWTH,),
            lr_rewarmup=LR_REWARMUP,
        ),
        PlainNetwork(4, 2, 8, 10_000.0, 30.0, slope=0.3, xsa=True, gate_scale=0.5, lanes_from=3),
        PlainRates((0.04, 0.095), (0.03, 0.085), (0.02, 0.02), True, POLAR_EXPRESS, (0.9, 0.99), 0.3),
        frontier_rate,
        lambda progress: warming(progress, 0.85, 0.95, 0.3),
        lambda progress: [0, 1, 1, 1, 2, 3] if progress >= 0.5 else [0, 1, 2, 3],
        micro_batches=1,
        noise=0.02,
    ),
    "pr334": Arm(
        ModelConfig(
            **SIZES,
            num_layers=3,
            num_heads=2,
            num_kv_heads=1,
            mlp_hidden=192,
            smear="blend",
            output_init="zero",
        ),
        OptimConfig(
            by_shape=True,
            matrix_lr=0.02,
            embedding_lr=0.03,
            embedding_weight_decay=0.0,
            scalar_lr=0.02,
            scalar_weight_decay=0.0,
            gradient_clip=0.0,
        ),
        ScheduleConfig(warmdown=0.89, warmdown_shape="linear"),
        PlainNetwork(2, 1, 8, 50_000.0, 30.0),
        PlainRates((0.02, 0.04), (0.03, 0), (0.02, 0), False, QUINTIC, (0.9, 0.95), math.inf, by_shape=True),
        lambda progress: linear_to_floor(progress, 0.89, 0.0),
        lambda progress: warming(progress, 0.85, 0.95, 0.15),
        lambda progress: [0, 1, 2],
        micro_batches=2,
        noise=0.0,
    ),
}


class Batches:
    """A stream with starts of documents, in which a token mostly decides the next one, in its own order."""

    epoch = 0.0

    def __init__(self) -> None:
        draw = np.random.default_rng(5)
        tokens = [1]
        for _ in range(STEPS * BATCH):
            tokens.append(1 if draw.random() < 0.05 else 2 + (tokens[-1] * 7 + draw.integers(3)) % 94)
        self.tokens, self.position = torch.tensor(tokens), 0

    def next(self, num_sequences: int, context: int) -> tuple[Tensor, Tensor]:
        end = self.position + num_sequences * context
        inputs, targets = self.tokens[self.position : end], self.tokens[self.position + 1 : end + 1]
        self.position = end
        return inputs.view(num_sequences, context), targets.view(num_sequences, context)

    def skip(self, num_sequences: int, context: int) -> None:
        self.position += num_sequences * context

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class History(NamedTuple):
    losses: list[float]
    gradients: list[dict[str, Tensor]]
    """Of the first and the last step, before clipping."""
    weights: dict[str, Tensor]


def run_golf(arm: Arm) -> tuple[dict[str, Tensor], History]:
    """The weights before the first step, and what the trainer makes of them."""
    torch.manual_seed(1)
    model = GPT(arm.model)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += arm.noise * torch.randn_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(
        model,
        Batches(),
        Recipe(
            Budget(steps=STEPS),
            TrainConfig(batch_tokens=BATCH, micro_batch_tokens=BATCH // arm.micro_batches),
            arm.optim,
            arm.schedule,
            AveragingConfig(output="last"),
        ),
        Runtime(torch.device("cpu"), torch.float32, compiled=False),
        lambda *_: 0.0,
        StageClock(),
        RunLog(quiet=True),
    )
    gradients = []
    update = trainer.optimizers.step

    def recording_step() -> Tensor:
        if trainer.steps in (0, STEPS - 1):
            gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        return update()

    trainer.optimizers.step = recording_step
    own = [trainer.step().figures.read()[0] for _ in range(STEPS)]
    return before, History(own, gradients, {name: p.detach() for name, p in model.named_parameters()})


def run_plain(arm: Arm, weights: dict[str, Tensor]) -> History:
    """The same by the plain implementation."""
    training, batches = PlainTraining(weights, arm.rates), Batches()
    own, kept = [], []
    for step in range(STEPS):
        progress = step / STEPS
        context = CONTEXT // 2 if arm.schedule.context_growth and progress < GROWTH else CONTEXT
        loss = losses(
            training.weights, *batches.next(BATCH // context, context), arm.network, arm.order(progress)
        )
        gradients = training.gradients(loss)
        training.step(gradients, arm.lr_scale(progress), arm.momentum(progress))
        own.append(loss.item())
        if step in (0, STEPS - 1):
            kept.append(gradients)
    return History(own, kept, {name: weight.detach() for name, weight in training.weights.items()})


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest distance of a tensor from the expected one, as a share of that one's norm, and its name.

    A norm below a thousandth of that of all tensors counts as that: such sums nearly cancel.
    """
    assert found.keys() == expected.keys()
    least = 1e-3 * math.sqrt(sum(float(tensor.square().sum()) for tensor in expected.values()))
    return max(
        (float((found[name] - tensor).norm()) / max(least, float(tensor.norm())), name)
        for name, tensor in expected.items()
    )


@pytest.fixture(scope="module", params=ARMS)
def runs(request: pytest.FixtureRequest) -> tuple[History, History]:
    arm = ARMS[request.param]
    before, golf = run_golf(arm)
    return golf, run_plain(arm, before)


def test_every_loss_is_that_of_the_plain_formulas(runs: tuple[History, History]) -> None:
    golf, plain = runs
    assert golf.losses == pytest.approx(plain.losses, abs=1e-5)
    assert plain.losses[-1] < plain.losses[0] - 0.5


def test_every_gradient_of_the_first_and_the_last_step_is_theirs(runs: tuple[History, History]) -> None:
    golf, plain = runs
    first, last = (largest_error(*pair) for pair in zip(golf.gradients, plain.gradients, strict=True))
    assert first < (1e-5, ""), first
    # From weights that have been apart by their rounding since the second step.
    assert last < (2e-4, ""), last


def test_every_weight_after_the_last_step_is_theirs(runs: tuple[History, History]) -> None:
    golf, plain = runs
    error = largest_error(golf.weights, plain.weights)
    assert error < (1e-4, ""), error
