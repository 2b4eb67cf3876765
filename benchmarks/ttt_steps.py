"""How fast a preset's documents are graded and learned from: random weights, documents of the web's lengths.

    python -m benchmarks.ttt --device cuda [--speed.shard fineweb_val_000000.bin]

An arm is how steps are made, recorded in fixed shapes or called each of its own length, and how many
documents learn at once.
Batches are taken evenly over all of 50,000 documents; what these would take is a forecast, and called so.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.command import find_preset
from golf.config import RunConfig
from golf.data.shards import read_shard
from golf.model.gpt import GPT
from golf.score.scorer import Scoring
from golf.score.windows import ResolvedWindows
from golf.system.device import Runtime, choose_runtime
from golf.system.log import RunLog
from golf.ttt import document_step
from golf.ttt.document_scorer import score_documents
from golf.ttt.documents import DocumentBatch, plan_documents, split_documents
from golf.ttt.lora import LoraConfig, LoraLearner
from golf.ttt.tilt import NgramTilt

CHALLENGE_DOCUMENTS = 50_000
_MEAN_LOG, _STD_LOG = 6.14, 1.0
"""Documents of FineWeb in 8,192 pieces: some 811 tokens on average, half of them below 470."""
_VIEWS = (
    "alias as_strided detach diagonal empty empty_like empty_strided expand is_same_size lift_fresh "
    "new_empty permute reshape select slice split split_with_sizes squeeze t transpose unbind unfold "
    "unsafe_split unsqueeze view _reshape_alias _unsafe_view"
).split()
"""Operations that launch nothing."""


@dataclass(frozen=True)
class SpeedOptions:
    """What to time."""

    preset: str = "h100-10min"
    """Whose network and adapters."""
    arms: tuple[str, ...] = ("recorded-64", "called-64")
    """How steps are made and how many documents at once, each in turn."""
    batches: int = 8
    """Batches of each arm; with fewer none has the longest documents."""
    shard: Path | None = None
    """A validation shard, whose documents are taken as they are; made-up ones otherwise."""
    tiny: bool = False
    """A tiny width, rank and context, for a CPU: the layers stay as they are."""
    operations: bool = False
    """Count a step's operations too, on the CPU at a tiny width."""


class SpeedVocabulary:
    """A byte for every token."""

    def __init__(self, size: int, bos_id: int):
        self.size, self.bos_id, self.sha256 = size, bos_id, "0" * 64

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """One for each target."""
        return np.ones(len(targets), dtype=np.int64)


class OperationCounter(TorchDispatchMode):
    """Counts the operations that launch work."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        name = operation._schema.name.removeprefix("aten::")
        self.counts[name] += name not in _VIEWS
        return operation(*args, **(kwargs or {}))


def speed_config(options: SpeedOptions) -> RunConfig:
    """The preset, for a CPU at a tiny width."""
    config = find_preset(options.preset)
    if not options.tiny:
        return config
    heads = {"num_heads": 4, "num_kv_heads": 2, "rotary_dims": 4}
    model = replace(config.model, width=32, mlp_hidden=64, vocab_size=64, context=128, **heads)
    tilt = replace(config.ttt.tilt, table_bits=12)
    return replace(
        config, model=model, ttt=replace(config.ttt, lora=replace(config.ttt.lora, rank=4), tilt=tilt)
    )


def speed_model(config: RunConfig, runtime: Runtime) -> GPT:
    """Random weights."""
    torch.manual_seed(0)
    model = GPT(config.model).to(runtime.device)
    model.initialize()
    model.compute_dtype = runtime.compute_dtype if runtime.device.type == "cuda" else torch.float32
    return model


def speed_tokens(options: SpeedOptions, config: RunConfig) -> np.ndarray:
    """The shard's tokens, or made-up documents, log-normal in length; tiny ones are a sixteenth as long."""
    vocab_size, bos_id = config.model.vocab_size, config.model.bos_id
    if options.shard is not None:
        return np.array(read_shard(options.shard)).astype(np.uint16) % vocab_size
    draw = np.random.default_rng(0)
    lengths = np.exp(draw.normal(_MEAN_LOG, _STD_LOG, CHALLENGE_DOCUMENTS)).astype(int).clip(8, 60_000)
    lengths = lengths // 16 + 2 if options.tiny else lengths
    tokens = draw.integers(2, vocab_size, lengths.sum() + 1).astype(np.uint16)
    tokens[np.cumsum(lengths) - lengths] = bos_id
    return tokens


