"""The losses against values worked by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from golf.finetune.examples import UNGRADED
from golf.finetune.losses import PreferenceLoss, ResponseLoss, preference_losses
from golf.finetune.stage import FinetuneConfig, FinetuneError


class Unigram(nn.Module):
    """Predicts 1/2, 1/4, 1/8, 1/8 for the four tokens, whatever it reads."""

    def forward(self, inputs_BT: Tensor) -> Tensor:
        logits_V = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
        return logits_V.expand(*inputs_BT.shape, 4)


LN2 = math.log(2)


def test_only_graded_tokens_count_and_each_alike():
    inputs_BT = torch.zeros(2, 3, dtype=torch.long)
    targets_BT = torch.tensor([[UNGRADED, 1, 2], [UNGRADED, UNGRADED, 0]])
    loss = ResponseLoss(mean_graded=1.5)(Unigram(), inputs_BT, targets_BT)
    assert float(loss) == pytest.approx((2 + 3 + 1) * LN2 / 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_the_logistic_loss_of_the_gain_on_the_reference(smoothing):
    policy_P2 = torch.tensor([[-3.0, -5.0], [-2.0, -2.0]])
    reference_P2 = torch.tensor([[-4.0, -4.0], [-2.0, -2.0]])
    found_P = preference_losses(policy_P2, reference_P2, 0.5, smoothing)
    # Gains 1 and -1: margin 0.5 * 2 = 1; ln(1 + e^-1) = 0.313262, ln(1 + e) = 1.313262.
    first = (1 - smoothing) * 0.3132617 + smoothing * 1.3132617
    torch.testing.assert_close(found_P, torch.tensor([first, LN2]))


def test_its_gradient_pushes_the_answers_apart():
    policy_P2 = torch.tensor([[-3.0, -5.0]], requires_grad=True)
    preference_losses(policy_P2, torch.tensor([[-4.0, -4.0]]), 0.5, 0.0).sum().backward()
    # beta s(-margin) = 0.5 / (1 + e).
    torch.testing.assert_close(policy_P2.grad, torch.tensor([[-0.1344707, 0.1344707]]))


def test_a_batch_finds_its_references_by_the_pairs_numbers():
    reference_P2 = torch.tensor([[-1.0, -1.0], [-2.0, -4.0], [-LN2, -3 * LN2]])
    inputs_BT = torch.zeros(4, 2, dtype=torch.long)
    targets_BT = torch.tensor([[2, UNGRADED, 1], [1, 0, 0], [2, UNGRADED, 2], [1, 3, 0]])
    loss = PreferenceLoss(reference_P2, 2.0, 0.0)(Unigram(), inputs_BT, targets_BT)
    first = math.log1p(math.exp(-2 * ((-2 + 1) * LN2 - (-3 + 3) * LN2)))
    second = math.log1p(math.exp(-2 * ((-2 * LN2 + 2) - (-4 * LN2 + 4))))
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_chosen_answers_own_loss_is_by_token_and_weighed():
    reference_P2 = torch.zeros(3, 2)
    inputs_BT = torch.zeros(4, 2, dtype=torch.long)
    targets_BT = torch.tensor([[2, UNGRADED, 1], [1, 0, 0], [2, UNGRADED, 2], [1, 3, 0]])
    without, weighed = (
        PreferenceLoss(reference_P2, 2.0, 0.0, weight)(Unigram(), inputs_BT, targets_BT)
        for weight in (0.0, 0.3)
    )
    # Chosen: one token of 2 LN2 nats, and two of LN2 each.
    assert float(weighed - without) == pytest.approx(0.3 * (2 + 1) * LN2 / 2, rel=1e-5)


def test_a_setting_out_of_range_is_named():
    with pytest.raises(FinetuneError, match="chosen_weight is -1"):
        FinetuneConfig(chosen_weight=-1.0)
    with pytest.raises(FinetuneError, match="beta is 0"):
        FinetuneConfig(beta=0.0)
