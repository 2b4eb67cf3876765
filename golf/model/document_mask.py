"""Document mask: attention inside documents, several of which share a row.

Shapes: B batch, T time, L last positions (queries), N = B x T, S slots for documents, H query heads,
K key/value heads, E head width.
"""

import inspect
from collections.abc import Callable, Collection
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from golf.model.kernels import causal_mask, repeat_heads

_SLOT_TOKENS = 64
_MIN_SLOTS = 16


def document_bounds(inputs_BT: Tensor, bos_id: int) -> Tensor:
    """Cumulative lengths, int32, of a fixed number of slots, so that no graph depends on the text.

    Each row has a slot per 64 tokens, 16 at least; those left over have length 0. A row with more documents
    than slots, which then are shorter than 64 tokens on average, has its last ones seen as one.
    """
    num_rows, length = inputs_BT.shape
    slots = min(length, max(_MIN_SLOTS, length // _SLOT_TOKENS))
    starts_BT = inputs_BT == bos_id
    starts_BT = torch.cat((torch.ones_like(starts_BT[:, :1]), starts_BT[:, 1:]), 1)
    ranks_BT = starts_BT.cumsum(1) - 1
    rows_B1 = torch.arange(num_rows, device=inputs_BT.device)[:, None]
    places_BT = rows_B1 * length + torch.arange(length, device=inputs_BT.device)
    is_bound_BT = starts_BT & (ranks_BT < slots)
    # What is no bound is written behind the row's slots, and cut off.
    bounds_BS = ((rows_B1 + 1) * length).repeat(1, slots + 1)
    bounds_BS = bounds_BS.scatter(1, torch.where(is_bound_BT, ranks_BT, slots), places_BT)[:, :slots]
    end_1 = torch.full((1,), num_rows * length, device=inputs_BT.device)
    return torch.cat((bounds_BS.flatten(), end_1)).to(torch.int32)


class VarlenKernel:
    """torch's variable-length attention kernel, with the options that the installed version has."""

    def __init__(self) -> None:
        self._kernel: Callable[..., Any] = flash_by_bounds
        known: Collection[str] = ()
        if find_spec("torch.nn.attention.varlen"):
            # Imported when it is used: it imports torch's compiler, seconds on a slow machine.
            from torch.nn.attention.varlen import varlen_attn

            self._kernel, known = varlen_attn, inspect.signature(varlen_attn).parameters
        self._shares_keys = "enable_gqa" in known
        self._options: dict[str, Any] = {"enable_gqa": True} if self._shares_keys else {}
        self._options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}

    def __call__(self, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, bounds_S: Tensor) -> Tensor:
        """Outputs of all positions, (B, H, T, E)."""
        length = q_BHTE.size(2)
        if not self._shares_keys:
            k_BKTE, v_BKTE = repeat_heads(q_BHTE, k_BKTE, v_BKTE)
        q_NHE, k_NKE, v_NKE = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTE, k_BKTE, v_BKTE))
        y_NHE = self._kernel(q_NHE, k_NKE, v_NKE, bounds_S, bounds_S, length, length, **self._options)
        return y_NHE.unflatten(0, (-1, length)).transpose(1, 2)


def flash_by_bounds(
    q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, bounds_S: Tensor, *lengths: Any, is_causal: bool
) -> Tensor:
    """What varlen_attn calls, for torch before 2.10, which has no public name for it."""
    kernel = torch.ops.aten._flash_attention_forward
    return kernel(q_NHE, k_NHE, v_NHE, bounds_S, *lengths, 0.0, is_causal, False)[0]


def visible_keys(inputs_BT: Tensor, bos_id: int, num_queries: int) -> Tensor:
    """Whether each of the last L positions sees each of the T: same document, not later. (B, 1, L, T).

    What comes before a row's first BOS is a document too.
    """
    numbers_BT = (inputs_BT == bos_id).cumsum(1)
    length = inputs_BT.size(1)
    same_BLT = numbers_BT[:, length - num_queries :, None] == numbers_BT[:, None, :]
    return (same_BLT & causal_mask(num_queries, length, inputs_BT.device))[:, None]
