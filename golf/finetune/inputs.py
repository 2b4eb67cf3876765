"""What a stage learns from: its file read, encoded, split, and a loss for it.

Shapes: B batch, T time, P pairs.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from golf.data.manifest import sha256_of_file
from golf.finetune.batches import FinetuneBatches, PreferenceBatches, ResponseBatches
from golf.finetune.dialogues import DialogueError, read_conversations, read_preferences
from golf.finetune.examples import (
    Example,
    ExamplePair,
    encode_conversation,
    encode_preference,
    fit_example,
    fit_pair,
)
from golf.finetune.held_out import pair_log_probs, score_preferences, score_responses
from golf.finetune.losses import PreferenceLoss, ResponseLoss
from golf.finetune.settings import FinetuneConfig, FinetuneError, StageName
from golf.finetune.template import ChatTemplate
from golf.system.device import choose_runtime
from golf.system.log import RunLog
from golf.tasks.files import LongTexts
from golf.tasks.models import OpenedModel
from golf.tasks.results import Metric
from golf.train.checkpoint import load_weights, save_weights


@dataclass(frozen=True)
class StageInput:
    """What a stage learns from, and how."""

    batches: FinetuneBatches
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    before: list[Metric]
    """The held-out scores of the model as it was opened."""
    measure: Callable[[], list[Metric]]
    """Those of the model as training has moved it."""
    held_out_bpb: Callable[[], float]
    """Bits per byte of the held-out answers, of pairs the chosen ones."""
    texts: list[Example]
    """Conversations of the training part, for calibration."""
    facts: dict[str, Any]


def split_held_out(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers to train on and numbers held out, drawn by the seed; FinetuneError unless both have some."""
    order = np.random.default_rng(seed).permutation(count).tolist()
    num_held_out = max(1, round(share * count))
    if num_held_out >= count:
        raise FinetuneError(f"{count} conversations are too few to train on some and hold others out")
    return sorted(order[num_held_out:]), sorted(order[:num_held_out])


def read_examples(
    stage: StageName, files: Sequence[Path], opened: OpenedModel, template: ChatTemplate, long: LongTexts
) -> tuple[list[Any], int]:
    """Every conversation, or pair, that fits the context, as tokens; and how many were left out."""
    context, found, left_out = opened.model.config.context, [], 0
    for file in files:
        if stage == "sft":
            encoded = [
                encode_conversation(opened.vocabulary, template, item) for item in read_conversations(file)
            ]
            fitted = [fit_example(example, context, long) for example in encoded]
        else:
            pairs = [encode_preference(opened.vocabulary, template, item) for item in read_preferences(file)]
            fitted = [fit_pair(pair, context, long) for pair in pairs]
        kept = [item for item in fitted if item is not None]
        found += kept
        left_out += len(fitted) - len(kept)
    if not found:
        raise DialogueError(f"no conversation fits the context of {context} tokens")
    return found, left_out


def prepare_responses(
    examples: list[Example], opened: OpenedModel, config: FinetuneConfig, log: RunLog
) -> StageInput:
    """Supervised fine-tuning: packed conversations, the answers' loss."""
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
    """Preferences: pairs beside the log probabilities that the model gave them before it moved."""
    training, held_out = split_held_out(len(pairs), config.held_out, config.seed)
    reference_P2 = cached_reference(opened, pairs, folder / "reference.safetensors", log)
    kept, kept_reference_P2 = [pairs[n] for n in held_out], reference_P2[held_out]
    whole = choose_runtime(str(opened.device)).compiled
    batches = PreferenceBatches([pairs[n] for n in training], config.seed, whole)
    moved_P2 = torch.from_numpy(reference_P2[training]).float().to(opened.device)
    loss = PreferenceLoss(moved_P2, config.beta, config.label_smoothing, config.chosen_weight)

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
    """Log probabilities of every pair under the model as it was opened, float64 (P, 2).

    Kept in `path` under a hash of the weights' file and the tokens, and read from there if that is the same.
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
