"""The reference quantiser: one scale a row, int5 codes for matrices, int8 for embeddings, one code a byte.

The codes go into zstd as they are: bit-packing them first costs 15%. Shapes: R rows, C columns.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from golf.pack.budget import BudgetError, parameters_that_fit
from golf.pack.container import ArtifactError, write_container
from golf.pack.halves import decode_halves, encode_halves, halves_bytes
from golf.pack.layout import Shapes, TensorKind, Weights, tensor_kind

COARSEST = 1.0
"""The largest step in units of a row's sigma; a model that needs more is too big for its bytes."""
_ZSTD_TRIES = 6
_CLOSE_ENOUGH = 0.9995
MAX_CODE: dict[TensorKind, int] = {"matrix": 15, "embedding": 127}


def row_steps(weight_RC: np.ndarray, largest_code: int, coarseness: float) -> np.ndarray:
    """Step by row: absmax / largest_code, so that nothing clips, or coarseness x sigma where that is more.

    sigma is the row's root mean square; coarseness is meant for 15 codes and shrinks as they grow more.
    """
    sigma_R = np.sqrt(np.mean(np.square(weight_RC, dtype=np.float64), axis=1))
    absmax_R = np.max(np.abs(weight_RC), axis=1).astype(np.float64)
    coarse = coarseness * MAX_CODE["matrix"] / largest_code
    return np.maximum(absmax_R / largest_code, coarse * sigma_R)


def quantize_rows(weight_RC: np.ndarray, largest_code: int, coarseness: float) -> tuple[bytes, np.ndarray]:
    """Encoded scales, and int8 codes rounded against the scales as they will be decoded."""
    scales = encode_halves(row_steps(weight_RC, largest_code, coarseness), round_up=True)
    steps_R = decode_halves(scales)
    divisors_R1 = np.where(steps_R > 0, steps_R, 1.0)[:, None]
    return scales, np.rint(weight_RC / divisors_R1).astype(np.int8)


def encode_int5(weights: Weights, coarseness: float) -> bytes:
    """All tensors as one payload: every fp16 part first, then every code."""
    halves, codes = [], []
    for name, tensor in weights.items():
        kind, array = tensor_kind(name, tuple(tensor.shape)), tensor.numpy()
        if kind == "small":
            halves.append(encode_halves(array))
        else:
            scales, codes_RC = quantize_rows(array, MAX_CODE[kind], coarseness)
            halves.append(scales)
            codes.append(codes_RC.tobytes())
    return b"".join(halves + codes)


def decode_int5(payload: memoryview, shapes: Shapes) -> Weights:
    """The tensors of `encode_int5`, fp32; ArtifactError unless the payload has exactly their size."""
    kinds = {name: tensor_kind(name, shape) for name, shape in shapes.items()}
    half_sizes = [_half_count(shape, kinds[name]) for name, shape in shapes.items()]
    code_sizes = [0 if kinds[name] == "small" else math.prod(shape) for name, shape in shapes.items()]
    expected = sum(map(halves_bytes, half_sizes)) + sum(code_sizes)
    if len(payload) != expected:
        raise ArtifactError(f"payload is {len(payload):,} bytes; the model's tensors need {expected:,}")
    parts = _cut(payload, [*map(halves_bytes, half_sizes), *code_sizes])
    halves = {name: decode_halves(next(parts)) for name in shapes}
    weights = {}
    for name, shape in shapes.items():
        codes = np.frombuffer(next(parts), dtype=np.int8)
        if kinds[name] == "small":
            weights[name] = torch.from_numpy(halves[name].reshape(shape))
        else:
            weights[name] = torch.from_numpy(codes.reshape(shape).astype(np.float32) * halves[name][:, None])
    return weights


def code_entropy_bytes(weights: Weights, coarseness: float) -> float:
    """Bytes that the order-0 entropy of each tensor's codes asks for at this coarseness."""
    bits = 0.0
    for name, tensor in weights.items():
        kind = tensor_kind(name, tuple(tensor.shape))
        if kind != "small":
            _, codes_RC = quantize_rows(tensor.numpy(), MAX_CODE[kind], coarseness)
            counts = np.bincount(codes_RC.reshape(-1).view(np.uint8))
            counts = counts[counts > 0]
            bits += float(np.sum(counts * np.log2(counts.sum() / counts)))
    return bits / 8


def fit_int5(
    weights: Weights, header: dict[str, object], limit_bytes: int
) -> tuple[bytes, dict[str, object]]:
    """The finest coarseness that fits: bisected on entropy, whose ratio to real bytes is then corrected."""
    artifact = _encode_at(weights, header, 0.0)
    if len(artifact) <= limit_bytes:
        return artifact, {"coarseness": 0.0, "notes": []}
    ratio = len(artifact) / code_entropy_bytes(weights, 0.0)
    too_fine, fits, best = 0.0, COARSEST, b""
    for _ in range(_ZSTD_TRIES):
        coarseness = _bisect_coarseness(weights, limit_bytes / ratio, too_fine, fits)
        artifact = _encode_at(weights, header, coarseness)
        # zstd's own ratio jumps about with the step, so every try also narrows the bracket.
        if len(artifact) <= limit_bytes:
            fits, best = coarseness, artifact
        elif coarseness == COARSEST:
            break
        else:
            too_fine = coarseness
        if _CLOSE_ENOUGH * limit_bytes <= len(best):
            break
        ratio = len(artifact) / code_entropy_bytes(weights, coarseness)
    if best:
        return best, {"coarseness": fits, "notes": []}
    num_weights = sum(math.prod(tensor.shape) for tensor in weights.values())
    fit = parameters_that_fit(num_weights, len(artifact), limit_bytes)
    raise BudgetError(
        f"artifact is {len(artifact):,} bytes at the coarsest grid; {limit_bytes:,} are left for it: "
        f"about {fit:,} of the {num_weights:,} parameters would fit"
    )


def _bisect_coarseness(weights: Weights, entropy_bytes: float, too_fine: float, fits: float) -> float:
    """The finest coarseness whose codes' entropy is at most `entropy_bytes`, strictly inside the bracket."""
    if fits == COARSEST and code_entropy_bytes(weights, fits) > entropy_bytes:
        return COARSEST
    low, high = too_fine, fits
    for _ in range(12):
        middle = (low + high) / 2
        if code_entropy_bytes(weights, middle) > entropy_bytes:
            low = middle
        else:
            high = middle
    return high if high < fits else (too_fine + fits) / 2


def _encode_at(weights: Weights, header: dict[str, object], coarseness: float) -> bytes:
    return write_container({**header, "scheme": "int5"}, encode_int5(weights, coarseness))


def _half_count(shape: tuple[int, ...], kind: TensorKind) -> int:
    return math.prod(shape) if kind == "small" else shape[0]


def _cut(data: memoryview, sizes: list[int]) -> Iterator[memoryview]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
