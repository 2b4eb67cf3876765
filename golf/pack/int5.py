"""Quantizer "int5", the reference: one fp16 scale per row, int5 matrices, int8 embeddings, under zstd-22.

    fp16 blocks of small tensors and of row scales | int8 codes of matrices and embeddings

One code per byte: bit-packing the codes before zstd costs 15%. Shapes: R rows, C columns.
"""

import math

import numpy as np
import torch

from golf.pack.calibrate import Calibration
from golf.pack.container import ArtifactError, PayloadReader, decode_fp16_block, encode_fp16_block
from golf.pack.fit import BudgetError
from golf.pack.layout import Fitted, Layout, Weights, Wrap, count_elements

MAX_COARSENESS = 1.0
"""Largest step in units of a row's sigma; a model that needs more is too large for its bytes."""
MAX_CODE = {"matrix": 15, "embedding": 127}
_ZSTD_TRIES = 6
_ENTROPY_BISECTIONS = 12
_MIN_USED_SHARE = 0.9995


def fit_int5(
    weights: Weights, layout: Layout, calibration: Calibration | None, limit_bytes: int, wrap: Wrap
) -> Fitted:
    """The artifact of the smallest coarseness that fits.

    Coarseness is bisected on the codes' entropy; its ratio to real bytes is corrected with every try.
    """
    payload, entropy_bytes = encode_int5(weights, layout, 0.0)
    artifact = wrap(payload)
    if len(artifact) <= limit_bytes:
        return artifact, {"coarseness": 0.0, "notes": []}
    too_fine, fits, best = 0.0, MAX_COARSENESS, b""
    for _ in range(_ZSTD_TRIES):
        wanted_bytes = limit_bytes / (len(artifact) / entropy_bytes)
        coarseness = _bisect_coarseness(weights, layout, wanted_bytes, too_fine, fits)
        payload, entropy_bytes = encode_int5(weights, layout, coarseness)
        artifact = wrap(payload)
        # The ratio is not smooth in the step, so every try also narrows the bracket.
        if len(artifact) <= limit_bytes:
            fits, best = coarseness, artifact
        elif coarseness == MAX_COARSENESS:
            break
        else:
            too_fine = coarseness
        if _MIN_USED_SHARE * limit_bytes <= len(best):
            break
    if best:
        return best, {"coarseness": fits, "notes": []}
    num_weights = count_elements(layout)
    raise BudgetError(
        f"artifact is {len(artifact):,} bytes at the coarsest step; {limit_bytes:,} are left for it: about "
        f"{num_weights * limit_bytes // len(artifact):,} of the {num_weights:,} parameters would fit"
    )


def decode_int5(payload: memoryview, layout: Layout) -> Weights:
    """The tensors of `encode_int5`, fp32; ArtifactError unless the payload has their size, all finite."""
    reader, weights = PayloadReader(payload), {}
    blocks = {
        name: reader.take_fp16_block(math.prod(shape) if kind == "small" else shape[0])
        for name, (shape, kind) in layout.items()
    }
    for name, (shape, kind) in layout.items():
        if kind == "small":
            values = blocks[name].reshape(shape)
        else:
            codes = reader.take_array("i1", math.prod(shape))
            with np.errstate(over="ignore", invalid="ignore"):
                values = codes.reshape(shape).astype(np.float32) * blocks[name][:, None]
        if not np.isfinite(values).all():
            raise ArtifactError(f"weight {name} decodes to values that are not finite")
        weights[name] = torch.from_numpy(values)
    if len(reader.rest):
        raise ArtifactError(f"payload has {len(reader.rest):,} bytes more than the model's tensors need")
    return weights


def quantize_rows(weight_RC: np.ndarray, max_code: int, coarseness: float) -> tuple[bytes, np.ndarray]:
    """Encoded scales by row, and int8 codes rounded with the scales as they will be decoded.

    A row's step is absmax / max_code, so that nothing clips, or coarseness x sigma (its root mean square)
    where that is larger; coarseness is relative to 15 codes and shrinks with more of them.
    """
    sigma_R = np.sqrt(np.mean(np.square(weight_RC, dtype=np.float64), axis=1))
    absmax_R = np.max(np.abs(weight_RC), axis=1).astype(np.float64)
    step_R = np.maximum(absmax_R / max_code, coarseness * MAX_CODE["matrix"] / max_code * sigma_R)
    scales = encode_fp16_block(step_R, round_up=True)
    step_R = decode_fp16_block(scales)
    divisor_R1 = np.where(step_R > 0, step_R, 1.0)[:, None]
    return scales, np.rint(weight_RC / divisor_R1).astype(np.int8)


def encode_int5(weights: Weights, layout: Layout, coarseness: float) -> tuple[bytes, float]:
    """The payload, every fp16 block first, then every code; and the order-0 entropy of the codes in bytes."""
    blocks, codes, bits = [], [], 0.0
    for name, (_, kind) in layout.items():
        if kind == "small":
            blocks.append(encode_fp16_block(weights[name].numpy()))
        else:
            scales, codes_RC = quantize_rows(weights[name].numpy(), MAX_CODE[kind], coarseness)
            blocks.append(scales)
            codes.append(codes_RC.tobytes())
            counts = np.bincount(codes_RC.reshape(-1).view(np.uint8))
            counts = counts[counts > 0]
            bits += float(np.sum(counts * np.log2(counts.sum() / counts)))
    return b"".join(blocks + codes), bits / 8


def _bisect_coarseness(
    weights: Weights, layout: Layout, entropy_bytes: float, too_fine: float, fits: float
) -> float:
    """Smallest coarseness whose codes' entropy is at most `entropy_bytes`, strictly inside the bracket."""
    if fits == MAX_COARSENESS and encode_int5(weights, layout, fits)[1] > entropy_bytes:
        return MAX_COARSENESS
    low, high = too_fine, fits
    for _ in range(_ENTROPY_BISECTIONS):
        middle = (low + high) / 2
        is_too_fine = encode_int5(weights, layout, middle)[1] > entropy_bytes
        low, high = (middle, high) if is_too_fine else (low, middle)
    return high if high < fits else (too_fine + fits) / 2
