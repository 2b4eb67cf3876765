"""Scalar quantization: the step of every weight by the equal-slope rule, then rounding to integer codes.

Rounding with step d adds a squared error of d^2 / 12 per weight. With fisher F (second derivative of a
token's loss in nats) that costs F d^2 / 24 nats, and the code takes log2(sigma / d) bits plus a constant. One
more bit saves the same loss in every weight when the slopes are equal, d(loss)/d(bits) = -lambda:
    F d^2 ln(2) / 12 = lambda,   so   d = base / sqrt(F)   with   base = sqrt(12 lambda / ln 2).
lambda, the rate-distortion multiplier in nats per bit, is the only size knob.

A weight is mean + code x row step x column step. log2 of steps and sigmas are stored as integers in steps of
1/8; the decoder needs only IEEE multiplications, so weights are the same to the last bit on every platform.
Shapes: R rows, C columns of a tensor seen as a matrix.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from golf.pack.calibrate import Calibration
from golf.pack.container import decode_fp16_block, encode_fp16_block
from golf.pack.entropy_coder import MOST_CODE, NUM_CONTEXTS, smallest_int
from golf.pack.gptq import Factors, column_steps, factorize, round_with_feedback
from golf.pack.layout import Layout, Weights, artifact_bytes_at, count_elements, row_view

FIRST_CONTEXT = -22
"""Context j stands for sigma / step near 2 ** ((j + FIRST_CONTEXT) / 8): 0.15 to 9,000."""
FINEST_CONTEXT = 110
"""Largest useful context: sigma / step about 2,000."""
FINEST_SMALL_CONTEXT = 78
"""The same for small tensors: sigma / step 128."""
FISHER_FLOOR = 0.02
"""Share of a tensor's mean fisher added to each row, for tokens that other text has more often than the
calibration's. With 0.03 an embedding of 8,192 rows had 39% less divergence than with 0.002 for 5% more bits,
11% less loss + lambda x bits; one of 1,024 rows had 4% more (n = 1 each)."""
MIN_LOSS_RISE_NATS = 2e-5
"""The smallest lambda is that of this forecast rise of a token's loss."""
MIN_STEP = 1 / 16
"""Without a measured calibration, that of this step, as a share of a matrix's sigma."""
DEFAULT_FISHER = {"matrix": 1.0, "embedding": 16.0, "small": 1e9}
"""Without calibration: fisher times mean squared weight."""
MAX_FISHER = 1e60
"""Keeps steps within fp32: a tensor of weights below 1e-30 becomes zero."""
POWERS_OF_TWO = (
    1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096,
    1.4142135623730951, 1.5422108254079407, 1.681792830507429, 1.8340080864093424,
)  # fmt: skip
"""2 ** (k / 8), k = 0 to 7, as constants: pow differs between platforms."""
_MAX_NOISE = 1e9
_SIGMA_ROUNDS = 4
_MAX_OFFSET = 127


class TensorGrid(NamedTuple):
    """Steps and sigmas of one tensor: integers, log2 in steps of 1/8; the rows' are relative to the base."""

    row_step_R: np.ndarray
    row_sigma_R: np.ndarray
    column_step_C: np.ndarray
    column_sigma_C: np.ndarray
    mean_R: np.ndarray
    """fp32; zeros for all but small tensors."""

    def contexts(self) -> np.ndarray:
        """Context of each code, log2(sigma / step) in steps of 1/8, uint8 (R, C)."""
        return np.clip(self.exponents() - FIRST_CONTEXT, 0, NUM_CONTEXTS - 1).astype(np.uint8)

    def exponents(self) -> np.ndarray:
        """log2(sigma / step) of each code in steps of 1/8, int16 (R, C)."""
        # int16 is far more than a sound exponent needs, and two of them add up without overflow.
        each = self.row_sigma_R - self.row_step_R, self.column_sigma_C - self.column_step_C
        row_R, column_C = (np.clip(exponents, -16_000, 16_000).astype(np.int16) for exponents in each)
        return row_R[:, None] + column_C[None, :]

    def steps(self, base: float) -> tuple[np.ndarray, np.ndarray]:
        """Row and column factors of the step, fp32."""
        return exact_powers(self.row_step_R, base), exact_powers(self.column_step_C, 1.0)


