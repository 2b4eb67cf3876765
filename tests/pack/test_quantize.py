import math

import numpy as np
import torch

from golf.pack.calibrate import Calibration
from golf.pack.layout import TensorLayout, artifact_bytes_at, row_view
from golf.pack.quantize import (
    FINEST_CONTEXT,
    FINEST_SMALL_CONTEXT,
    POWERS_OF_TWO,
    QuantizedTensor,
    Sensitivity,
    TensorGrid,
    base_step,
    dequantize,
    exact_powers,
    log2_sigma,
    quantize_tensor,
    sensitivities,
    size_forecast,
)


def plain_sensitivity(weight, fisher=1.0):
    rows, columns = row_view(tuple(weight.shape))
    return Sensitivity(torch.full((rows,), fisher).double(), None, torch.zeros(columns).double(), 0.0)


def decoded(weight, sensitivity, rate_lambda, small=False):
    tensor = quantize_tensor(weight, sensitivity, rate_lambda, small)
    values = dequantize(tensor, base_step(rate_lambda))
    return torch.from_numpy(values).reshape(weight.shape), tensor


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sigmas_of_rows_and_columns_are_found_apart():
    rows, columns = torch.exp2(gaussian(300)), torch.exp2(gaussian(400, seed=1))
    row_R, column_C = log2_sigma(gaussian(300, 400, seed=2) * rows[:, None] * columns)
    offset = row_R.mean() - rows.log2().mean()
    assert torch.allclose(row_R - offset, rows.log2().double(), atol=0.25)
    assert torch.allclose(column_C + offset, columns.log2().double(), atol=0.25)


def test_the_step_follows_from_the_rate_lambda_and_the_fisher_alone():
    weight = gaussian(40, 50) * torch.exp2(torch.arange(40.0) / 20)[:, None]
    for fisher in (1.0, 16.0):
        rate_lambda = 0.02 / fisher
        back, _ = decoded(weight, plain_sensitivity(weight, fisher), rate_lambda * fisher)
        step = base_step(rate_lambda)
        assert math.isclose(float((back - weight).square().mean()), step**2 / 12, rel_tol=0.15)


def test_one_more_bit_saves_the_same_loss_in_every_row():
    """Equal slope: a row whose errors cost 64 times as much has an eighth of the step."""
    weight = gaussian(2, 4000)
    fisher = torch.tensor([1.0, 64.0]).double()
    back, tensor = decoded(weight, Sensitivity(fisher, None, torch.zeros(4000).double(), 0.0), 0.01)
    assert tensor.grid.row_step_R.tolist() == [0, -24]
    errors = (back - weight).square().mean(1)
    assert 40 < float(errors[0] / errors[1]) < 80


def test_rows_of_zeros_single_columns_and_outliers_survive():
    weight = gaussian(30, 20)
    weight[3] = 0
    weight[:, 7] = 0
    weight[11, 5] = 1e4
    weight[20] *= 1e-12
    back, _ = decoded(weight, plain_sensitivity(weight), 1e-3)
    assert torch.all(back[3] == 0) and torch.all(back[:, 7] == 0)
    assert abs(float(back[11, 5]) - 1e4) < 150
    assert torch.isfinite(back).all()
    for shape in ((25, 1), (1, 25), (0, 3), (3, 0)):
        values = gaussian(*shape)
        back, _ = decoded(values, plain_sensitivity(values), 1e-4)
        assert back.shape == values.shape and torch.allclose(back, values, atol=0.05)


def test_small_tensors_are_coded_around_their_mean():
    weight = 3.0 + 0.01 * gaussian(500)
    back, _ = decoded(weight, plain_sensitivity(weight, 1e9), 1e-3, small=True)
    assert float((back - weight).abs().max()) < 0.01 / 64
    scalar = torch.tensor(0.0537)
    back, _ = decoded(scalar, plain_sensitivity(scalar, 1e9), 1e-3, small=True)
    assert back.shape == () and math.isclose(float(back), 0.0537, rel_tol=1e-4)


