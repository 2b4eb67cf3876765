"""SIGReg and the prediction of later tokens against arithmetic of their own, and that training feels them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_switches import GPT2_LIKE, TINY

from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.train.config import TrainConfig
from golf.train.objective import SIGREG_DIRECTIONS, Objective, future_nats, sigreg

CONFIG = replace(GPT2_LIKE, future_tokens=2)


def model_of(config):
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tokens(seed=0):
    return torch.randint(2, 64, (2, 24), generator=torch.Generator().manual_seed(seed))


def mean_nats(model, inputs, targets):
    return token_nats(model(inputs), targets).mean()


def gradients(model, nats):
    model.zero_grad()
    torch.manual_seed(1)
    loss = nats(model, tokens(), tokens(1)).mean()
    loss.backward()
    return float(loss.detach()), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("real_only", [False, True])
def test_sigreg_is_the_epps_pulley_statistic_on_seventeen_points(real_only):
    torch.manual_seed(0)
    x = torch.randn(50, 8) * 1.5 + 0.3
    torch.manual_seed(3)
    got = float(sigreg(x, real_only))
    torch.manual_seed(3)
    directions = torch.randn(8, SIGREG_DIRECTIONS).double().numpy()
    along = x.double().numpy() @ (directions / np.linalg.norm(directions, axis=0))
    points = np.linspace(-5, 5, 17)
    phi = np.exp(1j * along[..., None] * points).mean(0)
    distance = (phi.real if real_only else phi) - np.exp(-(points**2) / 2)
    integral = np.trapezoid(abs(distance) ** 2 * np.exp(-(points**2) / 2), points, axis=-1)
    assert got == pytest.approx(50 * integral.mean(), rel=1e-4)


def test_sigreg_tells_a_gaussian_from_what_is_none_and_the_real_part_misses_a_skew():
    torch.manual_seed(0)
    gaussian, shifted = torch.randn(2000, 4), torch.randn(2000, 4) + 0.2
    assert float(sigreg(gaussian, False)) < 3 < float(sigreg(gaussian * 2, True)) < 1e4
    assert float(sigreg(shifted, False)) > 5 * float(sigreg(shifted, True))


def test_later_tokens_are_predicted_by_a_map_of_their_own():
    model, targets = model_of(CONFIG), tokens(1)
    x = model.last_stream(tokens())
    expected = []
    for k, ahead in enumerate(model.future, start=1):
        logits = (x + x @ ahead.weight.T) @ model.embedding.weight.T
        expected.append(token_nats(logits[:, :-k], targets[:, k:]).mean())
    torch.testing.assert_close(future_nats(model, x, targets), sum(expected) / 2)


def test_the_value_is_the_models_own_loss_and_the_gradient_that_of_all_terms():
    model = model_of(CONFIG)
    own, plain = gradients(model, mean_nats)
    config = TrainConfig(future_weight=0.5, sigreg_weight=0.1)
    value, whole = gradients(model, Objective(config).nats)
    assert value == own

    def written_out(model, inputs, targets):
        x = model.last_stream(inputs)
        ahead = 0.5 * future_nats(model, x, targets)
        return mean_nats(model, inputs, targets) + ahead + 0.1 * sigreg(x.flatten(0, 1), False)

    _, expected = gradients(model, written_out)
    for name, gradient in expected.items():
        torch.testing.assert_close(whole[name], gradient, atol=1e-5, rtol=1e-3)
    assert "future.0.weight" in whole and "future.0.weight" not in plain


def test_sigreg_can_be_ended():
    model = model_of(TINY)
    objective = Objective(TrainConfig(sigreg_weight=1.0))
    assert objective.starts == [0.0]
    objective = Objective(TrainConfig(sigreg_weight=1.0, sigreg_until=0.3))
    assert objective.starts == [0.0, 0.3]
    objective.advance(0.29)
    _, on = gradients(model, objective.nats)
    objective.advance(0.3)
    _, off = gradients(model, objective.nats)
    _, plain = gradients(model, mean_nats)
    assert all(torch.equal(off[name], plain[name]) for name in plain)
    assert not torch.equal(on["blocks.0.attention.query.weight"], plain["blocks.0.attention.query.weight"])


@pytest.mark.parametrize("name", ["future_weight", "sigreg_weight", "sigreg_until", "prefix_weight"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=name):
        TrainConfig(**{name: -math.e})
