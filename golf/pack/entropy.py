"""Quantizer "entropy": steps by the equal-slope rule, GPTQ, codes under a context-modelling entropy coder.

    base f4 | means of small tensors | medians i2, bins u1 (4 per tensor) | grid tables | grid stream | codes

base is the step of a weight of fisher 1. The grids' four vectors per tensor are coded as offsets from their
medians, under one of 8 tables by the bin of their standard deviation.
Shapes: R rows, C columns, N numbers.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from golf.pack.calibrate import Calibration
from golf.pack.container import ArtifactError, PayloadReader, encode_count, encode_fp16_block
from golf.pack.entropy_coder import (
    decode_codes,
    decode_rans,
    decode_tables,
    encode_codes,
    encode_symbols,
    measure_codes,
)
from golf.pack.fit import BudgetError, fit_lambda
from golf.pack.gptq import DAMPING
from golf.pack.layout import Fitted, Layout, Weights, Wrap, count_elements, row_view
from golf.pack.quantize import (
    MIN_LOSS_RISE_NATS,
    SCALAR_ROUNDING,
    QuantizedTensor,
    Rounding,
    TensorGrid,
    base_step,
    dequantize,
    flat_calibration,
    quantize_tensor,
    sensitivities,
    size_forecast,
)

LAMBDA_RANGE = 2.0**40
"""The largest lambda over the smallest."""
NUM_GRID_TABLES = 8
EncodePayload = Callable[[dict[str, QuantizedTensor], Layout, float], bytes]
"""From quantized tensors and the base step to a quantizer's payload."""


def fit_entropy(
    weights: Weights,
    layout: Layout,
    calibration: Calibration | None,
    limit_bytes: int,
    wrap: Wrap,
    rounding: Rounding = SCALAR_ROUNDING,
    encode_payload: EncodePayload | None = None,
) -> Fitted:
    """The artifact of the smallest lambda that fits: the less loss at its bytes, the better the calibration.

    Without a calibration, steps follow the sigmas. Another quantizer gives its own rounding and payload.
    """
    encode_payload = encode_payload or encode_entropy
    num_weights = count_elements(layout)
    if num_weights > 8 * limit_bytes:
        raise BudgetError(
            f"artifact is {num_weights // 8:,} bytes or more, at 1 bit per weight; {limit_bytes:,} are left "
            f"for it: about {8 * limit_bytes:,} of the {num_weights:,} parameters would fit"
        )
    found = sensitivities(weights, calibration or flat_calibration(weights, layout))

    def encode(rate_lambda: float) -> bytes:
        tensors = {
            name: quantize_tensor(weight, found[name], rate_lambda, layout[name].kind == "small", rounding)
            for name, weight in weights.items()
        }
        return wrap(encode_payload(tensors, layout, base_step(rate_lambda)))

    # lambda = F step^2 ln(2) / 12, and a weight's loss rise is F step^2 / 24.
    finest = MIN_LOSS_RISE_NATS * 2 * math.log(2) / num_weights
    forecast = size_forecast(weights, layout, found, rounding)
    artifact, report = fit_lambda(encode, forecast, finest, finest * LAMBDA_RANGE, limit_bytes)
    notes = [
        f"the Hessian of {name} was singular: damping {sensitivity.damping:g} instead of {DAMPING:g}"
        for name, sensitivity in found.items()
        if sensitivity.damping > DAMPING
    ]
    return artifact, {**report, "notes": notes}


def decode_entropy(payload: memoryview, layout: Layout) -> Weights:
    """fp32 weights; raises ArtifactError unless the payload is one of tensors of this layout."""
    return dequantize_all(*read_quantized(payload, layout), layout)


def dequantize_all(base: float, tensors: dict[str, QuantizedTensor], layout: Layout) -> Weights:
    """fp32 weights, in the order of the layout; takes the tensors out of `tensors` as it goes."""
    weights = {}
    for name, part in layout.items():
        with np.errstate(over="ignore", invalid="ignore"):
            values_RC = dequantize(tensors.pop(name), base)
        if not np.isfinite(values_RC).all():
            raise ArtifactError(f"weight {name} decodes to values that are not finite")
        weights[name] = torch.from_numpy(values_RC.reshape(part.shape))
    return weights


