"""Weights to artifact bytes that fit a limit, and back."""

import math
from dataclasses import dataclass
from typing import Literal

from golf.pack.budget import BudgetError, parameters_that_fit
from golf.pack.calibrate import Calibration
from golf.pack.container import ArtifactError, plausible_size, read_container, write_container
from golf.pack.entropy import decode_entropy, encode_entropy
from golf.pack.fit import fit_price
from golf.pack.gptq import DAMPING
from golf.pack.int5 import decode_int5, fit_int5
from golf.pack.layout import (
    Weights,
    count_elements,
    implied_shapes,
    require_finite,
    require_shapes,
    tensor_kind,
)
from golf.pack.quantizer import Sensitivity, base_step, quantize_tensor, sensitivities, size_forecast

FINEST_RISE_NATS = 2e-5
"""With a calibration no grid is finer than one that costs this much of a token's loss by its own forecast."""
FINEST_STEP = 1 / 16
"""Without one, no step is below this share of a matrix's sigma."""
PRICE_RANGE = 2.0**40
"""The coarsest grid's price over the finest's."""
MIN_BITS = 1.0
"""Bits a weight below which a model is refused as too big for its bytes."""


@dataclass(frozen=True)
class PackConfig:
    """How weights become bytes."""

    scheme: Literal["entropy", "int5"] = "entropy"
    """entropy: steps by what the loss feels, GPTQ, an entropy coder. int5, the reference: one fp16 scale a
    row, int5 matrices and int8 embeddings, one code a byte under zstd."""
    margin_bytes: int = 0
    """Bytes of the limit to leave unused."""
    calibration_tokens: int = 131_072
    """Training tokens that tell, before packing, what the loss feels (entropy scheme)."""


@dataclass(frozen=True)
class Packed:
    """An artifact that fits, and what its parts weigh."""

    artifact: bytes
    report: dict[str, object]
    """JSON-able: sizes by part, the size knob, and how many parameters would fit."""


def pack(
    weights: Weights,
    header: dict[str, object],
    config: PackConfig,
    limit_bytes: int,
    calibration: Calibration | None = None,
) -> Packed:
    """The finest useful artifact of at most `limit_bytes` (the limit less the code's bytes).

    `header` needs "model", the fields of ModelConfig, and is stored whole; `calibration` serves the entropy
    scheme. Raises BudgetError when the coarsest grid does not fit, ValueError for weights that are not
    finite or not the model's.
    """
    shapes = implied_shapes(header.get("model"))
    require_shapes(weights, shapes)
    require_finite(weights)
    weights = {name: weights[name].detach().cpu().float().contiguous() for name in shapes}
    room_bytes = limit_bytes - config.margin_bytes
    if config.scheme == "int5":
        artifact, fitted = fit_int5(weights, header, room_bytes)
    else:
        artifact, fitted = _fit_entropy(weights, header, room_bytes, calibration)
    num_weights = count_elements(shapes)
    report = {
        "scheme": config.scheme,
        **fitted,
        "artifact_bytes": len(artifact),
        "limit_bytes": limit_bytes,
        "spare_bytes": limit_bytes - len(artifact),
        "num_weights": num_weights,
        "bits_per_weight": 8 * len(artifact) / num_weights,
        "num_weights_that_fit": parameters_that_fit(num_weights, len(artifact), limit_bytes),
    }
    return Packed(artifact, report)


def decode_artifact(data: bytes) -> tuple[dict[str, object], Weights]:
    """Header and fp32 weights; ArtifactError for anything but an undamaged artifact.

    Weights come out the same to the last bit on every platform: integers times stored scales.
    """
    header, payload = read_container(data)
    shapes = implied_shapes(header.get("model"))
    if count_elements(shapes) > plausible_size(len(data)):
        raise ArtifactError(f"artifact of {len(data):,} bytes claims {count_elements(shapes):,} weights")
    if header.get("scheme") == "int5":
        return header, decode_int5(payload, shapes)
    if header.get("scheme") == "entropy":
        return header, decode_entropy(payload, shapes)
    raise ArtifactError(f"artifact's scheme is {header.get('scheme')!r}; expected 'entropy' or 'int5'")


def _fit_entropy(
    weights: Weights, header: dict[str, object], limit_bytes: int, calibration: Calibration | None
) -> tuple[bytes, dict[str, object]]:
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    num_weights = count_elements(shapes)
    fewest_bytes = math.ceil(MIN_BITS * num_weights / 8)
    if fewest_bytes > limit_bytes:
        raise BudgetError(
            f"artifact is {fewest_bytes:,} bytes at the least, {MIN_BITS:g} bit a weight; {limit_bytes:,} "
            f"are left for it: about {8 * limit_bytes / MIN_BITS:,.0f} of the {num_weights:,} parameters "
            "would fit"
        )
    found = sensitivities(weights, calibration)

    def encode(price: float) -> bytes:
        tensors = {
            name: quantize_tensor(weight, found[name], price, tensor_kind(name, shapes[name]) == "small")
            for name, weight in weights.items()
        }
        payload = encode_entropy(tensors, shapes, base_step(price))
        return write_container({**header, "scheme": "entropy"}, payload)

    if calibration is None:
        finest = FINEST_STEP**2 * math.log(2) / 12
    else:
        finest = FINEST_RISE_NATS * 2 * math.log(2) / num_weights
    fit = fit_price(encode, size_forecast(weights, found), finest, finest * PRICE_RANGE, limit_bytes)
    if fit is None:
        raise BudgetError(
            f"no grid brings the artifact of {num_weights:,} weights below {limit_bytes:,} bytes"
        )
    fitted = {"price_nats_per_bit": fit.price, "fit": fit.outcome, "fit_tries": fit.tries}
    return fit.artifact, {**fitted, "notes": _damping_notes(found)}


def _damping_notes(found: dict[str, Sensitivity]) -> list[str]:
    return [
        f"the Hessian of {name} was singular: ln_scale {sensitivity.ln_scale:g} in place of {DAMPING:g}"
        for name, sensitivity in found.items()
        if sensitivity.ln_scale > DAMPING
    ]