class QuantizedTensor(NamedTuple):
    """A tensor as integer codes on a grid."""

    codes_RC: np.ndarray
    """Of the smallest signed type that holds them."""
    grid: TensorGrid
    plain_C: np.ndarray | None = None
    """That of its rounding, bool."""


class Sensitivity(NamedTuple):
    """Cost of a tensor's error E in nats per token: sum over rows of fisher_R x E_R H E_R^T / 2."""

    fisher_R: Tensor
    """float64."""
    hessian_CC: Tensor | None
    """H, mean diagonal 1; None stands for the identity."""
    log2_step_C: Tensor
    """float64: the relative column steps that follow from H."""
    damping: float
    """Added to H's diagonal to make it positive definite; 0 without H."""


class Rounded(NamedTuple):
    """Codes of a matrix."""

    codes_RC: Tensor
    """fp32."""
    from_RC: Tensor
    """The values they were rounded from, fp32."""
    plain_C: np.ndarray | None = None
    """Where codes follow a trellis: which columns are off it, bool."""


class Rounding(NamedTuple):
    """How the values of a matrix become codes; small tensors are rounded one by one."""

    round: Callable[[Tensor, Tensor, Tensor, Factors | None], Rounded]
    """round(weight_RC, step_R, step_C, factors). Without factors the weights are shrunk already."""
    step_exponent: int = 0
    """Added to log2 of the rows' steps, in steps of 1/8."""
    symbol_exponent: int = 0
    """log2 of the step that an entropy coder sees over that of scalar codes, in steps of 1/8."""


def round_scalar(weight_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors | None) -> Rounded:
    """Each weight to the nearest multiple of its step, with the feedback of errors if there are factors."""
    if factors is not None:
        return Rounded(*round_with_feedback(weight_RC, step_R, step_C, factors))
    return Rounded((weight_RC / step_R[:, None] / step_C).round(), weight_RC)


SCALAR_ROUNDING = Rounding(round_scalar)


def exact_powers(exponents: np.ndarray, base: float) -> np.ndarray:
    """base x 2 ** (exponents / 8) as fp32: one product in float64, an exact scaling, one rounding."""
    octaves, rest = np.divmod(exponents, 8)
    return np.ldexp(np.float64(base) * np.array(POWERS_OF_TWO)[rest], octaves).astype(np.float32)


def dequantize(tensor: QuantizedTensor, base: float) -> np.ndarray:
    """The weights, fp32 (R, C)."""
    row_R, column_C = tensor.grid.steps(base)
    values_RC = tensor.codes_RC.astype(np.float32)
    values_RC *= row_R[:, None]
    values_RC *= column_C
    values_RC += tensor.grid.mean_R[:, None]
    return values_RC


def flat_calibration(weights: Weights, layout: Layout) -> Calibration:
    """In place of a measured one: steps are a share of each tensor's sigma, fine in small tensors.

    Scaled so that the smallest lambda is that of a matrix's step of MIN_STEP sigmas.
    """
    scale = 24 * MIN_LOSS_RISE_NATS / (MIN_STEP**2 * max(1, count_elements(layout)))
    calibration = Calibration(num_tokens=1)
    for name, weight in weights.items():
        power = float(weight.double().square().mean()) if weight.numel() else 1.0
        fisher = min(MAX_FISHER, DEFAULT_FISHER[layout[name].kind] / max(power, 1e-300))
        rows = row_view(tuple(weight.shape))[0]
        calibration.squares_R[name] = torch.full((rows,), scale * fisher, dtype=torch.float64)
    return calibration


