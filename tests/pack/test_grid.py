import numpy as np

from golf.pack.grid import (
    EIGHTHS,
    TensorGrid,
    dequantize,
    exact_powers,
    row_view,
    smallest_int,
)


def random_grid(rng: np.random.Generator, rows: int, columns: int) -> TensorGrid:
    vectors = [rng.integers(-40, 40, length) for length in (rows, rows, columns, columns)]
    return TensorGrid(*vectors, rng.standard_normal(rows).astype(np.float32))


def test_powers_are_eighths_of_octaves_to_the_last_bit_of_fp32():
    exponents = np.arange(-300, 300)
    assert np.array_equal(exact_powers(exponents, 1.0), (2.0 ** (exponents / 8)).astype(np.float32))
    assert all(abs(value - 2 ** (index / 8)) < 1e-15 for index, value in enumerate(EIGHTHS))


def test_weights_are_mean_plus_code_times_both_steps():
    rng = np.random.default_rng(0)
    grid = random_grid(rng, 5, 7)
    codes = rng.integers(-20, 20, (5, 7))
    weights = dequantize(codes, grid, 0.01)
    for row in range(5):
        for column in range(7):
            step = 0.01 * 2 ** ((grid.row_step_R[row] + grid.column_step_C[column]) / 8)
            expected = grid.mean_R[row] + codes[row, column] * step
            assert np.isclose(weights[row, column], expected, rtol=1e-5)


def test_a_class_is_the_spread_in_steps():
    grid = TensorGrid(
        np.array([0, 8]), np.array([0, 0]), np.array([0, 0, 8]), np.array([0, 16, 8]), np.zeros(2, np.float32)
    )
    assert grid.classes().tolist() == [[22, 38, 22], [14, 30, 14]]
    far = TensorGrid(np.array([0, 0]), np.array([900, -900]), np.array([0]), np.array([0]), np.zeros(2))
    assert far.classes().tolist() == [[127], [0]]


def test_codes_take_the_narrowest_type_that_holds_them():
    for largest, kind in ((127, np.int8), (128, np.int16), (32767, np.int16), (32768, np.int32)):
        assert smallest_int(np.array([0, -largest])).dtype == kind
    assert smallest_int(np.zeros((0, 3))).dtype == np.int8


def test_every_shape_is_seen_as_rows_and_columns():
    assert [row_view(shape) for shape in [(), (5,), (3, 4), (3, 4, 5), (0, 4)]] == [
        (1, 1),
        (1, 5),
        (3, 4),
        (3, 20),
        (0, 4),
    ]
