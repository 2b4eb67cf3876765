"""Rounding with error feedback (GPTQ, arXiv:2210.17323) on a free grid, with the price of bits in mind.

The bits of a code grow with its square, about log2(e) / 2 x (code / sigma)^2; at the price of a bit that goes
with the step this adds step^2 / (12 sigma^2) to the Hessian's diagonal and shrinks what is rounded, more in
rows where errors matter little: a dead zone whose width follows from the grid. Column steps are proportional
to the diagonal of the inverse Hessian's Cholesky factor, so that every column's error costs the same.
What is left is white: four singular directions of it hold 4 to 6% (width 256, 3.2 bits), less than the same
bytes take off by a finer step, so there is no low-rank correction (LQER).
Shapes: G groups of rows with one ridge, R rows, C columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.003
"""Added to the Hessian's mean diagonal of 1; from 0.001 to 0.01 the divergence moves by 3% at equal bits."""
MAX_LN_SCALE = 1e3
RATE_SHARE = 0.25
"""Share of the ridge that theory asks for: 12% less divergence than without at 3.2 bits; 0.5 gives 10%."""
_BLOCK_COLUMNS = 128
_LOWEST_RIDGE_GROUP = -5
_HIGHEST_RIDGE_GROUP = 4


class SingularHessianError(ValueError):
    """A Hessian that no ln_scale makes positive definite."""


@dataclass(frozen=True)
class Factors:
    """One matrix's Hessian, ready for rounding: columns in act-order, one inverse factor a group of rows."""

    order_C: Tensor
    """Columns by falling diagonal."""
    group_R: Tensor
    inverse_GCC: Tensor
    """Upper U with U^T U the inverse of the damped and ridged Hessian, in act-order; float64."""
    ridge_GC: Tensor
    ln_scale: float
    """What was added to the diagonal: DAMPING, or more if the Hessian was singular."""


def inverse_factor(hessian_CC: Tensor) -> Tensor | None:
    """Upper U with U^T U = inverse of `hessian_CC`; None unless that is positive definite."""
    lower, info = torch.linalg.cholesky_ex(hessian_CC.flip(0, 1))
    if int(info) != 0:
        return None
    identity = torch.eye(len(hessian_CC), dtype=hessian_CC.dtype, device=hessian_CC.device)
    factor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return factor if bool(torch.isfinite(factor).all()) else None


def ridge_groups(ridge_R: Tensor) -> tuple[Tensor, Tensor]:
    """Group of each row, by powers of four of its ridge, and each group's ridge; the fullest is first."""
    power_R = (ridge_R.clamp_min(1e-30).log2() / 2).round()
    power_R = power_R.clamp(_LOWEST_RIDGE_GROUP, _HIGHEST_RIDGE_GROUP)
    powers, group_R, counts = power_R.unique(return_inverse=True, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    ridge_G = torch.where(powers > _LOWEST_RIDGE_GROUP, 4.0**powers, 0.0)
    return rank[group_R], ridge_G[order]


def column_steps(hessian_CC: Tensor) -> tuple[Tensor, float]:
    """Relative steps at which every column's error costs the same, (C,), and the ln_scale that it took.

    The steps are the diagonal of U in act-order.
    """
    columns = len(hessian_CC)
    none = torch.zeros(1, device=hessian_CC.device)
    factors = factorize(hessian_CC, none, torch.ones(columns, device=hessian_CC.device))
    return factors.inverse_GCC[0].diagonal()[factors.order_C.argsort()], factors.ln_scale


def factorize(
    hessian_CC: Tensor, ridge_R: Tensor, relative_spread_C: Tensor, ln_scale: float = DAMPING
) -> Factors:
    """Factors of a Hessian of mean diagonal 1; a singular one gets ten times the ln_scale until it is not.

    `ridge_R` is the rounding noise of each row over its power, for a column of spread and step 1; RATE_SHARE
    of it counts.
    """
    hessian_CC = hessian_CC.double()
    order_C = hessian_CC.diagonal().argsort(descending=True, stable=True)
    group_R, ridge_G = ridge_groups(RATE_SHARE * ridge_R)
    ridge_GC = (ridge_G[:, None] / relative_spread_C.double().square())[:, order_C]
    ordered_CC = hessian_CC[order_C][:, order_C]
    while ln_scale <= MAX_LN_SCALE:
        inverses = [inverse_factor(ordered_CC + torch.diag(ln_scale + ridge_C)) for ridge_C in ridge_GC]
        if all(inverse is not None for inverse in inverses):
            return Factors(order_C, group_R, torch.stack(inverses), ridge_GC, ln_scale)
        ln_scale *= 10
    raise SingularHessianError(
        f"Hessian of {len(hessian_CC)} columns is singular at ln_scale {MAX_LN_SCALE:g}"
    )


def shrink_target(weight_RC: Tensor, factors: Factors) -> Tensor:
    """The real-valued minimum of error and rate together, columns in act-order; float64."""
    target_RC = weight_RC.double()[:, factors.order_C]
    for group, (inverse_CC, ridge_C) in enumerate(zip(factors.inverse_GCC, factors.ridge_GC, strict=True)):
        rows = factors.group_R == group
        part_RC = target_RC[rows]
        target_RC[rows] = part_RC - (part_RC * ridge_C) @ inverse_CC.T @ inverse_CC
    return target_RC


def round_with_feedback(
    target_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors
) -> tuple[Tensor, Tensor]:
    """Codes and the values they were rounded from, fp32 (R, C), columns in their own place.

    `target_RC` is in act-order (it is used up); steps are in the columns' own places. The error of each
    column is spread over the columns still to come, so that the output changes least.
    """
    target_RC = target_RC.float()
    step_C = step_C[factors.order_C]
    codes_RC = torch.empty_like(target_RC)
    inverse_GCC, group_R = factors.inverse_GCC.float(), factors.group_R
    one_group = len(inverse_GCC) == 1
    num_columns = target_RC.shape[1]
    for begin in range(0, num_columns, _BLOCK_COLUMNS):
        end = min(begin + _BLOCK_COLUMNS, num_columns)
        block_RC = target_RC[:, begin:end]
        inverse_GBB = inverse_GCC[:, begin:end, begin:end]
        errors_RB = torch.empty_like(block_RC)
        for column in range(end - begin):
            step_R1 = step_R * step_C[begin + column]
            codes_RC[:, begin + column] = (block_RC[:, column] / step_R1).round()
            error_R = block_RC[:, column] - codes_RC[:, begin + column] * step_R1
            row_GB = inverse_GBB[:, column, column:]
            row_GB = row_GB[:1] if one_group else row_GB[group_R]
            errors_RB[:, column] = error_R / row_GB[:, 0]
            block_RC[:, column + 1 :] -= errors_RB[:, column, None] * row_GB[:, 1:]
        for group, inverse_CC in enumerate(inverse_GCC):
            rows = slice(None) if one_group else group_R == group
            target_RC[rows, end:] -= errors_RB[rows] @ inverse_CC[begin:end, end:]
    own_place_C = factors.order_C.argsort()
    return codes_RC[:, own_place_C], target_RC[:, own_place_C]
