"""What the toolkit adds to a scored run: its facts, the techniques that acted, the audit, its place among
known scores.

A flag can be folded away by a compiler, a phase of a schedule can lie beyond the run's end, an average can be
kept and never used: each technique is therefore held against what happened without it.
"""

import lzma
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from golf.audit.rescore import audit_path
from golf.config import RunConfig
from golf.data.vocabulary import Vocabulary
from golf.entry.artifact_stats import portrait
from golf.entry.bundle import entry_script
from golf.entry.leaderboard import place_of
from golf.entry.release import ROOT, installed_release
from golf.entry.runs import parse_events
from golf.entry.selfextract import pack_script
from golf.evaluate import EvaluateConfig
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.container import ZSTD_LEVEL
from golf.results import Feature, Results
from golf.run import RunContext, resume_command
from golf.run_folder import RunFolder
from golf.system.clock import StageClock
from golf.system.files import write_sealed_json
from golf.system.log import RunLog
from golf.train.checkpoint import load_weights
from golf.train.optim import split_parameters

MAX_TEXT_BYTES = 32_000_000
"""Longer texts take zstd-22 many minutes; they are not compressed."""

SWITCHED_OFF: dict[str, object] = {
    "xsa": False,
    "attention_gate": 0.0,
    "activation_slope": 0.0,
    "skip_gates": False,
    "parallel_residual_blocks": 0,
    "recurrence": 1,
    "smear": "off",
    "bigram_buckets": 0,
    "ngram_buckets": (),
    "document_mask": False,
    "attention_gate_dense": False,
    "attention_sinks": False,
    "attention": "gqa",
}
"""The value of each switch of the model's config that leaves its technique out."""
NEUTRAL_WEIGHTS = {
    "skips": "skip_weights",
    "embedding mixed into each block": "mix",
    "model.dense_connections": "dense",
}
"""Techniques that no switch leaves out alone, and the part of the name of the weights that make them act."""
PROBE_TOKENS = 256
MAX_ORTHOGONAL_DISTANCE = 1e-3
"""Of an orthogonal matrix's W W^T from the identity; fp32 leaves about 1e-6."""

Events = Sequence[Mapping[str, Any]]
"""The lines of a run.jsonl."""


class AuditError(ValueError):
    """The legality probes found a violation; audit.json says which."""


def charged_script(config: RunConfig, form: str, log: RunLog) -> bytes:
    """The file that a run is charged for, `readable` or `packed`: the script of its entry."""
    readable = entry_script(config)
    script = pack_script(readable) if form == "packed" else readable.encode()
    log.event("code", readable_bytes=len(readable.encode()), shipped_bytes=len(script), shipped=form)
    return script


def finalize_run(folder: RunFolder, run: RunContext, results: Results) -> None:
    """Completes a scored run's folder with results.json and audit.json, and says where its score stands.

    Adds what only the toolkit knows: its commit, the sizes of the same text under compressors, which of the
    techniques that were asked for acted, the artifact's bytes by part. AuditError when a probe finds a
    violation: such a run keeps its results and gets no entry. With a time plan the audit looks at as many
    targets as the time that is left allows.
    """
    dataset, log = run.dataset, run.log
    how = EvaluateConfig(device=run.scoring.device, eager=run.scoring.eager)
    size = results.packing
    left = size.limit_bytes - size.total_bytes
    log.record("totals", total_bytes=size.total_bytes, left_bytes=left, seconds=results.seconds)
    log.event("scoring", total_eval_time=f"{results.eval_seconds:.3f}s")
    scale = compressor_bits_per_byte(dataset.validation_tokens(StageClock()), dataset.vocabulary)
    log.event("compressors", **scale)
    events = parse_events(folder.events.read_text(encoding="utf-8"))
    inputs_T = np.array(dataset.train_shards()[0][: min(PROBE_TOKENS, run.config.model.context)])
    inputs_BT = torch.from_numpy(inputs_T.astype(np.int64))[None]
    weights = load_weights(folder.weights)
    features = (
        *shape_features(run.config, weights, events),
        *network_features(run.config.model, weights, inputs_BT),
        *clip_features(run.config.optim.gradient_clip, events),
        *schedule_features(run.config, results),
        *score_features(run.config, results),
    )
    log.table("techniques", ("technique", "", "evidence"), [(f.name, f.state, f.evidence) for f in features])
    for feature in features:
        if feature.failed:
            log.info(f"WARNING: {feature.name} was asked for and is without effect: {feature.evidence}")
    parts, described = portrait(folder, dataset, how.device)
    results = replace(
        results,
        data=replace(results.data, **scale),
        packing=replace(results.packing, parts=parts),
        toolkit_commit=toolkit_commit(ROOT),
        features=features,
        portrait=described,
    )
    write_sealed_json(folder.results, asdict(results))
    place, compares = place_of(results, results.final.tally.bits_per_byte, results.train_seconds)
    if len(place) > 1:
        columns = ("bits per byte", "what", "hardware", "training minutes", "tokenizer", "source")
        log.table("among public scores", columns, place)
    log.info(compares)
    if better := results.data.better_compressors(results.final.tally.bits_per_byte):
        log.info(f"WARNING: {better} on the same text: fewer bits per byte than this model")
    seconds = run.plan.left_seconds
    passed = audit_path(folder.path, dataset.folder, how, log, ttt=False, max_seconds=seconds)
    log.record("audit", passed=passed)
    if not passed:
        raise AuditError(
            f"the audit found violations, listed above and in {folder.audit}; the results stay, "
            f"there is no entry; to audit again: {resume_command(folder, run.runtime.world)}"
        )


