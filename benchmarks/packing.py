"""What packing costs and what it saves: bits, the loss of quantisation, seconds.

    python -m benchmarks.packing --run runs/NAME --data DIR [--json FILE]

On a trained run's own weights and calibration: the coder against zstd-22 at equal squared error; the loss of
quantisation against int5 by row under zstd at equal bytes; what GPTQ alone takes off round-to-nearest.
Seconds and memory are for 26.7 million random weights of the seed model's shape, on one core.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
import zstandard
from torch import Tensor

from benchmarks.packing_cost import measure_memory, measure_seconds
from golf.data.manifest import Dataset, open_dataset
from golf.model.gpt import GPT, ModelConfig
from golf.model.loss import token_nats
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.pack.calibrate import Calibration
from golf.pack.coding import encode_codes
from golf.pack.container import write_container
from golf.pack.entropy import encode_entropy
from golf.pack.grid import QuantizedTensor, dequantize
from golf.pack.layout import Weights, tensor_kind
from golf.pack.quantizer import Sensitivity, base_step, quantize_tensor, sensitivities
from golf.pack.report import describe_artifact
from golf.run import load_calibration
from golf.run_folder import RunFolder
from golf.score.tally import Tally
from golf.system.clock import StageClock
from golf.system.device import environment
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.train.checkpoint import load_weights


@dataclass(frozen=True)
class PackingBenchmark:
    """What to measure."""

    run: Path
    """A trained run's folder."""
    data: Path
    """Dataset folder whose validation text tells the loss of quantisation."""
    bits: float = 3.4
    """Bits a weight at which the coders are compared."""
    gptq_bits: float = 2.0
    """Bits a weight at which GPTQ stands against rounding: with many, the text's noise is as large."""
    max_tokens: int = 65_536
    """Validation tokens for each loss."""
    json: Path | None = None
    """Also write the figures here."""


@dataclass(frozen=True)
class Loss:
    """A packed model against the weights it came from."""

    gap_bpb: float
    """Bits per byte after minus before."""
    divergence_bpb: float
    """Divergence (Kullback-Leibler) of its predictions from the weights' own, bits a byte: far less noisy."""


