import struct

import numpy as np
import pytest
import zstandard

from golf.pack.container import (
    ARTIFACT_CODEC,
    ARTIFACT_MAGIC,
    ARTIFACT_VERSION,
    ArtifactError,
    container_checksum,
    decode_fp16_block,
    encode_fp16_block,
    read_container,
    write_container,
)

HEADER = {"model": {"width": 8}, "scheme": "int5"}


def forged(body: bytes, claimed: int | None = None, frame: bytes | None = None) -> bytes:
    """A file whose checksum is right and whose claims are the forger's."""
    frame = zstandard.ZstdCompressor().compress(body) if frame is None else frame
    size = len(body) if claimed is None else claimed
    preamble = struct.pack("<4sB4sQ", ARTIFACT_MAGIC, ARTIFACT_VERSION, ARTIFACT_CODEC, size)
    return preamble + container_checksum(preamble, frame) + frame


def test_header_and_payload_come_back():
    payload = np.random.default_rng(0).bytes(5000)
    header, back = read_container(write_container(HEADER, payload))
    assert header == HEADER and bytes(back) == payload


def test_the_same_content_gives_the_same_bytes_whatever_the_key_order():
    assert write_container({"a": 1, "b": 2}, b"xyz") == write_container({"b": 2, "a": 1}, b"xyz")


def test_every_truncation_and_every_flipped_byte_is_refused():
    data = write_container(HEADER, bytes(range(200)))
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            read_container(data[:length])
    for position in range(len(data)):
        for flip in (1, 128):
            damaged = bytearray(data)
            damaged[position] ^= flip
            with pytest.raises(ArtifactError):
                read_container(bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        forged(b"", claimed=1 << 60),
        forged(b"x" * 100, claimed=99),
        forged(bytes(200_000_000)),
        forged(b"\x00\x00"),
        forged(struct.pack("<I", 1 << 31) + b"{}"),
        forged(struct.pack("<I", 2) + b"[]"),
        forged(struct.pack("<I", 4) + b"{x:}"),
        forged(struct.pack("<I", 9) + b'{"a":NaN}'),
        forged(struct.pack("<I", 200_000) + b"[" * 200_000),
        forged(struct.pack("<I", 6000) + b"9" * 6000),
        forged(b"abc", frame=b"not a frame"),
        forged(b"abc", frame=zstandard.ZstdCompressor().compress(b"abc") + b"more"),
    ],
    ids=lambda _: "forged",
)
def test_a_forged_claim_is_refused(data):
    with pytest.raises(ArtifactError):
        read_container(data)


def test_a_header_with_nan_is_not_written():
    with pytest.raises(ValueError):
        write_container({"a": float("nan")}, b"")


@pytest.mark.parametrize("magnitude", [1e-38, 1e-8, 1.0, 7e4, 1e30])
def test_values_of_any_magnitude_keep_eleven_bits(magnitude):
    values = np.random.default_rng(0).uniform(0.5, 1.0, 1000).astype(np.float32) * np.float32(magnitude)
    back = decode_fp16_block(encode_fp16_block(values))
    assert np.all(np.abs(back - values) <= values * 2.0**-11)


def test_rounding_up_is_never_below():
    values = np.exp(np.random.default_rng(0).uniform(-25, 3, 5000))
    assert np.all(decode_fp16_block(encode_fp16_block(values, round_up=True)) >= values.astype(np.float32))


def test_zeros_and_nothing_come_back():
    assert np.array_equal(decode_fp16_block(encode_fp16_block(np.zeros(3))), np.zeros(3))
    assert len(encode_fp16_block(np.zeros(0))) == 2
    assert decode_fp16_block(encode_fp16_block(np.zeros(0))).size == 0


def test_a_value_that_is_not_finite_is_refused():
    for bad in (np.nan, np.inf):
        data = np.array([0], "<i2").tobytes() + np.array([1, bad], "<f2").tobytes()
        with pytest.raises(ArtifactError):
            decode_fp16_block(data)
    with pytest.raises(ArtifactError):
        decode_fp16_block(np.array([3000], "<i2").tobytes() + np.array([1], "<f2").tobytes())
