"""What would stop a run late, found before it begins.

That is all that a later stage refuses and that follows from options, configuration, data and machine.
"""

import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from golf.config import RunConfig
from golf.data.batches import TrainBatches
from golf.data.manifest import Dataset
from golf.data.reference import LIMIT_BYTES
from golf.entry.submission import find_identity
from golf.model.gpt import GPT
from golf.pack.container import ArtifactError
from golf.pack.fit import BudgetError
from golf.pack.layout import count_elements, implied_layout
from golf.run import needs_calibration
from golf.run_folder import RunFolder
from golf.system.clock import StageClock
from golf.system.device import Runtime
from golf.system.files import require_writable
from golf.system.options import check_numbers
from golf.system.stored import ConfigError
from golf.train.objective import export_config
from golf.train.optim import Optimizers
from golf.train.schedule import plan_phases
from golf.ttt.lora import find_matrices
from golf.ttt.sgd import adapted_parameters, learned_caps

POSITIVE = math.ulp(0.0)
"""As a least value: more than 0."""
LEAST = {
    "minutes": POSITIVE,
    "steps": 1,
    "model.width": 1,
    "model.num_heads": 1,
    "model.num_kv_heads": 1,
    "model.rotary_base": POSITIVE,
    "model.activation_slope": -1,
    "train.batch_tokens": 1,
    "train.micro_batch_tokens": 1,
    "train.num_evals": 1,
    "train.held_out_tokens": 1,
    "score.context": 1,
    "score.batch_tokens": 1,
    "ttt.max_seconds": POSITIVE,
}
"""The smallest values of a configuration's numbers, where that is not 0."""
BELOW_ONE = (
    "optim.momentum", "optim.adam_beta1", "optim.adam_beta2", "schedule.momentum_start", "ttt.momentum",
)  # fmt: skip
MIN_TRAIN_BYTES = 12
"""Memory of a weight in training, at the least: itself, its gradient, one moment; all fp32."""
CHECKPOINT_BYTES = 24
"""Of a weight: itself, up to two moments and three averages; fp32."""


def check_config(config: RunConfig, device_type: str) -> None:
    """ValueError for values and for parts that do not go together, whatever the data."""
    check_numbers(config, LEAST)
    for name in BELOW_ONE:
        part, field = name.split(".")
        if vars(vars(config)[part])[field] >= 1:
            raise ConfigError(f"{name} is {vars(vars(config)[part])[field]:g}; expected less than 1")
    config.budget()
    model = config.model
    phases = plan_phases(model.context, config.train.batch_tokens, model.recurrence > 1, config.schedule)
    config.train.check(phases)
    if model.future_tokens >= (shortest := min(phase.context for phase in phases)):
        raise ConfigError(f"model.future_tokens is {model.future_tokens}; a sequence has {shortest} tokens")
    windows = config.score.resolve(model.context, device_type)
    if model.positions == "learned" and windows.context > model.context:
        raise ConfigError(f"score.context is {windows.context}; the learned positions end at {model.context}")
    try:
        implied_layout(asdict(export_config(model)))
    except ArtifactError as error:
        raise ConfigError(str(error).replace("header's model", "the model", 1)) from error
    with torch.device("meta"):
        network = GPT(model)
        try:
            Optimizers(network, config.optim, torch.float32)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"optim: {error}") from error


def check_artifact(config: RunConfig, device_type: str, max_tokens: int | None) -> None:
    """ValueError for what calibration, scoring, test-time training or the audit would refuse.

    BudgetError for a network that cannot fit an entry. `config` has passed `check_config`.
    """
    model, ttt = config.model, config.ttt
    if needs_calibration(config) and config.pack.calibration_tokens < 1:
        raise ConfigError(f"pack.calibration_tokens is 0; pack.scheme {config.pack.scheme} needs at least 1")
    num_weights = count_elements(implied_layout(asdict(export_config(model))))
    if num_weights > 8 * LIMIT_BYTES:
        raise BudgetError(
            f"the network has {num_weights:,} weights; at one bit each that is more than the {LIMIT_BYTES:,} "
            "bytes of an entry. `golf lab` trains such networks without packing them"
        )
    if ttt.enabled:
        with torch.device("meta"):
            network = GPT(export_config(model))
        if ttt.method == "lora":
            find_matrices(network, ttt.lora.projections)
        if ttt.method == "sgd" or ttt.phases:
            adapted_parameters(network, ttt.frozen_blocks)
        if ttt.method == "lora" and ttt.phases and ttt.cap_rate:
            learned_caps(network)
    windows = config.score.resolve(model.context, device_type)
    option, longest = longest_window(config)
    if max_tokens is not None and max_tokens < longest:
        raise ConfigError(
            f"--max-tokens is {max_tokens}; the first window alone, of {option} {longest}, grades {longest}"
        )
    # The audit replays three chunks on a GPU, and six windows elsewhere.
    if device_type != "cpu" and 3 * ttt.chunk_tokens < windows.context:
        raise ConfigError(
            f"ttt.chunk_tokens is {ttt.chunk_tokens}; the audit needs three of them for a window of "
            f"{windows.context}"
        )


