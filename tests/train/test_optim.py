"""Muon against the singular value decomposition and against torch's own; who gets which optimiser."""

from dataclasses import replace

import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.system.distributed import World, noop
from golf.train import optim
from golf.train.optim import (
    POLAR_EXPRESS,
    QUINTIC,
    Muon,
    OptimConfig,
    Optimizers,
    orthogonalize,
    split_parameters,
)

TINY = ModelConfig(64, 2, 32, 4, 2, 48, 16, rotary_dims=4, bigram_buckets=16, bigram_width=8)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (2, 8, 24)])
@pytest.mark.parametrize(("coefficients", "low", "high"), [(QUINTIC, 0.6, 1.25), (POLAR_EXPRESS, 0.8, 1.2)])
def test_orthogonalization_keeps_the_singular_vectors_and_levels_the_values(shape, coefficients, low, high):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    result = orthogonalize(matrices, coefficients)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    aligned = u.mT @ result @ vh.mT
    values = aligned.diagonal(dim1=-2, dim2=-1)
    assert (aligned - torch.diag_embed(values)).abs().max() < 1e-8
    assert low < values.min() and values.max() < high


def test_a_stack_gives_what_its_matrices_give_alone():
    torch.manual_seed(0)
    stack = torch.randn(4, 8, 12)
    alone = torch.stack([orthogonalize(matrix[None], QUINTIC)[0] for matrix in stack])
    torch.testing.assert_close(orthogonalize(stack, QUINTIC), alone, atol=1e-5, rtol=1e-5)


def test_a_zero_matrix_stays_zero():
    assert not orthogonalize(torch.zeros(1, 4, 4), POLAR_EXPRESS).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (8, 24)])
