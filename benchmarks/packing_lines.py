"""Of `benchmarks.packing`: sizes at equal divergence, read off a line through two artifacts of a kind.

log2 of the divergence falls linearly with the bytes, by two for a bit more per weight.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import Calibration
from golf.pack.layout import Layout, Weights

FINER_BITS = 0.3
"""Bits per weight between the two artifacts of a line."""
Divergence = Callable[[Weights], np.ndarray]
"""Divergence of weights' predictions from those of the unquantised ones by document, bits, float64 (D,)."""


class Made(NamedTuple):
    """Weights written and read again."""

    size: int
    """Bytes."""
    weights: Weights
    encode_seconds: float
    decode_seconds: float


Make = Callable[[float], Made]
"""From bits per weight to an artifact of about that size."""


@dataclass(frozen=True)
class Line:
    """Two artifacts of a kind: about the bits that were asked for, and FINER_BITS more."""

    coarse: Made
    fine: Made
    divergences_D: np.ndarray
    """Of the coarse one, by document."""
    totals: tuple[float, float]
    """Divergence of both over all documents."""

    @property
    def slope(self) -> float:
        """log2 of the divergence by byte."""
        return math.log2(self.totals[1] / self.totals[0]) / (self.fine.size - self.coarse.size)

    def bytes_at(self, divergence: float) -> float:
        """The size at which the line has this divergence over all documents."""
        return self.coarse.size + math.log2(divergence / self.totals[0]) / self.slope

    def divergence_at(self, size: float) -> float:
        """The divergence over all documents that the line has at a size."""
        return self.totals[0] * 2 ** ((size - self.coarse.size) * self.slope)


def draw_line(make: Make, diverges: Divergence, bits: float) -> Line:
    """The two artifacts, and how far their predictions are off."""
    coarse, fine = make(bits), make(bits + FINER_BITS)
    coarse_D, fine_D = diverges(coarse.weights), diverges(fine.weights)
    return Line(coarse, fine, coarse_D, (float(coarse_D.sum()), float(fine_D.sum())))


def random_weights(layout: Layout) -> Weights:
    """Of deviation 1."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(part.shape, generator=generator) for name, part in layout.items()}


def packer(scheme: str, weights: Weights, header: dict[str, Any], calibration: Calibration) -> Make:
    """Makes artifacts of one of our quantizers."""
    num_weights = sum(weight.numel() for weight in weights.values())

    def make(bits: float) -> Made:
        began = time.perf_counter()
        artifact = pack(
            weights, header, PackConfig(scheme), round(bits * num_weights / 8), calibration
        ).artifact
        packed = time.perf_counter()
        decoded = decode_artifact(artifact)[1]
        return Made(len(artifact), decoded, packed - began, time.perf_counter() - packed)

    return make


def with_knob(encode: Callable[[float], Made], num_weights: int, first: float) -> Make:
    """Makes artifacts of an encoder whose knob is log2 of a step: one more is about a bit a weight less.

    The first size is a few tenths of a bit off, and the next step is corrected by what it was off.
    """
    made = encode(first)
    knob, found = first, 8 * made.size / num_weights

    def make(bits: float) -> Made:
        nonlocal knob, found
        knob += found - bits
        made = encode(knob)
        found = 8 * made.size / num_weights
        return made

    return make