def test_no_step_is_finer_than_the_finest_context():
    weight = gaussian(64, 64)
    for small, finest in ((False, FINEST_CONTEXT), (True, FINEST_SMALL_CONTEXT)):
        _, tensor = decoded(weight, plain_sensitivity(weight), 1e-30, small)
        assert finest - 3 < np.median(tensor.grid.contexts()) < finest + 3


def test_where_errors_are_free_a_row_shrinks_to_nothing():
    weight = gaussian(20, 30)
    fisher = torch.full((20,), 1.0).double()
    fisher[4] = 1e-9
    hessian = torch.eye(30) + 0.5
    hessian /= hessian.diagonal().mean()
    sensitivity = Sensitivity(fisher, hessian, torch.zeros(30).double(), 0.0)
    back, _ = decoded(weight, sensitivity, 1e-3)
    assert torch.all(back[4] == 0) and float((back - weight)[:4].square().mean()) < 0.01


def test_the_forecast_is_close_to_the_entropy_of_the_codes():
    weights = {"blocks.0.a": gaussian(300, 200), "blocks.0.b": gaussian(200, 300) * 0.1}
    layout = {name: TensorLayout(tuple(weight.shape), "matrix") for name, weight in weights.items()}
    found = {
        name: plain_sensitivity(weight, 1 / float(weight.square().mean())) for name, weight in weights.items()
    }
    forecast = size_forecast(weights, layout, found)
    for rate_lambda in (1e-4, 1e-3, 1e-2):
        bits = 0.0
        for name, weight in weights.items():
            counts = np.unique(
                quantize_tensor(weight, found[name], rate_lambda, False).codes_RC, return_counts=True
            )[1]
            bits += float(np.sum(counts * np.log2(counts.sum() / counts)))
        assert math.isclose(forecast(rate_lambda), bits / 8 + artifact_bytes_at(layout, 0), rel_tol=0.03)


def test_rows_that_calibration_never_touched_keep_a_share_of_the_fisher():
    calibration = Calibration(10, {}, {"table": torch.tensor([0.0, 40.0, 0.0, 0.0])})
    found = sensitivities({"table": torch.ones(4, 16)}, calibration)["table"]
    assert torch.allclose(found.fisher_R, torch.tensor([0.02, 4.02, 0.02, 0.02]).double())


def random_grid(rng: np.random.Generator, rows: int, columns: int) -> TensorGrid:
    vectors = [rng.integers(-40, 40, length) for length in (rows, rows, columns, columns)]
    return TensorGrid(*vectors, rng.standard_normal(rows).astype(np.float32))


def test_powers_are_eighths_of_octaves_to_the_last_bit_of_fp32():
    exponents = np.arange(-300, 300)
    assert np.array_equal(exact_powers(exponents, 1.0), (2.0 ** (exponents / 8)).astype(np.float32))
    assert all(abs(value - 2 ** (index / 8)) < 1e-15 for index, value in enumerate(POWERS_OF_TWO))


def test_weights_are_mean_plus_code_times_both_steps():
    rng = np.random.default_rng(0)
    grid = random_grid(rng, 5, 7)
    codes = rng.integers(-20, 20, (5, 7))
    weights = dequantize(QuantizedTensor(codes, grid), 0.01)
    for row in range(5):
        for column in range(7):
            step = 0.01 * 2 ** ((grid.row_step_R[row] + grid.column_step_C[column]) / 8)
            expected = grid.mean_R[row] + codes[row, column] * step
            assert np.isclose(weights[row, column], expected, rtol=1e-5)


def test_a_context_is_the_sigma_in_steps():
    grid = TensorGrid(
        np.array([0, 8]), np.array([0, 0]), np.array([0, 0, 8]), np.array([0, 16, 8]), np.zeros(2, np.float32)
    )
    assert grid.contexts().tolist() == [[22, 38, 22], [14, 30, 14]]
    far = TensorGrid(np.array([0, 0]), np.array([900, -900]), np.array([0]), np.array([0]), np.zeros(2))
    assert far.contexts().tolist() == [[127], [0]]


def test_every_shape_is_seen_as_rows_and_columns():
    assert [row_view(shape) for shape in [(), (5,), (3, 4), (3, 4, 5), (0, 4)]] == [
        (1, 1),
        (1, 5),
        (3, 4),
        (3, 20),
        (0, 4),
    ]
