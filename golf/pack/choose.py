"""Quantizer "auto": the scalar codes or the trellis's, whichever has less loss at its bytes.

index of the quantizer u8 | its payload
"""

import math
from collections.abc import Callable
from typing import Any

from golf.pack.calibrate import Calibration
from golf.pack.container import ArtifactError, PayloadReader
from golf.pack.entropy import decode_entropy, fit_entropy
from golf.pack.fit import BudgetError
from golf.pack.layout import Fitted, Layout, Weights, Wrap
from golf.pack.quantize import flat_calibration, loss_rise, sensitivities
from golf.pack.trellis import decode_trellis, fit_trellis

CHOICES = (("entropy", fit_entropy, decode_entropy), ("trellis", fit_trellis, decode_trellis))
"""An artifact's index is that of this order."""


def fit_auto(
    weights: Weights, layout: Layout, calibration: Calibration | None, limit_bytes: int, wrap: Wrap
) -> Fitted:
    """Fits every choice and returns the one of the least forecast loss at its bytes.

    d(loss) / d(bits) = -lambda, so that loss + lambda x bits compares artifacts of slightly unequal sizes.
    """
    found = sensitivities(weights, calibration or flat_calibration(weights, layout))
    tried: dict[str, dict[str, Any]] = {}
    fitted: dict[str, Fitted] = {}
    failed: list[BudgetError] = []
    for index, (name, fit, decode) in enumerate(CHOICES):
        payloads: dict[bytes, bytes] = {}
        try:
            fitted[name] = fit(weights, layout, calibration, limit_bytes, _numbered(wrap, index, payloads))
        except BudgetError as error:
            failed.append(error)
            continue
        artifact, report = fitted[name]
        decoded = decode(memoryview(payloads[artifact]), layout)
        # Small tensors are coded alike; the luck of their rounding is not the choice's.
        rise = sum(
            loss_rise(weights[tensor] - decoded[tensor], found[tensor])
            for tensor, part in layout.items()
            if part.kind != "small"
        )
        rate_lambda = report["lambda_nats_per_bit"]
        tried[name] = {"bytes": len(artifact), "forecast_loss_rise_nats": rise, "lambda": rate_lambda}
    if not fitted:
        raise failed[0]
    # Nats per byte, by the geometric mean of their lambdas.
    price = 8 * math.prod(each["lambda"] for each in tried.values()) ** (1 / len(tried))
    costs = {name: each["forecast_loss_rise_nats"] + price * each["bytes"] for name, each in tried.items()}
    chosen = min(costs, key=costs.__getitem__)
    artifact, report = fitted[chosen]
    return artifact, {**report, "chosen": chosen, "tried": tried}


def _numbered(wrap: Wrap, index: int, payloads: dict[bytes, bytes]) -> Callable[[bytes], bytes]:
    """Puts the index in front, and keeps the payload of each artifact."""

    def numbered(payload: bytes) -> bytes:
        artifact = wrap(bytes([index]) + payload)
        payloads[artifact] = payload
        return artifact

    return numbered


def open_choice(payload: memoryview) -> tuple[int, memoryview]:
    """Index of the quantizer and its payload; raises ArtifactError for an unknown one."""
    reader = PayloadReader(payload)
    index = reader.take(1)[0]
    if index >= len(CHOICES):
        raise ArtifactError(f"artifact's quantizer is number {index}; there are {len(CHOICES)}")
    return index, reader.rest


def decode_auto(payload: memoryview, layout: Layout) -> Weights:
    """fp32 weights; raises ArtifactError unless the payload is one of tensors of this layout."""
    index, own = open_choice(payload)
    return CHOICES[index][2](own, layout)
