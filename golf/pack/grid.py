"""Where the codes of a tensor stand, and how widely they spread: all in whole eighths of an octave.

A weight is mean + code x row step x column step. Its class, which picks the coding table, is
log2(sigma / step), where sigma too is a product of one factor by row and one by column. Only integers, one
fp32 and the means are stored; the rest follows by IEEE multiplication, the same on every platform.
Shapes: R rows, C columns.
"""

import math
from dataclasses import dataclass

import numpy as np

NUM_CLASSES = 128
FIRST_CLASS = -22
"""Class j stands for sigma / step near 2 ** ((j + FIRST_CLASS) / 8): 0.15 to 9,000."""
EIGHTHS = (
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
)
"""Powers of two with exponents in eighths."""


@dataclass(frozen=True)
class TensorGrid:
    """Steps and spreads of one tensor seen as R rows of C columns; integers in eighths of an octave."""

    row_step_R: np.ndarray
    """Exponents of the row's step, over the base that all tensors share."""
    row_sigma_R: np.ndarray
    """Exponents of the row's spread, over the same base."""
    column_step_C: np.ndarray
    column_sigma_C: np.ndarray
    mean_R: np.ndarray
    """fp32; zeros for all but small tensors."""

    def classes(self) -> np.ndarray:
        """Class of each code, uint8, (R, C)."""
        row_R = _as_int16(self.row_sigma_R - self.row_step_R - FIRST_CLASS)
        column_C = _as_int16(self.column_sigma_C - self.column_step_C)
        return np.clip(row_R[:, None] + column_C[None, :], 0, NUM_CLASSES - 1).astype(np.uint8)

    def steps(self, base: float) -> tuple[np.ndarray, np.ndarray]:
        """Row and column factors of the step, fp32."""
        return exact_powers(self.row_step_R, base), exact_powers(self.column_step_C, 1.0)


def _as_int16(exponents: np.ndarray) -> np.ndarray:
    """Narrow enough that two add up without overflow; far more than any sound exponent needs."""
    return np.clip(exponents, -16_000, 16_000).astype(np.int16)


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor as whole codes on a grid."""

    codes_RC: np.ndarray
    """Of the smallest_int signed type that holds them."""
    grid: TensorGrid


def smallest_int(codes: np.ndarray) -> np.ndarray:
    """Whole numbers as int8, int16 or int32, whichever is the smallest_int that holds them."""
    largest = np.max(np.abs(codes), initial=0)
    return codes.astype(next(kind for kind in (np.int8, np.int16, np.int32) if largest <= np.iinfo(kind).max))


def exact_powers(eighths: np.ndarray, base: float) -> np.ndarray:
    """base x 2 ** (eighths / 8) as fp32: one product of doubles, scaled exactly, rounded once."""
    octaves, rest = np.divmod(eighths, 8)
    return np.ldexp(np.float64(base) * np.array(EIGHTHS)[rest], octaves).astype(np.float32)


def dequantize(codes_RC: np.ndarray, grid: TensorGrid, base: float) -> np.ndarray:
    """The weights, fp32."""
    row_R, column_C = grid.steps(base)
    values_RC = codes_RC.astype(np.float32)
    values_RC *= row_R[:, None]
    values_RC *= column_C
    values_RC += grid.mean_R[:, None]
    return values_RC


def row_view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns that a tensor of any shape is coded as: a vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
