"""Measures packing: bits per weight, the loss of quantization, seconds and memory.

    python -m benchmarks.packing --run runs/NAME --data DIR [--json FILE] [--parts trellis] [--nncodec PYTHON]

On a trained run's weights and calibration, by part. coder: the entropy coder against zstd-22 at equal squared
error. gaps: the loss of quantization against int5 with row scales under zstd at equal bytes. trellis:
trellis-coded codes against scalar ones, int5 and others' coders at equal divergence, and against the
rate-distortion limit. gptq: GPTQ against rounding to nearest. seed-shape: seconds and memory for 26.7 million
random weights of the seed model's shape, on one core.
"""

import dataclasses
import json
import math
import multiprocessing
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import zstandard
from torch import Tensor

from benchmarks.command import run_benchmark
from benchmarks.figures import write_figures
from benchmarks.packing_lines import random_weights
from benchmarks.packing_trellis import Subject, measure_trellis
from golf.data.manifest import Dataset, open_dataset
from golf.data.reference import LIMIT_BYTES
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import Calibration
from golf.pack.container import write_container
from golf.pack.entropy import decode_entropy, encode_entropy
from golf.pack.entropy_coder import encode_codes
from golf.pack.layout import Layout, Weights, count_elements, implied_layout
from golf.pack.quantize import (
    MIN_LOSS_RISE_NATS,
    MIN_STEP,
    QuantizedTensor,
    Sensitivity,
    base_step,
    dequantize,
    flat_calibration,
    quantize_tensor,
    sensitivities,
)
from golf.pack.report import describe_artifact
from golf.run import load_calibration
from golf.run_folder import RunFolder
from golf.score.documents import per_document
from golf.score.tally import Tally
from golf.system.clock import StageClock
from golf.system.device import environment
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.train.checkpoint import load_weights

Part = Literal["coder", "gaps", "trellis", "gptq", "seed-shape"]


@dataclass(frozen=True)
class PackingBenchmark:
    """The run and the sizes of the measurement."""

    run: Path
    """A trained run's folder."""
    data: Path
    """Dataset folder; the loss of quantization is measured on its validation text."""
    bits: float = 3.4
    """Bits per weight at which the coders are compared."""
    gptq_bits: float = 2.0
    """Bits per weight at which GPTQ and rounding are compared; with more, the text's noise is as large."""
    max_tokens: int = 65_536
    """Validation tokens for each loss."""
    parts: tuple[Part, ...] = get_args(Part)
    """What to measure."""
    nncodec: Path | None = None
    """Python interpreter of an environment with NNCodec (pip install nncodec), to compare with."""
    json: Path | None = None
    """Also write the figures here."""


@dataclass(frozen=True)
class Loss:
    """Loss of a packed model relative to the weights it was made from."""

    gap_bpb: float
    """Bits per byte after minus before."""
    divergence_bpb: float
    """Kullback-Leibler divergence of its predictions from the weights' own, bits per byte: far less noisy."""