def sensitivities(weights: Weights, calibration: Calibration) -> dict[str, Sensitivity]:
    """Sensitivity of each tensor."""
    found = {}
    for name, weight in weights.items():
        rows, columns = row_view(tuple(weight.shape))
        fisher_R, hessian_CC, damping = calibration.fisher(name).double(), calibration.hessian(name), 0.0
        fisher_R = fisher_R + max(FISHER_FLOOR * float(fisher_R.mean()) if rows else 0.0, 1e-30)
        step_C = fisher_R.new_ones(columns)
        if hessian_CC is not None:
            step_C, damping = column_steps(hessian_CC)
        found[name] = Sensitivity(fisher_R, hessian_CC, step_C.log2(), damping)
    return found


def loss_rise(error: Tensor, sensitivity: Sensitivity) -> float:
    """Forecast of the loss's rise by a tensor's error, nats per token: 1/2 x sum of fisher_R x E H E^T."""
    if not error.numel():
        return 0.0
    error_RC = error.reshape(row_view(tuple(error.shape))).double()
    curved_RC = error_RC
    if sensitivity.hessian_CC is not None:
        curved_RC = error_RC @ sensitivity.hessian_CC.double().cpu()
    return float(sensitivity.fisher_R.cpu() @ (curved_RC * error_RC).sum(1)) / 2


def base_step(rate_lambda: float) -> float:
    """The step of a weight of fisher 1, rounded to fp32."""
    return float(np.float32(math.sqrt(12 * rate_lambda / math.log(2))))


def size_forecast(
    weights: Weights, layout: Layout, found: dict[str, Sensitivity], rounding: Rounding = SCALAR_ROUNDING
) -> Callable[[float], float]:
    """Bytes of all codes as a function of lambda, from the rows' sigmas and steps; within a few percent.

    Codes of a Gaussian have about log2(1 + 2 pi e (sigma / step)^2) / 2 bits, exact at high rates.
    """
    parts = []
    for name, weight in weights.items():
        if not weight.numel():
            continue
        rows_RC = weight.reshape(row_view(tuple(weight.shape))).double()
        # log2(sigma / step) of each row at base 1: the step is fisher^(-1/2).
        sigma_R = rows_RC.square().mean(1).clamp_min(1e-300).log2() / 2
        level_R = sigma_R + found[name].fisher_R.cpu().log2() / 2
        level_R -= float(found[name].log2_step_C.mean())
        finest = FINEST_CONTEXT
        if layout[name].kind == "small":
            finest = FINEST_SMALL_CONTEXT
        else:
            level_R -= rounding.symbol_exponent / 8
        parts.append(np.broadcast_arrays(level_R.numpy(), (FIRST_CONTEXT + finest) / 8, rows_RC.shape[1]))
    level_N, cap_N, count_N = map(np.concatenate, zip(*parts, strict=True))
    fixed_bytes = artifact_bytes_at({name: part for name, part in layout.items() if part.kind != "small"}, 0)

    def forecast(rate_lambda: float) -> float:
        level = np.minimum(level_N - math.log2(base_step(rate_lambda)), cap_N)
        return (
            fixed_bytes + float(np.sum(count_N * np.log2(1 + 2 * math.pi * math.e * np.exp2(2 * level)))) / 16
        )

    return forecast


def log2_sigma(values_RC: Tensor) -> tuple[Tensor, Tensor]:
    """log2 of row and column factors of the values' root mean square, float64 (R,) and (C,).

    Alternates the maximum-likelihood variances of Gaussian rows and columns; the columns' mean is 1.
    """
    power_RC = values_RC.double().square()
    column_C = torch.ones_like(power_RC[0])
    row_R = torch.zeros_like(power_RC[:, 0])
    for _ in range(_SIGMA_ROUNDS):
        row_R = (power_RC / column_C).mean(1)
        column_C = (power_RC / row_R.clamp_min(1e-300)[:, None]).mean(0)
        column_C = column_C / column_C.mean().clamp_min(1e-300)
        column_C = column_C.clamp_min(1e-12)
    return row_R.clamp_min(1e-300).log2() / 2, column_C.log2() / 2


