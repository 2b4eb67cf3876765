"""The losses of fine-tuning, and the scores on held-out conversations and pairs.

Shapes: B batch rows, N examples, P pairs, T time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.finetune.batches import example_tensors
from golf.finetune.examples import UNGRADED, Example, ExamplePair
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.score.tally import Tally
from golf.stats import ratio_interval
from golf.system.log import RunLog
from golf.tasks.likelihood import batches_by_length
from golf.tasks.results import Metric, share_metric


class ResponseLoss:
    """The loss of a batch of packed conversations."""

    def __init__(self, mean_graded: float):
        self.mean_graded = mean_graded

    def __call__(self, model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of the graded targets / (rows x `mean_graded`): nats per graded token over many batches."""
        nats_BT = token_nats(model(inputs_BT), targets_BT)
        return nats_BT.sum() / (self.mean_graded * inputs_BT.size(0))


def preference_losses(policy_P2: Tensor, reference_P2: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """DPO (arXiv:2305.18290) of each pair, from the log probabilities of chosen and rejected answers.

    -(1 - e) log s(beta d) - e log s(-beta d), where s is the logistic function, e the assumed share of wrong
    labels (label smoothing: ericmitchell.ai/cdpo.pdf) and d the log ratio of chosen to rejected under the
    policy minus that under the reference. Shapes: (P, 2) and (P, 2) to (P,).
    """
    gains_P2 = policy_P2 - reference_P2
    margins_P = beta * (gains_P2[:, 0] - gains_P2[:, 1])
    return -(1 - label_smoothing) * F.logsigmoid(margins_P) - label_smoothing * F.logsigmoid(-margins_P)


def answer_log_probs(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Log probability of each row's graded tokens, shape (B,)."""
    return -token_nats(model(inputs_BT), targets_BT).sum(dim=1)


class PreferenceLoss:
    """The loss of a batch of PreferenceBatches against a fixed reference.

    `chosen_weight` times the chosen answers' nats per token are added (arXiv:2404.19733): DPO alone also
    falls if both answers become less likely and the rejected one loses more.
    """

    def __init__(self, reference_P2: Tensor, beta: float, label_smoothing: float, chosen_weight: float = 0.0):
        self.reference_P2, self.beta, self.label_smoothing = reference_P2, beta, label_smoothing
        self.chosen_weight = chosen_weight

    def __call__(self, model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean over the pairs."""
        num_pairs = inputs_BT.size(0) // 2
        found_B = answer_log_probs(model, inputs_BT, targets_BT[:, 1:])
        policy_P2 = torch.stack((found_B[:num_pairs], found_B[num_pairs:]), dim=1)
        reference_P2 = self.reference_P2[targets_BT[:num_pairs, 0]]
        losses_P = preference_losses(policy_P2, reference_P2, self.beta, self.label_smoothing)
        counts_P = (targets_BT[:num_pairs, 1:] != UNGRADED).sum(dim=1)
        return (losses_P - self.chosen_weight * policy_P2[:, 0] / counts_P).mean()


@torch.no_grad()
def log_probs(model: GPT, examples: Sequence[Example], log: RunLog, description: str) -> np.ndarray:
    """Log probability of each example's graded tokens, float64 (N,); each example is a row of its own."""
    device = next(model.parameters()).device
    lengths = [len(example.tokens) for example in examples]
    found_N = np.zeros(len(examples))
    with log.progress(description, len(examples), "conversations") as bar:
        for batch in batches_by_length(lengths, device):
            tensors = example_tensors([examples[number] for number in batch], lengths[batch[0]])
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
    """The score of the answers of held-out conversations."""

    tally: Tally
    loss: Metric


def score_responses(model: GPT, examples: Sequence[Example], vocab_size: int, log: RunLog) -> ResponseScore:
    """Nats per graded token, with an interval over conversations; chance: every token equally likely."""
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
    """Share of pairs whose chosen answer is likelier: as a whole, per token, and relative to a reference."""
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
