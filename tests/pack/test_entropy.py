import math

import numpy as np
import pytest
import torch

from golf.pack.container import ArtifactError
from golf.pack.entropy import decode_entropy, encode_entropy, read_quantized
from golf.pack.entropy_coder import smallest_int
from golf.pack.layout import TensorLayout, row_view
from golf.pack.quantize import QuantizedTensor, TensorGrid

LAYOUT = {
    "blocks.0.up": TensorLayout((37, 41), "matrix"),
    "blocks.0.column": TensorLayout((30, 1), "small"),
    "blocks.0.empty": TensorLayout((0, 20), "small"),
    "blocks.0.nothing": TensorLayout((20, 0), "small"),
    "embedding": TensorLayout((50, 16), "embedding"),
    "gain": TensorLayout((9,), "small"),
    "scale": TensorLayout((), "small"),
}


def random_tensors(seed: int, sigma: float = 3.0) -> dict[str, QuantizedTensor]:
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (shape, kind) in LAYOUT.items():
        rows, columns = row_view(shape)
        lengths = (rows, rows, columns, columns)
        mean = rng.standard_normal(rows) if kind == "small" else np.zeros(rows)
        vectors = [rng.integers(-9, 9, length) for length in lengths]
        grid = TensorGrid(*vectors, mean.astype(np.float16).astype(np.float32))
        codes = np.rint(rng.standard_normal((rows, columns)) * sigma).astype(np.int64)
        tensors[name] = QuantizedTensor(smallest_int(codes), grid)
    return tensors


@pytest.mark.parametrize("sigma", [0.0, 0.3, 5.0, 300.0, 1e5])
def test_every_code_grid_and_mean_comes_back(sigma):
    tensors = random_tensors(1, sigma)
    base, back = read_quantized(memoryview(encode_entropy(tensors, LAYOUT, 0.03125)), LAYOUT)
    assert base == 0.03125
    for name, tensor in tensors.items():
        assert np.array_equal(back[name].codes_RC, tensor.codes_RC)
        for field in ("row_step_R", "row_sigma_R", "column_step_C", "column_sigma_C"):
            assert np.array_equal(getattr(back[name].grid, field), getattr(tensor.grid, field))
        assert np.allclose(back[name].grid.mean_R, tensor.grid.mean_R, rtol=2**-10, atol=1e-3)


def test_weights_are_what_an_explicit_loop_decodes():
    tensors = random_tensors(2)
    weights = decode_entropy(memoryview(encode_entropy(tensors, LAYOUT, 0.5)), LAYOUT)
    for name, (shape, _) in LAYOUT.items():
        assert tuple(weights[name].shape) == shape and weights[name].dtype == torch.float32
        tensor, flat = tensors[name], weights[name].reshape(row_view(shape))
        for row, column in np.ndindex(*row_view(shape)):
            exponent = tensor.grid.row_step_R[row] + tensor.grid.column_step_C[column]
            expected = tensor.codes_RC[row, column] * 0.5 * 2 ** (exponent / 8) + tensor.grid.mean_R[row]
            assert math.isclose(float(flat[row, column]), expected, rel_tol=1e-5, abs_tol=2e-3)


def test_encoding_twice_gives_the_same_bytes():
    assert encode_entropy(random_tensors(3), LAYOUT, 0.1) == encode_entropy(random_tensors(3), LAYOUT, 0.1)


def test_every_truncation_is_refused():
    payload = encode_entropy(random_tensors(4), LAYOUT, 0.1)
    for length in [*range(0, len(payload), 11), *range(len(payload) - 50, len(payload))]:
        with pytest.raises(ArtifactError):
            decode_entropy(memoryview(payload[:length]), LAYOUT)
    with pytest.raises(ArtifactError):
        decode_entropy(memoryview(payload + b"\x00\x00"), LAYOUT)


def mutate(payload: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(payload)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(changed)))
        match rng.integers(4):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place] = int(rng.integers(256))
            case 2:
                del changed[place : place + int(rng.integers(1, 9))]
            case _:
                changed[place:place] = rng.bytes(int(rng.integers(1, 9)))
        if not changed:
            changed = bytearray(1)
    return bytes(changed)


def fuzz(mutations: int) -> None:
    """Behind the checksum's back: the payload itself is hostile."""
    payload = encode_entropy(random_tensors(5, sigma=60.0), LAYOUT, 0.1)
    rng = np.random.default_rng(0)
    for _ in range(mutations):
        try:
            weights = decode_entropy(memoryview(mutate(payload, rng)), LAYOUT)
        except ArtifactError:
            continue
        assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
            name: part.shape for name, part in LAYOUT.items()
        }
        assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_mutated_payloads_are_refused_or_decode_to_finite_weights():
    fuzz(300)


@pytest.mark.slow
def test_twenty_thousand_mutated_payloads_are_refused_or_decode_to_finite_weights():
    fuzz(20_000)


def test_a_base_that_is_not_finite_or_overflows_is_refused():
    payload = encode_entropy(random_tensors(6), LAYOUT, 0.1)
    for base in (float("nan"), float("inf"), 1e38):
        with pytest.raises(ArtifactError, match="finite"):
            decode_entropy(memoryview(np.float32(base).tobytes() + payload[4:]), LAYOUT)
