"""What a token's chance of being drawn is, against hand-worked values."""

import math

import pytest
import torch

from golf.tasks.generate import GREEDY, SamplingConfig, draw_tokens, token_probabilities

LOGITS_BV = torch.tensor([[math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]])


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (SamplingConfig(1.0, 0, 1.0), (0.1, 0.4, 0.2, 0.3)),
        (SamplingConfig(1.0, 2, 1.0), (0.0, 4 / 7, 0.0, 3 / 7)),
        (SamplingConfig(1.0, 0, 0.65), (0.0, 4 / 7, 0.0, 3 / 7)),
        (SamplingConfig(1.0, 0, 0.75), (0.0, 4 / 9, 2 / 9, 3 / 9)),
        (SamplingConfig(1.0, 0, 0.01), (0.0, 1.0, 0.0, 0.0)),
        (SamplingConfig(0.5, 0, 1.0), (0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3)),
        (SamplingConfig(1.0, 3, 0.8), (0.0, 4 / 9, 2 / 9, 3 / 9)),
        (GREEDY, (0.0, 1.0, 0.0, 0.0)),
    ],
    ids=str,
)
def test_probabilities_are_cut_and_renormalised(config, wanted):
    torch.testing.assert_close(token_probabilities(LOGITS_BV, config), torch.tensor([wanted]))


def test_draws_follow_the_probabilities_and_the_seed():
    config = SamplingConfig(1.0, 0, 1.0)
    logits_BV = LOGITS_BV.expand(20_000, -1)
    drawn_B = draw_tokens(logits_BV, config, torch.Generator().manual_seed(3))
    shares = torch.bincount(drawn_B, minlength=4) / len(drawn_B)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.4, 0.2, 0.3]), atol=0.012, rtol=0)
    again_B = draw_tokens(logits_BV, config, torch.Generator().manual_seed(3))
    assert torch.equal(drawn_B, again_B)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match="sampling needs"):
        SamplingConfig(**wrong)
