"""From an artifact's bytes and a dataset folder to the score: nothing else goes in."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from golf.data.manifest import Dataset, open_dataset
from golf.data.vocabulary import Vocabulary
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import decode_artifact
from golf.pack.container import ArtifactError, read_artifact
from golf.results import NATS_ARRAYS, Scores, Stage
from golf.score.documents import per_document, save_arrays
from golf.score.scorer import ScoreResult, Scoring, score
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, device_kind, dtype_name, environment, read_world, scoring_dtype
from golf.system.distributed import World
from golf.system.files import STANDARD_OUTPUT, write_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.ttt.documents import split_documents
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig

SCORE_LEAST = {"context": 1, "stride": 1, "max_tokens": 1, "sample": 1, "sample_documents": 1}
"""The smallest values of the options of programs that score, where that is not 0."""


@dataclass(frozen=True)
class EvaluateConfig:
    """How an artifact is scored. What is left open is as the artifact itself says."""

    context: int | None = None
    """Tokens that a window reads."""
    stride: int | None = None
    """Tokens that each window after the first grades."""
    method: Literal["sgd", "lora"] | None = None
    """How test-time training is done."""
    order: Literal["length", "stream"] | None = None
    """In which order test-time training by document goes: the longest first, or as they stand in the text."""
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


def read_model(path: Path, device: torch.device) -> tuple[bytes, GPT, dict[str, Any]]:
    """An artifact file's bytes, network and header; ArtifactError, naming the file, as `load_model`."""
    artifact = read_artifact(path)
    try:
        return artifact, *load_model(artifact, device)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def evaluate(
    artifact_path: Path,
    data_folder: Path,
    config: EvaluateConfig,
    log: RunLog,
    plain: bool = True,
    ttt: bool = False,
    world: World | None = None,
) -> Scores:
    """Scores an artifact under sliding windows as it is (`plain`), with test-time training (`ttt`), or both.

    Writes the files that `config` asks for. The processes of a `world` share the windows, and with method
    `lora` the documents; with `sgd` the first alone adapts, and says so. It alone writes, and has all scores.
    Raises ValueError for an artifact, data or sizes that do not go together.
    """
    if not ttt:
        config.require_unused(("method", "order", "max_seconds"), "belongs to test-time training; add --ttt")
    if not (plain or ttt):
        raise ValueError("nothing to score: --no-plain needs --ttt")
    clock = StageClock()
    with clock.stage("score"):
        runtime = choose_runtime(config.device, world=world, eager=config.eager)
        artifact, model, header = read_model(artifact_path, runtime.device)
        windows, ttt_config = read_settings(header, config)
        dataset = open_dataset(data_folder)
        vocabulary = dataset.vocabulary
        require_same_text(header, model, dataset)
        tokens = whole = dataset.validation_tokens(clock)
        if config.sample_documents is not None:
            tokens = sample_documents(whole, vocabulary.bos_id, config.sample_documents)
        if runtime.compiled:
            model.compile(dynamic=False)
        scoring = Scoring(model, tokens, vocabulary, windows, config.max_tokens, log=log, world=runtime.world)
        load_seconds = clock.elapsed("score")
        stages, documents = [], {}
        for name in ["quantized"] * plain + ["test_time_trained"] * ttt:
            started = clock.elapsed("score")
            adapting = ttt_config if name == "test_time_trained" else None
            result = score_once(scoring, adapting, ttt_config.chunk_tokens, config.max_seconds)
            if result is not None:
                seconds = clock.elapsed("score") - started
                stages.append(_stage(name, result, seconds, adapting, config.sample_documents is not None))
                documents[name] = result.nats_N
    scores = Scores(
        stages=tuple(stages),
        artifact_bytes=len(artifact),
        artifact_sha256=hashlib.sha256(artifact).hexdigest(),
        validation_sha256=hashlib.sha256(whole.tobytes()).hexdigest(),
        compute_dtype=dtype_name(model.compute_dtype),
        environment=environment(runtime.device, runtime.world),
        load_seconds=load_seconds,
        max_tokens=config.max_tokens,
        sample_documents=config.sample_documents,
        ttt=asdict(ttt_config) if ttt else None,
    )
    if runtime.world.is_first:
        if config.per_document:
            save_documents(config.per_document, documents, tokens, vocabulary)
        if config.json:
            write_json(config.json, asdict(scores))
    return scores


