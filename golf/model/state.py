"""What a forward pass reads besides tokens and weights: earlier positions, adapters, caps of the logits.

Shapes: B batch, T keys, L new positions, K key/value heads, E head width, D width, R rotated dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

Adapter = Callable[[Tensor, Tensor], Tensor]
"""Takes the input (B, L, I) and the output (B, L, O) of a matrix; returns the output to use in its place."""
NO_ADAPTERS: Mapping[str, Adapter] = MappingProxyType({})


class Positions(NamedTuple):
    """Positions of the keys that attention reads: rotary cosines and sines, and a mask."""

    cos_TR: Tensor
    sin_TR: Tensor
    visible: Tensor | None = None
    """Mask, of bool or as added, whose last L rows are those of the queries, (B, 1, ., T); None if causal."""
    bounds_S: Tensor | None = None
    """Cumulative lengths of the documents in the flattened batch, for the variable-length kernel."""


class Past:
    """Earlier positions of the text. This base class has none; subclasses override what they keep.

    Visits are numbered in the order of a forward pass.
    """

    num_new: int
    """Positions to compute: the last of the inputs. Those before them only feed the embedding."""
    num_before: int = 0
    """Tokens of the text before the inputs, for learned positions."""

    def positions(self) -> Positions | None:
        """Positions of all keys; None: the inputs are the whole window, and count from 0."""
        return None

    def inputs(self, visit: int, x_BLD: Tensor) -> Tensor:
        """Inputs of attention (B, T, D): the new ones behind those of the past."""
        return x_BLD

    def keys_values(self, visit: int, k_BLKE: Tensor, v_BLKE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, before rotation, and values (B, T, K, E): the new ones behind those of the past."""
        return k_BLKE, v_BLKE


@dataclass(frozen=True)
class ForwardState:
    """Optional argument of `GPT.forward`."""

    past: Past | None = None
    adapters: Sequence[Mapping[str, Adapter]] = ()
    """Adapters by visit, then by the name of the matrix (`Linear.adapter`); () for none."""
    head_adapter: Adapter | None = None
    log_caps_2: Tensor | None = None
    """Logarithms of factors on the softcap, for positive and for negative logits; None for one fixed cap."""


class VisitState(NamedTuple):
    """What one visit of a block reads besides the residual stream."""

    visit: int
    """Its number in the forward pass."""
    num_last: int
    """Positions to compute, the last ones."""
    positions: Positions
    past: Past | None = None
    adapters: Mapping[str, Adapter] = NO_ADAPTERS
