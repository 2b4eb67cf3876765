"""The challenge's shard format: a header of 256 little-endian int32, then the tokens as uint16."""

import os
from pathlib import Path

import numpy as np

from golf.system.files import atomic_write

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
SHARD_HEADER_BYTES = 256 * 4


class ShardError(ValueError):
    """A shard file differs from its header or its manifest, or holds invalid tokens."""


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Writes a shard atomically; ShardError unless `tokens` (N) has 1 to 2**31 - 1 integers in 0..65535."""
    if not 0 < len(tokens) < 2**31:
        raise ShardError(f"{path}: {len(tokens)} tokens; a shard holds 1 to 2147483647")
    if tokens.dtype != np.uint16 and (int(tokens.min()) < 0 or int(tokens.max()) >= 2**16):
        raise ShardError(f"{path}: token ids {tokens.min()} to {tokens.max()}; a shard holds 0 to 65535")
    header = np.zeros(256, dtype="<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, len(tokens)
    with atomic_write(path) as partial, open(partial, "wb") as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(tokens, dtype="<u2").data)


def read_shard(path: Path) -> np.ndarray:
    """The tokens (N) of a shard as a read-only uint16 memory map; ShardError if header and size disagree."""
    count = _read_shard_header(path)
    return np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(count,))


def check_token_ids(tokens: np.ndarray, vocab_size: int, name: str, offset: int = 0) -> None:
    """Raises ShardError at the first token id outside 0..vocab_size - 1.

    The message names the shard and the position of the token in it; `offset` is the position of `tokens[0]`.
    """
    if len(tokens) and int(tokens.max()) >= vocab_size:
        position = int(np.argmax(tokens >= vocab_size))
        found = f"{name}: token {offset + position} is {tokens[position]}"
        raise ShardError(f"{found}; the vocabulary has ids 0 to {vocab_size - 1}")


def _read_shard_header(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            data = file.read(SHARD_HEADER_BYTES)
            size_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) < SHARD_HEADER_BYTES:
        raise ShardError(f"{path}: {size_bytes} bytes; a shard's header alone is {SHARD_HEADER_BYTES}")
    magic, version, count = (int(value) for value in np.frombuffer(data, dtype="<i4", count=3))
    if magic != SHARD_MAGIC:
        raise ShardError(f"{path}: magic number {magic}; a shard starts with {SHARD_MAGIC}")
    if version != SHARD_VERSION:
        raise ShardError(f"{path}: shard version {version}; only version {SHARD_VERSION} is known")
    expected_bytes = SHARD_HEADER_BYTES + 2 * count
    if count < 1 or size_bytes != expected_bytes:
        raise ShardError(
            f"{path}: {size_bytes} bytes; its header says {count} tokens, which is {expected_bytes} bytes"
        )
    return count
