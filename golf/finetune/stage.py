"""One stage of fine-tuning: from a model and files of conversations or pairs to weights and an artifact.

Shapes: B batch, T time, P pairs.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from golf.config import RunConfig
from golf.data.manifest import sha256_of_file
from golf.data.reference import LIMIT_BYTES
from golf.entry.finalize import charged_script
from golf.finetune.batches import PreferenceBatches, ResponseBatches
from golf.finetune.dialogues import DialogueError, LeftOut, read_conversations, read_preferences
from golf.finetune.examples import (
    ChatTemplate,
    Example,
    ExamplePair,
    encode_conversation,
    encode_preference,
    fit_example,
    fit_pair,
    require_free,
    stored_template,
    template_of,
)
from golf.finetune.losses import (
    PreferenceLoss,
    ResponseLoss,
    pair_log_probs,
    score_preferences,
    score_responses,
)
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.pack.artifact import QUANTIZERS, PackConfig, pack
from golf.pack.calibrate import calibrate
from golf.pack.fit import bytes_for_artifact
from golf.run_folder import RunFolder
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, seed_everything
from golf.system.files import read_sealed_json, write_bytes, write_sealed_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.tasks.files import LongTexts
from golf.tasks.models import OpenedModel, open_model
from golf.tasks.results import Metric
from golf.train.averaging import AveragingConfig
from golf.train.checkpoint import load_weights, save_weights
from golf.train.config import Recipe, TrainConfig
from golf.train.loop import BatchSource, Trainer
from golf.train.optim import OptimConfig
from golf.train.schedule import Budget, ScheduleConfig
from golf.ttt.sgd import TTTConfig

ENTRY_PARTS = {"model": ModelConfig, "score": WindowConfig, "ttt": TTTConfig}
"""Parts of the configuration that the header of an artifact holds."""
StageName = Literal["sft", "dpo"]
"""Supervised fine-tuning on conversations, or direct preference optimization on pairs."""
DEFAULT_RATES = {"sft": 0.1, "dpo": 0.01}
DEFAULT_EPOCHS = 3.0
MAX_SETTING = 10**9
LEARNING_RATES = ("matrix_lr", "embedding_lr", "scalar_lr")


class FinetuneError(ValueError):
    """Settings or folders of fine-tuning contradict each other."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How a stage trains, and what it holds out."""

    seed: int = 42
    """Seed of the order of the data and of the held-out split."""
    epochs: float | None = None
    """Number of epochs; by default 3."""
    steps: int | None = None
    """Number of optimizer steps, instead of epochs."""
    rows: int = 16
    """Sequences of an optimizer step; with dpo, two of them are a pair."""
    micro_batch_rows: int = 16
    """Sequences of a micro-batch (one forward and backward pass)."""
    rate: float | None = None
    """Factor on the learning rates of pretraining; by default 0.1 for sft and 0.01 for dpo."""
    held_out: float = 0.1
    """Share of the data that is held out for measurement."""
    long: LongTexts = "truncate"
    """Conversations above the context: truncate drops the end, and those without an answer then; skip drops
    them; error names the line. The log has the counts."""
    beta: float = 0.1
    """DPO's beta: strength of the penalty for moving away from the reference."""
    label_smoothing: float = 0.0
    """DPO's assumed share of preferences with swapped answers."""
    chosen_weight: float = 0.0
    """Weight of the chosen answers' nats per token in the loss of dpo (arXiv:2404.19733)."""
    checkpoint_seconds: float = 60.0
    """Seconds of training between checkpoints."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizers, with the learning rates of pretraining."""
    pack: PackConfig = field(default_factory=PackConfig)
    """Packing: from weights to an artifact."""

    def __post_init__(self) -> None:
        positive = {
            "epochs": self.epochs,
            "steps": self.steps,
            "rate": self.rate,
            "rows": self.rows,
            "checkpoint_seconds": self.checkpoint_seconds,
            "pack.calibration_tokens": self.pack.calibration_tokens,
            **{f"optim.{name}": vars(self.optim)[name] for name in LEARNING_RATES},
        }
        for name, value in positive.items():
            if value is not None and not 0 < value <= MAX_SETTING:
                raise FinetuneError(f"{name} is {value}; expected above 0 and at most {MAX_SETTING:,}")
        if not 0 <= self.seed < 2**32:
            raise FinetuneError(f"seed is {self.seed}; expected 0 to {2**32 - 1}")
        if self.epochs is not None and self.steps is not None:
            raise FinetuneError("epochs and steps are two budgets; give one of them")
        in_range = {
            "held_out": 0 < self.held_out < 1,
            "label_smoothing": 0 <= self.label_smoothing < 0.5,
            "beta": 0 < self.beta <= MAX_SETTING,
            "chosen_weight": 0 <= self.chosen_weight <= MAX_SETTING,
        }
        for name, is_in in in_range.items():
            if not is_in:
                raise FinetuneError(
                    f"{name} is {vars(self)[name]}; expected held_out between 0 and 1, label_smoothing from "
                    "0 to below 0.5, beta above 0 and chosen_weight from 0 on"
                )
        if self.micro_batch_rows < 2 or self.rows % self.micro_batch_rows or self.micro_batch_rows % 2:
            raise FinetuneError(
                f"rows is {self.rows} and micro_batch_rows {self.micro_batch_rows}; expected rows to be a "
                "multiple of micro_batch_rows, and that of 2"
            )


