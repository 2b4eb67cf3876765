"""Report on an artifact: bytes, codes and errors by tensor, and the codes' size under other coders.

Read from the artifact itself; nothing that packs or decodes imports this module. Shapes: R rows, C columns.
"""

import io
import lzma
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard

from golf.pack.artifact import open_artifact
from golf.pack.calibrate import Calibration
from golf.pack.choose import CHOICES, open_choice
from golf.pack.entropy import inspect_entropy
from golf.pack.layout import Layout, Weights
from golf.pack.quantize import QuantizedTensor, flat_calibration, loss_rise, sensitivities
from golf.pack.trellis import inspect_trellis
from golf.system.files import atomic_write
from golf.system.log import RunLog

FIRST_CODE = -128
"""Of a histogram's 256; codes beyond its ends count as its ends."""
Inspected = tuple[float, dict[str, QuantizedTensor], list[tuple[float, float, int]]]
"""Base step, tensors, and bits, entropy in bits and escaped codes by tensor."""
_COLORS = ("#2a6fbb", "#d1661f", "#3a8f5b", "#8a56ac", "#b8423f", "#5f6b76")


def inspect_auto(payload: memoryview, layout: Layout) -> Inspected:
    """As the quantizer that was chosen."""
    index, own = open_choice(payload)
    return INSPECT[CHOICES[index][0]](own, layout)


INSPECT: dict[str, Callable[[memoryview, Layout], Inspected]] = {
    "entropy": inspect_entropy,
    "trellis": inspect_trellis,
    "auto": inspect_auto,
}
"""By quantizer."""