class Judge:
    """Compares weights with a reference on the first validation tokens, in disjoint windows."""

    def __init__(self, config: ModelConfig, weights: Weights, dataset: Dataset, max_tokens: int):
        self.reference, self.candidate = GPT(config), GPT(config)
        self.reference.load_state_dict(weights)
        clock = StageClock()
        with clock.stage("score"):
            tokens = dataset.validation_tokens(clock)
        rows = min(max_tokens, len(tokens) - 1) // config.context
        self.tokens = tokens = tokens[: rows * config.context + 1].astype(np.int64)
        self.vocabulary = dataset.vocabulary
        self.num_bytes = int(dataset.vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
        self.inputs = torch.from_numpy(tokens[:-1]).view(rows, config.context).split(8)
        self.targets = torch.from_numpy(tokens[1:]).view(rows, config.context).split(8)

    def loss(self, weights: Weights) -> Loss:
        """How much worse `weights` predict than the reference."""
        rises_N, divergences_N = self._compare(weights)
        count = len(rises_N)
        gap = Tally(float(rises_N.sum()), count, self.num_bytes).bits_per_byte
        return Loss(gap, Tally(float(divergences_N.sum()), count, self.num_bytes).bits_per_byte)

    def diverge(self, weights: Weights) -> np.ndarray:
        """Divergence by document, bits, float64 (D,)."""
        divergences_N = self._compare(weights)[1]
        return per_document(divergences_N, self.tokens, self.vocabulary).nats_D / math.log(2)

    @torch.no_grad()
    def _compare(self, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
        """By target, the loss's rise and the divergence, nats, float64 (N,)."""
        self.candidate.load_state_dict(weights)
        rises, divergences = [], []
        for inputs, targets in zip(self.inputs, self.targets, strict=True):
            plain, packed = self.reference(inputs), self.candidate(inputs)
            rises.append((token_nats(packed, targets) - token_nats(plain, targets)).double().reshape(-1))
            plain, packed = plain.log_softmax(-1), packed.log_softmax(-1)
            divergences.append((plain.exp() * (plain - packed)).sum(-1).double().reshape(-1))
        return torch.cat(rises).numpy(), torch.cat(divergences).numpy()


def large(weights: Weights, layout: Layout) -> Weights:
    """The matrices and tables."""
    return {name: weights[name] for name, part in layout.items() if part.kind != "small"}


def one_step_each(weights: Weights) -> dict[str, Sensitivity]:
    """One step per tensor, the same share of sigma in each."""
    found = {}
    for name, weight in weights.items():
        fisher_R = torch.full((len(weight),), 1 / float(weight.double().square().mean()), dtype=torch.float64)
        found[name] = Sensitivity(fisher_R, None, torch.zeros(weight.shape[1], dtype=torch.float64), 0.0)
    return found


def quantize_all(
    weights: Weights, found: dict[str, Sensitivity], rate_lambda: float
) -> dict[str, QuantizedTensor]:
    """Every tensor at one lambda."""
    return {
        name: quantize_tensor(weight, found[name], rate_lambda, small=False)
        for name, weight in weights.items()
    }


def decoded(tensors: dict[str, QuantizedTensor], rate_lambda: float) -> Weights:
    """The weights that the codes stand for."""
    return {
        name: torch.from_numpy(dequantize(tensor, base_step(rate_lambda))) for name, tensor in tensors.items()
    }


def zstd_bytes_at_equal_error(weights: Weights, ours: Weights) -> int:
    """Bytes under zstd-22 of int8 codes and fp16 row scales; each tensor has our squared error."""
    codes, scales = [], []
    for name, weight in weights.items():
        wanted = float((weight - ours[name]).double().square().sum())
        sigma_R1 = weight.double().square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
        low, high, step_R1 = -8.0, 3.0, sigma_R1
        for _ in range(30):
            middle = (low + high) / 2
            step_R1 = (sigma_R1 * 2**middle).half().double().clamp_min(1e-7)
            error = float(((weight / step_R1).round() * step_R1 - weight).square().sum())
            low, high = (middle, high) if error < wanted else (low, middle)
        codes.append((weight / step_R1).round().clamp(-127, 127).to(torch.int8).numpy().tobytes())
        scales.append(step_R1.half().numpy().tobytes())
    return len(zstandard.ZstdCompressor(level=22).compress(b"".join([*scales, *codes])))


def measure_coder(weights: Weights, header: dict[str, Any], bits: float) -> dict[str, float]:
    """The coder on one step per tensor, rounded to nearest, at about `bits` per weight."""
    layout = implied_layout(header["model"])
    weights = large(weights, layout)
    layout = {name: layout[name] for name in weights}
    num_weights = sum(weight.numel() for weight in weights.values())
    found, rate_lambda = one_step_each(weights), 1e-2
    for _ in range(4):
        tensors = quantize_all(weights, found, rate_lambda)
        payload = encode_entropy(tensors, layout, base_step(rate_lambda))
        rate_lambda *= 4 ** (8 * len(payload) / num_weights - bits)
    tensors = quantize_all(weights, found, rate_lambda)
    whole = write_container(header, encode_entropy(tensors, layout, base_step(rate_lambda)))
    entropy, coded = context_entropy_and_coded_bits(tensors)
    zstd = zstd_bytes_at_equal_error(weights, decoded(tensors, rate_lambda))
    return {
        "num_matrix_weights": num_weights,
        "bits_per_weight": 8 * len(whole) / num_weights,
        "entropy_bits_per_weight": entropy / num_weights,
        "coded_bits_per_weight": coded / num_weights,
        "coded_over_entropy": coded / entropy - 1,
        "zstd22_bits_per_weight_equal_mse": 8 * zstd / num_weights,
        "saved_against_zstd22": 1 - len(whole) / zstd,
    }


def context_entropy_and_coded_bits(tensors: dict[str, QuantizedTensor]) -> tuple[float, int]:
    """Entropy of the codes given their contexts, and bits of the coded section with its tables and states."""
    codes = [tensor.codes_RC for tensor in tensors.values()]
    contexts = [tensor.grid.contexts() for tensor in tensors.values()]
    codes_N, contexts_N = (
        np.concatenate([a.reshape(-1) for a in part], dtype=np.int64) for part in (codes, contexts)
    )
    joint, counts = np.unique((contexts_N << 32) + codes_N + (1 << 31), return_counts=True)
    totals = np.bincount(joint >> 32, counts)[joint >> 32]
    return float(np.sum(counts * np.log2(totals / counts))), 8 * len(encode_codes(codes, contexts))


def measure_gaps(
    weights: Weights, header: dict[str, Any], calibration: Calibration, judge: Judge
) -> dict[str, Any]:
    """Loss of quantization at the bytes of int5 with row scales under zstd-22, and at 3 bits per weight."""
    reference = pack(weights, header, PackConfig(scheme="int5"), 1 << 40)
    ours = pack(weights, header, PackConfig(), len(reference.artifact), calibration)
    plain = judge.loss(decode_artifact(reference.artifact)[1])
    better = judge.loss(decode_artifact(ours.artifact)[1])
    num_weights = sum(weight.numel() for weight in weights.values())
    coarse = pack(weights, header, PackConfig(), 3 * num_weights // 8, calibration)
    at_three = judge.loss(decode_artifact(coarse.artifact)[1])
    described = describe_artifact(ours.artifact, weights, calibration) or {}
    entropy_bytes = described["totals"]["context_entropy_bytes"]
    return {
        "int5_absmax_bytes": len(reference.artifact),
        "equal_bytes": len(ours.artifact),
        "equal_bytes_fit": ours.report["fit"],
        "quant_gap_bpb": better.gap_bpb,
        "quant_gap_bpb_int5_absmax_equal_bytes": plain.gap_bpb,
        "quant_divergence_bpb": better.divergence_bpb,
        "quant_divergence_bpb_int5_absmax_equal_bytes": plain.divergence_bpb,
        "quant_gap_share_of_int5": better.gap_bpb / plain.gap_bpb,
        "quant_gap_bpb_at_3_bits": at_three.gap_bpb,
        "quant_divergence_bpb_at_3_bits": at_three.divergence_bpb,
        "whole_bits_per_weight_equal_bytes": 8 * len(ours.artifact) / num_weights,
        "context_entropy_bits_per_weight_equal_bytes": 8 * entropy_bytes / num_weights,
    }


def measure_gptq(
    weights: Weights, layout: Layout, calibration: Calibration, judge: Judge, wanted_bits: float
) -> dict[str, float]:
    """One step per tensor by its mean sensitivity, at one lambda: rounded to nearest, and by GPTQ."""
    matrices = large(weights, layout)
    found = sensitivities(matrices, calibration)
    num_weights = sum(weight.numel() for weight in matrices.values())
    one_step = {
        name: each._replace(
            fisher_R=torch.full_like(each.fisher_R, float(each.fisher_R.mean())),
            log2_step_C=torch.zeros_like(each.log2_step_C),
        )
        for name, each in found.items()
    }
    nearest = {name: each._replace(hessian_CC=None) for name, each in one_step.items()}
    rate_lambda = 1e-9
    for _ in range(6):
        entropy, _ = context_entropy_and_coded_bits(quantize_all(matrices, nearest, rate_lambda))
        rate_lambda *= 4 ** (entropy / num_weights - wanted_bits)
    losses, bits = {}, {}
    for name, each in (("nearest", nearest), ("gptq", one_step)):
        tensors = quantize_all(matrices, each, rate_lambda)
        bits[name] = context_entropy_and_coded_bits(tensors)[0] / num_weights
        losses[name] = judge.loss(weights | decoded(tensors, rate_lambda))
    return {
        "gptq_gap_reduction": 1 - losses["gptq"].gap_bpb / losses["nearest"].gap_bpb,
        "gptq_divergence_reduction": 1 - losses["gptq"].divergence_bpb / losses["nearest"].divergence_bpb,
        "gptq_bits_per_weight": bits["gptq"],
        "nearest_bits_per_weight": bits["nearest"],
        "nearest_gap_bpb": losses["nearest"].gap_bpb,
        "gptq_gap_bpb": losses["gptq"].gap_bpb,
    }


def measure_seconds() -> dict[str, float]:
    """Processor seconds for 26.7 million codes at 3.4 bits: writing the payload, decoding it to weights."""
    model = dataclasses.asdict(ModelConfig())
    torch.set_num_threads(1)
    layout = implied_layout(model)
    weights = random_weights(layout)
    found = sensitivities(weights, flat_calibration(weights, layout))
    # A matrix's step is 0.4 sigmas.
    rate_lambda = MIN_LOSS_RISE_NATS * 2 * math.log(2) / count_elements(layout) * (0.4 / MIN_STEP) ** 2
    tensors = quantize_all(weights, found, rate_lambda)
    del weights
    start = time.process_time()
    payload = encode_entropy(tensors, layout, base_step(rate_lambda))
    encoded = time.process_time()
    decode_entropy(memoryview(payload), layout)
    read = time.process_time()
    write_container({}, payload)
    return {
        "timed_codes": sum(tensor.codes_RC.size for tensor in tensors.values()),
        "coder_encode_seconds": encoded - start,
        "coder_decode_seconds": read - encoded,
        "zstd22_container_seconds": time.process_time() - read,
    }


def measure_memory() -> dict[str, float]:
    """Peak memory of packing and unpacking the seed model's shape, in a process of its own (Linux)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peaks_of_the_seed)


def _peaks_of_the_seed() -> dict[str, float]:
    torch.set_num_threads(1)
    # A small model loads the libraries first: their code and buffers are not counted.
    small = dataclasses.asdict(ModelConfig(num_layers=2, width=64, mlp_hidden=64, num_heads=4))
    decode_artifact(
        pack(random_weights(implied_layout(small)), {"model": small}, PackConfig(), LIMIT_BYTES).artifact
    )
    model = dataclasses.asdict(ModelConfig())
    weights = random_weights(implied_layout(model))
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
    """Resets the process's peak to its current memory, and returns that in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def read_trained(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], Calibration]:
    """Weights, artifact header and calibration of a run."""
    run = RunFolder(folder)
    header = json.loads(run.config.read_text(encoding="utf-8"))["header"]
    return load_weights(run.weights), header, load_calibration(folder)


def run_command(options: PackingBenchmark) -> None:
    """Measures, prints a table, writes JSON."""
    log = RunLog()
    weights, header, calibration = read_trained(options.run)
    layout = implied_layout(header["model"])
    judge = Judge(
        config_from_dict(ModelConfig, header["model"]),
        weights,
        open_dataset(options.data),
        options.max_tokens,
    )
    figures: dict[str, Any] = {"num_weights": count_elements(layout)}
    if "coder" in options.parts:
        figures |= measure_coder(weights, header, options.bits)
    if "gaps" in options.parts:
        figures |= measure_gaps(weights, header, calibration, judge)
    if "trellis" in options.parts:
        subject = Subject(weights, header, calibration, judge.diverge, judge.num_bytes)
        figures |= measure_trellis(subject, options.bits, options.nncodec, log)
    if "gptq" in options.parts:
        figures |= measure_gptq(weights, layout, calibration, judge, options.gptq_bits)
    # Last: on one thread.
    if "seed-shape" in options.parts:
        figures |= measure_seconds()
        figures |= measure_memory()
    log.table(f"packing {options.run}", ("figure", "value"), list(figures.items()))
    if options.json:
        write_figures(options.json, figures, options, environment(torch.device("cpu")))


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("packing", PackingBenchmark, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
