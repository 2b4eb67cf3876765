"""Of `benchmarks.packing`: trellis-coded codes against scalar ones, int5 under zstd-22, others' coders."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.packing_lines import Divergence, Line, Made, draw_line, packer, with_knob
from benchmarks.packing_peers import CODERS, Encode, missing_coders, nncodec_encoder, stack_encoder
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import Calibration
from golf.pack.gptq import Factors
from golf.pack.layout import Layout, Weights, implied_layout
from golf.pack.quantize import (
    SCALAR_ROUNDING,
    QuantizedTensor,
    Rounded,
    Rounding,
    loss_rise,
    quantize_tensor,
    sensitivities,
)
from golf.pack.trellis import LOG2_STATES, Trellis, encode_by_state, symbol_contexts, trellis_rounding
from golf.stats import paired_bootstrap
from golf.system.log import RunLog

FARTHEST_BITS = 1.2
"""Most bits per weight from a first line to a second, which is extrapolated beyond that."""
SHARE_AT_3_BITS = 0.45
"""Step over deviation near 3.2 bits per weight, where the search for a peer's step begins."""


@dataclass(frozen=True)
class Subject:
    """What is packed, and the judge of what comes out."""

    weights: Weights
    header: dict[str, Any]
    calibration: Calibration
    diverges: Divergence
    num_bytes: int
    """Bytes of the text that divergences are sums over."""

    @property
    def layout(self) -> Layout:
        """Of the weights."""
        return implied_layout(self.header["model"])

    @property
    def num_weights(self) -> int:
        """Of all tensors."""
        return sum(weight.numel() for weight in self.weights.values())


def measure_trellis(subject: Subject, bits: float, nncodec: Path | None, log: RunLog) -> dict[str, float]:
    """Sizes at equal divergence, the coder against its entropy, the distance to the rate-distortion limit."""
    weights, header, calibration = subject.weights, subject.header, subject.calibration
    make = packer("trellis", weights, header, calibration)
    ours = draw_line(make, subject.diverges, bits)
    scalar = draw_line(packer("entropy", weights, header, calibration), subject.diverges, bits)
    # Of about equal bytes: both fill the same limit.
    paired = paired_bootstrap(
        ours.divergences_D, scalar.divergences_D, np.full(len(ours.divergences_D), subject.num_bytes)
    )
    figures = {
        "trellis_bits_per_weight": 8 * ours.coarse.size / subject.num_weights,
        "trellis_divergence_bpb": ours.totals[0] / subject.num_bytes,
        "encode_seconds": ours.coarse.encode_seconds,
        "decode_seconds": ours.coarse.decode_seconds,
        "divergence_documents": len(ours.divergences_D),
        "trellis_divergence_above_scalar_p": paired.p_improvement,
        "trellis_error_db_below_scalar_equal_bytes": 10
        * math.log10(_error(subject, scalar.coarse) / _error(subject, ours.coarse)),
        **_against("scalar", ours, scalar, subject),
        **_against_int5(ours, subject),
    }
    for name in ("scalar", "int5_zstd22"):
        log.info(f"{name}: {figures[f'trellis_bytes_over_{name}_equal_kl']:.4f} of its bytes")
    peers = peer_encoders(subject, nncodec, log)
    for name, encode in peers.items():
        make = with_knob(encode, subject.num_weights, math.log2(first_step(name, weights)))
        line = draw_line(make, subject.diverges, bits)
        figures |= _against(name, ours, line, subject)
        if name.startswith("nncodec"):
            # A second line where the first one says that the divergences are equal; int6 has no codes for it.
            equal_bits = 8 * line.bytes_at(ours.totals[0]) / subject.num_weights
            near = draw_line(make, subject.diverges, min(equal_bits, bits + FARTHEST_BITS))
            figures |= _equal_divergence(name, ours, near, subject)
        log.info(f"{name}: {figures[f'trellis_bytes_over_{name}_equal_kl']:.4f} of its bytes")
    ratios = [figures[f"trellis_bytes_over_{name}_equal_kl"] for name in peers if name.startswith("nncodec")]
    if ratios:
        figures["trellis_bytes_over_nncodec_equal_kl"] = max(ratios)
    return figures | measure_rounding(weights, header, calibration, bits)


