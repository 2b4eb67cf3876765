"""Quantizer "entropy": steps by the equal-slope rule, GPTQ, codes under a context-modelling entropy coder.

    base f4 | means of small tensors | medians i2, bins u1 (4 per tensor) | grid tables | grid stream | codes

base is the step of a weight of fisher 1. The grids' four vectors per tensor are coded as offsets from their
medians, under one of 8 tables by the bin of their standard deviation.
Shapes: R rows, C columns, N numbers.
"""

import math

import numpy as np
import torch

from golf.pack.calibrate import Calibration
from golf.pack.container import ArtifactError, PayloadReader, encode_count, encode_fp16_block
from golf.pack.entropy_coder import (
    choose_lanes,
    decode_codes,
    decode_rans,
    decode_tables,
    encode_codes,
    encode_symbols,
    measure_codes,
)
from golf.pack.fit import BudgetError, fit_lambda
from golf.pack.gptq import DAMPING
from golf.pack.layout import CodedTensor, Fitted, Shapes, Weights, Wrap, count_elements, row_view, tensor_kind
from golf.pack.quantize import (
    QuantizedTensor,
    TensorGrid,
    base_step,
    dequantize,
    quantize_tensor,
    sensitivities,
    size_forecast,
)

MIN_LOSS_RISE_NATS = 2e-5
"""With a calibration, the smallest lambda is that of this forecast rise of a token's loss."""
MIN_STEP = 1 / 16
"""Without one, it is that of this step, as a share of a matrix's sigma."""
LAMBDA_RANGE = 2.0**40
"""The largest lambda over the smallest."""
MIN_BITS = 1.0
"""Bits per weight below which a model is too large for its bytes."""
NUM_GRID_TABLES = 8


class EntropyQuantizer:
    """Finds the lambda at which the artifact fits; a better calibration means less loss at the same bytes."""

    needs_calibration = True

    def fit(self, weights: Weights, calibration: Calibration | None, limit_bytes: int, wrap: Wrap) -> Fitted:
        """The artifact of the smallest lambda that fits; without a calibration, steps follow the sigmas."""
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        num_weights = count_elements(shapes)
        min_bytes = math.ceil(MIN_BITS * num_weights / 8)
        if min_bytes > limit_bytes:
            raise BudgetError(
                f"artifact is {min_bytes:,} bytes or more, at {MIN_BITS:g} bit per weight; {limit_bytes:,} "
                f"are left for it: about {8 * limit_bytes / MIN_BITS:,.0f} of the {num_weights:,} parameters "
                "would fit"
            )
        found = sensitivities(weights, calibration)

        def encode(rate_lambda: float) -> bytes:
            tensors = {
                name: quantize_tensor(
                    weight, found[name], rate_lambda, tensor_kind(name, shapes[name]) == "small"
                )
                for name, weight in weights.items()
            }
            return wrap(encode_entropy(tensors, shapes, base_step(rate_lambda)))

        # lambda = F step^2 ln(2) / 12, and a weight's loss rise is F step^2 / 24.
        if calibration is None:
            finest = MIN_STEP**2 * math.log(2) / 12
        else:
            finest = MIN_LOSS_RISE_NATS * 2 * math.log(2) / num_weights
        fit = fit_lambda(encode, size_forecast(weights, found), finest, finest * LAMBDA_RANGE, limit_bytes)
        if fit is None:
            raise BudgetError(
                f"no lambda brings the artifact of {num_weights:,} weights below {limit_bytes:,} bytes"
            )
        notes = [
            f"the Hessian of {name} was singular: damping {sensitivity.damping:g} instead of {DAMPING:g}"
            for name, sensitivity in found.items()
            if sensitivity.damping > DAMPING
        ]
        report = {"lambda_nats_per_bit": fit.rate_lambda, "fit": fit.outcome, "fit_tries": fit.tries}
        return fit.artifact, {**report, "notes": notes}

    def decode(self, payload: memoryview, shapes: Shapes) -> Weights:
        """fp32 weights; raises ArtifactError unless the payload is one of tensors of these shapes."""
        base, tensors = read_quantized(payload, shapes)
        weights = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, shape in shapes.items():
                tensor = tensors.pop(name)
                values_RC = dequantize(tensor.codes_RC, tensor.grid, base)
                if not np.isfinite(values_RC).all():
                    raise ArtifactError(f"weight {name} decodes to values that are not finite")
                weights[name] = torch.from_numpy(values_RC.reshape(shape))
        return weights

    def describe(self, payload: memoryview, shapes: Shapes) -> dict[str, CodedTensor]:
        """Codes, steps and coded bits by tensor."""
        base, tensors = read_quantized(payload, shapes)
        codes = [tensor.codes_RC for tensor in tensors.values()]
        measured = measure_codes(codes, [tensor.grid.contexts() for tensor in tensors.values()])
        return {
            name: CodedTensor(tensor.codes_RC, *tensor.grid.steps(base), *figures)
            for (name, tensor), figures in zip(tensors.items(), measured, strict=True)
        }