def test_muon_makes_the_updates_of_torchs_muon(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(5, *shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([ours], lr=0.02, weight_decay=0.1, momentum=0.9)
    reference = torch.optim.Muon(
        [theirs],
        lr=0.02,
        weight_decay=0.1,
        momentum=0.9,
        nesterov=True,
        ns_coefficients=QUINTIC[0],
        ns_steps=5,
    )
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        reference.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved, "they differ by more than bf16 rounding"


def test_momentum_is_a_sum_while_it_warms_up():
    torch.manual_seed(0)
    gradients, momenta = torch.randn(3, 6, 8, dtype=torch.float64), (0.5, 0.7, 0.9)
    matrix = torch.nn.Parameter(torch.zeros(6, 8, dtype=torch.float64))
    muon = Muon([matrix], lr=1.0, compute_dtype=torch.float64)
    total = torch.zeros(6, 8, dtype=torch.float64)
    for gradient, momentum in zip(gradients, momenta, strict=True):
        before = matrix.detach().clone()
        muon.param_groups[0]["momentum"], matrix.grad = momentum, gradient.clone()
        muon.step()
        total = momentum * total + gradient
        wanted = orthogonalize((gradient + momentum * total)[None], QUINTIC)[0]
        torch.testing.assert_close(before - matrix.detach(), wanted)


def test_a_state_whose_momentum_is_a_mean_is_refused():
    muon = Muon([torch.nn.Parameter(torch.zeros(2, 3))], lr=1.0)
    state = muon.state_dict() | {"state": {0: {"momentum_NRC": torch.zeros(1, 2, 3)}}}
    with pytest.raises(ValueError, match="a run of an earlier version cannot be resumed"):
        muon.load_state_dict(state)


def test_by_shape_every_matrix_but_the_token_embedding_is_under_muon():
    model = GPT(replace(FRONTIER, bigram_buckets=64))
    groups = split_parameters(model, by_shape=True)
    assert [id(each) for each in groups["embedding"]] == [id(model.embedding.weight)]
    assert all(each.ndim == 2 for each in groups["matrix"]) and all(
        each.ndim < 2 for each in groups["scalar"]
    )
    names = {name for name, each in model.named_parameters() if any(each is one for one in groups["matrix"])}
    assert {"bigram.table", "skip_weights", "blocks.0.mix"} <= names


def test_a_clip_of_zero_leaves_the_gradient_as_it_is():
    model = GPT(FRONTIER)
    model.initialize()
    optimizers = Optimizers(model, OptimConfig(gradient_clip=0.0), torch.float32)
    for each in model.parameters():
        each.grad = torch.full_like(each, 100.0)
    norm = optimizers.step()
    assert norm > 100 and all((each.grad == 100.0).all() for each in model.parameters())


def first_update(gradients: torch.Tensor) -> torch.Tensor:
    """What Muon subtracts from a stack of square or wide matrices by its first step, rows normalized."""
    matrices = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for matrix, gradient in zip(matrices, gradients, strict=True):
        matrix.grad = gradient.clone()
    Muon(matrices, lr=1.0, momentum=0.9, row_normalize=True, compute_dtype=gradients.dtype).step()
    return -torch.stack([matrix.detach() for matrix in matrices])


def test_rows_are_levelled_before_the_update_is_orthogonalized():
    torch.manual_seed(0)
    gradients = (
        torch.randn(2, 8, 12, dtype=torch.float64) * torch.logspace(-3, 3, 8, dtype=torch.float64)[:, None]
    )
    updates = [
        first_update(scaled)
        for scaled in (gradients, gradients * torch.arange(1, 9, dtype=torch.float64)[:, None])
    ]
    torch.testing.assert_close(*updates)
    levelled = gradients / gradients.square().sum(-1, keepdim=True).sqrt()
    torch.testing.assert_close(updates[0], orthogonalize(levelled, QUINTIC))


def test_rows_without_a_gradient_stay_where_they_are():
    gradients = torch.zeros(1, 4, 8)
    gradients[0, 0] = 1.0
    update = first_update(gradients)
    assert update.isfinite().all() and not update[0, 1:].any()


FRONTIER = replace(
    TINY,
    num_layers=4,
    bigram_buckets=0,
    smear="add",
    attention_gate=0.5,
    skip_gates=True,
    parallel_residual_blocks=1,
    recurrence_first=1,
    recurrence_last=2,
    recurrence=2,
)


def test_gates_and_lanes_are_scalars_and_no_matrix_but_those_of_the_sublayers():
    model = GPT(FRONTIER)
    groups = split_parameters(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scalars = {names[id(parameter)].split(".")[-1] for parameter in groups["scalar"]}
    assert {"gate", "strength", "skip_gates", "skip_weights", "lane_keep", "lane_write"} <= scalars
    assert len(groups["matrix"]) == 4 * 6
    assert all(names[id(parameter)].endswith(".weight") for parameter in groups["matrix"])
    assert [names[id(parameter)] for parameter in groups["embedding"]] == ["embedding.weight"]


def test_every_parameter_is_in_exactly_one_group_of_its_kind():
    model = GPT(TINY)
    groups = split_parameters(model)
    listed = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    assert {tuple(p.shape) for p in groups["embedding"]} == {(64, 32), (16, 8)}
    assert len(groups["matrix"]) == 2 * 6 + 1


def test_without_gradients_only_the_decay_acts():
    model = GPT(TINY)
    model.initialize()
    optimizers = Optimizers(
        model,
        OptimConfig(
            matrix_lr=0.1,
            matrix_weight_decay=0.5,
            scalar_lr=0.2,
            scalar_weight_decay=0.3,
            embedding_lr=0.5,
            embedding_weight_decay=0.2,
        ),
        torch.float32,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step()
    after = dict(model.named_parameters())
    query, gain = "blocks.0.attention.query.weight", "blocks.0.attention.qk_gain"
    torch.testing.assert_close(after[query], before[query] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(after[gain], before[gain] * (1 - 0.2 * 0.3))
    torch.testing.assert_close(after["embedding.weight"], before["embedding.weight"] * (1 - 0.5 * 0.2))


def test_a_gradient_above_the_clip_is_scaled_down_to_it():
    model = GPT(TINY)
    optimizers = Optimizers(model, OptimConfig(gradient_clip=0.3), torch.float32)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.3, rel=1e-3)


def test_the_schedule_scales_every_rate_from_its_full_value():
    model = GPT(TINY)
    optimizers = Optimizers(model, OptimConfig(), torch.float32)
    optimizers.set_schedule(0.5, 0.9)
    optimizers.set_schedule(0.25, 0.91)
    rates = {
        kind: {group["lr"] for group in optimizer.param_groups}
        for kind, optimizer in optimizers.by_group.items()
    }
    assert rates == {"matrix": {0.25 * 0.04}, "embedding": {0.25 * 0.05}, "scalar": {0.25 * 0.04}}
    assert {group["momentum"] for group in optimizers.by_group["matrix"].param_groups} == {0.91}
    assert not any("momentum" in group for group in optimizers.by_group["scalar"].param_groups)


def test_adamw_can_train_the_matrices_too():
    config = OptimConfig(matrix="adamw", matrix_lr=0.003, matrix_weight_decay=0.1, gradient_clip=1e9)
    torch.manual_seed(0)
    model = GPT(TINY)
    model.initialize()
    weight = model.blocks[0].attention.query.weight
    expected = weight.detach().clone().requires_grad_()
    reference = torch.optim.AdamW([expected], lr=0.003, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8)
    optimizers = Optimizers(model, config, torch.float32)
    for seed in range(3):
        gradients = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=gradients)
        expected.grad = weight.grad.clone()
        whole = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
        torch.testing.assert_close(optimizers.step(), whole)
        reference.step()
    torch.testing.assert_close(weight, expected)
    again = Optimizers(model, config, torch.float32)
    again.load_state_dict(optimizers.state_dict())
    again.set_schedule(0.5, 0.9)
    assert [group["lr"] for group in again.param_groups] == [0.0015, 0.025, 0.02]


class SignDescent(torch.optim.Optimizer):
    """An optimizer as a researcher may add one: w <- w - lr * step * sign(gradient)."""

    def __init__(self, parameters, lr, step=1.0):
        super().__init__(parameters, {"lr": lr, "step": step})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * group["step"] * parameter.grad.sign()


def test_a_new_optimizer_is_one_entry_of_the_table_with_options_of_its_own(monkeypatch):
    monkeypatch.setitem(optim.OPTIMIZERS, "sign", SignDescent)
    config = OptimConfig(matrix="sign", matrix_lr=0.5, options=("step=0.25",))
    model = GPT(TINY)
    model.initialize()
    weight = model.blocks[0].attention.query.weight
    before = weight.detach().clone()
    optimizers = Optimizers(model, config, torch.float32)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.set_schedule(0.5, 0.9)
    optimizers.step()
    torch.testing.assert_close(weight, before - 0.5 * 0.5 * 0.25)
    names = {kind: type(optimizer).__name__ for kind, optimizer in optimizers.by_group.items()}
    assert names == {"matrix": "SignDescent", "embedding": "AdamW", "scalar": "AdamW"}


@pytest.mark.parametrize("option", ["stepp=1", "step", "lr=0.1", "momentum=0.5"])
def test_an_option_that_no_optimizer_has_of_its_own_is_refused(monkeypatch, option):
    monkeypatch.setitem(optim.OPTIMIZERS, "sign", SignDescent)
    with pytest.raises(ValueError, match=r"optim\.options"):
        OptimConfig(matrix="sign", options=(option,))


def test_an_optimizer_that_is_not_in_the_table_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="'sgdd' is unknown; there are muon, adamw"):
        OptimConfig(embedding="sgdd")


def test_gradients_are_summed_over_processes_and_a_missing_one_counts_as_zero():
    class Doubling(World):
        def sum(self, tensor):
            tensor.mul_(2)
            return noop

    model = GPT(TINY)
    optimizers = Optimizers(model, OptimConfig(), torch.float32, Doubling(size=2))
    expected = {}
    for name, parameter in model.named_parameters():
        if name != "embedding.weight":
            parameter.grad = torch.randn_like(parameter)
        expected[name] = torch.zeros_like(parameter) if parameter.grad is None else 2 * parameter.grad
    optimizers.all_reduce_gradients()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name])


def test_learned_positions_are_trained_as_a_table():
    model = GPT(replace(TINY, positions="learned"))
    assert any(parameter is model.positions.weight for parameter in split_parameters(model)["embedding"])
