"""How long to train, and how much of the data a step sees."""

import math
from dataclasses import dataclass
from typing import Literal

from golf.train.phases import Phase


@dataclass(frozen=True)
class TrainConfig:
    """How much of the data a step sees, and how often the loop looks up from it."""

    batch_tokens: int = 524_288
    """Tokens of one optimiser step, at its full size."""
    micro_batch_tokens: int = 65_536
    """Tokens of one forward and backward pass; the gradient is accumulated over the step's passes."""
    attention: Literal["auto", "fa3", "cudnn", "flash", "efficient", "math"] = "auto"
    """Attention kernels: by default the fastest that the machine has, by what it is."""
    warmup_steps: int = 2
    """Steps of each kind on random tokens before the clock, to compile and warm up; they leave no trace."""
    reserve_seconds: float = 0.0
    """Part of a budget of minutes kept for reading text after the last step (choosing the average)."""
    reports: int = 50
    """Lines that the log gets over the run."""
    num_evals: int = 5
    """Times over the run at which the held-out slice of the training text is scored."""
    held_out_tokens: int = 65_536
    """Size of that slice, which is never trained on."""
    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints."""
    shuffle_documents: bool = False
    """Whether sequences are cut from documents in a new random order each epoch, not in the shards' order."""
    divergence_nats: float = 2.0
    """A loss this far above the first step's ends the run, its first 30 steps and its first twentieth aside:
    the tied embedding starts so small that the first steps overshoot in healthy runs, too."""
    future_weight: float = 0.3
    """Weight of the mean loss of the tokens that model.future_tokens adds to what is predicted."""
    sigreg_weight: float = 0.0
    """Weight of SIGReg on the last stream, which draws its distribution to an isotropic Gaussian
    (arXiv:2511.08544); 0 leaves it out."""
    sigreg_real_only: bool = False
    """Whether SIGReg compares the real part of the characteristic function alone."""
    sigreg_until: float = 1.0
    """Point of the run at which SIGReg ends."""

    def __post_init__(self) -> None:
        for name in ("future_weight", "sigreg_weight", "sigreg_until"):
            if vars(self)[name] < 0:
                raise ValueError(f"train.{name} is {vars(self)[name]}; expected at least 0")

    def check(self, phases: tuple[Phase, ...]) -> None:
        """Raises ValueError unless each phase's steps are whole passes, and passes whole sequences."""
        for phase in phases:
            whole = phase.context > 0 and self.micro_batch_tokens % phase.context == 0
            if not whole or phase.batch_tokens < 1 or phase.batch_tokens % self.micro_batch_tokens:
                raise ValueError(
                    f"train.batch_tokens {phase.batch_tokens} must be a multiple of train.micro_batch_tokens "
                    f"{self.micro_batch_tokens}, and that of the context {phase.context}, "
                    f"from {phase.start:.0%} of the run on"
                )


def fit_micro_batches(micro_batch_tokens: int, phases: tuple[Phase, ...], num_processes: int) -> int:
    """Tokens of a pass, halved until every process has equally many passes of whole sequences in each step.

    ValueError if there is no such size.
    """
    tokens = micro_batch_tokens
    while any(phase.batch_tokens % (tokens * num_processes) for phase in phases):
        tokens = halve_micro_batches(tokens, phases)
        if not tokens:
            batches = ", ".join(str(size) for size in sorted({phase.batch_tokens for phase in phases}))
            raise ValueError(
                f"steps of {batches} tokens cannot be shared by {num_processes} processes in passes of whole "
                f"sequences; train.micro_batch_tokens is {micro_batch_tokens}"
            )
    return tokens


def halve_micro_batches(tokens: int, phases: tuple[Phase, ...]) -> int:
    """Half the tokens of a pass; 0 if sequences of some phase would not fill it."""
    return 0 if tokens % 2 or any(tokens // 2 % phase.context for phase in phases) else tokens // 2


@dataclass(frozen=True)
class Budget:
    """How long to train: seconds of the training phase, or optimiser steps; exactly one is given."""

    seconds: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("training needs a budget: either minutes or steps, not both")
        if (self.seconds if self.steps is None else self.steps) <= 0:
            raise ValueError(f"the training budget must be positive; got {self}")

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget that is used, 0 to 1."""
        return min(1.0, steps / self.steps if self.seconds is None else seconds / self.seconds)


def shards_to_read(budget: Budget, batch_tokens: int) -> int:
    """Shards of 100 million tokens that a run may get through; a generous 2 million tokens a second."""
    tokens = 2e6 * budget.seconds if budget.steps is None else budget.steps * batch_tokens
    return max(8, math.ceil(tokens / 100e6))
