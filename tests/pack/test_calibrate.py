import dataclasses

import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.layers import rms_norm
from golf.model.loss import token_nats
from golf.pack.calibrate import PRIOR_LOOKUPS, calibrate

TINY = ModelConfig(
    vocab_size=40, num_layers=2, width=16, num_heads=2, num_kv_heads=1, mlp_hidden=24, context=12,
    rotary_dims=4, bigram_buckets=32, bigram_width=16,
)  # fmt: skip


def tiny_model(config: ModelConfig = TINY) -> GPT:
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def tiny_batches(count: int, seed: int = 0, rows: int = 3):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 40, (count, rows, 13), generator=generator)
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def test_inputs_and_gradients_are_those_of_an_explicit_computation():
    model = tiny_model()
    (inputs, targets), *_ = batches = tiny_batches(1)
    name = "blocks.1.feedforward.down"
    module = model.get_submodule(name)
    seen = {}
    module.register_forward_hook(lambda m, args, output: seen.update(x=args[0], y=output))
    token_nats(model(inputs), targets).sum()
    loss = token_nats(model(inputs), targets).sum()
    (gradient,) = torch.autograd.grad(loss, seen["y"])
    calibration = calibrate(model, batches)
    x, g = seen["x"].detach().flatten(0, 1), gradient.flatten(0, 1)
    moments = sum(
        row[:, None] * row[None] * float(out.square().mean()) for row, out in zip(x, g, strict=True)
    )
    hessian = calibration.hessian(f"{name}.weight")
    assert torch.allclose(hessian, moments / moments.diagonal().mean(), atol=1e-5)
    squares = torch.stack([(out[:, None] * row[None]).square() for row, out in zip(x, g, strict=True)])
    fisher = squares.sum(0).mean(1) / targets.numel()
    assert torch.allclose(calibration.fisher(f"{name}.weight"), fisher, rtol=1e-4)


@pytest.mark.parametrize("cap", [30.0, 0.0])
def test_the_head_and_the_input_table_both_count_for_the_embedding(cap):
    """The head by every target at the rate of its probability; the table's rows by how often they are due."""
    model = tiny_model(dataclasses.replace(TINY, logit_softcap=cap))
    (inputs, targets), *_ = batches = tiny_batches(1)
    calibration = calibrate(model, batches)
    stream = {}
    model.blocks[-1].register_forward_hook(lambda m, args, output: stream.update(x=output))
    model.embedding.register_forward_hook(lambda m, args, output: stream.update(e=output))
    model.head.register_forward_hook(lambda m, args, output: stream.update(z=output))
    logits = model(inputs)
    p = logits.detach().softmax(-1).flatten(0, 1)
    expected = torch.zeros_like(p)
    for target in range(40):
        loss = token_nats(logits, torch.full_like(targets, target)).sum()
        (by_head,) = torch.autograd.grad(loss, stream["z"], retain_graph=True)
        expected += p[:, target, None] * by_head.flatten(0, 1).square()
    x = rms_norm(stream["x"]).flatten(0, 1)
    fisher = (expected.T @ x.square().mean(1)).detach()
    (by_table,) = torch.autograd.grad(token_nats(logits, targets).sum(), stream["e"])
    squares = by_table.flatten(0, 1).square().mean(1)
    seen = inputs.flatten()
    for token in range(40):
        own = squares[seen == token]
        mean = (own.sum() + PRIOR_LOOKUPS * squares.mean()) / (len(own) + PRIOR_LOOKUPS)
        fisher[token] += p[:, token].sum() * mean
    found = calibration.fisher("embedding.weight")
    assert torch.allclose(found, fisher / targets.numel(), rtol=1e-4)


def test_every_weight_is_calibrated_and_the_model_is_left_as_it_was():
    for config in (
        TINY,
        dataclasses.replace(TINY, num_layers=4, recurrence_first=1, recurrence_last=2, recurrence=2),
    ):
        model = tiny_model(config)
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        calibration = calibrate(model, tiny_batches(2))
        assert calibration.num_tokens == 2 * 3 * 12
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) and parameter.grad is None
            rows = 1 if parameter.dim() < 2 else len(parameter)
            assert calibration.fisher(name).shape == (rows,)
            assert (calibration.hessian(name) is None) == (
                parameter.dim() < 2 or not name.endswith("weight")
            ), name
        assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_visited_twice_sums_both_visits():
    config = dataclasses.replace(TINY, num_layers=3, recurrence_first=1, recurrence_last=1, recurrence=2)
    model, name, calls = tiny_model(config), "blocks.1.feedforward.up", []
    handle = model.get_submodule(name).register_forward_hook(lambda m, args, output: calls.append(args[0]))
    batches = tiny_batches(1)
    model(batches[0][0])
    handle.remove()
    assert len(calls) == 2
    moments = calibrate(model, batches).moments_CC[f"{name}.weight"]
    model.looping = False
    assert not torch.allclose(moments, calibrate(model, batches).moments_CC[f"{name}.weight"], rtol=0.1)


def test_the_forecast_of_the_loss_is_of_the_right_size_for_random_errors():
    """Where targets are drawn from the predictions, the mean loss rises by the quadratic form."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(1)
    batches = []
    for inputs, _ in tiny_batches(30, rows=8):
        probabilities = model(inputs).detach().softmax(-1).flatten(0, 1)
        targets = torch.multinomial(probabilities, 1, generator=generator).view_as(inputs)
        batches.append((inputs, targets))
    calibration = calibrate(model, batches)
    for name in ("blocks.0.feedforward.up.weight", "blocks.1.attention.output.weight", "embedding.weight"):
        weight = model.get_parameter(name)
        rises, forecasts = [], []
        for _ in range(2):
            error = 0.02 * weight.std() * torch.randn(weight.shape, generator=generator)
            curved = (error @ calibration.hessian(name) * error).sum(1)
            forecasts.append(float((calibration.fisher(name) @ curved).detach()) / 2)
            rise = 0.0
            for inputs, _ in batches:
                with torch.no_grad():
                    plain = model(inputs).log_softmax(-1)
                    weight += error
                    rise += float((plain.exp() * (plain - model(inputs).log_softmax(-1))).sum(-1).mean())
                    weight -= error
            rises.append(rise / len(batches))
        assert sum(forecasts) == pytest.approx(sum(rises), rel=0.4), name


def test_networks_of_one_layer_and_weights_of_no_effect_can_be_calibrated():
    for skip_gates in (False, True):
        config = dataclasses.replace(TINY, num_layers=1, recurrence=1, skip_gates=skip_gates)
        calibration = calibrate(tiny_model(config), tiny_batches(1))
        assert calibration.squares_R.keys() == dict(GPT(config).named_parameters()).keys()
    model = tiny_model(dataclasses.replace(TINY, recurrence=1))
    model.blocks[0].unused = torch.nn.Parameter(torch.ones(3))
    assert calibrate(model, tiny_batches(1)).fisher("blocks.0.unused").tolist() == [0.0]
