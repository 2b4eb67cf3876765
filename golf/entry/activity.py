"""Which of the techniques that a configuration switches on really acted in a run.

A flag can be folded away by a compiler, a phase of a schedule can lie beyond the run's end, an average can be
kept and never used: each technique is therefore held against what happened without it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.config import RunConfig
from golf.data.manifest import Dataset
from golf.model.gpt import GPT, ModelConfig
from golf.pack.container import ZSTD_LEVEL
from golf.results import Feature, Results
from golf.system.log import RunLog
from golf.train.optim import split_parameters

SWITCHED_OFF: dict[str, object] = {
    "xsa": False,
    "attention_gate": 0.0,
    "activation_slope": 0.0,
    "skip_gates": False,
    "parallel_residual_blocks": 0,
    "recurrence": 1,
    "smear": "off",
    "bigram_buckets": 0,
    "document_mask": False,
    "attention_gate_dense": False,
    "attention_sinks": False,
    "modulated_attention": False,
}
"""The value of each switch of the model's config that leaves its technique out."""
NEUTRAL_WEIGHTS = {"skips": "skip_weights", "embedding mixed into each block": "mix"}
"""Techniques without a switch, and the last part of the name of the weights that make them act."""
PROBE_TOKENS = 256
MAX_ORTHOGONAL_DISTANCE = 1e-3
"""Of an orthogonal matrix's W W^T from the identity; fp32 leaves about 1e-6."""


def find_features(
    config: RunConfig,
    results: Results,
    weights: dict[str, Tensor],
    dataset: Dataset,
    events: Sequence[Mapping[str, Any]],
) -> list[Feature]:
    """Every technique of the configuration, in the order of the run: network, optimisers, schedule, average,
    packing, score.

    `events` are those of the run's log.
    """
    tokens_T = np.array(dataset.train_shards()[0][: PROBE_TOKENS + 1]).astype(np.int64)
    inputs_BT = torch.from_numpy(tokens_T[: min(PROBE_TOKENS, config.model.context)])[None]
    return [
        *shape_features(config, weights, events),
        *network_features(config.model, weights, inputs_BT),
        *clip_features(config.optim.gradient_clip, events),
        *schedule_features(config, results),
        *pack_features(config, results),
        *score_features(config, results),
    ]


def shape_features(
    config: RunConfig, weights: dict[str, Tensor], events: Sequence[Mapping[str, Any]]
) -> Iterator[Feature]:
    """Size of the network, the weights that each optimiser trained, the initialisation as it was logged."""
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    asked = f"{config.model.num_layers} layers of width {config.model.width}"
    found = f"{len(blocks)} blocks, {sum(weight.numel() for weight in weights.values()):,} weights"
    yield Feature(asked, len(blocks) == config.model.num_layers, found)
    with torch.device("meta"):
        groups = split_parameters(GPT(config.model))
    matrices = groups["matrix"]
    others = sum(parameter.numel() for group in ("embedding", "scalar") for parameter in groups[group])
    optimizer = config.optim.matrix_optimizer
    evidence = (
        f"{sum(m.numel() for m in matrices):,} weights in {len(matrices)} matrices; AdamW {others:,} others"
    )
    yield Feature(f"optim: {optimizer}", bool(matrices), evidence)
    for event in events:
        if event.get("event") == "initialization":
            distance = event["orthogonal_to"]
            evidence = f"W W^T of the first query matrix was the identity to {distance:.1g}"
            yield Feature("orthogonal initialisation", distance < MAX_ORTHOGONAL_DISTANCE, evidence)
            return


def pack_features(config: RunConfig, results: Results) -> Iterator[Feature]:
    """The quantiser that was asked for against the one that packed, and what it made of a weight."""
    packed = results.packing.report
    evidence = f"{packed['bits_per_weight']:.3f} bits a weight; {results.packing.artifact_bytes:,} bytes"
    yield Feature(
        f"pack: {packed['scheme']}, zstd-{ZSTD_LEVEL}", packed["scheme"] == config.pack.scheme, evidence
    )


