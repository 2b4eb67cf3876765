"""The softcap and the cross-entropy against their definitions."""

import math

import pytest
import torch

from golf.model.loss import softcap, token_nats


def test_nats_are_minus_the_log_probability_of_the_target():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
    nats = token_nats(logits, targets)
    probabilities = logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)
    expected = -probabilities.gather(-1, targets[..., None])[..., 0].log()
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_capped_nats_of_a_heads_logits_and_their_gradient_agree_with_float64(dtype, cap):
    torch.manual_seed(0)
    logits, targets = (torch.randn(2, 37, 1000) * 20).to(dtype), torch.randint(1000, (2, 37))
    targets[0, 0], targets[-1, -1] = 0, 999
    logits.requires_grad_()
    exact_logits = logits.detach().double().requires_grad_()
    capped = cap * torch.tanh(exact_logits / cap) if cap else exact_logits
    exact = -capped.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    nats = token_nats(softcap(logits.float(), cap), targets)
    torch.testing.assert_close(nats.double(), exact, atol=2e-5, rtol=0)
    weights = torch.randn(2, 37)
    (gradient,) = torch.autograd.grad(nats, logits, weights)
    (exact_gradient,) = torch.autograd.grad(exact, exact_logits, weights.double())
    worst = (gradient - exact_gradient).abs().max() / exact_gradient.abs().max()
    assert worst < (1e-5 if dtype == torch.float32 else 4e-3)


def test_a_softcap_of_0_is_none_and_another_bounds():
    x = torch.linspace(-1e3, 1e3, 11)
    assert softcap(x, 0.0) is x and float(softcap(x, 30.0).abs().max()) <= 30.0


def test_learned_caps_scale_the_cap_of_positive_and_of_other_logits():
    x = torch.linspace(-50, 50, 11, dtype=torch.float64)
    found = softcap(x, 30.0, torch.tensor([0.5, -0.5], dtype=torch.float64))
    caps = torch.where(x > 0, 30.0 * math.exp(0.5), 30.0 * math.exp(-0.5))
    torch.testing.assert_close(found, caps * torch.tanh(x / caps))
