"""Tensors to codes: the step of every weight by the equal-slope rule, then rounding.

With energy x step^2 / 24 nats lost and log2(sigma / step) bits spent on a weight, one more bit saves the same
loss everywhere when step^2 is 12 lambda / (ln 2 x energy): lambda, the price of a bit in nats, is the knob.
Shapes: R rows, C columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from golf.pack.calibrate import Calibration
from golf.pack.gptq import column_steps, factorize, round_with_feedback, shrink_target
from golf.pack.grid import (
    FIRST_CLASS,
    QuantizedTensor,
    TensorGrid,
    row_view,
    smallest_int,
)
from golf.pack.halves import decode_halves, encode_halves
from golf.pack.layout import TensorKind, Weights, tensor_kind

ENERGY_FLOOR = 0.002
"""Share of a tensor's mean energy that each row has at least: what calibration never touched still counts."""
DEFAULT_GAINS: dict[TensorKind, float] = {"matrix": 1.0, "embedding": 16.0, "small": 1e9}
"""Without calibration: energy times mean squared weight."""
MAX_FISHER = 1e60
"""Keeps steps within fp32: a tensor of weights below 1e-30 becomes zero."""
FINEST_CLASS = 110
"""sigma / step of about 2,000 at most: no tensor gains by more."""
FINEST_SMALL_CLASS = 78
"""sigma / step of 128 at most for small tensors."""
_MOST_NOISE = 1e9
_SPREAD_ROUNDS = 4
_REACH = 127


@dataclass(frozen=True)
class Sensitivity:
    """What a tensor's error costs: sum over rows of energy_R x error_R H error_R^T / 2, in nats a token."""

    energy_R: Tensor
    """float64."""
    hessian_CC: Tensor | None
    """Mean diagonal 1; None stands for the identity."""
    log2_step_C: Tensor
    """float64: what the Hessian says about the columns' steps."""
    ln_scale: float
    """What it took to make the Hessian positive definite; 0 without one."""


def sensitivities(weights: Weights, calibration: Calibration | None) -> dict[str, Sensitivity]:
    """From a calibration; without one, steps are a share of each tensor's sigma, small tensors stay fine."""
    if calibration is None:
        return {name: _default_sensitivity(name, weight) for name, weight in weights.items()}
    return {
        name: _measured_sensitivity(name, row_view(tuple(weight.shape)), calibration)
        for name, weight in weights.items()
    }


def _default_sensitivity(name: str, weight: Tensor) -> Sensitivity:
    rows, columns = row_view(tuple(weight.shape))
    power = float(weight.double().square().mean()) if weight.numel() else 1.0
    energy = DEFAULT_GAINS[tensor_kind(name, tuple(weight.shape))] / max(power, 1e-300)
    energy_R = torch.full((rows,), min(MAX_FISHER, energy), dtype=torch.float64)
    return Sensitivity(energy_R, None, torch.zeros(columns, dtype=torch.float64), 0.0)


def _measured_sensitivity(name: str, view: tuple[int, int], calibration: Calibration) -> Sensitivity:
    rows, columns = view
    energy_R = calibration.energy(name).double()
    floor = ENERGY_FLOOR * float(energy_R.mean()) if rows else 0.0
    hessian_CC = calibration.hessian(name)
    step_C, ln_scale = energy_R.new_ones(columns), 0.0
    if hessian_CC is not None:
        step_C, ln_scale = column_steps(hessian_CC)
    return Sensitivity(energy_R + max(floor, 1e-30), hessian_CC, step_C.log2(), ln_scale)


def base_step(price: float) -> float:
    """The step of a weight of energy 1 at `price` nats a bit, rounded to fp32."""
    return float(np.float32(math.sqrt(12 * price / math.log(2))))


def size_forecast(weights: Weights, found: dict[str, Sensitivity]) -> Callable[[float], float]:
    """Bytes of all codes at a price, from the rows' spreads and steps; a few percent off, and quick.

    A Gaussian of spread s has about log2(1 + 2 pi e (s / step)^2) / 2 bits.
    """
    levels, caps, counts = [], [], []
    for name, weight in weights.items():
        if not weight.numel():
            continue
        rows_RC = weight.reshape(row_view(tuple(weight.shape))).double()
        level_R = (
            rows_RC.square().mean(1).clamp_min(1e-300).log2() / 2 + found[name].energy_R.cpu().log2() / 2
        )
        level_R -= float(found[name].log2_step_C.mean())
        small = tensor_kind(name, tuple(weight.shape)) == "small"
        levels.append(level_R.numpy())
        caps.append(
            np.full(len(rows_RC), (FIRST_CLASS + (FINEST_SMALL_CLASS if small else FINEST_CLASS)) / 8)
        )
        counts.append(np.full(len(rows_RC), rows_RC.shape[1]))
    level_N, cap_N, count_N = (np.concatenate(parts) for parts in (levels, caps, counts))

    def forecast(price: float) -> float:
        level = np.minimum(level_N - math.log2(base_step(price)), cap_N)
        return 1000 + float(np.sum(count_N * np.log2(1 + 2 * math.pi * math.e * np.exp2(2 * level)))) / 16

    return forecast


