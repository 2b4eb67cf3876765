"""Of `benchmarks.packing`: what others make of the same weights.

- `nncodec`: NNCodec, the reference software of ISO/IEC 15938-17 (DeepCABAC, dependent quantization), in an
  interpreter of its own; one step for all tensors, or steps by tensor from our calibration.
- `brotli`, `lrzip`: the challenge's stacks (openai/parameter-golf #1394, #1855): GPTQ at steps of a share of
  each row's deviation, int6 matrices and int7 or int8 embeddings, small tensors in fp16; byte-shuffled under
  brotli -11, or a file for each group of tensors under lrzip -z -L 9 (ZPAQ).
"""

import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.packing_lines import Made
from golf.pack.calibrate import Calibration
from golf.pack.gptq import factorize, round_with_feedback
from golf.pack.layout import Layout, Weights
from golf.pack.quantize import sensitivities
from golf.pack.report import part_of

WORKER = Path(__file__).with_name("nncodec_worker.py")
QPS_PER_OCTAVE = 4
"""NNCodec's step is about 2^(qp / 4): `qp_density` is not passed on for a dictionary of arrays (2.1.3)."""
NONWEIGHT_QP = -11 * QPS_PER_OCTAVE
"""For vectors: a step of 2^-11, which costs no divergence here; its default is near 2^-19."""
EMBEDDING_SHARE = 14 / 63 / (12.85 / 31)
"""Step of embeddings over that of matrices, as shares of a row's deviation (#1855)."""
MOST_CODE = {"matrix": 31, "embedding": 63}

Encode = Callable[[float], Made]
"""From log2 of a step to what comes out."""


def nncodec_encoder(python: Path, weights: Weights, calibration: Calibration | None) -> Encode:
    """NNCodec under another interpreter; with a calibration, each tensor's step is by its sensitivity."""
    # NNCodec takes no numbers without a shape.
    arrays = {name: np.atleast_1d(weight.numpy()) for name, weight in weights.items()}
    offsets = {name: 0.0 for name, array in arrays.items() if array.ndim > 1}
    if calibration is not None:
        found = sensitivities(weights, calibration)
        levels = {name: -math.log2(float(found[name].fisher_R.mean())) / 2 for name in offsets}
        middle = sum(levels[name] * arrays[name].size for name in offsets)
        middle /= sum(arrays[name].size for name in offsets)
        offsets = {name: level - middle for name, level in levels.items()}

    def encode(log2_step: float) -> Made:
        settings = {
            "qp": round(QPS_PER_OCTAVE * log2_step),
            "nonweight_qp": NONWEIGHT_QP,
            "qp_per_tensor": {
                name: round(QPS_PER_OCTAVE * (log2_step + offset)) for name, offset in offsets.items()
            },
            "use_dq": True,
        }
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, name) for name in ("in.npz", "settings.json", "out.npz", "report.json")]
            np.savez(files[0], allow_pickle=False, **arrays)
            files[1].write_text(json.dumps(settings))
            ran = subprocess.run([python, WORKER, *files], capture_output=True, text=True)
            if ran.returncode != 0:
                last = ran.stderr.strip().splitlines()[-1:] or ["no message"]
                raise ValueError(f"NNCodec under {python} failed: {last[0]}")
            report = json.loads(files[3].read_text())
            with np.load(files[2]) as held:
                decoded = {name: torch.from_numpy(held[name]).view_as(weights[name]) for name in weights}
        return Made(report["bytes"], decoded, report["encode_seconds"], report["decode_seconds"])

    return encode


def stack_encoder(coder: str, weights: Weights, layout: Layout, calibration: Calibration) -> Encode:
    """The challenge's int6 under `brotli` or `lrzip`."""
    found = sensitivities(weights, calibration)

    def encode(log2_step: float) -> Made:
        began = time.perf_counter()
        groups: dict[str, list[bytes]] = {"small": []}
        decoded = {}
        for name, weight in weights.items():
            kind = layout[name].kind
            if kind == "small":
                half = weight.half()
                groups["small"].append(half.numpy().tobytes())
                decoded[name] = half.float()
                continue
            share = 2.0**log2_step * (EMBEDDING_SHARE if kind == "embedding" else 1.0)
            step_R = (share * weight.std(1)).half().float().clamp_min(6e-8)
            hessian_CC, rows, columns = found[name].hessian_CC, *weight.shape
            if hessian_CC is None:
                codes_RC = (weight / step_R[:, None]).round()
            else:
                factors = factorize(hessian_CC, torch.zeros(rows), torch.ones(columns))
                codes_RC, _ = round_with_feedback(weight, step_R, torch.ones(columns), factors)
            codes_RC = codes_RC.clamp(-MOST_CODE[kind], MOST_CODE[kind])
            decoded[name] = codes_RC * step_R[:, None]
            groups["small"].append(step_R.half().numpy().tobytes())
            # A group a kind of matrix, its tensors one behind another, transposed as in #1855.
            group = f"{part_of(name)}.{'.'.join(name.split('.')[2:])}"
            groups.setdefault(group, []).append(codes_RC.to(torch.int8).T.contiguous().numpy().tobytes())
        compress, decompress = CODERS[coder]
        streams = [b"".join(parts) for parts in groups.values()]
        packed = compress(streams)
        encoded = time.perf_counter()
        decompress(packed)
        return Made(sum(map(len, packed)), decoded, encoded - began, time.perf_counter() - encoded)

    return encode


def missing_coders() -> dict[str, str]:
    """Of CODERS those that this machine lacks, with what brings them."""
    missing = {} if find_spec("brotli") else {"brotli": "pip install brotli"}
    return missing if shutil.which("lrzip") else {**missing, "lrzip": "the system's package lrzip"}


def _brotli(streams: list[bytes]) -> list[bytes]:
    import brotli

    # Byte shuffle: the fp16 of small tensors and scales as their low bytes, then their high ones.
    return [
        brotli.compress(b"".join([streams[0][::2], streams[0][1::2], *streams[1:]]), quality=11, lgwin=24)
    ]


def _unbrotli(packed: list[bytes]) -> None:
    import brotli

    for each in packed:
        brotli.decompress(each)


def _lrzip(streams: list[bytes]) -> list[bytes]:
    return [_run_lrzip(["-z", "-L", "9"], each) for each in streams]


def _unlrzip(packed: list[bytes]) -> None:
    for each in packed:
        _run_lrzip(["-d"], each)


def _run_lrzip(options: list[str], data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.lrz"), Path(folder, "out")
        source.write_bytes(data)
        subprocess.run(["lrzip", "-q", *options, "-o", target, source], check=True, capture_output=True)
        return target.read_bytes()


CODERS = {"brotli": (_brotli, _unbrotli), "lrzip": (_lrzip, _unlrzip)}