def encode_entropy(tensors: dict[str, QuantizedTensor], shapes: Shapes, base: float) -> bytes:
    """The payload of quantized tensors, in the order of `shapes`."""
    ordered = [tensors[name] for name in shapes]
    small = [tensor_kind(name, shape) == "small" for name, shape in shapes.items()]
    means = [tensor.grid.mean_R for tensor, is_small in zip(ordered, small, strict=True) if is_small]
    sections = [
        np.array([base], dtype="<f4").tobytes(),
        encode_fp16_block(np.concatenate([np.zeros(0), *means])),
        _encode_grids([tensor.grid for tensor in ordered]),
        encode_codes([tensor.codes_RC for tensor in ordered], [tensor.grid.contexts() for tensor in ordered]),
    ]
    return b"".join(sections)


def read_quantized(payload: memoryview, shapes: Shapes) -> tuple[float, dict[str, QuantizedTensor]]:
    """The base step and the tensors of `encode_entropy`; raises ArtifactError for another payload."""
    reader = PayloadReader(payload)
    base = float(reader.take_array("<f4", 1)[0])
    views = [row_view(shape) for shape in shapes.values()]
    small = [tensor_kind(name, shape) == "small" for name, shape in shapes.items()]
    mean_rows = [rows if is_small else 0 for (rows, _), is_small in zip(views, small, strict=True)]
    means = reader.take_fp16_block(sum(mean_rows))
    grids = _decode_grids(reader, views, np.split(means, np.cumsum(mean_rows)[:-1]))
    codes = decode_codes(reader, [grid.contexts() for grid in grids])
    tensors = map(QuantizedTensor, codes, grids)
    return base, dict(zip(shapes, tensors, strict=True))


def _median_and_bin(vector: np.ndarray) -> tuple[int, int]:
    """A vector's median, and its table: log2 of its standard deviation."""
    if not vector.size:
        return 0, 0
    deviation = max(float(np.std(vector)), 1.0)
    return round(float(np.median(vector))), min(NUM_GRID_TABLES - 1, max(0, round(math.log2(deviation))))


def _encode_grids(grids: list[TensorGrid]) -> bytes:
    vectors = [
        vector
        for grid in grids
        for vector in (grid.row_step_R, grid.row_sigma_R, grid.column_step_C, grid.column_sigma_C)
    ]
    described = [_median_and_bin(vector) for vector in vectors]
    medians, bins = (np.array(column) for column in zip(*described, strict=True))
    offsets = [vector - median for vector, median in zip(vectors, medians, strict=True)]
    symbols_N = np.concatenate(offsets).astype(np.int8).view(np.uint8)
    tables_N = np.repeat(bins, [len(vector) for vector in vectors]).astype(np.uint8)
    tables, stream = encode_symbols(symbols_N, tables_N, NUM_GRID_TABLES)
    described_bytes = medians.astype("<i2").tobytes() + bins.astype(np.uint8).tobytes()
    return described_bytes + tables + encode_count(len(stream)) + stream


def _decode_grids(
    reader: PayloadReader, views: list[tuple[int, int]], means: list[np.ndarray]
) -> list[TensorGrid]:
    lengths = [length for rows, columns in views for length in (rows, rows, columns, columns)]
    medians = reader.take_array("<i2", len(lengths)).astype(np.int64)
    bins = reader.take_array("u1", len(lengths))
    frequencies_KA = decode_tables(reader)
    if bins.max(initial=0) >= len(frequencies_KA):
        raise ArtifactError(f"grids ask for coding table {bins.max()} of {len(frequencies_KA)}")
    tables_N = np.repeat(bins, lengths)
    stream = reader.take(reader.take_count())
    symbols_N = decode_rans(stream, tables_N, frequencies_KA, choose_lanes(len(tables_N)))
    exponents = symbols_N.view(np.int8) + np.repeat(medians, lengths)
    vectors = np.split(exponents, np.cumsum(lengths)[:-1])
    grids = []
    for index, ((rows, _), mean_R) in enumerate(zip(views, means, strict=True)):
        row_step_R, row_sigma_R, column_step_C, column_sigma_C = vectors[4 * index : 4 * index + 4]
        mean_R = mean_R if len(mean_R) else np.zeros(rows, np.float32)
        grids.append(TensorGrid(row_step_R, row_sigma_R, column_step_C, column_sigma_C, mean_R))
    return grids
