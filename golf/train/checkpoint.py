"""A run's state on disk, so that a killed run goes on as if nothing had happened."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from golf.system.files import atomic_write


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another configuration."""


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Writes `state` (tensors and plain values), whole or not at all."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; CheckpointError if it is missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes contiguous CPU weights as safetensors, whole or not at all."""
    with atomic_write(path) as partial:
        save_file(weights, partial)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads weights that `save_weights` wrote; CheckpointError if they are missing or damaged."""
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error
