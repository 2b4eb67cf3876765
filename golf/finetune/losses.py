"""What fine-tuning lowers.

Shapes: B batch rows, P pairs, T time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.finetune.examples import UNGRADED
from golf.model.loss import token_nats


def response_loss(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor, mean_graded: float) -> Tensor:
    """Nats of the graded targets over rows x `mean_graded`: over many batches, nats per graded token."""
    nats_BT = token_nats(model(inputs_BT), targets_BT)
    return nats_BT.sum() / (mean_graded * inputs_BT.size(0))


def preference_losses(policy_P2: Tensor, reference_P2: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """DPO (arXiv:2305.18290) of each pair, from the log probabilities of chosen and rejected answers.

    -(1 - e) log s(beta d) - e log s(-beta d), s the logistic function, e the share of labels taken to be
    wrong (its smoothing: ericmitchell.ai/cdpo.pdf) and d by how much more than the reference the policy
    prefers the chosen one.
    """
    gains_P2 = policy_P2 - reference_P2
    margins_P = beta * (gains_P2[:, 0] - gains_P2[:, 1])
    return -(1 - label_smoothing) * F.logsigmoid(margins_P) - label_smoothing * F.logsigmoid(-margins_P)


def answer_log_probs(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Log probability of each row's graded tokens, shape (B,)."""
    return -token_nats(model(inputs_BT), targets_BT).sum(dim=1)


class PreferenceLoss:
    """The loss of a batch of pairs as PreferenceBatches makes them, beside a reference that does not move.

    `chosen_weight` times the chosen answers' own nats per token are added (arXiv:2404.19733): DPO alone
    grows by making both answers less likely, as long as the rejected one falls further.
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


class ResponseLoss:
    """The loss of a batch of packed conversations."""

    def __init__(self, mean_graded: float):
        self.mean_graded = mean_graded

    def __call__(self, model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats per graded token, each of which weighs the same in every batch."""
        return response_loss(model, inputs_BT, targets_BT, self.mean_graded)