def encode_entropy(
    tensors: dict[str, QuantizedTensor],
    layout: Layout,
    base: float,
    encode: Callable[[list[np.ndarray], list[np.ndarray]], bytes] = encode_codes,
) -> bytes:
    """The payload of quantized tensors, in the order of the layout; `encode` makes its part of the codes."""
    codes, grids = [tensors[name].codes_RC for name in layout], [tensors[name].grid for name in layout]
    means = [tensors[name].grid.mean_R for name, part in layout.items() if part.kind == "small"]
    sections = [
        np.array([base], dtype="<f4").tobytes(),
        encode_fp16_block(np.concatenate([np.zeros(0), *means])),
        _encode_grids(grids),
        encode(codes, [grid.contexts() for grid in grids]),
    ]
    return b"".join(sections)


def read_quantized(
    payload: memoryview,
    layout: Layout,
    decode: Callable[[PayloadReader, list[np.ndarray]], list[np.ndarray]] = decode_codes,
) -> tuple[float, dict[str, QuantizedTensor]]:
    """The base step and the tensors of `encode_entropy`; raises ArtifactError for another payload."""
    reader = PayloadReader(payload)
    base = float(reader.take_array("<f4", 1)[0])
    grids = _decode_grids(reader, layout)
    codes = decode(reader, [grid.contexts() for grid in grids])
    return base, dict(zip(layout, map(QuantizedTensor, codes, grids), strict=True))


def inspect_entropy(
    payload: memoryview, layout: Layout
) -> tuple[float, dict[str, QuantizedTensor], list[tuple[float, float, int]]]:
    """Base step, tensors, and by tensor what `measure_codes` says."""
    base, tensors = read_quantized(payload, layout)
    codes, contexts = zip(*((each.codes_RC, each.grid.contexts()) for each in tensors.values()), strict=True)
    return base, tensors, measure_codes(list(codes), list(contexts))


def _median_and_bin(vector: np.ndarray) -> tuple[int, int]:
    """A vector's median, and its table: log2 of its standard deviation, from 0."""
    if not vector.size:
        return 0, 0
    table = round(math.log2(max(float(np.std(vector)), 1.0)))
    return round(float(np.median(vector))), min(NUM_GRID_TABLES - 1, table)


def _encode_grids(grids: list[TensorGrid]) -> bytes:
    vectors = [vector for grid in grids for vector in grid[:4]]
    medians, bins = np.array([_median_and_bin(vector) for vector in vectors]).T
    offsets = [vector - median for vector, median in zip(vectors, medians, strict=True)]
    symbols_N = np.concatenate(offsets).astype(np.int8).view(np.uint8)
    tables_N = np.repeat(bins, [len(vector) for vector in vectors]).astype(np.uint8)
    tables, stream = encode_symbols(symbols_N, tables_N, NUM_GRID_TABLES)
    sections = [medians.astype("<i2").tobytes(), bins.astype(np.uint8).tobytes(), tables]
    return b"".join([*sections, encode_count(len(stream)), stream])


def _decode_grids(reader: PayloadReader, layout: Layout) -> list[TensorGrid]:
    """The grids, with the means in front of them."""
    views = [row_view(part.shape) for part in layout.values()]
    is_small = [part.kind == "small" for part in layout.values()]
    means = reader.take_fp16_block(
        sum(rows for (rows, _), small in zip(views, is_small, strict=True) if small)
    )
    lengths = [length for rows, columns in views for length in (rows, rows, columns, columns)]
    medians = reader.take_array("<i2", len(lengths)).astype(np.int64)
    tables_N = np.repeat(reader.take_array("u1", len(lengths)), lengths)
    frequencies_KA = decode_tables(reader)
    symbols_N = decode_rans(reader.take(reader.take_count()), tables_N, frequencies_KA)
    vectors = np.split(symbols_N.view(np.int8) + np.repeat(medians, lengths), np.cumsum(lengths)[:-1])
    grids = []
    for index, ((rows, _), small) in enumerate(zip(views, is_small, strict=True)):
        mean_R, means = (means[:rows], means[rows:]) if small else (np.zeros(rows, np.float32), means)
        grids.append(TensorGrid._make([*vectors[4 * index : 4 * index + 4], mean_R]))
    return grids