def first_step(peer: str, weights: Weights) -> float:
    """A step near 3.2 bits per weight: NNCodec's is one for all, the others' is a share of deviations."""
    if not peer.startswith("nncodec"):
        return SHARE_AT_3_BITS
    matrices = [weight for weight in weights.values() if weight.dim() > 1]
    num_weights = sum(weight.numel() for weight in matrices)
    return SHARE_AT_3_BITS * math.sqrt(sum(float(weight.square().sum()) for weight in matrices) / num_weights)


def peer_encoders(subject: Subject, nncodec: Path | None, log: RunLog) -> dict[str, Encode]:
    """What others make of the weights, by name: as far as it is installed."""
    weights, layout, calibration = subject.weights, subject.layout, subject.calibration
    missing = missing_coders()
    for coder, remedy in missing.items():
        log.info(f"{coder} is not installed ({remedy}): int6 under it is left out")
    encoders = {
        f"int6_{coder}": stack_encoder(coder, weights, layout, calibration)
        for coder in CODERS
        if coder not in missing
    }
    if nncodec is not None:
        encoders["nncodec_one_step"] = nncodec_encoder(nncodec, weights, None)
        encoders["nncodec_by_tensor"] = nncodec_encoder(nncodec, weights, calibration)
    return encoders


def _against(name: str, ours: Line, theirs: Line, subject: Subject) -> dict[str, float]:
    """Bytes at equal divergence, that of our coarse artifact, and divergence at its bytes."""
    return {
        **_equal_divergence(name, ours, theirs, subject),
        f"{name}_divergence_bpb_equal_bytes": theirs.divergence_at(ours.coarse.size) / subject.num_bytes,
        f"{name}_encode_seconds": theirs.coarse.encode_seconds,
        f"{name}_decode_seconds": theirs.coarse.decode_seconds,
    }


def _equal_divergence(name: str, ours: Line, theirs: Line, subject: Subject) -> dict[str, float]:
    size = theirs.bytes_at(ours.totals[0])
    return {
        f"trellis_bytes_over_{name}_equal_kl": ours.coarse.size / size,
        f"{name}_bits_per_weight_equal_kl": 8 * size / subject.num_weights,
    }


def _against_int5(ours: Line, subject: Subject) -> dict[str, float]:
    """The same against int5 under zstd -22, which has one size: an artifact is made near its divergence."""
    int5 = pack(subject.weights, subject.header, PackConfig("int5"), 1 << 40).artifact
    wanted = float(subject.diverges(decode_artifact(int5)[1]).sum())
    make = packer("trellis", subject.weights, subject.header, subject.calibration)
    near = make(8 * ours.bytes_at(wanted) / subject.num_weights)
    found = float(subject.diverges(near.weights).sum())
    size = near.size + math.log2(wanted / found) / ours.slope
    return {
        "trellis_bytes_over_int5_zstd22_equal_kl": size / len(int5),
        "trellis_bits_per_weight_at_kl_of_int5": 8 * size / subject.num_weights,
        "int5_bits_per_weight": 8 * len(int5) / subject.num_weights,
        "int5_divergence_bpb": wanted / subject.num_bytes,
    }


def _error(subject: Subject, made: Made) -> float:
    """The calibration's forecast of the loss's rise, nats per token."""
    found = sensitivities(subject.weights, subject.calibration)
    return sum(
        loss_rise(weight - made.weights[name], found[name])
        for name, weight in subject.weights.items()
        if subject.layout[name].kind != "small"
    )