def log2_spread(values_RC: Tensor) -> tuple[Tensor, Tensor]:
    """log2 of row and column factors of the values' root mean square, float64."""
    power_RC = values_RC.double().square()
    column_C = torch.ones_like(power_RC[0])
    row_R = torch.zeros_like(power_RC[:, 0])
    for _ in range(_SPREAD_ROUNDS):
        row_R = (power_RC / column_C).mean(1)
        column_C = (power_RC / row_R.clamp_min(1e-300)[:, None]).mean(0)
        column_C = column_C / column_C.mean().clamp_min(1e-300)
        column_C = column_C.clamp_min(1e-12)
    return row_R.clamp_min(1e-300).log2() / 2, column_C.log2() / 2


def quantize_tensor(weight: Tensor, sensitivity: Sensitivity, price: float, small: bool) -> QuantizedTensor:
    """Codes of one tensor at `price` nats a bit; small tensors are coded around their rows' means."""
    weight_RC = weight.reshape(row_view(tuple(weight.shape)))
    rows, columns = weight_RC.shape
    mean_R = np.zeros(rows, dtype=np.float32)
    if not weight_RC.numel():
        grid = TensorGrid(*(np.zeros(length, np.int64) for length in (rows, rows, columns, columns)), mean_R)
        return QuantizedTensor(np.zeros((rows, columns), np.int8), grid)
    if small:
        mean_R = decode_halves(encode_halves(weight_RC.double().mean(1).numpy()))
        weight_RC = weight_RC - torch.from_numpy(mean_R)[:, None]
    finest = FINEST_SMALL_CLASS if small else FINEST_CLASS
    codes_RC, grid = _quantize_rows(weight_RC, sensitivity, base_step(price), finest, mean_R)
    return QuantizedTensor(smallest_int(codes_RC.cpu().numpy()), grid)


def _quantize_rows(
    weight_RC: Tensor, sensitivity: Sensitivity, base: float, finest_class: int, mean_R: np.ndarray
) -> tuple[Tensor, TensorGrid]:
    hessian_CC = sensitivity.hessian_CC
    device = weight_RC.device if hessian_CC is None else hessian_CC.device
    weight_RC = weight_RC.to(device)
    row_spread_R, column_spread_C = log2_spread(weight_RC)
    log2_step_R = -sensitivity.energy_R.to(device).log2() / 2
    noise_R = torch.exp2(2 * (log2_step_R + math.log2(base) - row_spread_R)).clamp(max=_MOST_NOISE) / 12
    spreads = _eighths(row_spread_R - math.log2(base)), _eighths(column_spread_C)
    column_step = _within_reach(_eighths(sensitivity.log2_step_C))
    finest = spreads[0] + round(float(np.mean(spreads[1] - column_step))) - FIRST_CLASS - finest_class
    row_step = _within_reach(np.maximum(_eighths(log2_step_R), finest))
    grid = TensorGrid(row_step, spreads[0], column_step, spreads[1], mean_R)
    step_R, step_C = (torch.from_numpy(step).to(device) for step in grid.steps(base))
    if hessian_CC is None:
        rounded_from_RC = weight_RC / (1 + noise_R[:, None] / column_spread_C.exp2().square())
        codes_RC = (rounded_from_RC / step_R[:, None] / step_C).round()
    else:
        factors = factorize(hessian_CC, noise_R, column_spread_C.exp2(), sensitivity.ln_scale)
        target_RC = shrink_target(weight_RC, factors)
        codes_RC, rounded_from_RC = round_with_feedback(target_RC, step_R, step_C, factors)
    row_spread_R, column_spread_C = log2_spread(rounded_from_RC)
    row_sigma = np.clip(_eighths(row_spread_R - math.log2(base)), row_step - 64, row_step + 144)
    column_sigma = _within_reach(_eighths(column_spread_C))
    return codes_RC, TensorGrid(row_step, _within_reach(row_sigma), column_step, column_sigma, mean_R)


def _eighths(log2_values: Tensor) -> np.ndarray:
    """Rounded to whole eighths, int64; infinities become the largest exponents that are ever needed."""
    return (8 * log2_values.cpu()).clamp(-8000, 8000).round().long().numpy()


def _within_reach(vector: np.ndarray) -> np.ndarray:
    """Pulled in to a byte's reach around its median."""
    middle = round(float(np.median(vector)))
    return np.clip(vector, middle - _REACH, middle + _REACH)
