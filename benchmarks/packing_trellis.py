"""Of `benchmarks.packing`: trellis-coded codes against scalar ones and against int5 under zstd-22.

Sizes at equal divergence are read off a line through two artifacts of a kind: log2 of the divergence falls
linearly with the bytes, by two for a bit more per weight.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import Calibration
from golf.pack.gptq import Factors
from golf.pack.layout import Weights, implied_layout
from golf.pack.quantize import SCALAR_ROUNDING, QuantizedTensor, Rounding, quantize_tensor, sensitivities
from golf.pack.trellis import (
    LOG2_STATES,
    STEP_EXPONENT,
    Trellis,
    encode_by_state,
    round_on_trellis,
    symbol_contexts,
)

FINER_BITS = 0.3
"""Bits per weight between the two artifacts of a line."""


Divergence = Callable[[Weights], float]
"""Divergence of weights' predictions from those of the unquantised weights, bits per byte."""


@dataclass(frozen=True)
class Line:
    """Divergence of a kind of artifact by its bytes."""

    sizes: tuple[int, int]
    divergences: tuple[float, float]
    pack_seconds: float
    decode_seconds: float
    """Mean of the two artifacts."""

    def bytes_at(self, divergence: float) -> float:
        """The size at which the line has this divergence."""
        (first, second), (high, low) = self.sizes, map(math.log2, self.divergences)
        return first + (math.log2(divergence) - high) * (second - first) / (low - high)


def measure_line(
    scheme: str, bits: float, weights: Weights, header: dict[str, Any], how: tuple[Calibration, Divergence]
) -> Line:
    """Two artifacts of a scheme, at `bits` and a little more per weight."""
    calibration, diverges = how
    num_weights = sum(weight.numel() for weight in weights.values())
    sizes, divergences, packing, decoding = [], [], 0.0, 0.0
    for each in (bits, bits + FINER_BITS):
        began = time.perf_counter()
        artifact = pack(
            weights, header, PackConfig(scheme), round(each * num_weights / 8), calibration
        ).artifact
        packed = time.perf_counter()
        decoded = decode_artifact(artifact)[1]
        packing, decoding = packing + packed - began, decoding + time.perf_counter() - packed
        sizes.append(len(artifact))
        divergences.append(diverges(decoded))
    return Line((sizes[0], sizes[1]), (divergences[0], divergences[1]), packing / 2, decoding / 2)


def measure_trellis(
    weights: Weights, header: dict[str, Any], calibration: Calibration, diverges: Divergence, bits: float
) -> dict[str, float]:
    """Sizes at equal divergence, the coder against its entropy, the distance to the rate-distortion limit."""
    how = calibration, diverges
    trellis = measure_line("trellis", bits, weights, header, how)
    scalar = measure_line("entropy", bits, weights, header, how)
    int5 = pack(weights, header, PackConfig("int5"), 1 << 40).artifact
    int5_divergence = diverges(decode_artifact(int5)[1])
    num_weights = sum(weight.numel() for weight in weights.values())
    figures = {
        "trellis_bytes_over_scalar_equal_kl": trellis.sizes[0] / scalar.bytes_at(trellis.divergences[0]),
        "trellis_bytes_over_int5_zstd22_equal_kl": trellis.bytes_at(int5_divergence) / len(int5),
        "trellis_bits_per_weight_at_kl_of_int5": 8 * trellis.bytes_at(int5_divergence) / num_weights,
        "trellis_bits_per_weight": 8 * trellis.sizes[0] / num_weights,
        "trellis_divergence_bpb": trellis.divergences[0],
        "scalar_divergence_bpb_equal_bytes": scalar.divergences[0],
        "scalar_bits_per_weight": 8 * scalar.sizes[0] / num_weights,
        "int5_divergence_bpb": int5_divergence,
        "encode_seconds": trellis.pack_seconds,
        "decode_seconds": trellis.decode_seconds,
        "scalar_encode_seconds": scalar.pack_seconds,
        "scalar_decode_seconds": scalar.decode_seconds,
    }
    return figures | measure_rounding(weights, header, calibration, bits)