class StageTrainer(Trainer):
    """Trainer with the loss of a stage in place of that of pretraining."""

    stage_loss: Callable[[GPT, Tensor, Tensor], Tensor]

    def loss(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The stage's loss of a micro-batch, a scalar."""
        return self.stage_loss(model, inputs_BT, targets_BT)


@dataclass(frozen=True)
class StageInput:
    """The data and the loss of a stage, and its measurements."""

    batches: BatchSource
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    before: list[Metric]
    """Held-out scores of the model as opened."""
    measure: Callable[[], list[Metric]]
    """Takes the held-out scores of the model in its present state."""
    held_out_bpb: Callable[[], float]
    """Takes bits per byte of the held-out answers; of pairs, of the chosen ones."""
    texts: list[Example]
    """Conversations of the training part, for calibration."""
    facts: dict[str, Any]


def split_held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers to train on and numbers held out, drawn with the seed; FinetuneError if one is empty."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    num_held_out = max(1, round(share * count))
    if num_held_out >= count:
        raise FinetuneError(f"{count} conversations are too few to hold some out")
    return sorted(order[num_held_out:]), sorted(order[:num_held_out])


def read_examples(
    stage: StageName, files: Sequence[Path], opened: OpenedModel, template: ChatTemplate, long: LongTexts
) -> tuple[list[Any], LeftOut]:
    """Every conversation (sft) or pair (dpo) that fits the context, as tokens; and what was left out."""
    parts: dict[str, tuple[Callable[..., list[Any]], Callable[..., Any], Callable[..., Any]]] = {
        "sft": (read_conversations, encode_conversation, fit_example),
        "dpo": (read_preferences, encode_preference, fit_pair),
    }
    read, encode, fit = parts[stage]
    context, found, left_out = opened.model.config.context, [], LeftOut()
    for file in files:
        for item in read(file, left_out):
            try:
                encoded = encode(opened.vocabulary, template, item)
            except DialogueError as error:
                left_out.add(item.place, str(error))
                continue
            fitted = fit(encoded, context, long)
            if fitted is None:
                left_out.add(item.place, f"too long for the context of {context} tokens")
            else:
                left_out.num_cut += fitted != encoded
                found.append(fitted)
    if not found:
        reasons = "; ".join(left_out.places.values())
        raise DialogueError(f"no conversation fits the context of {context} tokens. {reasons}")
    return found, left_out


def prepare_responses(
    examples: list[Example], opened: OpenedModel, config: FinetuneConfig, log: RunLog
) -> StageInput:
    """Supervised fine-tuning: packed conversations and the loss of their answers."""
    training, held_out = split_held_out(len(examples), config.held_out, config.seed)
    texts, kept = [examples[n] for n in training], [examples[n] for n in held_out]
    batches = ResponseBatches(texts, opened.model.config.context, config.seed)

    def measure() -> list[Metric]:
        return [score_responses(opened.model, kept, opened.vocabulary.size, log).loss]

    def held_out_bpb() -> float:
        return score_responses(opened.model, kept, opened.vocabulary.size, log).tally.bits_per_byte

    facts = {"training": len(texts), "held_out": len(kept), "filled": batches.filled}
    loss = ResponseLoss(batches.mean_graded)
    return StageInput(batches, loss, measure(), measure, held_out_bpb, texts, facts)


def prepare_preferences(
    pairs: list[ExamplePair], opened: OpenedModel, config: FinetuneConfig, folder: Path, log: RunLog
) -> StageInput:
    """DPO: pairs, and their log probabilities under the model as opened."""
    training, held_out = split_held_out(len(pairs), config.held_out, config.seed)
    reference_P2 = cached_reference(opened, pairs, folder / "reference.safetensors", log)
    kept, kept_reference_P2 = [pairs[n] for n in held_out], reference_P2[held_out]
    whole = choose_runtime(str(opened.device)).compiled
    batches = PreferenceBatches([pairs[n] for n in training], config.seed, whole)
    training_P2 = torch.from_numpy(reference_P2[training]).float().to(opened.device)
    loss = PreferenceLoss(training_P2, config.beta, config.label_smoothing, config.chosen_weight)

    def measure() -> list[Metric]:
        policy_P2 = pair_log_probs(opened.model, kept, log, "held-out pairs")
        return score_preferences(policy_P2, kept, kept_reference_P2)

    def held_out_bpb() -> float:
        for metric in measure():
            log.event("held_out_pairs", name=metric.name, share=metric.value)
        chosen = [pair.chosen for pair in kept]
        return score_responses(opened.model, chosen, opened.vocabulary.size, log).tally.bits_per_byte

    before = score_preferences(kept_reference_P2, kept, None)
    facts = {"training": len(training), "held_out": len(kept)}
    texts = [pairs[n].chosen for n in training]
    return StageInput(batches, loss, before, measure, held_out_bpb, texts, facts)


def cached_reference(
    opened: OpenedModel, pairs: Sequence[ExamplePair], path: Path, log: RunLog
) -> np.ndarray:
    """Log probabilities of every pair under the model as opened, float64 (P, 2).

    Stored in `path` with a hash of the weights' file and the tokens, and read from there if the hash agrees.
    """
    digest = hashlib.sha256(sha256_of_file(opened.path).encode())
    for pair in pairs:
        digest.update(repr((pair.chosen.tokens, pair.rejected.tokens, pair.chosen.is_graded)).encode())
    key = torch.tensor(list(digest.digest()), dtype=torch.uint8)
    if path.is_file():
        stored = load_weights(path)
        if torch.equal(stored["digest"], key):
            log.info(f"reference of {len(pairs)} pairs read from {path}")
            return stored["log_probs"].numpy()
    found_P2 = pair_log_probs(opened.model, pairs, log, "reference")
    save_weights(path, {"digest": key, "log_probs": torch.from_numpy(found_P2)})
    return found_P2


def build_trainer(
    stage: StageName, opened: OpenedModel, given: StageInput, config: FinetuneConfig, log: RunLog
) -> Trainer:
    """The trainer of pretraining with this stage's batches, loss and learning rates."""
    runtime = choose_runtime(str(opened.device))
    context = opened.model.config.context
    steps = config.steps
    if steps is None:
        items = given.batches.state_dict()["count"] * (1 if stage == "sft" else 2)
        epochs = DEFAULT_EPOCHS if config.epochs is None else config.epochs
        steps = max(1, round(epochs * items / config.rows))
    rate = DEFAULT_RATES[stage] if config.rate is None else config.rate
    rates = {name: rate * vars(config.optim)[name] for name in LEARNING_RATES}
    train = TrainConfig(
        batch_tokens=config.rows * context,
        micro_batch_tokens=config.micro_batch_rows * context,
        warmup_steps=0,
        reports=min(steps, 20),
        num_evals=3,
        checkpoint_seconds=config.checkpoint_seconds,
    )

    schedule = ScheduleConfig(
        momentum_warmup=0.0, recurrence_start=0.0, warmdown=0.9, warmdown_shape="linear"
    )
    averaging = AveragingConfig(output="last")
    recipe = Recipe(Budget(steps=steps), train, replace(config.optim, **rates), schedule, averaging)
    trainer = StageTrainer(
        opened.model,
        given.batches,
        recipe,
        runtime,
        lambda model, grade, batch_tokens: given.held_out_bpb(),
        StageClock(),
        log,
    )
    trainer.stage_loss = torch.compile(given.loss, dynamic=False) if runtime.compiled else given.loss
    return trainer


def finetune(
    stage: StageName,
    source: Path,
    files: Sequence[Path],
    folder: Path,
    config: FinetuneConfig,
    log: RunLog,
    device: str = "auto",
    tokenizer: Path | None = None,
) -> dict[str, Any]:
    """Runs a stage, or resumes it in `folder`; returns the content of finetune.json.

    `folder` becomes a run folder: weights, artifact, script and tokenizer. ValueError for data, models and
    settings that contradict each other; BudgetError for an artifact above the limit.
    """
    done = folder / "finetune.json"
    opened = open_model(source, tokenizer, device)
    log.info(opened.describe())
    template = stored_template(opened.header) or template_of(opened.vocabulary, str(opened.tokenizer))
    require_free(template, _training_shards(opened))
    header = {key: value for key, value in opened.header.items() if key != "scheme"}
    described = {
        "finetune": {
            "stage": stage,
            "source": str(opened.path),
            "source_sha256": sha256_of_file(opened.path),
            "data_sha256": [sha256_of_file(file) for file in files],
            "config": asdict(config),
        },
        "header": {**header, "chat": asdict(template), "stages": [*header.get("stages", []), stage]},
    }
    _require_same_run(folder, described)
    if done.is_file():
        log.info(f"{folder}: already done")
        return read_sealed_json(done)
    examples, left_out = read_examples(stage, files, opened, template, config.long)
    left_out.report(log)
    split_held_out(len(examples), config.held_out, config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed_json(RunFolder(folder).config, described)
    if stage == "sft":
        given = prepare_responses(examples, opened, config, log)
    else:
        given = prepare_preferences(examples, opened, config, folder, log)
    seed_everything(config.seed)
    trainer = build_trainer(stage, opened, given, config, log)
    checkpoint = RunFolder(folder).checkpoint
    if checkpoint.is_file():
        trainer.resume(checkpoint)
        log.info(f"resumed at step {trainer.steps}")
    trainer.train(checkpoint)
    after = given.measure()
    shutil.copyfile(opened.tokenizer, folder / opened.tokenizer.name)
    figures = {
        **described["finetune"],
        **given.facts,
        "left_out": dict(left_out.counts),
        "cut": left_out.num_cut,
        "steps": trainer.steps,
        "epochs": trainer.batches.epoch,
        "before": [asdict(metric) for metric in given.before],
        "after": [asdict(metric) for metric in after],
        "train_seconds": trainer.clock.elapsed("train"),
        **_pack_weights(opened, given, described["header"], config, folder, log),
    }
    write_sealed_json(done, figures)
    return figures


def _training_shards(opened: OpenedModel) -> Iterator[Path]:
    """The training shards in the folder of the tokenizer, if it is a dataset folder."""
    return iter(sorted(opened.tokenizer.parent.glob("fineweb_train_*.bin")))


def _require_same_run(folder: Path, described: dict[str, Any]) -> None:
    """FinetuneError if the folder holds another run."""
    path = RunFolder(folder).config
    if path.is_file() and read_sealed_json(path) != json.loads(json.dumps(described)):
        raise FinetuneError(f"{folder} holds another run; give --out another folder")


def _pack_weights(
    opened: OpenedModel,
    given: StageInput,
    header: dict[str, Any],
    config: FinetuneConfig,
    folder: Path,
    log: RunLog,
) -> dict[str, Any]:
    """Writes weights, calibration, script and artifact, with the names of a run folder."""
    weights = {name: weight.detach().cpu().clone() for name, weight in opened.model.state_dict().items()}
    run = RunFolder(folder)
    save_weights(run.weights, weights)
    calibration = None
    if QUANTIZERS[config.pack.scheme].needs_calibration:
        calibration = calibrate(opened.model, _calibration_batches(opened, given, config))
        save_weights(run.calibration, calibration.to_tensors())
    scored = {name: config_from_dict(kind, header.get(name, {})) for name, kind in ENTRY_PARTS.items()}
    code = charged_script(RunConfig(**scored, pack=config.pack), "packed", log)
    write_bytes(run.script, code)
    room_bytes = bytes_for_artifact(len(code), LIMIT_BYTES)
    packed = pack(weights, header, config.pack, room_bytes, calibration)
    write_bytes(run.artifact, packed.artifact)
    log.event("size", code_bytes=len(code), artifact_bytes=len(packed.artifact))
    return {"code_bytes": len(code), "artifact_bytes": len(packed.artifact)}


def _calibration_batches(
    opened: OpenedModel, given: StageInput, config: FinetuneConfig
) -> Iterator[tuple[Tensor, Tensor]]:
    """Training conversations in sequences of the context's length, all tokens graded, prompts included."""
    context = opened.model.config.context
    tokens = np.concatenate([np.array(example.tokens) for example in given.texts])
    tokens = np.resize(tokens, max(len(tokens), 2 * context + 1))
    num_sequences = min((len(tokens) - 1) // context, -(-config.pack.calibration_tokens // context))
    for start in range(0, num_sequences, config.micro_batch_rows):
        rows = range(start, min(start + config.micro_batch_rows, num_sequences))
        windows = torch.from_numpy(np.stack([tokens[r * context : (r + 1) * context + 1] for r in rows]))
        yield windows[:, :-1].to(opened.device), windows[:, 1:].to(opened.device)
