"""The trellis quantizer: paths against an exhaustive search, payloads there and back, damage refused."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.pack import trellis
from golf.pack.container import ArtifactError
from golf.pack.entropy_coder import RAW_BITS
from golf.pack.gptq import factorize, round_with_feedback
from golf.pack.layout import TensorLayout
from golf.pack.quantize import SCALAR_ROUNDING, QuantizedTensor, Rounding, TensorGrid, dequantize
from golf.pack.trellis import CHECKS, Trellis, decode_trellis, encode_trellis, read_trellis, round_on_trellis


@pytest.mark.parametrize("log2_states", CHECKS)
def test_each_state_has_both_inputs_and_two_that_lead_to_it(log2_states: int) -> None:
    machine = Trellis.of(log2_states)
    states = 1 << log2_states
    assert machine.next_S2.shape == (states, 2)
    assert np.bincount(machine.next_S2.reshape(-1)).tolist() == [2] * states
    assert np.bincount(machine.parity_S).tolist() == [states // 2] * 2
    # Two paths that part in a state part in cosets 2 apart and come together so, too (Ungerboeck's rules).
    for state in range(states):
        assert machine.next_S2[state, 0] != machine.next_S2[state, 1]


@pytest.mark.parametrize("log2_states", CHECKS)
def test_codes_are_those_of_least_error_on_the_trellis(log2_states: int) -> None:
    machine, columns = Trellis.of(log2_states), 6
    generator = torch.Generator().manual_seed(log2_states)
    weight_RC = 3 * torch.randn(7, columns, generator=generator)
    step_R, step_C = torch.rand(7, generator=generator) + 0.5, torch.rand(columns, generator=generator) + 0.5
    codes_RC, from_RC, plain_C = round_on_trellis(log2_states, weight_RC, step_R, step_C, None)
    assert torch.equal(from_RC, weight_RC)
    assert plain_C is not None and not plain_C.any()
    for row in range(7):
        value_C = (weight_RC[row] / step_R[row] / step_C).numpy()
        best = math.inf
        for lowest in itertools.product((0, 1), repeat=columns):
            state, error = 0, 0.0
            for value, bit in zip(value_C, lowest, strict=True):
                offset = 2 * bit + int(machine.parity_S[state])
                error += (value - (4 * round((value - offset) / 4) + offset)) ** 2
                state = machine.next_S2[state, bit]
            best = min(best, error)
        assert float(((value_C - codes_RC[row].numpy()) ** 2).sum()) == pytest.approx(best, rel=1e-5)


def test_float64_weights_with_scalar_rows_are_rounded_as_in_fp32() -> None:
    weight_RC = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).double()
    weight_RC[2] *= 1e7
    ones = torch.ones(5), torch.ones(40)
    codes_RC, from_RC, _ = round_on_trellis(3, weight_RC, *ones, None)
    assert torch.equal(from_RC, weight_RC.float())
    assert torch.equal(codes_RC[2], 2 * (weight_RC[2].float() / 2).round())
    assert torch.equal(codes_RC, round_on_trellis(3, weight_RC.float(), *ones, None)[0])


def test_matrix_whose_rows_are_all_scalar_has_the_codes_of_plain_feedback() -> None:
    weight_RC = 1e7 * torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    factors = factorize(torch.eye(20), torch.full((3,), 0.02), torch.ones(20))
    codes_RC, from_RC, _ = round_on_trellis(3, weight_RC, torch.ones(3), torch.ones(20), factors)
    plain_RC, plain_from_RC = round_with_feedback(weight_RC, torch.full((3,), 2.0), torch.ones(20), factors)
    assert torch.equal(codes_RC, 2 * plain_RC)
    assert torch.equal(from_RC, plain_from_RC)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 70])
def test_feedback_of_a_path_is_that_of_gptq(columns: int) -> None:
    """With the codes of the best path forced on it, plain feedback comes to the same values to round from."""
    generator = torch.Generator().manual_seed(columns)
    inputs_NC = torch.randn(300, columns, generator=generator) @ torch.randn(
        columns, columns, generator=generator
    )
    hessian_CC = inputs_NC.T @ inputs_NC
    hessian_CC /= hessian_CC.diagonal().mean()
    weight_RC = torch.randn(40, columns, generator=generator)
    # Plain columns: nearly all their codes are 0.
    weight_RC[:, 3::7] *= 0.01
    factors = factorize(hessian_CC, torch.full((40,), 0.02), torch.ones(columns))
    step_R, step_C = torch.full((40,), 0.2), factors.inverse_GCC[0].diagonal().float()
    codes_RC, from_RC, plain_C = round_on_trellis(3, weight_RC, step_R, step_C, factors)
    assert plain_C is not None
    if columns > 30:
        assert 0 < plain_C.sum() < columns / 4
    expected_RC = trellis.shrink(weight_RC, factors)
    inverse_CC = factors.inverse_GCC[0].float()
    for column in range(columns):
        assert torch.allclose(from_RC[:, column], expected_RC[:, column], atol=1e-4)
        error_R = expected_RC[:, column] - codes_RC[:, column] * step_R * step_C[column]
        expected_RC[:, column + 1 :] -= (error_R / inverse_CC[column, column])[:, None] * inverse_CC[
            column, column + 1 :
        ]
    codes = codes_RC.int().numpy()
    assert np.array_equal(codes & 1, Trellis.of(3).parities(codes, plain_C))


def test_at_equal_steps_of_the_symbols_the_error_is_much_less_than_a_scalar_one() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_RC = torch.randn(256, 256, generator=generator)
    hessian_CC = torch.diag(torch.rand(256, generator=generator) + 0.5)
    factors = factorize(hessian_CC, torch.zeros(256), torch.ones(256))
    step_R, step_C = torch.full((256,), 0.4), factors.inverse_GCC[0].diagonal().float()
    errors = []
    for codes_RC, step in (
        (round_with_feedback(weight_RC, step_R, step_C, factors)[0], step_R),
        (round_on_trellis(3, weight_RC, step_R / 2, step_C, factors)[0], step_R / 2),
    ):
        error_RC = weight_RC - codes_RC * step[:, None] * step_C
        errors.append(float((error_RC.square() @ hessian_CC).sum()))
    # Marcellin and Fischer's 8 states gain 0.97 dB of granular gain over a uniform source; feedback keeps it.
    assert 0.7 < 10 * math.log10(errors[0] / errors[1]) < 1.53


def lagrangian(
    sigma: float, rounding: Rounding, step_exponent: int = 0, ridge: float = 1.0
) -> tuple[float, float, float]:
    """Loss + lambda x bits, loss and bits per weight, of a Gaussian whose scalar step is 1 and fisher 1."""
    weight_RC = sigma * torch.randn(600, 256, generator=torch.Generator().manual_seed(7))
    step = 2 ** ((rounding.step_exponent + step_exponent) / 8)
    shrunk_RC = weight_RC / (1 + ridge / (12 * sigma**2))
    codes_RC, _, plain_C = rounding.round(shrunk_RC, torch.full((600,), step), torch.ones(256), None)
    codes = codes_RC.numpy().astype(np.int32)
    loss = float((weight_RC - codes_RC * step).square().mean()) / 2
    if plain_C is not None:
        assert not plain_C.any()
        groups = [codes[codes & 1 == parity] >> 1 for parity in (0, 1)]
    else:
        groups = [codes]
    counts = [np.unique(group, return_counts=True)[1] for group in groups]
    bits = sum(float(np.sum(each * np.log2(each.sum() / each))) for each in counts) / codes.size
    return loss + LAMBDA * bits, loss, bits


LAMBDA = math.log(2) / 12
"""Nats per bit at which the scalar step of a weight of fisher 1 is 1."""


@pytest.mark.parametrize("sigma", [1.5, 3.0, 8.0])
@pytest.mark.parametrize("kind", ["scalar", "trellis"])
def test_slopes_are_equal_where_the_steps_are_and_the_ridge_is_the_best(kind: str, sigma: float) -> None:
    """By finite differences: a step of a sixteenth of an octave more or less costs more in sum, a ridge of
    half or twice as much does too, and a bit saves lambda in the loss."""
    rounding = SCALAR_ROUNDING if kind == "scalar" else trellis.trellis_rounding(3)
    best, _, _ = lagrangian(sigma, rounding)
    (_, fine_loss, fine_bits), (_, coarse_loss, coarse_bits) = (
        lagrangian(sigma, rounding, exponent) for exponent in (-2, 2)
    )
    assert (coarse_loss - fine_loss) / (fine_bits - coarse_bits) == pytest.approx(LAMBDA, rel=0.06)
    for exponent in (-3, 3):
        assert lagrangian(sigma, rounding, exponent)[0] > best
    for ridge in (0.0, 3.0):
        assert lagrangian(sigma, rounding, ridge=ridge)[0] > best


def test_error_at_equal_slopes_is_that_of_scalar_codes_with_fewer_bits() -> None:
    (_, scalar_loss, scalar_bits), (_, loss, bits) = (
        lagrangian(6.0, rounding) for rounding in (SCALAR_ROUNDING, trellis.trellis_rounding(3))
    )
    assert loss == pytest.approx(scalar_loss, rel=0.08)
    assert 0.11 < scalar_bits - bits < 0.14


SHAPES = {"a": (16, 40), "b": (1, 40), "small": (3, 5), "c": (33, 17), "d": (50, 40), "e": (2, 1)}


def quantized(
    seed: int, spread: float, log2_states: int
) -> tuple[dict[str, QuantizedTensor], dict[str, TensorLayout]]:
    """Random tensors on the trellis, some of whose rows are scalar."""
    rng = np.random.default_rng(seed)
    layout = {
        name: TensorLayout(shape, "small" if name == "small" else "matrix") for name, shape in SHAPES.items()
    }
    tensors = {}
    for name, (rows, columns) in SHAPES.items():
        row_step, column_step = rng.integers(-9, 9, rows), rng.integers(-4, 4, columns)
        grid = TensorGrid(
            row_step,
            row_step + rng.integers(0, 50, rows),
            column_step,
            column_step + rng.integers(-3, 3, columns),
            np.zeros(rows, dtype=np.float32),
        )
        values = torch.from_numpy(spread * rng.standard_normal((rows, columns))).float()
        # Two rows of most codes beyond the alphabet, and a scalar one.
        values[0] *= 90
        values[5:6] *= 40
        values[9:10] *= 1e6
        values[:, 2::5] *= 0.05
        if name == "small":
            codes, plain_C = values.round(), None
        else:
            codes, _, plain_C = round_on_trellis(
                log2_states, values, torch.ones(rows), torch.ones(columns), None
            )
        tensors[name] = QuantizedTensor(codes.numpy().astype(np.int32), grid, plain_C)
    return tensors, layout


@pytest.mark.parametrize("log2_states", CHECKS)
@pytest.mark.parametrize("spread", [0.0, 0.7, 4.0, 60.0])
def test_payloads_are_read_as_they_were_written(log2_states: int, spread: float) -> None:
    tensors, layout = quantized(1, spread, log2_states)
    payload = encode_trellis(tensors, layout, 0.25, log2_states)
    assert payload == encode_trellis(tensors, layout, 0.25, log2_states)
    base, found = read_trellis(memoryview(payload), layout)
    assert base == 0.25
    for name, tensor in tensors.items():
        assert np.array_equal(found[name].codes_RC, tensor.codes_RC), name
        assert name == "small" or np.array_equal(found[name].plain_C, tensor.plain_C)
        expected = dequantize(tensor, 0.25)
        assert np.array_equal(decode_trellis(memoryview(payload), layout)[name].numpy(), expected)


def test_the_order_of_the_tensors_does_not_matter() -> None:
    tensors, layout = quantized(1, 4.0, 3)
    reverse = dict(reversed(tensors.items()))
    assert encode_trellis(reverse, layout, 0.25) == encode_trellis(tensors, layout, 0.25)


def test_tensors_of_the_test_have_what_the_format_knows() -> None:
    """Plain columns, scalar rows, escaped symbols of either parity, low bits."""
    tensors, layout = quantized(1, 4.0, 3)
    plain = {name: tensor.plain_C for name, tensor in tensors.items() if tensor.plain_C is not None}
    codes = {name: tensor.codes_RC for name, tensor in tensors.items()}
    is_scalar = trellis._find_scalar(Trellis.of(3), plain, codes)
    assert is_scalar["a"].tolist() == [row == 9 for row in range(16)]
    assert plain["d"][2::5].all() and plain["d"].sum() == 8
    contexts = {name: trellis.symbol_contexts(tensor.grid.contexts()) for name, tensor in tensors.items()}
    on_trellis = {name: codes[name][~rows_R] >> 1 for name, rows_R in is_scalar.items()}
    raw = {name: RAW_BITS[contexts[name][~rows_R]] for name, rows_R in is_scalar.items()}
    escaped = np.concatenate([(on_trellis[name] >> raw[name]).reshape(-1) for name in on_trellis])
    escaped = escaped[np.abs(escaped) > 127]
    assert np.count_nonzero(escaped & 1) > 10 < np.count_nonzero(escaped & 1 == 0)
    assert max(int(each.max(initial=0)) for each in raw.values()) >= 2
    assert len(encode_trellis(tensors, layout, 1.0)) > 4 * len(escaped)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=150, deadline=None)
def test_damaged_payloads_are_refused_or_decode_to_finite_weights(seed: int) -> None:
    tensors, layout = quantized(3, 3.0, 3)
    payload = bytearray(encode_trellis(tensors, layout, 1.0))
    rng = random.Random(seed)
    how = rng.randrange(3)
    if how == 0:
        payload = payload[: rng.randrange(len(payload))]
    elif how == 1:
        payload += bytes(rng.randrange(1, 9))
    else:
        for _ in range(rng.randrange(1, 5)):
            payload[rng.randrange(len(payload))] = rng.randrange(256)
    try:
        weights = decode_trellis(memoryview(bytes(payload)), layout)
    except ArtifactError:
        return
    assert how == 2
    assert all(
        torch.isfinite(weight).all() and weight.shape == SHAPES[name] for name, weight in weights.items()
    )


def test_a_trellis_that_does_not_exist_is_refused() -> None:
    tensors, layout = quantized(4, 1.0, 3)
    payload = encode_trellis(tensors, layout, 1.0)
    for states in (0, 1, 5, 255):
        with pytest.raises(ArtifactError, match=f"no trellis of 2\\^{states} states"):
            decode_trellis(memoryview(bytes([states]) + payload[1:]), layout)


@pytest.mark.gpu
def test_a_gpu_finds_paths_as_good_as_the_cpu_does() -> None:
    generator = torch.Generator().manual_seed(5)
    weight_RC = torch.randn(200, 96, generator=generator)
    hessian_CC = torch.diag(torch.rand(96, generator=generator) + 0.5)
    errors = []
    for device in ("cpu", "cuda"):
        factors = factorize(
            hessian_CC.to(device), torch.zeros(200, device=device), torch.ones(96, device=device)
        )
        step_R, step_C = torch.full((200,), 0.2), factors.inverse_GCC[0].diagonal().float().cpu()
        codes_RC, _, plain_C = round_on_trellis(
            3, weight_RC.to(device), step_R.to(device), step_C.to(device), factors
        )
        codes = codes_RC.cpu().numpy().astype(np.int32)
        assert plain_C is not None
        assert (codes & 1 == Trellis.of(3).parities(codes, plain_C)).all()
        error_RC = weight_RC - codes_RC.cpu() * step_R[:, None] * step_C
        errors.append(float((error_RC.square() @ hessian_CC).sum()))
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