class KeptErrors:
    """A rounding that keeps the squared errors, in steps of the codes."""

    def __init__(self, rounding: Rounding):
        self._round = rounding.round
        self.rounding = rounding._replace(round=self.round)
        self.squares: list[np.ndarray] = []
        """By matrix, (R, C)."""

    def round(
        self, weight_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors | None
    ) -> tuple[Tensor, Tensor]:
        """As the rounding."""
        codes_RC, from_RC = self._round(weight_RC, step_R, step_C, factors)
        error_RC = (from_RC if factors is not None else weight_RC) / step_R[:, None] / step_C - codes_RC
        self.squares.append(error_RC.square().cpu().numpy())
        return codes_RC, from_RC


def measure_rounding(
    weights: Weights, header: dict[str, Any], calibration: Calibration, bits: float
) -> dict[str, float]:
    """Of the matrices alone, at the lambda that gives the scalar codes `bits`: entropies, errors, limits."""
    layout = implied_layout(header["model"])
    matrices = {name: weights[name] for name, part in layout.items() if part.kind != "small"}
    found = sensitivities(matrices, calibration)
    kinds = {
        "scalar": SCALAR_ROUNDING,
        "trellis": Rounding(partial(round_on_trellis, LOG2_STATES), STEP_EXPONENT),
    }
    num_weights = sum(weight.numel() for weight in matrices.values())
    rate_lambda, figures = 1e-9, {}
    for _ in range(4):
        plain = {
            name: quantize_tensor(weight, found[name], rate_lambda, False)
            for name, weight in matrices.items()
        }
        rate_lambda *= 4 ** (entropy_bits(plain, None) / num_weights - bits)
    for kind, rounding in kinds.items():
        errors = KeptErrors(rounding)
        tensors = {
            name: quantize_tensor(weight, found[name], rate_lambda, False, errors.rounding)
            for name, weight in matrices.items()
        }
        trellis = Trellis.of(LOG2_STATES) if kind == "trellis" else None
        entropy = entropy_bits(tensors, trellis)
        limit = limit_bits(tensors, errors.squares)
        figures |= {
            f"{kind}_entropy_bits_per_weight": entropy / num_weights,
            f"{kind}_bits_above_rate_distortion": (entropy - limit) / num_weights,
        }
        if trellis is not None:
            codes = [tensor.codes_RC for tensor in tensors.values()]
            contexts_of = [tensor.grid.contexts() for tensor in tensors.values()]
            own = {name: layout[name] for name in matrices}
            coded = 8 * len(encode_by_state(trellis, own, codes, contexts_of))
            figures["coded_bits_over_entropy"] = coded / entropy
    figures["bits_above_rate_distortion"] = figures["trellis_bits_above_rate_distortion"]
    return figures


def limit_bits(tensors: dict[str, QuantizedTensor], squares: list[np.ndarray]) -> float:
    """R(D) of a Gaussian of each class's sigma, log2(sigma / step), at the class's own mean squared error."""
    exponents_N = np.concatenate([tensor.grid.exponents().reshape(-1) for tensor in tensors.values()])
    classes, class_N, counts = np.unique(exponents_N, return_inverse=True, return_counts=True)
    errors = np.bincount(class_N, np.concatenate([own.reshape(-1) for own in squares])) / counts
    return float(np.sum(counts * np.maximum(0.0, classes / 8 - np.log2(np.maximum(errors, 1e-30)) / 2)))


def entropy_bits(tensors: dict[str, QuantizedTensor], trellis: Trellis | None) -> float:
    """Entropy of the codes given their contexts and, on a trellis, the parity that the state asks for."""
    keys = []
    for tensor in tensors.values():
        codes_RC, classes_RC = tensor.codes_RC.astype(np.int64), tensor.grid.contexts().astype(np.int64)
        if trellis is not None:
            classes_RC = 2 * symbol_contexts(tensor.grid.contexts()).astype(np.int64) + (codes_RC & 1)
            codes_RC = codes_RC >> 1
        keys.append(((classes_RC << 32) + codes_RC + (1 << 31)).reshape(-1))
    joint, counts = np.unique(np.concatenate(keys), return_counts=True)
    totals = np.bincount(joint >> 32, counts)[joint >> 32]
    return float(np.sum(counts * np.log2(totals / counts)))
