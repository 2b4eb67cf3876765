"""Rotary position embedding (arXiv:2104.09864) on the first dimensions of each head.

Shapes: B batch, T time, H heads, E head width, R rotated dimensions, P = R / 2 pairs of them.
"""

import torch
from torch import Tensor


def rotary_tables(length: int, num_dims: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a rotated dimension is multiplied by, and what its partner is: two fp32 tensors (T, R).

    Pair i, of dimensions i and i + P, turns by the angle t * base^(-2i / R): the first table has its cosine
    twice, the second minus its sine and its sine. Computed in fp32 and rounded only where used: in bf16 the
    angles of late positions would be wrong.
    """
    pairs_P = torch.arange(0, num_dims, 2, dtype=torch.float32, device=device)
    angles_TP = torch.outer(
        torch.arange(length, dtype=torch.float32, device=device), base ** (-pairs_P / num_dims)
    )
    cos_TP, sin_TP = angles_TP.cos(), angles_TP.sin()
    return torch.cat((cos_TP, cos_TP), dim=1), torch.cat((-sin_TP, sin_TP), dim=1)


def rotate(x_BTHE: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotates the first R of E dimensions, pairing dimension i with i + P; the others pass unchanged.

    Without torch.cat, which Inductor makes a kernel of its own behind a norm; this joins the norm's kernel.
    """
    num_rotated = cos_TR.size(1)
    halves = 2, num_rotated // 2
    cos_T12P, sin_T12P = (
        table_TR[:, None].to(x_BTHE.dtype).unflatten(-1, halves) for table_TR in (cos_TR, sin_TR)
    )
    x_BTH2P = x_BTHE[..., :num_rotated].unflatten(-1, halves)
    # (a, b) cos + (b, a) (-sin, sin): flip(-2) exchanges the partners.
    turned_BTH2P = torch.addcmul(x_BTH2P * cos_T12P, x_BTH2P.flip(-2), sin_T12P)
    return torch.slice_scatter(x_BTHE, turned_BTH2P.flatten(-2), dim=-1, end=num_rotated)