def longest_window(config: RunConfig) -> tuple[str, int]:
    """The option that says how long the longest window of any score is, and its value."""
    context, scored = config.model.context, config.score.context
    return (
        ("score.context", scored) if scored is not None and scored > context else ("model.context", context)
    )


def check_data(config: RunConfig, dataset: Dataset) -> None:
    """ValueError for a text that is too short for the configuration, or whose bytes cannot be counted.

    Likewise for a tokenizer that a term of the training loss cannot use.
    `config` has passed `check_config`. Reads the validation text.
    """
    model, folder = config.model, dataset.folder
    if config.train.prefix_weight:
        dataset.vocabulary.prefix_tokens()
    batches = TrainBatches(dataset.train_shards(), config.seed, config.train.held_out_tokens)
    if len(batches.held_out) <= model.context:
        raise ConfigError(
            f"{folder}: {len(batches.held_out):,} training tokens are held out (a tenth at most), fewer than "
            f"a window of model.context {model.context} and its next token; give a longer text, a smaller "
            "context, or more train.held_out_tokens"
        )
    batches.skip(1, model.context)
    option, longest = longest_window(config)
    num_targets = dataset.manifest.num_tokens("val") - 1
    if num_targets < longest:
        raise ConfigError(
            f"{folder}: {num_targets:,} validation tokens to score are fewer than one window of {option} "
            f"{longest:,}"
        )
    tokens = dataset.validation_tokens(StageClock())
    counted = int(dataset.vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
    stated = dataset.manifest.val_text_bytes
    if counted != stated or not counted:
        raise ConfigError(
            f"{folder}: the validation tokens stand for {counted:,} bytes and its text has {stated:,}: no "
            f"score in bits per byte can be right. {dataset.manifest.tokenizer} cannot encode all of it (has "
            "it byte fallback?); prepare it with another tokenizer"
        )


def check_machine(config: RunConfig, runtime: Runtime, folder: RunFolder) -> None:
    """ConfigError where training cannot fit the device's memory, or what the run writes the disk."""
    with torch.device("meta"):
        num_trained = sum(parameter.numel() for parameter in GPT(config.model).parameters())
    needed, present = MIN_TRAIN_BYTES * num_trained, total_memory(runtime.device)
    if present is not None and needed > present:
        raise ConfigError(
            f"training {num_trained:,} weights takes {needed / 1e9:.1f} GB and more; {runtime.device} has "
            f"{present / 1e9:.1f} GB of memory"
        )
    tilt = config.ttt.tilt
    if config.ttt.enabled and tilt.boost and present is not None and 20 << tilt.table_bits > present:
        raise ConfigError(
            f"ttt.tilt.table_bits is {tilt.table_bits}: {20 << tilt.table_bits:,} bytes of memory"
        )
    if not folder.training.is_file():
        # The least: a new checkpoint, beside the one that is there.
        needed = CHECKPOINT_BYTES * num_trained
        place = next(path for path in (folder.path, *folder.path.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(place).free
        if needed > free:
            raise ConfigError(
                f"{folder}: a checkpoint of {num_trained:,} weights takes {needed:,} bytes; {free:,} are free"
            )


def total_memory(device: torch.device) -> int | None:
    """Memory of a GPU, or of the machine; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return None


def check_entry(records: Path, track: str, author: str, github_id: str) -> None:
    """ValueError where no entry could be written at the end: for its place, or who submits it."""
    require_writable(records / track, "the folder of the entry")
    find_identity(records.parent, author, github_id)