def require_same_text(header: dict[str, Any], model: GPT, dataset: Dataset) -> None:
    """ValueError for an artifact that was trained with another tokenizer than the dataset's."""
    vocabulary = dataset.vocabulary
    if header.get("tokenizer_sha256") != vocabulary.sha256:
        raise ValueError(
            f"the artifact was trained with the tokenizer of sha256 {header.get('tokenizer_sha256')}; "
            f"{dataset.folder} has {vocabulary.sha256}"
        )
    if model.config.bos_id != vocabulary.bos_id:
        raise ArtifactError(f"bos_id is {model.config.bos_id}; the tokenizer has {vocabulary.bos_id}")


def score_once(
    scoring: Scoring, ttt: TTTConfig | None, chunk_tokens: int, max_seconds: float | None
) -> ScoreResult | None:
    """The score, with test-time training for a `ttt`; None in processes that have no part in it."""
    if ttt is None:
        return score(scoring, chunk_tokens)
    if ttt.method == "sgd" and scoring.world.size > 1:
        scoring.log.info(
            f"test-time training by sgd runs in the first of {scoring.world.size} processes alone"
        )
        if not scoring.world.is_first:
            return None
        scoring = replace(scoring, world=World())
    return score_adapting(scoring, ttt, ttt.max_seconds if max_seconds is None else max_seconds)


def _stage(name: str, result: ScoreResult, seconds: float, ttt: TTTConfig | None, is_sample: bool) -> Stage:
    by_document = ttt is not None and ttt.method == "lora"
    return Stage(
        name,
        result.tally,
        windows="by document" if by_document else "sliding",
        context=result.windows.context,
        stride=None if by_document else result.windows.stride,
        batch_tokens=result.windows.batch_tokens,
        seconds=seconds,
        partial=is_sample or result.partial,
        notes=result.notes,
    )


def read_settings(header: dict[str, Any], config: EvaluateConfig) -> tuple[WindowConfig, TTTConfig]:
    """Windows and test-time training: as asked for, else as the artifact says, else the usual ones."""
    try:
        windows = config_from_dict(WindowConfig, header.get("score", {}))
        ttt = config_from_dict(TTTConfig, header.get("ttt", {}))
    except ValueError as error:
        raise ArtifactError(f"artifact's settings of the score cannot be read: {error}") from error
    asked = {"context": config.context, "stride": config.stride}
    windows = replace(windows, **{name: value for name, value in asked.items() if value is not None})
    asked = {"method": config.method, "order": config.order}
    ttt = replace(ttt, **{name: value for name, value in asked.items() if value is not None})
    if config.order is not None and ttt.method != "lora":
        raise ValueError(f"--order is of test-time training by document; the method is {ttt.method}")
    return windows, ttt


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


def save_documents(
    path: Path, nats: dict[str, np.ndarray], tokens: np.ndarray, vocabulary: Vocabulary
) -> None:
    """Writes nats (`ttt_nats` with test-time training), tokens and bytes of each document as .npz.

    `nats` has the grades of each stage's targets.
    """
    arrays = {}
    for name, nats_N in nats.items():
        documents = per_document(nats_N, tokens, vocabulary)
        arrays |= {
            NATS_ARRAYS[name]: documents.nats_D,
            "tokens": documents.tokens_D,
            "bytes": documents.bytes_D,
        }
    save_arrays(path, arrays)


def main_evaluate(
    artifact_path: Path, data_folder: Path, config: EvaluateConfig, plain: bool = True, ttt: bool = False
) -> None:
    """Scores an artifact in all processes that torchrun started, or in this one; the first prints the scores.

    Raises ValueError as `evaluate` does, WorldError where another process is gone.
    """
    world = read_world()
    log = RunLog(quiet=not world.is_first or config.json == STANDARD_OUTPUT)
    with world.joined(device_kind(config.device)):
        scores = evaluate(artifact_path, data_folder, config, log, plain, ttt, world)
    for stage in scores.stages:
        prefix = "ttt_" if stage.name == "test_time_trained" else ""
        log.event(
            f"{prefix}score",
            val_loss=stage.tally.nats_per_token,
            val_bpb=stage.tally.bits_per_byte,
            tokens=stage.tally.num_tokens,
            bytes=stage.tally.num_bytes,
            seconds=round(stage.seconds or 0.0, 3),
        )
        if stage.notes:
            log.event(f"{prefix}documents", **stage.notes)
        if stage.order_bytes:
            left_out = 8 * stage.order_bytes / stage.tally.num_bytes
            log.info(f"decodable {stage.decodable}, {left_out:.4f} bits per byte that the score leaves out")
    log.event("scored", partial=scores.partial, artifact_bytes=scores.artifact_bytes, seconds=scores.seconds)
