"""Report on an artifact: bytes, codes and errors by tensor, and the codes' size under other coders.

Read from the artifact itself; nothing that packs or decodes imports this module. Shapes: R rows, C columns.
"""

import io
import lzma
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zstandard
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from golf.pack.artifact import open_artifact
from golf.pack.calibrate import Calibration
from golf.pack.entropy import read_quantized
from golf.pack.entropy_coder import measure_codes
from golf.pack.layout import Layout, Weights
from golf.pack.quantize import Sensitivity, sensitivities
from golf.system.files import atomic_write
from golf.system.log import RunLog

_COLORS = ("#2a6fbb", "#d1661f", "#3a8f5b", "#8a56ac", "#b8423f", "#5f6b76")


class CodedTensor(NamedTuple):
    """The codes of one tensor of an artifact, for the report; shape (R rows, C columns)."""

    codes_RC: np.ndarray
    """Signed integers; a weight is about code x row step x column step."""
    step_R: np.ndarray
    step_C: np.ndarray
    bits: float
    """Length of the codes under the coder's tables."""
    entropy_bits: float
    """Their share of the entropy of all codes, given the context that the coder knows of each."""
    num_escaped: int
    """Codes too large for the coder's alphabet."""


def describe_artifact(
    artifact: bytes, weights: Weights, calibration: Calibration | None
) -> dict[str, Any] | None:
    """JSON-able: a row by tensor, the totals, and the histogram of codes by part.

    A tensor's bytes are the length of its codes under the coder's tables; its error share is in the loss's
    own metric if there is a calibration. None for schemes whose tensors have no bytes of their own.
    """
    header, quantizer, payload, layout = open_artifact(artifact)
    if header["scheme"] != "entropy":
        return None
    tensors = coded_tensors(payload, layout)
    decoded = quantizer.decode(payload, layout)
    found = sensitivities(weights, layout, calibration)
    rows = [
        _describe_tensor(name, tensor, weights[name], decoded[name], found[name])
        for name, tensor in tensors.items()
    ]
    total_error = sum(row["forecast_loss_rise_nats"] for row in rows)
    by_part: dict[str, float] = {}
    for row in rows:
        row["error_share"] = row["forecast_loss_rise_nats"] / total_error if total_error else 0.0
        part = part_of(row["name"])
        by_part[part] = by_part.get(part, 0.0) + row["bytes"]
        if calibration is None:
            del row["forecast_loss_rise_nats"]
    totals = {
        "artifact_bytes": len(artifact),
        "num_weights": sum(tensor.codes_RC.size for tensor in tensors.values()),
        "context_entropy_bytes": sum(tensor.entropy_bits for tensor in tensors.values()) / 8,
        "tensor_entropy_bytes": sum(_entropy_bits(tensor.codes_RC) for tensor in tensors.values()) / 8,
        "bytes_by_part": {**by_part, "header, grids, tables": len(artifact) - sum(by_part.values())},
    }
    if calibration is not None:
        totals["forecast_loss_rise_nats"] = total_error
    return {"tensors": rows, "totals": totals, "histograms": _histograms(tensors)}


def coded_tensors(payload: memoryview, layout: Layout) -> dict[str, CodedTensor]:
    """Codes, steps and coded bits by tensor."""
    base, tensors = read_quantized(payload, layout)
    codes = [tensor.codes_RC for tensor in tensors.values()]
    measured = measure_codes(codes, [tensor.grid.contexts() for tensor in tensors.values()])
    return {
        name: CodedTensor(tensor.codes_RC, *tensor.grid.steps(base), *figures)
        for (name, tensor), figures in zip(tensors.items(), measured, strict=True)
    }


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to."""
    for part in ("attention", "feedforward"):
        if f".{part}." in name and name.endswith("weight"):
            return part
    return "embeddings" if name.startswith(("embedding", "bigram")) else "small tensors"


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
    tensors = coded_tensors(*open_artifact(artifact)[2:])
    codes = b"".join(tensor.codes_RC.tobytes() for tensor in tensors.values())
    scales = [tensor.step_R for tensor in tensors.values() if len(tensor.codes_RC) > 1]
    return codes, np.concatenate(scales).astype(np.float16).tobytes()


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: bytes by part, and the distribution of the codes in each part."""
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


def _describe_tensor(
    name: str, tensor: CodedTensor, weight: torch.Tensor, decoded: torch.Tensor, sensitivity: Sensitivity
) -> dict[str, Any]:
    codes_RC = tensor.codes_RC
    error_RC = (weight - decoded).reshape(codes_RC.shape).double()
    curved_RC = error_RC
    if sensitivity.hessian_CC is not None:
        curved_RC = error_RC @ sensitivity.hessian_CC.double().cpu()
    # 1/2 x sum over rows of fisher_R x E H E^T.
    rise = float(sensitivity.fisher_R.cpu() @ (curved_RC * error_RC).sum(1)) / 2 if error_RC.numel() else 0.0
    return {
        "name": name,
        "shape": list(weight.shape),
        "median_step": float(np.median(tensor.step_R) * np.median(tensor.step_C)) if codes_RC.size else 0.0,
        "bits_per_weight": tensor.bits / max(1, codes_RC.size),
        "bytes": tensor.bits / 8,
        "squared_error": float((error_RC**2).sum()),
        "forecast_loss_rise_nats": rise,
        "saturation": tensor.num_escaped / max(1, codes_RC.size),
        "levels": len(np.unique(codes_RC)),
    }


def _histograms(tensors: dict[str, CodedTensor]) -> dict[str, dict[str, Any]]:
    counts: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        signed = np.bincount(
            np.clip(tensor.codes_RC.astype(np.int64), -128, 127).reshape(-1) + 128, minlength=256
        )
        counts[part_of(name)] = counts.get(part_of(name), np.zeros(256, np.int64)) + signed
    return {part: {"first_code": -128, "counts": count.tolist()} for part, count in counts.items()}
