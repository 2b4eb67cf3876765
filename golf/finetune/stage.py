"""One stage of fine-tuning: from a model and a file of conversations or pairs to weights and an artifact."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.config import RunConfig
from golf.data.manifest import sha256_of_file
from golf.entry.finalize import charged_script
from golf.finetune.inputs import StageInput, prepare_preferences, prepare_responses, read_examples
from golf.finetune.settings import USUAL_EPOCHS, USUAL_RATES, FinetuneConfig, FinetuneError, StageName
from golf.finetune.template import require_free, stored_template, template_of
from golf.model.gpt import ModelConfig
from golf.pack.artifact import pack
from golf.pack.budget import LIMIT_BYTES, bytes_for_artifact
from golf.pack.calibrate import calibrate
from golf.run_folder import RunFolder
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.system.device import choose_runtime, seed_everything
from golf.system.files import write_bytes, write_json
from golf.system.log import RunLog
from golf.system.stored import config_from_dict
from golf.tasks.models import OpenedModel, open_model
from golf.train.averaging import AveragingConfig
from golf.train.budget import Budget, TrainConfig
from golf.train.checkpoint import save_weights
from golf.train.loop import Trainer
from golf.train.schedule import ScheduleConfig
from golf.ttt.sgd import TTTConfig

ENTRY_PARTS = {"model": ModelConfig, "score": WindowConfig, "ttt": TTTConfig}
"""Parts of the configuration that the header of an artifact holds."""


def build_trainer(
    stage: StageName, opened: OpenedModel, given: StageInput, config: FinetuneConfig, log: RunLog
) -> Trainer:
    """The trainer of pretraining with this stage's batches and loss, at its share of the learning rates."""
    runtime = choose_runtime(str(opened.device))
    context = opened.model.config.context
    steps = config.steps
    if steps is None:
        items = given.batches.state_dict()["count"] * (1 if stage == "sft" else 2)
        epochs = USUAL_EPOCHS if config.epochs is None else config.epochs
        steps = max(1, round(epochs * items / config.rows))
    rate = USUAL_RATES[stage] if config.rate is None else config.rate
    rates = {name: rate * vars(config.optim)[name] for name in ("matrix_lr", "embedding_lr", "scalar_lr")}
    train = TrainConfig(
        batch_tokens=config.rows * context,
        micro_batch_tokens=config.pass_rows * context,
        warmup_steps=0,
        reports=min(steps, 20),
        num_evals=3,
        checkpoint_seconds=config.checkpoint_seconds,
    )

    trainer = Trainer(
        opened.model,
        given.batches,
        Budget(steps=steps),
        runtime,
        StageClock(),
        log,
        given.held_out_bpb,
        train,
        replace(config.optim, **rates),
        ScheduleConfig(momentum_warmup=0.0, recurrence_start=0.0, warmdown=0.9, warmdown_shape="linear"),
        AveragingConfig(output="last"),
    )
    trainer.loss = torch.compile(given.loss, dynamic=False) if runtime.compiled else given.loss
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
    """Runs a stage, or goes on with what `folder` holds of it; the figures, which finetune.json keeps.

    `folder` is then a run folder: weights, artifact, script and tokenizer. ValueError for data, models and
    settings that do not go together; BudgetError for an artifact that does not fit.
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
    _claim_folder(folder, described)
    if done.is_file():
        log.info(f"{folder}: done already")
        return json.loads(done.read_text(encoding="utf-8"))
    examples, left_out = read_examples(stage, files, opened, template, config.long)
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
        "left_out": left_out,
        "steps": trainer.steps,
        "epochs": trainer.batches.epoch,
        "before": [asdict(metric) for metric in given.before],
        "after": [asdict(metric) for metric in after],
        "train_seconds": trainer.clock.elapsed("train"),
        **_pack_weights(opened, given, described["header"], config, folder, log),
    }
    write_json(done, figures)
    return figures


def _training_shards(opened: OpenedModel) -> Iterator[Path]:
    """The shards beside the tokenizer, where it lies in a dataset folder."""
    return iter(sorted(opened.tokenizer.parent.glob("fineweb_train_*.bin")))


def _claim_folder(folder: Path, described: dict[str, Any]) -> None:
    """Makes the folder this stage's; FinetuneError if it is another's already."""
    path = RunFolder(folder).config
    folder.mkdir(parents=True, exist_ok=True)
    described = json.loads(json.dumps(described))
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != described:
        raise FinetuneError(f"{folder} holds another run; give --out another folder")
    write_json(path, described)


def _pack_weights(
    opened: OpenedModel,
    given: StageInput,
    header: dict[str, Any],
    config: FinetuneConfig,
    folder: Path,
    log: RunLog,
) -> dict[str, Any]:
    """Writes weights, calibration, script and artifact, as a run of pretraining leaves them."""
    weights = {name: weight.detach().cpu().clone() for name, weight in opened.model.state_dict().items()}
    run = RunFolder(folder)
    save_weights(run.weights, weights)
    calibration = None
    if config.pack.scheme == "entropy":
        calibration = calibrate(opened.model, _calibration_batches(opened, given, config))
        save_weights(run.calibration, calibration.tensors())
    scored = {name: config_from_dict(kind, header[name]) for name, kind in ENTRY_PARTS.items()}
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
    """Training conversations in whole sequences, every token of which counts: a prompt is text, too."""
    context = opened.model.config.context
    tokens = np.concatenate([np.array(example.tokens) for example in given.texts])
    tokens = np.resize(tokens, max(len(tokens), 2 * context + 1))
    num_sequences = min((len(tokens) - 1) // context, -(-config.pack.calibration_tokens // context))
    for start in range(0, num_sequences, config.pass_rows):
        rows = range(start, min(start + config.pass_rows, num_sequences))
        windows = torch.from_numpy(np.stack([tokens[r * context : (r + 1) * context + 1] for r in rows]))
        yield windows[:, :-1].to(opened.device), windows[:, 1:].to(opened.device)
