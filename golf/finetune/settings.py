"""How a stage of fine-tuning trains."""

from dataclasses import dataclass, field
from typing import Literal

from golf.pack.artifact import PackConfig
from golf.tasks.files import LongTexts
from golf.train.optim import OptimConfig

StageName = Literal["sft", "dpo"]
"""Supervised fine-tuning on conversations, or direct preference optimisation on pairs."""
USUAL_RATES = {"sft": 0.1, "dpo": 0.01}
USUAL_EPOCHS = 3.0


class FinetuneError(ValueError):
    """Settings or folders of fine-tuning that do not go together."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How a stage trains, and what it keeps aside."""

    seed: int = 42
    """Seed of the order of the data and of what is held out."""
    epochs: float | None = None
    """How often the data are read; by default 3."""
    steps: int | None = None
    """Optimiser steps, instead of epochs."""
    rows: int = 16
    """Sequences of an optimiser step; for dpo two of them are a pair."""
    pass_rows: int = 16
    """Sequences of one forward and backward pass."""
    rate: float | None = None
    """Share of the optimisers' full learning rates; by default 0.1 for sft and 0.01 for dpo."""
    held_out: float = 0.1
    """Share of the data that is measured on and never trained on."""
    long: LongTexts = "error"
    """Conversations longer than the context: an error that names the line, their beginning alone, or none."""
    beta: float = 0.1
    """DPO's beta: how dear it is to move away from the reference."""
    label_smoothing: float = 0.0
    """DPO's share of preferences that are taken to be the wrong way round."""
    chosen_weight: float = 0.0
    """Weight of the chosen answers' own loss, in nats per token, beside DPO's (arXiv:2404.19733)."""
    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimisers of pretraining, at their full rates."""
    pack: PackConfig = field(default_factory=PackConfig)
    """From weights to bytes."""

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise FinetuneError("epochs and steps are two budgets; give one of them")
        in_range = {
            "held_out": 0 < self.held_out < 1,
            "label_smoothing": 0 <= self.label_smoothing < 0.5,
            "beta": self.beta > 0,
            "chosen_weight": self.chosen_weight >= 0,
        }
        for name, is_in in in_range.items():
            if not is_in:
                raise FinetuneError(
                    f"{name} is {vars(self)[name]}; expected held_out between 0 and 1, label_smoothing from "
                    "0 to below 0.5, beta above 0 and chosen_weight from 0 on"
                )
        if self.pass_rows < 2 or self.rows % self.pass_rows or self.pass_rows % 2:
            raise FinetuneError(
                f"rows {self.rows} must be a multiple of pass_rows {self.pass_rows}, and that of 2"
            )