class Judge:
    """Scores weights on the first validation tokens, by disjoint windows, beside what they came from."""

    def __init__(self, config: ModelConfig, weights: Weights, dataset: Dataset, max_tokens: int):
        self.reference, self.candidate = GPT(config), GPT(config)
        self.reference.load_state_dict(weights)
        clock = StageClock()
        with clock.stage("score"):
            tokens = dataset.validation_tokens(clock)
        rows = min(max_tokens, len(tokens) - 1) // config.context
        tokens = tokens[: rows * config.context + 1].astype(np.int64)
        self.num_bytes = int(dataset.vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
        self.inputs = torch.from_numpy(tokens[:-1]).view(rows, config.context).split(8)
        self.targets = torch.from_numpy(tokens[1:]).view(rows, config.context).split(8)

    @torch.no_grad()
    def loss(self, weights: Weights) -> Loss:
        """How much worse `weights` predict than the reference."""
        self.candidate.load_state_dict(weights)
        before = after = divergence = 0.0
        for inputs, targets in zip(self.inputs, self.targets, strict=True):
            plain, packed = self.reference(inputs), self.candidate(inputs)
            before += float(token_nats(plain, targets).double().sum())
            after += float(token_nats(packed, targets).double().sum())
            plain, packed = plain.log_softmax(-1), packed.log_softmax(-1)
            divergence += float((plain.exp() * (plain - packed)).sum(-1).double().sum())
        count = sum(targets.numel() for targets in self.targets)
        gap = Tally(after - before, count, self.num_bytes).bits_per_byte
        return Loss(gap, Tally(divergence, count, self.num_bytes).bits_per_byte)


def large(weights: Weights) -> Weights:
    """The matrices and tables."""
    return {
        name: weight for name, weight in weights.items() if tensor_kind(name, tuple(weight.shape)) != "small"
    }


def one_step_each(weights: Weights) -> dict[str, Sensitivity]:
    """One step a tensor, the same share of sigma everywhere."""
    found = {}
    for name, weight in weights.items():
        energy_R = torch.full((len(weight),), 1 / float(weight.double().square().mean()), dtype=torch.float64)
        found[name] = Sensitivity(energy_R, None, torch.zeros(weight.shape[1], dtype=torch.float64), 0.0)
    return found


def quantize_all(weights: Weights, found: dict[str, Sensitivity], price: float) -> dict[str, QuantizedTensor]:
    """Every tensor at one price."""
    return {
        name: quantize_tensor(weight, found[name], price, small=False) for name, weight in weights.items()
    }


def decoded(tensors: dict[str, QuantizedTensor], price: float) -> Weights:
    """The weights behind codes."""
    return {
        name: torch.from_numpy(dequantize(tensor.codes_RC, tensor.grid, base_step(price)))
        for name, tensor in tensors.items()
    }


def zstd_bytes_at_equal_error(weights: Weights, ours: Weights) -> int:
    """zstd-22 over one code a byte and fp16 row scales: in each tensor the share of sigma of equal error."""
    codes, scales = [], []
    for name, weight in weights.items():
        wanted = float((weight - ours[name]).double().square().sum())
        sigma_R1 = weight.double().square().mean(1, keepdim=True).sqrt().clamp_min(1e-30)
        low, high = -8.0, 3.0
        for _ in range(30):
            middle = (low + high) / 2
            step_R1 = (sigma_R1 * 2**middle).half().double().clamp_min(1e-7)
            error = float(((weight / step_R1).round() * step_R1 - weight).square().sum())
            low, high = (middle, high) if error < wanted else (low, middle)
        codes.append((weight / step_R1).round().clamp(-127, 127).to(torch.int8).numpy().tobytes())
        scales.append(step_R1.half().numpy().tobytes())
    return len(zstandard.ZstdCompressor(level=22).compress(b"".join([*scales, *codes])))


def measure_coder(weights: Weights, header: dict[str, Any], bits: float) -> dict[str, float]:
    """The coder on one step a tensor, rounded to nearest, at about `bits` a weight."""
    weights = large(weights)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    num_weights = sum(weight.numel() for weight in weights.values())
    found, price = one_step_each(weights), 1e-2
    for _ in range(4):
        tensors = quantize_all(weights, found, price)
        payload = encode_entropy(tensors, shapes, base_step(price))
        price *= 4 ** (8 * len(payload) / num_weights - bits)
    tensors = quantize_all(weights, found, price)
    whole = write_container(header, encode_entropy(tensors, shapes, base_step(price)))
    entropy, coded = class_entropy_and_coded_bits(tensors)
    zstd = zstd_bytes_at_equal_error(weights, decoded(tensors, price))
    return {
        "num_weights": num_weights,
        "bits_per_weight": 8 * len(whole) / num_weights,
        "entropy_bits_per_weight": entropy / num_weights,
        "coded_bits_per_weight": coded / num_weights,
        "coded_over_entropy": coded / entropy - 1,
        "zstd22_bits_per_weight_equal_mse": 8 * zstd / num_weights,
        "saved_against_zstd22": 1 - len(whole) / zstd,
    }


def class_entropy_and_coded_bits(tensors: dict[str, QuantizedTensor]) -> tuple[float, int]:
    """Entropy of the codes by class, and bits of the coded section with its tables and lanes."""
    classes = np.concatenate([tensor.grid.classes().reshape(-1) for tensor in tensors.values()]).astype(
        np.int64
    )
    codes = np.concatenate([tensor.codes_RC.reshape(-1) for tensor in tensors.values()]).astype(np.int64)
    joint, counts = np.unique((classes << 32) + codes + (1 << 31), return_counts=True)
    totals = np.bincount(joint >> 32, counts)[joint >> 32]
    return float(np.sum(counts * np.log2(totals / counts))), 8 * len(encode_codes(list(tensors.values())))


def measure_gaps(
    weights: Weights, header: dict[str, Any], calibration: Calibration, judge: Judge
) -> dict[str, Any]:
    """Quantisation's loss at the bytes of int5 by row under zstd-22, and at those of 3 bits a weight."""
    reference = pack(weights, header, PackConfig(scheme="int5"), 1 << 40)
    ours = pack(weights, header, PackConfig(), len(reference.artifact), calibration)
    plain = judge.loss(decode_artifact(reference.artifact)[1])
    better = judge.loss(decode_artifact(ours.artifact)[1])
    num_weights = sum(weight.numel() for weight in weights.values())
    coarse = pack(weights, header, PackConfig(), 3 * num_weights // 8, calibration)
    at_three = judge.loss(decode_artifact(coarse.artifact)[1])
    totals = describe_artifact(ours.artifact, weights, calibration)["totals"]
    return {
        "int5_absmax_bytes": len(reference.artifact),
        "equal_bytes": len(ours.artifact),
        "equal_bytes_fit": ours.report["fit"],
        "quant_gap_bpb": better.gap_bpb,
        "quant_gap_bpb_int5_absmax_equal_bytes": plain.gap_bpb,
        "quant_divergence_bpb": better.divergence_bpb,
        "quant_divergence_bpb_int5_absmax_equal_bytes": plain.divergence_bpb,
        "quant_gap_bpb_at_3_bits": at_three.gap_bpb,
        "quant_divergence_bpb_at_3_bits": at_three.divergence_bpb,
        "whole_bits_per_weight_equal_bytes": 8 * len(ours.artifact) / num_weights,
        "class_entropy_bits_per_weight_equal_bytes": 8 * totals["class_entropy_bytes"] / num_weights,
    }


def measure_gptq(
    weights: Weights, calibration: Calibration, judge: Judge, wanted_bits: float
) -> dict[str, float]:
    """One step a tensor by its mean sensitivity, at one price: rounded to nearest, and by GPTQ."""
    matrices = large(weights)
    found = sensitivities(matrices, calibration)
    num_weights = sum(weight.numel() for weight in matrices.values())
    one_step = {
        name: dataclasses.replace(
            each,
            energy_R=torch.full_like(each.energy_R, float(each.energy_R.mean())),
            log2_step_C=torch.zeros_like(each.log2_step_C),
        )
        for name, each in found.items()
    }
    nearest = {name: dataclasses.replace(each, hessian_CC=None) for name, each in one_step.items()}
    price = 1e-9
    for _ in range(6):
        entropy, _ = class_entropy_and_coded_bits(quantize_all(matrices, nearest, price))
        price *= 4 ** (entropy / num_weights - wanted_bits)
    losses, bits = {}, {}
    for name, each in (("nearest", nearest), ("gptq", one_step)):
        tensors = quantize_all(matrices, each, price)
        bits[name] = class_entropy_and_coded_bits(tensors)[0] / num_weights
        losses[name] = judge.loss(weights | decoded(tensors, price))
    return {
        "gptq_gap_reduction": 1 - losses["gptq"].gap_bpb / losses["nearest"].gap_bpb,
        "gptq_divergence_reduction": 1 - losses["gptq"].divergence_bpb / losses["nearest"].divergence_bpb,
        "gptq_bits_per_weight": bits["gptq"],
        "nearest_bits_per_weight": bits["nearest"],
        "nearest_gap_bpb": losses["nearest"].gap_bpb,
        "gptq_gap_bpb": losses["gptq"].gap_bpb,
    }


def read_trained(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], Calibration]:
    """Weights, artifact header and calibration of a run."""
    run = RunFolder(folder)
    header = json.loads(run.config.read_text(encoding="utf-8"))["header"]
    return load_weights(run.weights), header, load_calibration(folder)


def main() -> None:
    """Measures, prints a table, writes JSON."""
    options = tyro.cli(PackingBenchmark, description=__doc__)
    torch.set_num_threads(1)
    log = RunLog()
    weights, header, calibration = read_trained(options.run)
    judge = Judge(
        config_from_dict(ModelConfig, header["model"]),
        weights,
        open_dataset(options.data),
        options.max_tokens,
    )
    figures: dict[str, Any] = measure_coder(weights, header, options.bits)
    figures |= measure_gaps(weights, header, calibration, judge)
    figures |= measure_gptq(weights, calibration, judge, options.gptq_bits)
    figures |= measure_seconds()
    figures |= measure_memory()
    figures["quant_gap_share_of_int5"] = (
        figures["quant_gap_bpb"] / figures["quant_gap_bpb_int5_absmax_equal_bytes"]
    )
    log.table(f"packing {options.run}", ("figure", "value"), list(figures.items()))
    if options.json:
        write_json(options.json, {**figures, "environment": environment(torch.device("cpu"))})


if __name__ == "__main__":
    main()
