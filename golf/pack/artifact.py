"""Weights to artifact bytes that fit a limit, and back; the table of quantizers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from golf.pack.calibrate import Calibration
from golf.pack.choose import decode_auto, fit_auto
from golf.pack.container import ArtifactError, plausible_size, read_container, write_container
from golf.pack.entropy import decode_entropy, fit_entropy
from golf.pack.int5 import decode_int5, fit_int5
from golf.pack.layout import Fitted, Layout, Weights, Wrap, count_elements, implied_layout
from golf.pack.trellis import decode_trellis, fit_trellis


class Quantizer(NamedTuple):
    """Weights to a payload that fits, and back. Names, shapes and kinds are in the layout alone."""

    fit: Callable[[Weights, Layout, Calibration | None, int, Wrap], Fitted]
    """fit(weights, layout, calibration, limit_bytes, wrap), weights in fp32 on the CPU: the most precise
    useful artifact of at most `limit_bytes`; raises BudgetError if there is none."""
    decode: Callable[[memoryview, Layout], Weights]
    """decode(payload, layout): fp32 weights; ArtifactError unless `fit` wrote the payload for this layout."""
    needs_calibration: bool = False
    """Whether runs measure a Calibration before packing; without one `calibration` is None."""


QUANTIZERS = {
    "entropy": Quantizer(fit_entropy, decode_entropy, needs_calibration=True),
    "trellis": Quantizer(fit_trellis, decode_trellis, needs_calibration=True),
    "auto": Quantizer(fit_auto, decode_auto, needs_calibration=True),
    "int5": Quantizer(fit_int5, decode_int5),
}
"""By the name that PackConfig.scheme and an artifact's header give."""


@dataclass(frozen=True)
class PackConfig:
    """How weights become bytes."""

    scheme: str = "entropy"
    """Quantizer, a name of QUANTIZERS. entropy: steps by the loss's sensitivity, GPTQ, an entropy coder.
    trellis: the same with trellis-coded codes, 3 to 5% smaller at equal loss, several times slower to pack.
    auto: whichever of the two has less forecast loss at its bytes.
    int5, the reference: one fp16 scale per row, int5 matrices and int8 embeddings, a code per byte, zstd."""
    margin_bytes: int = 0
    """Bytes of the limit to leave unused."""
    calibration_tokens: int = 131_072
    """Training tokens that the loss's sensitivity is measured on, for quantizers that need it."""

    def __post_init__(self) -> None:
        if self.scheme not in QUANTIZERS:
            raise ValueError(f"pack scheme {self.scheme!r} is unknown; there are {', '.join(QUANTIZERS)}")


class Packed(NamedTuple):
    """An artifact that fits, and the sizes of its parts."""

    artifact: bytes
    scheme: str
    fitted: dict[str, Any]
    """The quantizer's own figures."""
    num_weights: int
    limit_bytes: int

    @property
    def report(self) -> dict[str, Any]:
        """JSON-able: sizes, the quantizer's figures, and how many parameters would fit."""
        return {
            "scheme": self.scheme,
            **self.fitted,
            "artifact_bytes": len(self.artifact),
            "limit_bytes": self.limit_bytes,
            "spare_bytes": self.limit_bytes - len(self.artifact),
            "num_weights": self.num_weights,
            "bits_per_weight": 8 * len(self.artifact) / self.num_weights,
            "num_weights_that_fit": self.num_weights * self.limit_bytes // len(self.artifact),
        }


def pack(
    weights: Weights,
    header: dict[str, Any],
    config: PackConfig,
    limit_bytes: int,
    calibration: Calibration | None = None,
) -> Packed:
    """The most precise useful artifact of at most `limit_bytes` (the limit minus the code's bytes).

    `header` needs "model", the fields of ModelConfig, and is stored whole. Raises BudgetError if the least
    precise artifact does not fit, ValueError for weights that are not finite or not the model's, and for
    more of them than `open_artifact` believes of so few bytes.
    """
    layout = implied_layout(header.get("model"))
    for name in sorted(weights.keys() ^ layout.keys()):
        raise ValueError(f"weight {name} is {'missing' if name in layout else 'unknown to the model config'}")
    for name, part in layout.items():
        shape = tuple(weights[name].shape)
        if shape != part.shape:
            raise ValueError(f"weight {name} has shape {shape}; the config implies {part.shape}")
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"weight {name} has NaN or infinite values; it cannot be packed")
    weights = {name: weights[name].detach().cpu().float().contiguous() for name in layout}

    def wrap(payload: bytes) -> bytes:
        return write_container({**header, "scheme": config.scheme}, payload)

    room_bytes = limit_bytes - config.margin_bytes
    artifact, fitted = QUANTIZERS[config.scheme].fit(weights, layout, calibration, room_bytes, wrap)
    num_weights, size = count_elements(layout), len(artifact)
    if num_weights > plausible_size(size):
        raise ValueError(
            f"weights carry too little: {num_weights:,} of them became {size:,} bytes; train longer"
        )
    return Packed(artifact, config.scheme, fitted, num_weights, limit_bytes)


def open_artifact(data: bytes) -> tuple[dict[str, Any], Quantizer, memoryview, Layout]:
    """Header, quantizer, payload and layout; raises ArtifactError for what `pack` did not write."""
    header, payload = read_container(data)
    layout = implied_layout(header.get("model"))
    if count_elements(layout) > plausible_size(len(data)):
        raise ArtifactError(f"artifact of {len(data):,} bytes claims {count_elements(layout):,} weights")
    scheme = header.get("scheme")
    if not isinstance(scheme, str) or scheme not in QUANTIZERS:
        raise ArtifactError(f"artifact's scheme is {scheme!r}; expected one of {', '.join(QUANTIZERS)}")
    return header, QUANTIZERS[scheme], payload, layout


def decode_artifact(data: bytes) -> tuple[dict[str, Any], Weights]:
    """Header and fp32 weights; raises ArtifactError for anything but an undamaged artifact.

    Weights are the same to the last bit on every platform: integers times stored scales.
    """
    header, quantizer, payload, layout = open_artifact(data)
    return header, quantizer.decode(payload, layout)