def _must_act(name: str, active: bool, evidence: str) -> Feature:
    """A technique that fails where it is not active."""
    return Feature(name, active, evidence, failed=not active)


def shape_features(config: RunConfig, weights: dict[str, Tensor], events: Events) -> Iterator[Feature]:
    """Size of the network, the weights that each optimizer trained, the initialization as it was logged."""
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    asked = f"{config.model.num_layers} layers of width {config.model.width}"
    found = f"{len(blocks)} blocks, {sum(weight.numel() for weight in weights.values()):,} weights"
    yield _must_act(asked, len(blocks) == config.model.num_layers, found)
    with torch.device("meta"):
        groups = split_parameters(GPT(config.model), config.optim.by_shape)
    counts = {name: sum(weight.numel() for weight in group) for name, group in groups.items()}
    matrices, others = groups["matrix"], counts["embedding"] + counts["scalar"]
    evidence = f"{counts['matrix']:,} weights in {len(matrices)} matrices; AdamW {others:,} others"
    yield _must_act(f"optim: {config.optim.matrix}", bool(matrices), evidence)
    distances = [event["orthogonal_to"] for event in events if event.get("event") == "initialization"]
    if distances:
        distance = distances[0]
        evidence = f"W W^T of the first query matrix was the identity to {distance:.1g}"
        yield _must_act("orthogonal initialisation", distance < MAX_ORTHOGONAL_DISTANCE, evidence)


