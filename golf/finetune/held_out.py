"""How a model does on conversations and pairs that it was not trained on.

Shapes: N examples, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from golf.finetune.batches import example_tensors
from golf.finetune.examples import Example, ExamplePair
from golf.finetune.losses import answer_log_probs
from golf.model.gpt import GPT
from golf.score.tally import Tally
from golf.system.log import RunLog
from golf.tasks.likelihood import BATCH_TOKENS
from golf.tasks.results import Metric, ratio_interval, share_metric


@torch.no_grad()
def log_probs(model: GPT, examples: Sequence[Example], log: RunLog, description: str) -> np.ndarray:
    """Log probability of each example's graded tokens, each read alone, float64 (N,)."""
    device = next(model.parameters()).device
    room = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    order = sorted(range(len(examples)), key=lambda number: -len(examples[number].tokens))
    found_N = np.zeros(len(examples))
    with log.progress(description, len(examples), "conversations") as bar:
        while order:
            longest = len(examples[order[0]].tokens)
            size = max(1, room // longest)
            batch, order = order[:size], order[size:]
            tensors = example_tensors([examples[number] for number in batch], longest)
            inputs_BT, targets_BT = (tokens_BT.to(device) for tokens_BT in tensors)
            found_N[batch] = answer_log_probs(model, inputs_BT, targets_BT).double().cpu().numpy()
            bar.advance(len(batch))
    return found_N


def pair_log_probs(model: GPT, pairs: Sequence[ExamplePair], log: RunLog, description: str) -> np.ndarray:
    """Log probabilities of the chosen and the rejected answer of each pair, float64 (P, 2)."""
    examples = [example for pair in pairs for example in pair]
    return log_probs(model, examples, log, description).reshape(len(pairs), 2)


@dataclass(frozen=True)
class ResponseScore:
    """The answers of held-out conversations."""

    tally: Tally
    loss: Metric


def score_responses(model: GPT, examples: Sequence[Example], vocab_size: int, log: RunLog) -> ResponseScore:
    """Nats per graded token, its interval by conversations; chance is every token equally likely."""
    nats_N = -log_probs(model, examples, log, "held-out answers")
    counts_N = np.array([float(example.num_graded) for example in examples])
    low, high = ratio_interval(nats_N, counts_N)
    tally = Tally(float(nats_N.sum()), int(counts_N.sum()), sum(example.graded_bytes for example in examples))
    chance = float(np.log(vocab_size))
    how = "nats per token of the answers; chance: every token equally likely"
    return ResponseScore(
        tally, Metric("response_loss", tally.nats_per_token, low, high, chance, len(examples), how)
    )


def score_preferences(
    policy_P2: np.ndarray, pairs: Sequence[ExamplePair], reference_P2: np.ndarray | None
) -> list[Metric]:
    """How often the chosen answer is the likelier one: as a whole, by token, and against a reference."""
    counts_P2 = np.array([[float(example.num_graded) for example in pair] for pair in pairs])

    def share(name: str, values_P2: np.ndarray, how: str) -> Metric:
        return share_metric(name, (values_P2[:, 0] > values_P2[:, 1]).tolist(), 0.5, how)

    metrics = [
        share("preference_accuracy", policy_P2, "chosen likelier than rejected"),
        share("preference_accuracy_by_token", policy_P2 / counts_P2, "likelier by token"),
    ]
    if reference_P2 is not None:
        how = "chosen has gained more on the reference than rejected"
        metrics.append(share("reward_accuracy", policy_P2 - reference_P2, how))
    return metrics
