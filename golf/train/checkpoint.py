"""Checkpoints (the whole state of a run, to resume it exactly) and weights on disk."""

import hashlib
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from golf.system.files import DiskFullError, atomic_write, sha256_of_file

SEAL = b"golfsum1"
"""Stands at a checkpoint's end, after the sha256 of all before it; readers of zip files ignore both."""
SEAL_BYTES = 32 + len(SEAL)
WEIGHTS_FORMAT = "golf"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another configuration."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) atomically, with a checksum; keeps the one before it.

    Where the disk has no room for three, that one goes.
    """
    before = checkpoint_before(path)
    try:
        _write_checkpoint(path, state)
    except DiskFullError:
        if not before.is_file():
            raise
        before.unlink()
        _write_checkpoint(path, state)


def _write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        with open(partial, "wb") as file:
            torch.save(state, file)
        digest = bytes.fromhex(sha256_of_file(partial))
        with open(partial, "ab") as file:
            file.write(digest + SEAL)
        if path.is_file():
            # Some file systems have no links; there only the newest one is kept.
            with suppress(OSError):
                before = checkpoint_before(path)
                before.unlink(missing_ok=True)
                os.link(path, before)


def checkpoint_before(path: Path) -> Path:
    """Where the checkpoint before the newest one is kept."""
    return path.with_stem(path.stem + "_before")


def newest_sound_checkpoint(path: Path, say: Callable[[str], None]) -> Path:
    """`path`, or the checkpoint before it if it is damaged, which it says; CheckpointError if both are."""
    try:
        require_sound_checkpoint(path)
    except CheckpointError as error:
        before = checkpoint_before(path)
        if not before.is_file():
            raise
        require_sound_checkpoint(before)
        say(f"{error}; going on from the one before it, {before.name}")
        return before
    return path


def require_sound_checkpoint(path: Path) -> None:
    """Raises CheckpointError unless the file's bytes are those that were written."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END) - SEAL_BYTES
            file.seek(max(0, size))
            digest, seal = file.read(32), file.read()
            file.seek(0)
            found, left = hashlib.sha256(), max(0, size)
            while chunk := file.read(min(left, 1 << 20)):
                found.update(chunk)
                left -= len(chunk)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error.strerror})") from error
    if seal != SEAL or found.digest() != digest:
        raise CheckpointError(f"checkpoint {path} is damaged or of an earlier version: its checksum is wrong")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; CheckpointError if it is missing or damaged."""
    require_sound_checkpoint(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({type(error).__name__})") from error


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes contiguous CPU weights as safetensors, atomically, with a checksum among its metadata."""
    with atomic_write(path) as partial:
        save_file(weights, partial, describe_weights(weights))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads weights in safetensors; CheckpointError if they are missing, or not those that were written.

    Files of other programs have no checksum.
    """
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            stated = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}") from error
    is_own = "sha256" in stated or stated.get("format") == WEIGHTS_FORMAT
    if is_own and stated != describe_weights(weights):
        raise CheckpointError(f"weights {path} are damaged: their checksum is not right")
    return weights


def describe_weights(weights: dict[str, Tensor]) -> dict[str, str]:
    """The metadata of a file of weights: sha256 of names, dtypes, shapes and values."""
    found = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return {"format": WEIGHTS_FORMAT, "sha256": found.hexdigest()}