def describe_artifact(
    artifact: bytes, weights: Weights, calibration: Calibration | None
) -> dict[str, Any] | None:
    """JSON-able: a row by tensor, the totals, and the histogram of codes by part.

    A tensor's bytes are the length of its codes under the coder's tables; its error share is in the loss's
    own metric if there is a calibration. None for schemes whose tensors have no bytes of their own.
    """
    header, quantizer, payload, layout = open_artifact(artifact)
    if header["scheme"] not in INSPECT:
        return None
    base, tensors, measured = INSPECT[header["scheme"]](payload, layout)
    codes = [tensor.codes_RC for tensor in tensors.values()]
    decoded = quantizer.decode(payload, layout)
    found = sensitivities(weights, calibration or flat_calibration(weights, layout))
    rows: list[dict[str, Any]] = []
    by_part: dict[str, float] = {}
    counts: dict[str, np.ndarray] = {}
    for (name, tensor), (bits, _, num_escaped) in zip(tensors.items(), measured, strict=True):
        codes_RC, part = tensor.codes_RC, part_of(name)
        error_RC = (weights[name] - decoded[name]).reshape(codes_RC.shape).double()
        rise = loss_rise(error_RC, found[name])
        steps = map(np.median, tensor.grid.steps(base)) if codes_RC.size else [0.0]
        row = {
            "name": name,
            "shape": list(weights[name].shape),
            "median_step": float(np.prod(list(steps))),
            "bits_per_weight": bits / max(1, codes_RC.size),
            "bytes": bits / 8,
            "squared_error": float((error_RC**2).sum()),
            "forecast_loss_rise_nats": rise,
            "saturation": num_escaped / max(1, codes_RC.size),
            "levels": len(np.unique(codes_RC)),
        }
        rows.append(row)
        by_part[part] = by_part.get(part, 0.0) + row["bytes"]
        shifted = np.clip(codes_RC.astype(np.int64), FIRST_CODE, 127).reshape(-1) - FIRST_CODE
        counts[part] = counts.get(part, 0) + np.bincount(shifted, minlength=256)
    total_error = sum(row["forecast_loss_rise_nats"] for row in rows)
    for row in rows:
        row["error_share"] = row["forecast_loss_rise_nats"] / total_error if total_error else 0.0
        if calibration is None:
            del row["forecast_loss_rise_nats"]
    totals: dict[str, Any] = {
        "artifact_bytes": len(artifact),
        "num_weights": sum(codes_RC.size for codes_RC in codes),
        "context_entropy_bytes": sum(entropy_bits for _, entropy_bits, _ in measured) / 8,
        "tensor_entropy_bytes": sum(map(_entropy_bits, codes)) / 8,
        "bytes_by_part": {**by_part, "header, grids, tables": len(artifact) - sum(by_part.values())},
    }
    if calibration is not None:
        totals["forecast_loss_rise_nats"] = total_error
    histograms = {part: {"first_code": FIRST_CODE, "counts": own.tolist()} for part, own in counts.items()}
    return {"tensors": rows, "totals": totals, "histograms": histograms}


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to."""
    for part in ("attention", "feedforward"):
        if f".{part}." in name and name.endswith("weight"):
            return part
    return "embeddings" if name.startswith(("embedding", "bigram", "ngrams")) else "small tensors"


def compare_coders(codes: bytes, row_scales: bytes, log: RunLog) -> dict[str, int | None]:
    """Bytes of one-byte codes under general compressors; None, with a line in the log, for one not installed.

    `seed_recipe` is the codes and fp16 row scales as torch.save writes them, under zstd-22.
    """
    saved = io.BytesIO()
    held = torch.frombuffer(bytearray(codes), dtype=torch.int8)
    torch.save({"codes": held, "scales": torch.frombuffer(bytearray(row_scales), dtype=torch.half)}, saved)
    sizes: dict[str, int | None] = {
        "zstd22": len(zstandard.ZstdCompressor(level=22).compress(codes)),
        "lzma9": len(lzma.compress(codes, preset=9)),
        "seed_recipe": len(zstandard.ZstdCompressor(level=22).compress(saved.getvalue())),
        "brotli11": None,
    }
    if find_spec("brotli") is None:
        log.info("brotli is not installed (pip install brotli): its size is left out")
    else:
        import brotli

        sizes["brotli11"] = len(brotli.compress(codes, quality=11, lgwin=24))
    return sizes


def coder_input(artifact: bytes) -> tuple[bytes, bytes]:
    """Every code of an artifact as one byte (more in a tensor that needs them), and an fp16 scale per row."""
    header, _, payload, layout = open_artifact(artifact)
    base, tensors, _ = INSPECT[header["scheme"]](payload, layout)
    codes = b"".join(tensor.codes_RC.tobytes() for tensor in tensors.values())
    scales = [tensor.grid.steps(base)[0] for tensor in tensors.values() if len(tensor.codes_RC) > 1]
    return codes, np.concatenate(scales).astype(np.float16).tobytes()


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: bytes by part, and the distribution of the codes in each part."""
    # Imported here: matplotlib takes half a second, which runs do without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = report["totals"]["bytes_by_part"]
    left.barh(list(parts), [size / 1000 for size in parts.values()], color=_COLORS[0])
    left.invert_yaxis()
    left.set_xlabel("kB")
    left.set_title(f"{report['totals']['artifact_bytes']:,} bytes by part", loc="left")
    for color, (part, histogram) in zip(_COLORS, report["histograms"].items(), strict=False):
        counts = np.array(histogram["counts"])
        codes = np.arange(len(counts)) + histogram["first_code"]
        right.plot(codes, counts / counts.sum(), label=part, color=color, drawstyle="steps-mid")
    right.set_yscale("log")
    right.set_xlim(-32, 32)
    right.set_xlabel("code")
    right.set_title("share of the codes", loc="left")
    right.legend(frameon=False)
    FigureCanvasAgg(figure)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _entropy_bits(codes_RC: np.ndarray) -> float:
    """Entropy of order 0 of one tensor's codes, all together."""
    counts = np.unique(codes_RC, return_counts=True)[1]
    return float(np.sum(counts * np.log2(counts.sum() / counts)))
