"""Seconds and memory of packing 26.7 million random weights of the seed model's shape, on one core."""

import dataclasses
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

from golf.model.config import ModelConfig
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.budget import LIMIT_BYTES
from golf.pack.container import write_container
from golf.pack.entropy import decode_entropy, encode_entropy
from golf.pack.layout import Weights, implied_shapes, tensor_kind
from golf.pack.quantizer import base_step, quantize_tensor, sensitivities


def measure_seconds() -> dict[str, float]:
    """Processor seconds on 26.7 million codes at 3.4 bits: the payload written, and read to weights."""
    model = dataclasses.asdict(ModelConfig())
    shapes, weights = implied_shapes(model), _random_weights(model)
    found = sensitivities(weights, None)
    price = math.log(2) / 12 * 0.4**2
    tensors = {
        name: quantize_tensor(weight, found[name], price, tensor_kind(name, shapes[name]) == "small")
        for name, weight in weights.items()
    }
    del weights
    start = time.process_time()
    payload = encode_entropy(tensors, shapes, base_step(price))
    encoded = time.process_time()
    decode_entropy(memoryview(payload), shapes)
    read = time.process_time()
    write_container({}, payload)
    return {
        "timed_codes": sum(tensor.codes_RC.size for tensor in tensors.values()),
        "encode_seconds": encoded - start,
        "decode_seconds": read - encoded,
        "zstd22_container_seconds": time.process_time() - read,
    }


def measure_memory() -> dict[str, float]:
    """Peak memory of packing and unpacking the seed model's shape, in a process of its own (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peaks_of_the_seed)


def _random_weights(model: dict[str, Any]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    shapes = implied_shapes(model)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _peaks_of_the_seed() -> dict[str, float]:
    torch.set_num_threads(1)
    # The libraries' own code and buffers are no part of what a weight costs: a small model loads them first.
    small = dataclasses.asdict(ModelConfig(num_layers=2, width=64, mlp_hidden=64, num_heads=4))
    decode_artifact(pack(_random_weights(small), {"model": small}, PackConfig(), LIMIT_BYTES).artifact)
    model = dataclasses.asdict(ModelConfig())
    weights = _random_weights(model)
    weight_bytes = sum(4 * weight.numel() for weight in weights.values())
    before = _restart_peak()
    artifact = pack(weights, {"model": model}, PackConfig(), LIMIT_BYTES).artifact
    packing = _peak_bytes() - before
    weights.clear()
    before = _restart_peak()
    decode_artifact(artifact)
    unpacking = _peak_bytes() - before
    return {
        "seed_shape_artifact_bytes": len(artifact),
        "pack_peak_over_weights": 1 + packing / weight_bytes,
        "unpack_peak_over_weights": unpacking / weight_bytes,
    }


def _restart_peak() -> int:
    """Sets the process's peak back to what it holds now, and returns that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
