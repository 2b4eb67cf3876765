"""The challenge's shard format: a header of 256 little-endian int32, then the tokens as uint16."""

from pathlib import Path

import numpy as np

from golf.system.files import atomic_write

SHARD_START = (20240520, 1)
SHARD_HEADER_BYTES = 256 * 4


class DataError(ValueError):
    """A dataset is missing, incomplete or damaged, or its parts do not belong together."""


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Writes a shard atomically; DataError unless `tokens` (N) has 1 to 2**31 - 1 integers in 0..65535."""
    if not 0 < len(tokens) < 2**31:
        raise DataError(f"{path}: {len(tokens)} tokens; a shard holds 1 to 2147483647")
    if tokens.dtype != np.uint16 and (int(tokens.min()) < 0 or int(tokens.max()) >= 2**16):
        raise DataError(f"{path}: token ids {tokens.min()} to {tokens.max()}; a shard holds 0 to 65535")
    header = np.zeros(256, dtype="<i4")
    header[:3] = *SHARD_START, len(tokens)
    with atomic_write(path) as partial, open(partial, "wb") as file:
        file.write(header.tobytes())
        file.write(np.ascontiguousarray(tokens, dtype="<u2").data)


def read_shard(path: Path) -> np.ndarray:
    """The tokens (N) of a shard as a read-only uint16 memory map; DataError if header and size disagree."""
    try:
        size = path.stat().st_size
        header = np.fromfile(path, dtype="<i4", count=SHARD_HEADER_BYTES // 4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if size < SHARD_HEADER_BYTES:
        raise DataError(f"{path}: {size} bytes; a shard's header alone is {SHARD_HEADER_BYTES}")
    *start, count = map(int, header[:3])
    if tuple(start) != SHARD_START:
        raise DataError(f"{path}: starts with {start}; a shard starts with {SHARD_START}, magic and version")
    expected = SHARD_HEADER_BYTES + 2 * count
    if count < 1 or size != expected:
        raise DataError(f"{path}: {size} bytes; its header says {count} tokens, which is {expected} bytes")
    return np.memmap(path, dtype="<u2", mode="r", offset=SHARD_HEADER_BYTES, shape=(count,))


def check_token_ids(tokens: np.ndarray, vocab_size: int, name: str, offset: int = 0) -> None:
    """Raises DataError at an id of `vocab_size` or more; `offset` is the position of `tokens[0]`."""
    if len(tokens) and int(tokens.max()) >= vocab_size:
        position = int(np.argmax(tokens >= vocab_size))
        found = f"{name}: token {offset + position} is {tokens[position]}"
        raise DataError(f"{found}; the vocabulary has ids 0 to {vocab_size - 1}")
