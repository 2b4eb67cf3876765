"""The artifact file: a preamble, then one zstd frame that holds a JSON header and a quantizer's payload.

    magic 4s | version u8 | codec 4s | body bytes u64 | sha256 of preamble and frame, first 8 bytes | frame
    body = header bytes u32 | canonical JSON | payload

Reading trusts no stored size: the checksum is compared first, and every size is bounded by MAX_EXPANSION
times the file's. Below are also the parts that payloads share: a bounded reader, and blocks of fp16 values.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from golf.system.stored import parse_json, read_bounded

ARTIFACT_MAGIC = b"GOLF"
ARTIFACT_VERSION = 2
"""Increases when the payload's meaning changes; files of other versions raise ArtifactError."""
ARTIFACT_CODEC = b"zstd"
ZSTD_LEVEL = 22
MAX_EXPANSION = 32
"""Maximum number of codes, or of body bytes, per byte of the file: a quarter of a bit per weight."""
MAX_ARTIFACT_BYTES = 1 << 26
"""Four times the limit of an entry."""
EXPANSION_FLOOR = 1 << 24
"""Added to that bound: a large table that a short run hardly touched takes almost no bytes."""

_PREAMBLE = struct.Struct("<4sB4sQ")
_CHECKSUM_BYTES = 8
_FP16_BYTES = 2
_FP16_MAX_EXPONENT = 15


class ArtifactError(ValueError):
    """Bytes that are not an artifact of this project, or are damaged."""


def plausible_size(data_bytes: int) -> int:
    """Maximum number of codes, or of bytes, that a file of `data_bytes` may claim to hold."""
    return EXPANSION_FLOOR + MAX_EXPANSION * data_bytes


def write_container(header: dict[str, Any], payload: bytes) -> bytes:
    """The file's bytes, a function of header and payload alone."""
    # Canonical JSON: sorted keys, no spaces, ASCII; raises ValueError for NaN and infinity.
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    body = encode_count(len(text)) + text + payload
    # Tables of 5 MB instead of the level's 290: codes have no distant repeats, so the size is the same.
    window = min(20, max(10, len(body).bit_length()))
    tables = {"window_log": window, "hash_log": min(18, window), "chain_log": min(18, window)}
    parameters = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, source_size=len(body), **tables)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compress(body)
    preamble = _PREAMBLE.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION, ARTIFACT_CODEC, len(body))
    data = preamble + container_checksum(preamble, frame) + frame
    if len(body) > plausible_size(len(data)):
        raise ValueError(f"weights carry too little: {len(body):,} bytes of codes became {len(data):,} bytes")
    return data


def read_container(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and payload of a file; raises ArtifactError unless `write_container` wrote it."""
    start = _PREAMBLE.size + _CHECKSUM_BYTES
    if len(data) < start:
        raise ArtifactError(f"artifact is {len(data)} bytes; even an empty one has more than {start}")
    magic, version, codec, body_bytes = _PREAMBLE.unpack_from(data)
    if (magic, codec) != (ARTIFACT_MAGIC, ARTIFACT_CODEC):
        raise ArtifactError("this is no artifact, or one of another program: its first bytes differ")
    if version != ARTIFACT_VERSION:
        expected = f"expected {ARTIFACT_VERSION}: the train_gpt.py of its own entry reads it"
        raise ArtifactError(f"artifact is of version {version}; {expected}")
    frame = memoryview(data)[start:]
    if container_checksum(data[: _PREAMBLE.size], frame) != data[_PREAMBLE.size : start]:
        raise ArtifactError("artifact is damaged or cut off: its checksum does not match its bytes")
    try:
        # zstd allocates the size that the frame states, so it is checked before decompression.
        claimed, allowed = zstandard.get_frame_parameters(frame).content_size, plausible_size(len(data))
        if not claimed == body_bytes <= allowed:
            raise ArtifactError(f"its frame claims {claimed:,} bytes, it {body_bytes:,}; allowed {allowed:,}")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
        reader = PayloadReader(memoryview(body))
        header = parse_json(bytes(reader.take(reader.take_count())))
    except (zstandard.ZstdError, ValueError) as error:
        raise ArtifactError(f"artifact cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError(f"artifact's header is a {type(header).__name__}; expected an object")
    return header, reader.rest


def read_artifact(path: Path) -> bytes:
    """An artifact file's bytes; ConfigError for what is no file, or too large to be one."""
    return read_bounded(path, MAX_ARTIFACT_BYTES)


def container_checksum(preamble: bytes, frame: bytes | memoryview) -> bytes:
    """The checksum between them."""
    return hashlib.sha256(b"".join([preamble, frame])).digest()[:_CHECKSUM_BYTES]


class PayloadReader:
    """Reads a payload from front to back; raises ArtifactError where it ends too early."""

    def __init__(self, data: memoryview):
        self.rest = data

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > len(self.rest):
            raise ArtifactError(f"payload ends early: {size:,} bytes expected, {len(self.rest):,} left")
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

    def take_array(self, dtype: str, count: int) -> np.ndarray:
        """The next `count` values of a numpy type."""
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype=dtype)

    def take_count(self) -> int:
        """The count that `encode_count` wrote."""
        return int(self.take_array("<u4", 1)[0])

    def take_fp16_block(self, count: int) -> np.ndarray:
        """The block of `count` values that `encode_fp16_block` wrote, as fp32."""
        return decode_fp16_block(self.take(_FP16_BYTES * (count + 1)))


def encode_count(count: int) -> bytes:
    """A count, u32, as written in front of a section."""
    return struct.pack("<I", count)


def encode_fp16_block(values: np.ndarray, round_up: bool = False) -> bytes:
    """A shared power of two and fp16 values relative to it, so that no magnitude over- or underflows.

    int16 exponent, then the values divided by 2^exponent, the largest of them in [2^14, 2^15]. With
    `round_up` no value is rounded below its input: a scale computed from an absolute maximum stays an upper
    bound.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    largest = np.max(np.abs(values), initial=0.0)
    exponent = int(np.frexp(largest)[1]) - _FP16_MAX_EXPONENT if largest > 0 else 0
    scaled = np.ldexp(values, -exponent)
    block = scaled.astype("<f2")
    if round_up:
        block = np.where(block < scaled, np.nextafter(block, np.float16(np.inf)), block).astype("<f2")
    return np.array([exponent], dtype="<i2").tobytes() + block.tobytes()


def decode_fp16_block(data: bytes | memoryview) -> np.ndarray:
    """The values as fp32, exact; raises ArtifactError for NaN and infinity."""
    exponent = int(np.frombuffer(data, dtype="<i2", count=1)[0])
    block = np.frombuffer(data, dtype="<f2", offset=_FP16_BYTES)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ldexp(block.astype(np.float64), exponent).astype(np.float32)
    if not np.isfinite(values).all():
        raise ArtifactError("artifact holds an fp16 value that is not finite")
    return values