def network_features(config: ModelConfig, weights: dict[str, Tensor], inputs_BT: Tensor) -> Iterator[Feature]:
    """Compares the logits of a few training tokens with those of the same weights, one technique left out.

    A document is made to start in their middle, since some techniques act at such places alone.
    """
    inputs_BT = inputs_BT.clone()
    inputs_BT[:, inputs_BT.size(1) // 2] = config.bos_id
    with_all = _logits(config, weights, inputs_BT)
    without = {
        f"model.{name}": _logits(replace(config, **{name: off}), weights, inputs_BT)
        for name, off in SWITCHED_OFF.items()
        if vars(config)[name] != off and name != "recurrence"
    }
    if config.recurrence > 1:
        # The same network without its repeats: another config would have fewer skips, and their weights anew.
        without["model.recurrence"] = _logits(config, weights, inputs_BT, looping=False)
    for technique, part in NEUTRAL_WEIGHTS.items():
        neutral = {n: torch.zeros_like(w) for n, w in weights.items() if part in n.split(".")}
        if part == "mix":
            # Its first row is the share of the stream, which stays.
            for name, weight in neutral.items():
                weight[0] = weights[name][0]
        if neutral:
            without[technique] = _logits(config, weights | neutral, inputs_BT)
    for name, logits in without.items():
        largest = float((with_all - logits).abs().max())
        yield _must_act(name, largest > 0.0, f"moves a logit by up to {largest:.3g}")


def _logits(
    config: ModelConfig, weights: dict[str, Tensor], inputs_BT: Tensor, looping: bool | None = None
) -> Tensor:
    model = GPT(config)
    model.looping = model.looping if looping is None else looping
    own = model.state_dict()
    shared = {name: w for name, w in weights.items() if name in own and w.shape == own[name].shape}
    model.load_state_dict(shared, strict=False)
    with torch.no_grad():
        return model(inputs_BT)


def clip_features(largest_norm: float, events: Events) -> Iterator[Feature]:
    """How often the gradient was scaled down, of the steps logged; nothing without limit or logged norms."""
    norms = [event["grad_norm"] for event in events if event.get("event") == "step" and "grad_norm" in event]
    if norms and largest_norm:
        clipped = sum(norm > largest_norm for norm in norms)
        spread = f"the norm was {min(norms):.3g} to {max(norms):.3g}"
        evidence = f"{clipped} of {len(norms)} logged steps clipped to {largest_norm:g}; {spread}"
        yield Feature("optim.gradient_clip", clipped > 0, evidence)


def schedule_features(config: RunConfig, results: Results) -> Iterator[Feature]:
    """What was to begin within the run, against how far the run came; the average that was kept."""
    progress = results.training.final_progress
    schedule = config.schedule
    starts = {"schedule.warmdown": 1.0 - schedule.warmdown, "schedule.momentum_warmup": 0.0}
    if config.model.recurrence > 1:
        starts["schedule.recurrence_start"] = schedule.recurrence_start
    for name in ("context_growth", "batch_growth"):
        starts |= {f"schedule.{name} at {start:g}": start for start in vars(schedule)[name]}
    for name, start in starts.items():
        evidence = f"due at {start:.2f} of the run, which came to {progress:.2f}"
        evidence += " in one step" if results.training.steps == 1 else ""
        if name == "schedule.warmdown":
            evidence = f"{schedule.warmdown_shape}, {evidence}"
        yield Feature(name, progress > start and results.training.steps > 1, evidence)
    output = results.averaging.output
    kept = f"{output} was kept" if output != "last" else "the last weights were kept"
    if len(results.averaging.held_out_bpb) > 1:
        kept += ", the best on held-out text"
    yield Feature("averaging", output != "last", kept)


def score_features(config: RunConfig, results: Results) -> Iterator[Feature]:
    """The quantizer that packed, against the one that was asked for, and what was to change the score."""
    packed, plain, ttt = results.packing.report, results.quantized, config.ttt
    name = f"pack: {packed['scheme']}, zstd-{ZSTD_LEVEL}"
    evidence = f"{packed['bits_per_weight']:.3f} bits a weight; {results.packing.artifact_bytes:,} bytes"
    yield _must_act(name, packed["scheme"] == config.pack.scheme, evidence)
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
    yield _must_act(name, gain != 0.0, f"moved the score by {-gain:+.6f} bits per byte")


def toolkit_commit(root: Path) -> str:
    """The commit of the checkout at `root`, `-dirty` behind it if files differ.

    Of an installed package its release, and `unknown` where there is neither: a repository around the
    package's folder is not the toolkit's.
    """
    if release := installed_release(root):
        return f"release {release}"
    if not (root / ".git").exists():
        return "unknown"
    outputs = []
    for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        command = ["git", "-C", str(root), *arguments]
        try:
            outputs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        except (FileNotFoundError, subprocess.CalledProcessError):
            return "unknown"
    return outputs[0] + ("-dirty" if outputs[1] else "")


def decoded_text(tokens: np.ndarray, vocabulary: Vocabulary) -> bytes:
    """The text of a token stream, document by document, without separators."""
    documents = np.split(tokens, np.flatnonzero(tokens == vocabulary.bos_id))
    return b"".join(
        vocabulary.decode_tokens(document.tolist()).encode() for document in documents if len(document)
    )


def compressor_bits_per_byte(tokens: np.ndarray, vocabulary: Vocabulary) -> dict[str, float | None]:
    """Bits per byte of xz -9 and zstd -22 --long=27 on the decoded text; None for a text that is too long."""
    size = int(vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
    if size > MAX_TEXT_BYTES:
        return {"xz_bits_per_byte": None, "zstd22_bits_per_byte": None}
    text = decoded_text(tokens, vocabulary)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    zstd = zstandard.ZstdCompressor(compression_params=parameters).compress(text)
    return {
        "xz_bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / len(text),
        "zstd22_bits_per_byte": 8 * len(zstd) / len(text),
    }
