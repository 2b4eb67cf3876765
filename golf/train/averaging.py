"""Averages of the weights over a run: EMA, SWA, and SWA of the EMA.

All windows are fractions of the run: an average over a longer time than a short run learns in ruins it (with
1,000 steps, an EMA of decay 0.997 cost 0.041 bpb in openai/parameter-golf #1763).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

AVERAGES = ("last", "ema", "swa", "ema+swa")


@dataclass(frozen=True)
class AveragingConfig:
    """Which average of the weights a run keeps, and the windows of the averages."""

    output: Literal["auto", "last", "ema", "swa", "ema+swa"] = "auto"
    """The average to keep; `auto` takes the best on a held-out slice of the training text."""
    ema_window: float = 0.02
    """Share of the run over which the exponential average forgets by a factor e."""
    swa_start: float = 0.6
    """Point of the run at which the stochastic average (arXiv:1803.05407) begins."""
    swa_every: float = 0.01
    """Share of the run between two of its samples."""

    def __post_init__(self) -> None:
        if self.ema_window <= 0 or self.swa_every <= 0 or not 0 <= self.swa_start < 1:
            raise ValueError(
                f"averaging needs ema_window > 0, swa_every > 0 and swa_start in [0, 1); got "
                f"{self.ema_window}, {self.swa_every}, {self.swa_start}"
            )


class WeightAverage:
    """The running averages of a model's weights, those that `config.output` needs.

    `ema` is the exponential average over time; `swa` the plain mean of weights sampled every `swa_every` from
    `swa_start` on; `ema+swa` the mean of the EMA sampled at the same points.
    """

    def __init__(self, model: nn.Module, config: AveragingConfig):
        self.config = config
        self._names = [name for name, _ in model.named_parameters()]
        self._weights = [parameter.detach() for parameter in model.parameters()]
        wanted = AVERAGES if config.output == "auto" else (config.output,)
        self._sums = {name: self._copies() for name in ("swa", "ema+swa") if name in wanted}
        self._ema = self._copies() if {"ema", "ema+swa"} & set(wanted) else []
        self._num_samples, self._progress, self._next_sample = 0, 0.0, config.swa_start

    def _copies(self) -> list[Tensor]:
        return [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Adds the weights as they are at `progress` (0 to 1) of the run; call once after each step."""
        if self._ema:
            # ema += (1 - e^(-dt / window)) (weights - ema): steps that take longer weigh more.
            share = -math.expm1((self._progress - progress) / self.config.ema_window)
            torch._foreach_lerp_(self._ema, self._weights, share)  # pyright: ignore[reportPrivateImportUsage]
        self._progress = progress
        if progress >= self._next_sample and self._sums:
            self._num_samples += 1
            self._next_sample = progress + self.config.swa_every
            for name, mean in self._sums.items():
                sampled = self._weights if name == "swa" else self._ema
                # mean_n = mean_(n-1) + (x_n - mean_(n-1)) / n: the first sample replaces the initial copy.
                torch._foreach_lerp_(mean, sampled, 1.0 / self._num_samples)  # pyright: ignore[reportPrivateImportUsage]

    def outputs(self) -> dict[str, dict[str, Tensor]]:
        """The averages by name, and the weights themselves as `last`.

        A mean without a sample (the run ended before `swa_start`) is left out; where it is the output, the
        weights at the end are its sample.
        """
        found = {"last": self._weights}
        if self.config.output in ("auto", "ema"):
            found["ema"] = self._ema
        if self._num_samples:
            found |= self._sums
        elif self.config.output in self._sums:
            found[self.config.output] = self._weights if self.config.output == "swa" else self._ema
        return {name: dict(zip(self._names, weights, strict=True)) for name, weights in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`."""
        return {
            "ema": self._ema,
            "sums": self._sums,
            "num_samples": self._num_samples,
            "progress": self._progress,
            "next_sample": self._next_sample,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the averages of a run with the same averaging config."""
        stored = {"ema": state["ema"], **state["sums"]}
        for name, own in {"ema": self._ema, **self._sums}.items():
            if own:
                torch._foreach_copy_(own, stored[name])  # pyright: ignore[reportPrivateImportUsage]
        self._num_samples, self._progress = state["num_samples"], state["progress"]
        self._next_sample = state["next_sample"]
