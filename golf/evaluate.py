"""From an artifact's bytes and a dataset folder to the score: nothing else goes in."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from golf.data.manifest import Dataset, open_dataset
from golf.model.gpt import GPT, ModelConfig
from golf.pack.artifact import decode_artifact
from golf.pack.container import ArtifactError, read_container
from golf.score.documents import per_document
from golf.score.scorer import ScoreResult, score
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, device_kind, dtype_name, environment, read_world, scoring_dtype
from golf.system.distributed import World
from golf.system.files import STANDARD_OUTPUT, atomic_write, write_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.ttt.document_plan import split_documents
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig


@dataclass(frozen=True)
class EvaluateConfig:
    """How an artifact is scored. What is left open is as the artifact itself says."""

    context: int | None = None
    """Tokens that a window reads."""
    stride: int | None = None
    """Tokens that each window after the first grades."""
    method: Literal["sgd", "lora"] | None = None
    """How test-time training is done."""
    max_tokens: int | None = None
    """Score this many tokens from the start only; the figures then say `partial`."""
    max_seconds: float | None = None
    """Stop adapting in time for the rest to be scored without it, within so many seconds of scoring with
    test-time training, by default the artifact's own limit; refused if plain scoring takes longer."""
    sample_documents: int | None = None
    """Score so many documents only, of all lengths, for tuning; the figures then say `partial`."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps (untested)."""
    eager: bool = False
    """Without torch.compile, which a GPU needs a C compiler for."""
    json: Path | None = None
    """Where to write the figures; without a file, standard output has them and nothing else."""
    per_document: Path | None = None
    """Where to write nats, tokens and bytes of each document, as .npz."""

    def require_unused(self, names: Sequence[str], why: str) -> None:
        """ValueError for an option among `names` that was given, since what is done does not read it."""
        default = EvaluateConfig()
        for name in names:
            if vars(self)[name] != vars(default)[name]:
                raise ValueError(f"--{name.replace('_', '-')} {why}")


def load_model(artifact: bytes, device: torch.device) -> tuple[GPT, dict[str, Any]]:
    """The network that an artifact holds, computing in its `scoring_dtype`, and the header."""
    header, weights = decode_artifact(artifact)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if header.get("compute_dtype") not in dtypes:
        raise ArtifactError(
            f"compute_dtype is {header.get('compute_dtype')!r}; expected {' or '.join(dtypes)}"
        )
    model = GPT(config_from_dict(ModelConfig, header["model"]))
    model.load_state_dict(weights)
    model.compute_dtype = scoring_dtype(device, dtypes[header["compute_dtype"]])
    return model.to(device), header


def evaluate(
    artifact_path: Path,
    data_folder: Path,
    config: EvaluateConfig,
    log: RunLog,
    plain: bool = True,
    ttt: bool = False,
    world: World | None = None,
) -> dict[str, Any]:
    """Scores an artifact under sliding windows as it is (`plain`), with test-time training (`ttt`), or both.

    Returns the figures, units in their names, those of test-time training with `ttt_` before them; writes
    the files that `config` asks for. The processes of a `world` share the windows, and with method `lora` the
    documents; with `sgd` the first alone adapts, and says so. It alone writes, and has the figures; the
    others return none. Raises ValueError for an artifact, data or sizes that do not go together.
    """
    if not ttt:
        config.require_unused(("method", "max_seconds"), "belongs to test-time training; add --ttt")
    settings = read_settings(read_container(artifact_path.read_bytes())[0], config)
    return score_artifact(artifact_path, data_folder, *settings, config, log, plain, ttt, world)


def score_artifact(
    artifact_path: Path,
    data_folder: Path,
    windows: WindowConfig,
    ttt_config: TTTConfig,
    config: EvaluateConfig,
    log: RunLog,
    plain: bool = True,
    ttt: bool = False,
    world: World | None = None,
) -> dict[str, Any]:
    """`evaluate` with these settings, whatever the artifact says of them."""
    if not (plain or ttt):
        raise ValueError("nothing to score: --no-plain needs --ttt")
    clock = StageClock()
    with clock.stage("score"):
        artifact = artifact_path.read_bytes()
        runtime = choose_runtime(config.device, world=world, eager=config.eager)
        world = runtime.world
        model, header = load_model(artifact, runtime.device)
        dataset = open_dataset(data_folder)
        if header.get("tokenizer_sha256") != dataset.vocabulary.sha256:
            raise ValueError(
                f"the artifact was trained with the tokenizer of sha256 {header.get('tokenizer_sha256')}; "
                f"{data_folder} has {dataset.vocabulary.sha256}"
            )
        tokens = whole = dataset.validation_tokens(clock)
        if config.sample_documents is not None:
            tokens = sample_documents(whole, dataset.vocabulary.bos_id, config.sample_documents)
        if runtime.compiled:
            model.compile(dynamic=False)
        methods = [""] * plain + ["ttt_"] * ttt
        results, seconds = _score_by(
            methods, model, tokens, dataset, windows, ttt_config, config, log, clock, world
        )
        if not world.is_first:
            return {}
        if config.per_document:
            save_documents(config.per_document, results, tokens, dataset)
    figures = {
        **_score_figures(results, seconds, config.sample_documents is not None),
        "sample_documents": config.sample_documents,
        "ttt": json.loads(json.dumps(asdict(ttt_config))) if ttt else None,
        "max_tokens": config.max_tokens,
        "artifact_bytes": len(artifact),
        "artifact_sha256": hashlib.sha256(artifact).hexdigest(),
        "validation_sha256": hashlib.sha256(whole.tobytes()).hexdigest(),
        "compute_dtype": dtype_name(model.compute_dtype),
        "environment": environment(runtime.device, world),
        "seconds": clock.elapsed("score"),
    }
    if config.json:
        write_json(config.json, figures)
    return figures


