import itertools

import pytest
import torch

from golf.pack.gptq import (
    DAMPING,
    column_steps,
    factorize,
    inverse_factor,
    ridge_groups,
    round_with_feedback,
)


def problem(seed: int, rows: int, columns: int, samples: int):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = torch.randn(samples, columns, generator=generator) @ (mixing + 0.3 * torch.eye(columns))
    hessian = inputs.T @ inputs / samples
    return torch.randn(rows, columns, generator=generator), hessian / hessian.diagonal().mean()


def error(hessian, weight, rounded) -> float:
    difference = (weight - rounded).double()
    return float(((difference @ hessian.double()) * difference).sum())


def rounded_with_feedback(weight, hessian, step, step_C=None, ridge=0.0):
    columns = weight.shape[1]
    step_C = torch.ones(columns) if step_C is None else step_C
    factors = factorize(hessian, torch.full((len(weight),), ridge), torch.ones(columns))
    codes, _ = round_with_feedback(weight, torch.full((len(weight),), step), step_C, factors)
    return codes * step * step_C


def test_the_inverse_factor_is_upper_and_multiplies_to_the_inverse():
    _, hessian = problem(0, 1, 40, 100)
    hessian = hessian.double() + 0.01 * torch.eye(40)
    factor = inverse_factor(hessian)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ hessian, torch.eye(40).double(), atol=1e-9)
    assert inverse_factor(torch.zeros(3, 3)) is None


def test_no_seeded_problem_has_more_error_than_plain_rounding():
    for seed in range(30):
        weight, hessian = problem(seed, 48, 8 + 3 * seed, 400)
        for step in (0.2, 0.7):
            plain = (weight / step).round() * step
            assert error(hessian, weight, rounded_with_feedback(weight, hessian, step)) < error(
                hessian, weight, plain
            )


def test_tiny_problems_come_close_to_the_best_of_all_codes():
    total, best_total, plain_total = 0.0, 0.0, 0.0
    codes = torch.tensor(list(itertools.product(range(-9, 10), repeat=4)), dtype=torch.float32)
    for seed in range(40):
        weight, hessian = problem(seed, 1, 4, 30)
        steps = column_steps(hessian)[0].float()
        steps /= steps.log2().mean().exp2()
        off = weight - codes * steps
        errors = (off @ hessian * off).sum(1)
        found = error(hessian, weight, rounded_with_feedback(weight, hessian, 1.0, steps))
        assert found >= float(errors.min()) - 1e-5
        total, best_total = total + found, best_total + float(errors.min())
        plain_total += error(hessian, weight, (weight / steps).round() * steps)
    assert total < 1.15 * best_total < 1.15 * plain_total


def test_without_correlation_it_is_plain_rounding():
    weight, _ = problem(3, 20, 30, 10)
    hessian = torch.diag(torch.linspace(0.1, 1.9, 30))
    assert torch.allclose(rounded_with_feedback(weight, hessian, 0.3), (weight / 0.3).round() * 0.3)


def test_blocks_change_nothing_but_speed():
    weight, hessian = problem(4, 6, 300, 900)
    factors = factorize(hessian, torch.zeros(6), torch.ones(300))
    inverse = factors.inverse_GCC[0].float()
    running, codes = weight.clone(), torch.zeros(6, 300)
    for column in range(300):
        codes[:, column] = (running[:, column] / 0.4).round()
        off = (running[:, column] - 0.4 * codes[:, column]) / inverse[column, column]
        running[:, column:] -= off[:, None] * inverse[column, column:]
    expected = codes * 0.4
    found = rounded_with_feedback(weight, hessian, 0.4)
    assert (found != expected).float().mean() < 0.01
    assert error(hessian, weight, found) == pytest.approx(error(hessian, weight, expected), rel=0.02)


def test_steps_by_column_cost_fewer_bits_at_the_same_error():
    weight, hessian = problem(5, 200, 64, 400)
    steps, damping = column_steps(hessian)
    steps = steps.float()
    assert damping == DAMPING
    assert torch.allclose(steps.log2().mean().exp2(), steps.prod() ** (1 / 64), rtol=1e-3)
    even = rounded_with_feedback(weight, hessian, float(steps.log2().mean().exp2()) * 0.3)
    by_column = rounded_with_feedback(weight, hessian, 0.3, steps)
    assert error(hessian, weight, by_column) < 0.9 * error(hessian, weight, even)


def test_a_ridge_shrinks_rows_towards_zero_and_to_nothing_where_errors_are_free():
    weight, hessian = problem(6, 10, 16, 100)
    sizes = [
        float(rounded_with_feedback(weight, hessian, 0.1, ridge=r).norm()) for r in (0.0, 0.4, 4.0, 1000.0)
    ]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.05 * sizes[0]


def test_rows_of_different_ridges_are_what_each_group_gives_alone():
    weight, hessian = problem(7, 8, 20, 100)
    ridge_R = torch.tensor([0.04, 0.04, 4.0, 0.04, 4.0, 240.0, 0.04, 4.0])
    factors = factorize(hessian, ridge_R, torch.ones(20))
    assert len(factors.inverse_GCC) == 3
    steps = torch.full((8,), 0.2), torch.ones(20)
    together, _ = round_with_feedback(weight, *steps, factors)
    for ridge in (0.04, 4.0, 240.0):
        rows = ridge_R == ridge
        own = factorize(hessian, ridge_R[rows], torch.ones(20))
        alone, _ = round_with_feedback(weight[rows], steps[0][rows], steps[1], own)
        assert (together[rows] != alone).float().mean() < 0.02


def test_the_fullest_group_of_ridges_is_the_first():
    group, ridges = ridge_groups(torch.tensor([1.0, 16.0, 15.0, 17.0, 1e-20]))
    assert group.tolist()[1:4] == [0, 0, 0] and ridges[0] == 16


def test_a_singular_hessian_gets_more_damping_and_says_so():
    assert factorize(torch.eye(4), torch.zeros(1), torch.ones(4)).damping == DAMPING
    hessian = torch.eye(4)
    hessian[0, 1] = hessian[1, 0] = 1.02
    assert factorize(hessian, torch.zeros(1), torch.ones(4)).damping > DAMPING
    with pytest.raises(ValueError, match="singular"):
        factorize(torch.full((3, 3), float("nan")), torch.zeros(1), torch.ones(3))