def quantize_tensor(
    weight: Tensor,
    sensitivity: Sensitivity,
    rate_lambda: float,
    small: bool,
    rounding: Rounding = SCALAR_ROUNDING,
) -> QuantizedTensor:
    """Codes of one tensor at `rate_lambda` nats per bit; small tensors are coded relative to their mean."""
    weight_RC = weight.reshape(row_view(tuple(weight.shape)))
    rows, columns = weight_RC.shape
    mean_R = np.zeros(rows, dtype=np.float32)
    if not weight_RC.numel():
        row_R, column_C = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
        grid = TensorGrid(row_R, row_R, column_C, column_C, mean_R)
        return QuantizedTensor(np.zeros((rows, columns), np.int8), grid)
    if small:
        mean_R = decode_fp16_block(encode_fp16_block(weight_RC.double().mean(1).numpy()))
        weight_RC = weight_RC - torch.from_numpy(mean_R)[:, None]
        rounding = SCALAR_ROUNDING
    hessian_CC, base = sensitivity.hessian_CC, base_step(rate_lambda)
    device = weight_RC.device if hessian_CC is None else hessian_CC.device
    weight_RC, log2_base = weight_RC.to(device), math.log2(base)
    # Equal slopes: step_R = base / sqrt(fisher_R). step^2 / (12 sigma^2) is its noise over its power.
    sigma_R, sigma_C = log2_sigma(weight_RC)
    log2_step_R = -sensitivity.fisher_R.to(device).log2() / 2
    noise_R = torch.exp2(2 * (log2_step_R + log2_base - sigma_R)).clamp(max=_MAX_NOISE) / 12
    row_sigma, column_sigma = _round_log2(sigma_R - log2_base), _round_log2(sigma_C)
    column_step = _near_median(_round_log2(sensitivity.log2_step_C))
    # No step is finer than the one at which the row's mean context is the finest that is useful.
    finest = FIRST_CONTEXT + (FINEST_SMALL_CONTEXT if small else FINEST_CONTEXT)
    smallest_step = row_sigma + round(float(np.mean(column_sigma - column_step))) - finest
    row_step = np.maximum(_round_log2(log2_step_R), smallest_step) + rounding.step_exponent
    row_step = _near_median(row_step)
    step_R = torch.from_numpy(exact_powers(row_step, base)).to(device)
    step_C = torch.from_numpy(exact_powers(column_step, 1.0)).to(device)
    if hessian_CC is None:
        # The minimum of (w - q)^2 + noise (q / sigma_C)^2, column by column.
        weight_RC, factors = weight_RC / (1 + noise_R[:, None] / sigma_C.exp2().square()), None
    else:
        factors = factorize(hessian_CC, noise_R, sigma_C.exp2(), sensitivity.damping)
    codes_RC, target_RC, plain_C = rounding.round(weight_RC, step_R, step_C, factors)
    # The coder's contexts follow the sigma of what was rounded, which is smaller than that of the weights.
    sigma_R, sigma_C = log2_sigma(target_RC)
    row_sigma = np.clip(_round_log2(sigma_R - log2_base), row_step - 64, row_step + 144)
    column_sigma = _near_median(_round_log2(sigma_C))
    grid = TensorGrid(row_step, _near_median(row_sigma), column_step, column_sigma, mean_R)
    codes = codes_RC.cpu().numpy()
    if (largest := float(np.abs(codes).max())) > MOST_CODE:
        raise ValueError(f"weights of one tensor lie too far apart to be packed: one is {largest:.2g} steps")
    return QuantizedTensor(smallest_int(codes), grid, plain_C)


def _round_log2(log2_values: Tensor) -> np.ndarray:
    """In steps of 1/8, int64; infinities become the largest exponents that are ever needed."""
    return (8 * log2_values.cpu()).clamp(-8000, 8000).round().long().numpy()


def _near_median(exponents: np.ndarray) -> np.ndarray:
    """Clipped to +-127 around the median, which is what the format holds."""
    median = round(float(np.median(exponents)))
    return np.clip(exponents, median - _MAX_OFFSET, median + _MAX_OFFSET)
