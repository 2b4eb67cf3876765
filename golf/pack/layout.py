"""Names, shapes and kinds of a model's tensors, all implied by its config, and size estimates from them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.roles import roles_of
from golf.pack.container import ArtifactError
from golf.system.stored import config_from_dict

Weights = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
TensorKind = Literal["matrix", "embedding", "small"]
Wrap = Callable[[bytes], bytes]
"""From a quantizer's payload to the bytes of the artifact."""
Fitted = tuple[bytes, dict[str, Any]]
"""An artifact's bytes and its quantizer's report, JSON-able, with `notes`: a list of lines for the user."""

SMALL_BITS = 9.0
"""Bits per element of a small tensor, which nearly always has the finest step."""
LINE_BITS = 8.0
"""Bits per row and per column of a matrix: its step and sigma."""
FIXED_BYTES = 6000
"""Header, coding tables, states of the coder."""
_MAX_SIZE = 1 << 24
_MAX_LAYERS = 1024
_MIN_SIDE = 16


@dataclass(frozen=True)
class CodedTensor:
    """The codes of one tensor of an artifact, as a quantizer describes them; shape (R rows, C columns)."""

    codes_RC: np.ndarray
    """Signed integers; a weight is about code x row step x column step."""
    step_R: np.ndarray
    step_C: np.ndarray
    bits: float
    """Length of the codes under the coder's tables."""
    entropy_bits: float
    """Their share of the entropy of all codes, given the context that the coder knows of each."""
    num_escaped: int
    """Codes too large for the coder's alphabet."""


def implied_shapes(model: object) -> Shapes:
    """Shape by name, in the model's own order, of the network that `model` (ModelConfig's fields) describes.

    Raises ArtifactError if it describes none, or one with an implausible size.
    """
    if not isinstance(model, dict):
        raise ArtifactError(f"header's model is a {type(model).__name__}; expected an object")
    for name, value in model.items():
        largest = _MAX_LAYERS if name == "num_layers" else _MAX_SIZE
        if isinstance(value, int) and not 0 <= value <= largest:
            raise ArtifactError(f"header's model has {name} = {value}; expected 0 to {largest:,}")
    try:
        with torch.device("meta"):
            network = GPT(config_from_dict(ModelConfig, model))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ArtifactError(f"header's model describes no network: {error}") from error
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    for name, role in roles_of(network).items():
        # A matrix with a side below _MIN_SIDE is packed as small; nothing else may differ from its role.
        kind = tensor_kind(name, shapes[name])
        if kind not in ("small", role.kind):
            raise ArtifactError(f"{name} has the role of a {role.kind} tensor; it would be packed as {kind}")
    return shapes


def count_elements(shapes: Shapes) -> int:
    """Number of weights."""
    return sum(math.prod(shape) for shape in shapes.values())


def row_view(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor as it is quantized: a vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


def tensor_kind(name: str, shape: tuple[int, ...]) -> TensorKind:
    """Matrices of the blocks, other tables and matrices, and the small rest (gains, scales, mixes)."""
    if len(shape) != 2 or min(shape) < _MIN_SIDE:
        return "small"
    return "matrix" if name.startswith("blocks.") else "embedding"


def require_finite(weights: Weights) -> None:
    """Raises ValueError with the name of the first tensor that has a NaN or an infinity."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"weight {name} has NaN or infinite values; it cannot be packed")


def require_shapes(weights: Weights, shapes: Shapes) -> None:
    """Raises ValueError with the first difference between weights and the shapes of their config."""
    for name in sorted(weights.keys() ^ shapes.keys()):
        raise ValueError(f"weight {name} is {'missing' if name in shapes else 'unknown to the model config'}")
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"weight {name} has shape {tuple(weights[name].shape)}; the config implies {shape}"
            )


def artifact_bytes_at(shapes: Shapes, bits: float) -> int:
    """Estimated bytes of an artifact (entropy) whose matrices and tables average `bits` per weight."""
    num_large, side_bits = _size_parts(shapes)
    return FIXED_BYTES + round((bits * num_large + side_bits) / 8)


def bits_that_fit(shapes: Shapes, limit_bytes: int) -> float:
    """Bits per weight of the matrices and tables that fill an artifact of `limit_bytes`."""
    num_large, side_bits = _size_parts(shapes)
    return (8 * (limit_bytes - FIXED_BYTES) - side_bits) / max(1, num_large)


def _size_parts(shapes: Shapes) -> tuple[int, float]:
    """Number of weights in matrices and tables, and bits of everything else but FIXED_BYTES."""
    large = {name: shape for name, shape in shapes.items() if tensor_kind(name, shape) != "small"}
    num_lines = sum(sum(row_view(shape)) for shape in large.values())
    num_large = count_elements(large)
    return num_large, SMALL_BITS * (count_elements(shapes) - num_large) + LINE_BITS * num_lines
