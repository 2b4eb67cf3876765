"""Checkpoints (the whole state of a run, to resume it exactly) and weights on disk."""

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


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) atomically."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; CheckpointError if it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes contiguous CPU weights as safetensors, atomically."""
    with atomic_write(path) as partial:
        save_file(weights, partial)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads weights that `save_weights` wrote; CheckpointError if they are missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error
