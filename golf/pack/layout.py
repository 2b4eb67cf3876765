"""Names, shapes and kinds of a model's tensors, all implied by its config, and size estimates from them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.roles import TensorKind, roles_of
from golf.pack.container import ArtifactError
from golf.system.stored import config_from_dict


class TensorLayout(NamedTuple):
    """How one tensor is packed."""

    shape: tuple[int, ...]
    kind: TensorKind
    """That of its role; a tensor that is no matrix, or has a side below MIN_SIDE, is small."""


Weights = dict[str, torch.Tensor]
Layout = dict[str, TensorLayout]
"""By name, in the model's own order."""
Wrap = Callable[[bytes], bytes]
"""From a quantizer's payload to the bytes of the artifact."""
Fitted = tuple[bytes, dict[str, Any]]
"""An artifact's bytes and its quantizer's report, JSON-able, with `notes`: a list of lines for the user."""

MIN_SIDE = 16
SMALL_BITS = 9.0
"""Bits per element of a small tensor, which nearly always has the finest step."""
LINE_BITS = 8.0
"""Bits per row and per column of a matrix: its step and sigma."""
FIXED_BYTES = 6000
"""Header, coding tables, states of the coder."""


def implied_layout(model: object) -> Layout:
    """The layout of the network that `model` (ModelConfig's fields) describes.

    Raises ArtifactError if it describes none, or one with an implausible size.
    """
    try:
        with torch.device("meta"):
            network = GPT(config_from_dict(ModelConfig, model))
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"header's model describes no network: {error}") from error
    layout, roles = {}, roles_of(network)
    for name, parameter in network.named_parameters():
        shape = tuple(parameter.shape)
        is_large = len(shape) == 2 and min(shape) >= MIN_SIDE
        layout[name] = TensorLayout(shape, roles[name].kind if is_large else "small")
    return layout


def count_elements(layout: Layout) -> int:
    """Number of weights."""
    return sum(math.prod(part.shape) for part in layout.values())


def row_view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as it is quantized: a vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def artifact_bytes_at(layout: Layout, bits: float) -> int:
    """Estimated bytes of an artifact (entropy) whose matrices and tables average `bits` per weight."""
    num_large, side_bits = _size_parts(layout)
    return FIXED_BYTES + round((bits * num_large + side_bits) / 8)


def bits_that_fit(layout: Layout, limit_bytes: int) -> float:
    """Bits per weight of the matrices and tables that fill an artifact of `limit_bytes`."""
    num_large, side_bits = _size_parts(layout)
    return (8 * (limit_bytes - FIXED_BYTES) - side_bits) / max(1, num_large)


def _size_parts(layout: Layout) -> tuple[int, float]:
    """Number of weights in matrices and tables, and bits of everything else but FIXED_BYTES."""
    large = {name: part for name, part in layout.items() if part.kind != "small"}
    num_lines = sum(sum(row_view(part.shape)) for part in large.values())
    num_large = count_elements(large)
    return num_large, SMALL_BITS * (count_elements(layout) - num_large) + LINE_BITS * num_lines