def _score_by(
    methods: list[str],
    model: GPT,
    tokens: np.ndarray,
    dataset: Dataset,
    windows: WindowConfig,
    ttt: TTTConfig,
    config: EvaluateConfig,
    log: RunLog,
    clock: StageClock,
    world: World,
) -> tuple[dict[str, ScoreResult], dict[str, float]]:
    """Results and seconds by method: "" for plain scoring, "ttt_" for test-time training, which goes last.

    The first process of a `world` has them all; the others lack what it does alone.
    """
    results: dict[str, ScoreResult] = {}
    seconds: dict[str, float] = {}
    text = (model, tokens, dataset.vocabulary, windows)
    for method in methods:
        started = clock.elapsed("score")
        alone = method != "" and ttt.method == "sgd"
        if alone and world.size > 1:
            log.info(f"test-time training by sgd runs in the first of {world.size} processes alone")
            if not world.is_first:
                continue
        if method:
            max_seconds = ttt.max_seconds if config.max_seconds is None else config.max_seconds
            limits = {"max_tokens": config.max_tokens, "max_seconds": max_seconds}
            group = World() if alone else world
            results[method] = score_adapting(*text, ttt, log, **limits, world=group)
        else:
            results[method] = score(*text, log, ttt.chunk_tokens, config.max_tokens, world=world)
        seconds[method] = clock.elapsed("score") - started
    return results, seconds


def read_settings(header: dict[str, Any], config: EvaluateConfig) -> tuple[WindowConfig, TTTConfig]:
    """Windows and test-time training: as asked for, else as the artifact says, else the usual ones."""
    try:
        windows = config_from_dict(WindowConfig, header.get("score", {}))
        ttt = config_from_dict(TTTConfig, header.get("ttt", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise ArtifactError(f"artifact's settings of the score cannot be read: {error}") from error
    asked = {"context": config.context, "stride": config.stride}
    windows = replace(windows, **{name: value for name, value in asked.items() if value is not None})
    return windows, ttt if config.method is None else replace(ttt, method=config.method)


def sample_documents(tokens: np.ndarray, bos_id: int, num_documents: int) -> np.ndarray:
    """The stream of `num_documents` documents, evenly taken from all by length, as they stand in the text.

    ValueError if there are fewer.
    """
    documents = split_documents(tokens, len(tokens) - 1, bos_id)
    if not 1 <= num_documents <= len(documents):
        raise ValueError(f"sample_documents is {num_documents}; the text has {len(documents):,} documents")
    by_length = sorted(documents, key=lambda document: (document.num_targets, document.start))
    chosen = sorted(
        by_length[(2 * place + 1) * len(documents) // (2 * num_documents)] for place in range(num_documents)
    )
    parts = [tokens[document.start : document.end] for document in chosen]
    return np.concatenate([*parts, tokens[chosen[-1].end : chosen[-1].end + 1]])


def _score_figures(
    results: dict[str, ScoreResult], seconds: dict[str, float], is_sample: bool
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for prefix, result in results.items():
        figures[f"{prefix}val_bpb"] = result.tally.bits_per_byte
        figures[f"{prefix}val_loss_nats_per_token"] = result.tally.nats_per_token
        figures[f"{prefix}tokens_scored"] = result.tally.num_tokens
        figures[f"{prefix}bytes_scored"] = result.tally.num_bytes
        figures[f"{prefix}score_seconds"] = seconds[prefix]
        if result.notes:
            figures[f"{prefix}documents"] = result.notes
    return {
        **figures,
        "partial": is_sample or any(result.partial for result in results.values()),
        # Both methods see as far; the adapters' batches have another number of rows.
        "windows": asdict(next(iter(results.values())).windows),
    }


def save_documents(path: Path, results: dict[str, ScoreResult], tokens: np.ndarray, dataset: Dataset) -> None:
    """Writes nats (`ttt_nats` with test-time training), tokens and bytes of each document as .npz."""
    arrays = {}
    for prefix, result in results.items():
        documents = per_document(result.nats_N, tokens, dataset.vocabulary)
        arrays |= {
            f"{prefix}nats": documents.nats_D,
            "tokens": documents.tokens_D,
            "bytes": documents.bytes_D,
        }
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def main_evaluate(
    artifact_path: Path, data_folder: Path, config: EvaluateConfig, plain: bool = True, ttt: bool = False
) -> None:
    """Scores an artifact in all processes that torchrun started, or in this one; the first says the figures.

    Raises ValueError as `evaluate` does, WorldError where another process is gone.
    """
    world = read_world()
    log = RunLog(quiet=not world.is_first or config.json == STANDARD_OUTPUT)
    with world.joined(device_kind(config.device)):
        figures = evaluate(artifact_path, data_folder, config, log, plain, ttt, world)
    if world.is_first:
        print_scores(figures, log)


def print_scores(figures: dict[str, Any], log: RunLog) -> None:
    """One line a score, and one of what was scored."""
    for prefix in ("", "ttt_"):
        if f"{prefix}val_bpb" in figures:
            log.event(
                f"{prefix}score",
                val_loss=figures[f"{prefix}val_loss_nats_per_token"],
                val_bpb=figures[f"{prefix}val_bpb"],
                tokens=figures[f"{prefix}tokens_scored"],
                bytes=figures[f"{prefix}bytes_scored"],
                seconds=round(figures[f"{prefix}score_seconds"], 3),
            )
        if f"{prefix}documents" in figures:
            log.event(f"{prefix}documents", **figures[f"{prefix}documents"])
    log.event("scored", **{name: figures[name] for name in ("partial", "artifact_bytes", "seconds")})