class KeptErrors:
    """A rounding that keeps the squared errors, in steps of the codes."""

    def __init__(self, rounding: Rounding):
        self._round = rounding.round
        self.rounding = rounding._replace(round=self.round)
        self.squares: list[np.ndarray] = []
        """By matrix, (R, C)."""

    def round(self, weight_RC: Tensor, step_R: Tensor, step_C: Tensor, factors: Factors | None) -> Rounded:
        """As the rounding."""
        rounded = self._round(weight_RC, step_R, step_C, factors)
        values_RC = rounded.from_RC if factors is not None else weight_RC
        error_RC = values_RC / step_R[:, None] / step_C - rounded.codes_RC
        self.squares.append(error_RC.square().cpu().numpy())
        return rounded


def measure_rounding(
    weights: Weights, header: dict[str, Any], calibration: Calibration, bits: float
) -> dict[str, float]:
    """Of the matrices alone, at the lambda that gives the scalar codes `bits`: entropies, errors, limits."""
    layout = implied_layout(header["model"])
    matrices = {name: weights[name] for name, part in layout.items() if part.kind != "small"}
    found = sensitivities(matrices, calibration)
    kinds = {
        "scalar": SCALAR_ROUNDING,
        "trellis": trellis_rounding(LOG2_STATES),
    }
    num_weights = sum(weight.numel() for weight in matrices.values())
    rate_lambda, figures = 1e-9, {}
    for _ in range(4):
        plain = {
            name: quantize_tensor(weight, found[name], rate_lambda, False)
            for name, weight in matrices.items()
        }
        rate_lambda *= 4 ** (entropy_bits(plain, None) / num_weights - bits)
    for kind, rounding in kinds.items():
        errors = KeptErrors(rounding)
        tensors = {
            name: quantize_tensor(weight, found[name], rate_lambda, False, errors.rounding)
            for name, weight in matrices.items()
        }
        trellis = Trellis.of(LOG2_STATES) if kind == "trellis" else None
        entropy = entropy_bits(tensors, trellis)
        limit = limit_bits(tensors, errors.squares)
        figures |= {
            f"{kind}_entropy_bits_per_weight": entropy / num_weights,
            f"{kind}_bits_above_rate_distortion": (entropy - limit) / num_weights,
        }
        if trellis is not None:
            codes = [tensor.codes_RC for tensor in tensors.values()]
            contexts_of = [tensor.grid.contexts() for tensor in tensors.values()]
            own = {name: layout[name] for name in matrices}
            plain = {name: tensor.plain_C for name, tensor in tensors.items() if tensor.plain_C is not None}
            coded = 8 * len(encode_by_state(trellis, own, plain, codes, contexts_of))
            figures["coded_bits_over_entropy"] = coded / entropy
    figures["bits_above_rate_distortion"] = figures["trellis_bits_above_rate_distortion"]
    return figures


def limit_bits(tensors: dict[str, QuantizedTensor], squares: list[np.ndarray]) -> float:
    """R(D) of a Gaussian of each class's sigma, log2(sigma / step), at the class's own mean squared error."""
    exponents_N = np.concatenate([tensor.grid.exponents().reshape(-1) for tensor in tensors.values()])
    classes, class_N, counts = np.unique(exponents_N, return_inverse=True, return_counts=True)
    errors = np.bincount(class_N, np.concatenate([own.reshape(-1) for own in squares])) / counts
    return float(np.sum(counts * np.maximum(0.0, classes / 8 - np.log2(np.maximum(errors, 1e-30)) / 2)))


def entropy_bits(tensors: dict[str, QuantizedTensor], trellis: Trellis | None) -> float:
    """Entropy of the codes given their contexts and, on a trellis, the parity that the state asks for."""
    keys = []
    for tensor in tensors.values():
        codes_RC, classes_RC = tensor.codes_RC.astype(np.int64), tensor.grid.contexts().astype(np.int64)
        if trellis is not None:
            classes_RC = 2 * symbol_contexts(tensor.grid.contexts()).astype(np.int64) + (codes_RC & 1)
            codes_RC = codes_RC >> 1
        keys.append(((classes_RC << 32) + codes_RC + (1 << 31)).reshape(-1))
    joint, counts = np.unique(np.concatenate(keys), return_counts=True)
    totals = np.bincount(joint >> 32, counts)[joint >> 32]
    return float(np.sum(counts * np.log2(totals / counts)))
