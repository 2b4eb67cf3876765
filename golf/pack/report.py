"""What an artifact's bytes went to, tensor by tensor, and what other coders would make of the same codes.

Read from the artifact itself; nothing that packs or decodes imports this module. Shapes: R rows, C columns,
K tables, A the 256 symbols.
"""

import io
import lzma
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from golf.pack.calibrate import Calibration
from golf.pack.coding import ESCAPE, count_symbols, raw_bits, share_tables, split_codes
from golf.pack.container import read_container
from golf.pack.entropy import read_quantized
from golf.pack.grid import NUM_CLASSES, QuantizedTensor, dequantize
from golf.pack.layout import Weights, implied_shapes
from golf.pack.quantizer import Sensitivity, sensitivities
from golf.pack.rans import PRECISION_BITS, normalize_counts
from golf.system.files import atomic_write
from golf.system.log import RunLog

ESCAPE_BITS = 32
_COLOURS = ("#2a6fbb", "#d1661f", "#3a8f5b", "#8a56ac", "#b8423f", "#5f6b76")


def describe_artifact(artifact: bytes, weights: Weights, calibration: Calibration | None) -> dict[str, Any]:
    """JSON-able: a row by tensor, the totals, and the histogram of codes by part; entropy scheme only.

    A tensor's bytes are what its codes cost under the tables; its error share is in the loss's own metric
    where there is a calibration. ValueError for an artifact of another scheme.
    """
    header, payload = read_container(artifact)
    if header["scheme"] != "entropy":
        raise ValueError(f"artifact's scheme is {header['scheme']!r}; only 'entropy' is described by tensor")
    base, tensors = read_quantized(payload, implied_shapes(header["model"]))
    found = sensitivities({name: weights[name] for name in tensors}, calibration)
    tables = share_tables(sum(_classes_of(tensor) for tensor in tensors.values()))
    counts = {name: _count_by_table(tensor, tables) for name, tensor in tensors.items()}
    bits_KA = _table_bits(sum(counts.values()))
    rows = [
        _describe_tensor(name, tensor, weights[name], base, found[name], counts[name], bits_KA)
        for name, tensor in tensors.items()
    ]
    total_error = sum(row["forecast_loss_rise_nats"] for row in rows)
    for row in rows:
        row["error_share"] = row["forecast_loss_rise_nats"] / total_error if total_error else 0.0
        if calibration is None:
            del row["forecast_loss_rise_nats"]
    return {
        "tensors": rows,
        "totals": _totals(artifact, tensors, rows, sum(counts.values()), calibration),
        "histograms": _histograms(tensors),
    }


def part_of(name: str) -> str:
    """The part of the network that a tensor belongs to."""
    for part in ("attention", "feedforward"):
        if f".{part}." in name and name.endswith("weight"):
            return part
    return "embeddings" if name.startswith(("embedding", "bigram")) else "small tensors"


def compare_coders(codes: bytes, row_scales: bytes, log: RunLog) -> dict[str, int | None]:
    """Bytes of one-byte codes under general compressors; None, and said so, for one that is not installed.

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
    """Every code of an artifact as whole bytes (two in a tensor that needs them), and an fp16 scale a row."""
    header, payload = read_container(artifact)
    base, tensors = read_quantized(payload, implied_shapes(header["model"]))
    codes = b"".join(tensor.codes_RC.tobytes() for tensor in tensors.values())
    scales = [tensor.grid.steps(base)[0] for tensor in tensors.values() if len(tensor.codes_RC) > 1]
    return codes, np.concatenate(scales).astype(np.float16).tobytes()


def draw_report(report: dict[str, Any], path: Path) -> None:
    """A PNG: bytes by part, and how often each code occurs in each part."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = report["totals"]["bytes_by_part"]
    left.barh(list(parts), [size / 1000 for size in parts.values()], color=_COLOURS[0])
    left.invert_yaxis()
    left.set_xlabel("kB")
    left.set_title(f"{report['totals']['artifact_bytes']:,} bytes by part", loc="left")
    for colour, (part, histogram) in zip(_COLOURS, report["histograms"].items(), strict=False):
        counts = np.array(histogram["counts"])
        codes = np.arange(len(counts)) + histogram["first_code"]
        right.plot(codes, counts / counts.sum(), label=part, color=colour, drawstyle="steps-mid")
    right.set_yscale("log")
    right.set_xlim(-32, 32)
    right.set_xlabel("code")
    right.set_title("share of the codes", loc="left")
    right.legend(frameon=False)
    FigureCanvasAgg(figure)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _classes_of(tensor: QuantizedTensor) -> np.ndarray:
    return np.bincount(tensor.grid.classes().reshape(-1), minlength=NUM_CLASSES)


