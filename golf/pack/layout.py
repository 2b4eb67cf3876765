"""Names, shapes and kinds of a model's tensors, all implied by its config: none of it is stored."""

import math
from typing import Literal

import torch

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.container import ArtifactError
from golf.system.stored import config_from_dict

Weights = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]
TensorKind = Literal["matrix", "embedding", "small"]

_LARGEST_SIZE = 1 << 24
_MOST_LAYERS = 1024
_SMALLEST_SIDE = 16


def implied_shapes(model: object) -> Shapes:
    """Shape by name, in the model's own order, of the network that `model` (ModelConfig's fields) describes.

    ArtifactError when it describes none, or one with a size beyond reason.
    """
    if not isinstance(model, dict):
        raise ArtifactError(f"header's model is a {type(model).__name__}; expected an object")
    for name, value in model.items():
        most = _MOST_LAYERS if name == "num_layers" else _LARGEST_SIZE
        if isinstance(value, int) and not 0 <= value <= most:
            raise ArtifactError(f"header's model has {name} = {value}; expected 0 to {most:,}")
    try:
        with torch.device("meta"):
            network = GPT(config_from_dict(ModelConfig, model))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ArtifactError(f"header's model describes no network: {error}") from error
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def count_elements(shapes: Shapes) -> int:
    """Number of weights."""
    return sum(math.prod(shape) for shape in shapes.values())


def tensor_kind(name: str, shape: tuple[int, ...]) -> TensorKind:
    """Matrices of the blocks, other tables and matrices, and the small rest (gains, scales, mixes)."""
    if len(shape) != 2 or min(shape) < _SMALLEST_SIDE:
        return "small"
    return "matrix" if name.startswith("blocks.") else "embedding"


def require_finite(weights: Weights) -> None:
    """ValueError that names the first tensor with a NaN or an infinity."""
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"weight {name} has NaN or infinite values; it cannot be packed")


def require_shapes(weights: Weights, shapes: Shapes) -> None:
    """ValueError that names the first difference between weights and the shapes their config implies."""
    for name in sorted(weights.keys() ^ shapes.keys()):
        raise ValueError(f"weight {name} is {'missing' if name in shapes else 'unknown to the model config'}")
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"weight {name} has shape {tuple(weights[name].shape)}; the config implies {shape}"
            )