def sample_batches(
    tokens: np.ndarray, bos_id: int, lora: LoraConfig, count: int
) -> tuple[np.ndarray, list[DocumentBatch], int]:
    """The tokens of `count` batches taken evenly, these batches, and the steps of all batches.

    Places among the batches are the middles of equal parts of them, so that their mean stands for all.
    """
    plan = (lora.chunk_tokens, lora.chunk_lengths, lora.batch_documents)
    every = plan_documents(split_documents(tokens, len(tokens) - 1, bos_id), *plan)
    chosen = [every[(2 * index + 1) * len(every) // (2 * count)] for index in range(count)]
    spans = sorted(span for batch in chosen for span in batch.documents)
    text = np.concatenate([tokens[start:end] for start, end in spans] + [tokens[:1]])
    edges = np.cumsum([0] + [span.num_targets for span in spans])
    moved = {
        span: (int(edge), int(edge) + span.num_targets) for span, edge in zip(spans, edges, strict=False)
    }
    batches = [
        batch._replace(documents=tuple(type(span)(*moved[span]) for span in batch.documents))
        for batch in chosen
    ]
    return text, batches, sum(map(count_steps, every))


def count_steps(batch: DocumentBatch) -> int:
    """Chunks of the longest document."""
    return -(-batch.documents[0].num_targets // batch.chunk_tokens[0])


@contextmanager
def recording_clock() -> Iterator[list[float]]:
    """Seconds of every recording made within the block."""
    seconds: list[float] = []
    record = document_step.record

    def timed(function: Callable[[], Any], pool: Any) -> Callable[[], Any]:
        started = time.perf_counter()
        replay = record(function, pool)
        seconds.append(time.perf_counter() - started)
        return replay

    document_step.record = timed
    try:
        yield seconds
    finally:
        document_step.record = record


def measure_arm(
    arm: str, options: SpeedOptions, config: RunConfig, runtime: Runtime, tokens: np.ndarray
) -> dict[str, Any]:
    """Seconds a step and tokens a second of one arm, with and without its recordings."""
    way, number = arm.split("-")
    lora = replace(config.ttt.lora, batch_documents=int(number))
    text, batches, all_steps = sample_batches(tokens, config.model.bos_id, lora, options.batches)
    device, context = runtime.device, config.model.context
    model = speed_model(config, runtime)
    windows = ResolvedWindows(context=context, stride=context, batch_tokens=context * lora.batch_documents)
    vocabulary: Any = SpeedVocabulary(config.model.vocab_size, config.model.bos_id)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    learner = LoraLearner(model, lora, recorded=way == "recorded")
    tilt = NgramTilt(config.ttt.tilt, text)
    with recording_clock() as recordings:
        started = time.perf_counter()
        result = score_documents(Scoring(model, text, vocabulary, windows), batches, learner, tilt)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    steps = sum(map(count_steps, batches))
    each = (seconds - sum(recordings)) / steps
    return {
        "arm": arm,
        "steps": steps,
        "tokens": result.tally.num_tokens,
        "seconds": seconds,
        "recordings": len(recordings),
        "recording_seconds": sum(recordings),
        "milliseconds_a_step": 1000 * each,
        "tokens_per_second": result.tally.num_tokens / (each * steps),
        "peak_gigabytes": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
        "all_steps": all_steps,
        "forecast_seconds": each * all_steps + sum(recordings),
        "nats_a_token": result.tally.nats / result.tally.num_tokens,
    }


def count_operations(config: RunConfig, runtime: Runtime, way: str) -> dict[str, Any]:
    """Operations in bf16 that launch something, of a step of grading and learning inside a document."""
    model = speed_model(config, runtime)
    model.compute_dtype = torch.bfloat16
    chunk = config.ttt.lora.chunk_tokens[1]
    lora = replace(config.ttt.lora, chunk_tokens=(chunk,), chunk_lengths=(), batch_documents=4)
    context = config.model.context
    windows = ResolvedWindows(context=context, stride=context, batch_tokens=context * 4)
    vocabulary: Any = SpeedVocabulary(config.model.vocab_size, config.model.bos_id)
    counts = []
    # Longer than the context, so that the one step more is like the one before it.
    for steps in (context // chunk + 3, context // chunk + 4):
        tokens = np.full(4 * steps * chunk + 1, 2, dtype=np.uint16)
        tokens[:: steps * chunk] = config.model.bos_id
        batches = plan_documents(
            split_documents(tokens, len(tokens) - 1, config.model.bos_id), (chunk,), (), 4
        )
        learner = LoraLearner(model, lora, recorded=way == "recorded")
        with OperationCounter() as counter:
            score_documents(Scoring(model, tokens, vocabulary, windows), batches, learner)
        counts.append(counter.counts)
    by_name = (counts[1] - counts[0]).most_common()
    return {"way": way, "operations": sum(number for _, number in by_name), "most": dict(by_name[:12])}


def measure_speeds(options: SpeedOptions, runtime: Runtime, log: RunLog) -> list[dict[str, Any]]:
    """All arms in turn, each said when it is done; ValueError for an arm that is none."""
    config = speed_config(options)
    for arm in options.arms:
        if not re.fullmatch(r"(recorded|called)-[1-9][0-9]{0,5}", arm):
            raise ValueError(f"arm is {arm!r}; expected recorded or called, and documents at once: called-64")
    tokens = speed_tokens(options, config)
    rows = []
    for arm in options.arms:
        rows.append(measure_arm(arm, options, config, runtime, tokens))
        log.event("arm", **rows[-1])
    return rows


def measure_operations(options: SpeedOptions, log: RunLog) -> list[dict[str, Any]]:
    """A step of each way, at a tiny width."""
    config, runtime = speed_config(replace(options, tiny=True)), choose_runtime("cpu")
    rows = []
    for way in sorted({arm.split("-")[0] for arm in options.arms}):
        rows.append(count_operations(config, runtime, way))
        log.event("operations", **rows[-1])
    return rows
