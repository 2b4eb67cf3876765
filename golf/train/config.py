"""Configuration of a training run: sizes of steps and micro-batches, and the recipe of all of its parts."""

import math
from dataclasses import dataclass, field
from typing import Literal

from golf.train.averaging import AveragingConfig
from golf.train.optim import OptimConfig
from golf.train.schedule import Budget, Phases, ScheduleConfig


def shards_to_read(budget: Budget, batch_tokens: int) -> int:
    """Shards of 100 million tokens that a run reads at most, at 2 million tokens a second; at least 8."""
    tokens = 2e6 * (budget.seconds or 0.0) if budget.steps is None else budget.steps * batch_tokens
    return max(8, math.ceil(tokens / 100e6))


@dataclass(frozen=True)
class TrainConfig:
    """Sizes of the training loop, how often it reports, evaluates and saves, and extra terms of the loss."""

    batch_tokens: int = 524_288
    """Tokens of one optimizer step, at its full size."""
    micro_batch_tokens: int = 65_536
    """Tokens of one forward and backward pass; the step's gradient is accumulated over its micro-batches."""
    attention: Literal["auto", "fa3", "cudnn", "flash", "efficient", "math"] = "auto"
    """Attention kernels: by default the fastest that the machine has."""
    warmup_steps: int = 2
    """Steps of each kind on random tokens before the clock, to compile and warm up; they leave no trace."""
    reserve_seconds: float = 0.0
    """Part of a budget of minutes kept for reading text after the last step (choosing the average)."""
    reports: int = 50
    """Number of log lines over the run."""
    num_evals: int = 5
    """Number of evaluations on the held-out slice of the training text over the run."""
    held_out_tokens: int = 65_536
    """Size of that slice, which is never trained on."""
    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints."""
    shuffle_documents: bool = False
    """Whether sequences are cut from documents in a new random order each epoch, not in the shards' order."""
    divergence_nats: float = 2.0
    """A loss this far above the first step's ends the run, except in its first 30 steps and first twentieth:
    the tied embedding starts so small that the first steps overshoot in healthy runs, too."""
    future_weight: float = 0.3
    """Weight of the mean loss of the tokens that model.future_tokens adds to the prediction."""
    sigreg_weight: float = 0.0
    """Weight of SIGReg on the last stream, which draws its distribution to an isotropic Gaussian
    (arXiv:2511.08544); 0 leaves it out."""
    sigreg_real_only: bool = False
    """Whether SIGReg compares the real part of the characteristic function alone."""
    sigreg_until: float = 1.0
    """Progress at which SIGReg ends."""
    prefix_weight: float = 0.0
    """Weight of the nats of each target's prefix token, the longest token that its bytes begin with
    (KellerJordan/modded-nanogpt #337: 0.25); 0 leaves them out."""
    prefix_until: float = 2 / 3
    """Progress at which that weight reaches 0, after a linear decay from half of it on."""

    def __post_init__(self) -> None:
        for name in ("future_weight", "sigreg_weight", "sigreg_until", "prefix_weight"):
            if vars(self)[name] < 0:
                raise ValueError(f"train.{name} is {vars(self)[name]}; expected at least 0")
        if not 0 < self.prefix_until <= 1:
            raise ValueError(f"train.prefix_until is {self.prefix_until}; expected more than 0, up to 1")

    def check(self, phases: Phases) -> None:
        """Raises ValueError unless steps are whole micro-batches, and those whole sequences, everywhere."""
        for phase in phases:
            whole = phase.context > 0 and self.micro_batch_tokens % phase.context == 0
            if not whole or phase.batch_tokens < 1 or phase.batch_tokens % self.micro_batch_tokens:
                raise ValueError(
                    f"train.batch_tokens {phase.batch_tokens} must be a multiple of train.micro_batch_tokens "
                    f"{self.micro_batch_tokens}, and that of the context {phase.context}, "
                    f"from {phase.start:.0%} of the run on"
                )


def fit_micro_batches(config: TrainConfig, phases: Phases, num_processes: int) -> int:
    """Tokens of a micro-batch, halved until every process has equally many; ValueError if that cannot be."""
    tokens = config.micro_batch_tokens
    while any(phase.batch_tokens % (tokens * num_processes) for phase in phases):
        tokens = halve_micro_batches(tokens, phases)
        if not tokens:
            batches = ", ".join(str(size) for size in sorted({phase.batch_tokens for phase in phases}))
            raise ValueError(
                f"steps of {batches} tokens cannot be shared by {num_processes} processes in micro-batches "
                f"of whole sequences; train.micro_batch_tokens is {config.micro_batch_tokens}"
            )
    return tokens


def halve_micro_batches(tokens: int, phases: Phases) -> int:
    """Half the tokens of a micro-batch; 0 if that is no whole number of sequences in some phase."""
    return 0 if tokens % 2 or any(tokens // 2 % phase.context for phase in phases) else tokens // 2


@dataclass(frozen=True)
class Recipe:
    """What the trainer reads of a configuration: how a model is trained, whatever the model and the text."""

    budget: Budget
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
