"""Seconds of packing on a device: one try of each quantizer, on random weights of the run's shapes.

A stage's process of `benchmarks.gpu`. Inputs are correlated: their spectrum falls as 1 / rank.
"""

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from benchmarks.command import run_benchmark
from benchmarks.gpu_environment import share_processor
from benchmarks.gpu_jobs import Post
from benchmarks.packing_lines import random_weights
from benchmarks.recipe_arms import Scale, frontier_recipe
from golf.pack.calibrate import Calibration
from golf.pack.entropy import encode_entropy
from golf.pack.layout import Layout, count_elements, implied_layout, row_view
from golf.pack.quantize import SCALAR_ROUNDING, base_step, quantize_tensor, sensitivities
from golf.pack.trellis import CHECKS, encode_trellis, trellis_rounding
from golf.presets import PRESETS
from golf.system.device import choose_runtime
from golf.system.stored import config_to_dict

STEP = 0.4
"""Of a scalar code, in deviations of the weights: about 3.4 bits."""


@dataclass(frozen=True)
class PackingStage:
    """Where to pack."""

    post: Annotated[Post, tyro.conf.arg(name="")]
    device: str = "auto"
    """auto, cpu or cuda."""


def falling_calibration(layout: Layout, device: torch.device) -> Calibration:
    """Of equal rows."""
    calibration, generator = Calibration(1), torch.Generator().manual_seed(1)
    for name, (shape, kind) in layout.items():
        rows, columns = row_view(shape)
        calibration.squares_R[name] = torch.ones(rows, device=device)
        if kind != "small":
            basis_CC, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator).to(device))
            spectrum_C = 1 / torch.arange(1, columns + 1, device=device)
            calibration.moments_CC[name] = (basis_CC * spectrum_C) @ basis_CC.T
    return calibration


def measure(stage: PackingStage) -> None:
    """Times a try of scalar codes and of each trellis, and writes a line for each."""
    device = choose_runtime(stage.device).device
    tiny = Scale(width=64, layers=2, context=128, batch_tokens=2048)
    config = PRESETS["h100-10min"].config if device.type == "cuda" else frontier_recipe(tiny)
    layout = implied_layout(config_to_dict(config.model))
    weights = random_weights(layout)
    found = sensitivities(weights, falling_calibration(layout, device))
    # The step of a weight of fisher 1 is that of lambda: base_step(lambda) = STEP.
    rate_lambda = (STEP / base_step(1.0)) ** 2
    kinds = {"scalar": (SCALAR_ROUNDING, None)} | {
        f"trellis of {1 << log2_states} states": (trellis_rounding(log2_states), log2_states)
        for log2_states in CHECKS
    }
    largest = max(weights, key=lambda name: weights[name].numel())
    for kind, (rounding, log2_states) in kinds.items():
        # Once before its time: kernels are loaded then.
        quantize_tensor(weights[largest], found[largest], rate_lambda, False, rounding)
        with stage.post.timed():
            began = time.perf_counter()
            tensors = {
                name: quantize_tensor(weights[name], found[name], rate_lambda, part.kind == "small", rounding)
                for name, part in layout.items()
            }
            rounded = time.perf_counter()
            base = base_step(rate_lambda)
            if log2_states is None:
                payload = encode_entropy(tensors, layout, base)
            else:
                payload = encode_trellis(tensors, layout, base, log2_states)
            encoded = time.perf_counter()
        stage.post.add(
            kind,
            num_weights=count_elements(layout),
            bits_per_weight=8 * len(payload) / count_elements(layout),
            round_seconds=rounded - began,
            encode_seconds=encoded - rounded,
        )


def run_command(stage: PackingStage) -> None:
    """Measures, beside other processes until its turn comes."""
    share_processor()
    measure(stage)


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("gpu_packing", PackingStage, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