def network_features(config: ModelConfig, weights: dict[str, Tensor], inputs_BT: Tensor) -> Iterator[Feature]:
    """Compares the logits of a few training tokens with those of the same weights, one technique left out.

    A document is made to start in their middle, since some techniques act at such places alone.
    """
    inputs_BT = inputs_BT.clone()
    inputs_BT[:, inputs_BT.size(1) // 2] = config.bos_id
    with_all = _logits(config, weights, inputs_BT)
    for name, off in SWITCHED_OFF.items():
        if vars(config)[name] != off:
            yield _moved(
                f"model.{name}", with_all, _logits(replace(config, **{name: off}), weights, inputs_BT)
            )
    for technique, part in NEUTRAL_WEIGHTS.items():
        neutral = {name: _neutral(name, weight, part) for name, weight in weights.items()}
        if any(name.split(".")[-1] == part for name in weights):
            yield _moved(technique, with_all, _logits(config, neutral, inputs_BT))


def clip_features(largest_norm: float, events: Sequence[Mapping[str, Any]]) -> Iterator[Feature]:
    """How often the gradient was scaled down, of the steps logged; nothing if no norm was logged."""
    norms = [event["grad_norm"] for event in events if event.get("event") == "step" and "grad_norm" in event]
    if norms:
        clipped = sum(norm > largest_norm for norm in norms)
        spread = f"the norm was {min(norms):.3g} to {max(norms):.3g}"
        evidence = f"{clipped} of {len(norms)} logged steps clipped to {largest_norm:g}; {spread}"
        yield Feature("optim.gradient_clip", clipped > 0, evidence)


def schedule_features(config: RunConfig, results: Results) -> Iterator[Feature]:
    """What was to begin within the run, against how far the run came."""
    progress = results.training.final_progress
    schedule = config.schedule
    starts = {"schedule.warmdown": 1.0 - schedule.warmdown, "schedule.momentum_warmup": 0.0}
    if config.model.recurrence > 1:
        starts["schedule.recurrence_start"] = schedule.recurrence_start
    for name in ("context_growth", "batch_growth"):
        starts |= {f"schedule.{name} at {start:g}": start for start in vars(schedule)[name]}
    for name, start in starts.items():
        evidence = f"due at {start:.2f} of the run, which came to {progress:.2f}"
        if name == "schedule.warmdown":
            evidence = f"{schedule.warmdown_shape}, {evidence}"
        yield Feature(name, progress > start and results.training.steps > 1, evidence)
    output = results.averaging.output
    kept = "the last weights were kept" if output == "last" else f"{output} was kept"
    yield Feature("averaging", output != "last", kept)


def score_features(config: RunConfig, results: Results) -> Iterator[Feature]:
    """What was to change the score of the artifact."""
    plain, ttt = results.quantized, config.ttt
    evidence = f"stride {plain.stride} in windows of {plain.context}"
    yield Feature("sliding windows", (plain.stride or 0) < (plain.context or 0), evidence)
    if not ttt.enabled:
        return
    name = f"ttt: {ttt.method}"
    if ttt.method == "sgd":
        name += f", {ttt.epochs} epochs, {ttt.frozen_blocks} frozen blocks"
    adapted = results.stage("test_time_trained")
    if adapted is None:
        yield Feature(name, False, "left out: there was too little time")
        return
    gain = plain.tally.bits_per_byte - adapted.tally.bits_per_byte
    yield Feature(name, gain != 0.0, f"moved the score by {-gain:+.6f} bits per byte")


def print_features(features: Sequence[Feature], log: RunLog) -> None:
    """The table that ends a run."""
    rows = [(f.name, "active" if f.active else "NEVER ACTIVE", f.evidence) for f in features]
    log.table("techniques", ("technique", "", "evidence"), rows)


def _logits(config: ModelConfig, weights: dict[str, Tensor], inputs_BT: Tensor) -> Tensor:
    model = GPT(config)
    own = model.state_dict()
    shared = {name: w for name, w in weights.items() if name in own and w.shape == own[name].shape}
    model.load_state_dict(shared, strict=False)
    with torch.no_grad():
        return model(inputs_BT)


def _neutral(name: str, weight: Tensor, part: str) -> Tensor:
    """Weights under which a technique adds nothing; a mix keeps its first row, the share of the stream."""
    if name.split(".")[-1] != part:
        return weight
    neutral = torch.zeros_like(weight)
    if part == "mix":
        neutral[0] = weight[0]
    return neutral


def _moved(name: str, with_all: Tensor, without: Tensor) -> Feature:
    largest = float((with_all - without).abs().max())
    return Feature(name, largest > 0.0, f"moves a logit by up to {largest:.3g}")