def _count_by_table(tensor: QuantizedTensor, tables: np.ndarray) -> np.ndarray:
    classes_RC = tensor.grid.classes()
    symbols_N, _, _ = split_codes(tensor.codes_RC, classes_RC)
    return count_symbols(symbols_N, tables[classes_RC.reshape(-1)], int(tables.max()) + 1)


def _table_bits(counts_KA: np.ndarray) -> np.ndarray:
    """Bits of each symbol in each table, (K, A); an escaped code stands in a list besides."""
    bits_KA = PRECISION_BITS - np.log2(np.maximum(normalize_counts(counts_KA), 1))
    bits_KA[:, ESCAPE] += ESCAPE_BITS
    return bits_KA


def _entropy_bits(counts_KA: np.ndarray) -> float:
    """Order-0 entropy of each table's symbols, summed."""
    totals_K1 = counts_KA.sum(1, keepdims=True)
    return float(np.sum(counts_KA * np.log2(np.maximum(totals_K1, 1) / np.maximum(counts_KA, 1))))


def _describe_tensor(
    name: str,
    tensor: QuantizedTensor,
    weight: torch.Tensor,
    base: float,
    sensitivity: Sensitivity,
    counts_KA: np.ndarray,
    bits_KA: np.ndarray,
) -> dict[str, Any]:
    codes_RC = tensor.codes_RC
    values_RC = torch.from_numpy(dequantize(codes_RC, tensor.grid, base))
    error_RC = (weight.reshape(values_RC.shape) - values_RC).double()
    curved_RC = error_RC
    if sensitivity.hessian_CC is not None:
        curved_RC = error_RC @ sensitivity.hessian_CC.double().cpu()
    rise = float(sensitivity.energy_R.cpu() @ (curved_RC * error_RC).sum(1)) / 2 if error_RC.numel() else 0.0
    bits = float(np.sum(counts_KA * bits_KA) + raw_bits()[tensor.grid.classes()].sum())
    row_R, column_C = tensor.grid.steps(base)
    return {
        "name": name,
        "shape": list(weight.shape),
        "median_step": float(np.median(row_R) * np.median(column_C)) if codes_RC.size else 0.0,
        "bits_per_weight": bits / max(1, codes_RC.size),
        "bytes": bits / 8,
        "squared_error": float((error_RC**2).sum()),
        "forecast_loss_rise_nats": rise,
        "saturation": int(counts_KA[:, ESCAPE].sum()) / max(1, codes_RC.size),
        "levels": len(np.unique(codes_RC)),
    }


def _totals(
    artifact: bytes,
    tensors: dict[str, QuantizedTensor],
    rows: list[dict[str, Any]],
    counts_KA: np.ndarray,
    calibration: Calibration | None,
) -> dict[str, Any]:
    by_part: dict[str, float] = {}
    for row in rows:
        by_part[part_of(row["name"])] = by_part.get(part_of(row["name"]), 0.0) + row["bytes"]
    coded = sum(by_part.values())
    order0 = sum(
        _entropy_bits(np.unique(tensor.codes_RC, return_counts=True)[1][None]) for tensor in tensors.values()
    )
    raw = sum(int(raw_bits()[tensor.grid.classes()].sum()) for tensor in tensors.values())
    totals = {
        "artifact_bytes": len(artifact),
        "num_weights": sum(tensor.codes_RC.size for tensor in tensors.values()),
        "class_entropy_bytes": (_entropy_bits(counts_KA) + raw) / 8,
        "tensor_entropy_bytes": order0 / 8,
        "bytes_by_part": {**by_part, "header, grids, tables": len(artifact) - coded},
    }
    if calibration is not None:
        totals["forecast_loss_rise_nats"] = sum(row["forecast_loss_rise_nats"] for row in rows)
    return totals


def _histograms(tensors: dict[str, QuantizedTensor]) -> dict[str, dict[str, Any]]:
    counts: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        signed = np.bincount(
            np.clip(tensor.codes_RC.astype(np.int64), -128, 127).reshape(-1) + 128, minlength=256
        )
        counts[part_of(name)] = counts.get(part_of(name), np.zeros(256, np.int64)) + signed
    return {part: {"first_code": -128, "counts": count.tolist()} for part, count in counts.items()}
