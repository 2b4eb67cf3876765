"""The artifact file: a preamble, then one zstd frame that holds a JSON header and a payload.

    magic 4s | version u8 | codec 4s | body bytes u64 | sha256 of preamble and frame, first 8 bytes | frame
    body = header bytes u32 | canonical JSON | payload

Reading never trusts a size: the checksum comes first, and no claim may pass MAX_EXPANSION times the file.
"""

import hashlib
import json
import struct

import zstandard

ARTIFACT_MAGIC = b"GOLF"
ARTIFACT_VERSION = 2
"""Counts the changes of what the payload means: a file of another version is refused, not misread."""
ARTIFACT_CODEC = b"zstd"
ZSTD_LEVEL = 22
MAX_EXPANSION = 32
"""Codes, or bytes of the body, that a byte of the file can stand for: a quarter of a bit a weight."""
EXPANSION_FLOOR = 1 << 20
"""Added to that bound, so that tiny models of few distinct codes are not refused."""
MAX_HEADER_BYTES = 1 << 20

_PREAMBLE = struct.Struct("<4sB4sQ")
_HEADER_LENGTH = struct.Struct("<I")
_CHECKSUM_BYTES = 8


class ArtifactError(ValueError):
    """Bytes that are no artifact of this project, or a damaged one."""


def plausible_size(data_bytes: int) -> int:
    """The most codes, or bytes, that a file of `data_bytes` may claim to hold."""
    return EXPANSION_FLOOR + MAX_EXPANSION * data_bytes


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII; ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def write_container(header: dict[str, object], payload: bytes) -> bytes:
    """Header and payload as one file; the same input always gives the same bytes."""
    text = canonical_json(header)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"header is {len(text):,} bytes; at most {MAX_HEADER_BYTES:,} are allowed")
    body = _HEADER_LENGTH.pack(len(text)) + text + payload
    frame = _compress_body(body)
    preamble = _PREAMBLE.pack(ARTIFACT_MAGIC, ARTIFACT_VERSION, ARTIFACT_CODEC, len(body))
    data = preamble + _container_checksum(preamble, frame) + frame
    if len(body) > plausible_size(len(data)):
        raise ValueError(f"weights carry too little: {len(body):,} bytes of codes became {len(data):,} bytes")
    return data


def read_container(data: bytes) -> tuple[dict[str, object], memoryview]:
    """Header and payload of a file; ArtifactError for anything `write_container` did not write."""
    start = _PREAMBLE.size + _CHECKSUM_BYTES
    if len(data) < start:
        raise ArtifactError(f"artifact is {len(data)} bytes; even an empty one has more than {start}")
    magic, version, codec, body_bytes = _PREAMBLE.unpack_from(data)
    if magic != ARTIFACT_MAGIC:
        raise ArtifactError(f"artifact starts with {magic!r}; expected {ARTIFACT_MAGIC!r}")
    if version != ARTIFACT_VERSION:
        raise ArtifactError(
            f"artifact is of version {version}; expected {ARTIFACT_VERSION}: "
            "the train_gpt.py of its own entry reads it"
        )
    if codec != ARTIFACT_CODEC:
        raise ArtifactError(f"artifact's codec is {codec!r}; expected {ARTIFACT_CODEC!r}")
    frame = memoryview(data)[start:]
    if _container_checksum(data[: _PREAMBLE.size], frame) != data[_PREAMBLE.size : start]:
        raise ArtifactError("artifact is damaged or cut off: its checksum does not match its bytes")
    body = _decompress_body(frame, body_bytes, plausible_size(len(data)))
    return _split_body(body)


def _container_checksum(preamble: bytes, frame: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(preamble)
    digest.update(frame)
    return digest.digest()[:_CHECKSUM_BYTES]


def _compress_body(body: bytes) -> bytes:
    """Level 22 with tables of 5 MB in place of 290: codes have no far repeats, so it costs no byte."""
    window = min(20, max(10, len(body).bit_length()))
    tables = {"window_log": window, "hash_log": min(18, window), "chain_log": min(18, window)}
    parameters = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, source_size=len(body), **tables)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(body)


def _decompress_body(frame: memoryview, body_bytes: int, most_bytes: int) -> bytes:
    if body_bytes > most_bytes:
        raise ArtifactError(f"artifact claims {body_bytes:,} bytes; its size allows {most_bytes:,}")
    try:
        # The frame's own claim is what zstd allocates by, so it must agree before decompression.
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != body_bytes:
            raise ArtifactError(f"zstd frame claims {claimed:,} bytes; the artifact {body_bytes:,}")
        # A window larger than the content would be another claim to take memory by.
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ArtifactError(f"artifact's zstd frame cannot be read: {error}") from error
    if len(body) != body_bytes:
        raise ArtifactError(f"zstd frame holds {len(body):,} bytes; the artifact claims {body_bytes:,}")
    return body


def _split_body(body: bytes) -> tuple[dict[str, object], memoryview]:
    if len(body) < _HEADER_LENGTH.size:
        raise ArtifactError(
            f"artifact's body is {len(body)} bytes; a header has at least {_HEADER_LENGTH.size}"
        )
    (length,) = _HEADER_LENGTH.unpack_from(body)
    end = _HEADER_LENGTH.size + length
    if length > MAX_HEADER_BYTES or end > len(body):
        raise ArtifactError(f"artifact's header claims {length:,} bytes; the body has {len(body):,}")
    try:
        header = json.loads(body[_HEADER_LENGTH.size : end], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"artifact's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError(f"artifact's header is a {type(header).__name__}; expected an object")
    return header, memoryview(body)[end:]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")
