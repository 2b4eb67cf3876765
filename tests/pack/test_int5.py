import numpy as np
import pytest
import torch

from golf.pack.container import ArtifactError
from golf.pack.int5 import decode_int5, encode_int5
from golf.pack.layout import TensorLayout


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "blocks.0.up": torch.randn(33, 40, generator=generator),
        "embedding": torch.randn(20, 17, generator=generator) * 1e-3,
        "blocks.0.gain": torch.randn(9, generator=generator),
        "blocks.0.empty": torch.zeros(0, 4),
        "blocks.0.column": torch.randn(50, 1, generator=generator),
        "scale": torch.tensor(0.05),
    }
    weights["blocks.0.up"][3] = 0
    weights["blocks.0.up"][4] *= 1e-8
    return weights


KINDS = {"blocks.0.up": "matrix", "embedding": "embedding"}


def layout_of(weights):
    return {
        name: TensorLayout(tuple(weight.shape), KINDS.get(name, "small")) for name, weight in weights.items()
    }


def encoded(weights, coarseness):
    return encode_int5(weights, layout_of(weights), coarseness)[0]


def round_trip(weights, coarseness=0.0):
    return decode_int5(memoryview(encoded(weights, coarseness)), layout_of(weights))


def test_errors_stay_within_half_a_step_and_rows_of_zeros_and_of_1e_minus_8_survive():
    weights = tensors()
    back = round_trip(weights)
    for name, largest in (("blocks.0.up", 15), ("embedding", 127)):
        step = weights[name].abs().amax(1, keepdim=True) / largest
        assert torch.all((back[name] - weights[name]).abs() <= 0.501 * step)
    assert torch.all(back["blocks.0.up"][3] == 0)
    assert back["blocks.0.up"][4].abs().max() > 1e-9


def test_small_tensors_keep_fp16_precision_and_their_shape():
    weights = tensors()
    back = round_trip(weights)
    for name in ("blocks.0.gain", "blocks.0.empty", "blocks.0.column", "scale"):
        assert back[name].shape == weights[name].shape
        assert torch.allclose(back[name], weights[name], rtol=2**-10, atol=1e-4)


def test_a_coarser_grid_has_less_entropy():
    weights = tensors()
    layout = layout_of(weights)
    sizes = [encode_int5(weights, layout, coarseness)[1] for coarseness in (0.0, 0.3, 0.6, 1.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[-1]


def test_unquantised_twice_is_the_same_to_the_last_bit():
    once = round_trip(tensors())
    assert all(torch.equal(once[name], value) for name, value in round_trip(tensors()).items())
    assert encoded(tensors(), 0.2) == encoded(tensors(), 0.2)


def test_a_scale_that_takes_a_weight_to_infinity_is_refused():
    layout = layout_of(tensors())
    payload = bytearray(encoded(tensors(), 0.0))
    # The exponent of the scales of blocks.0.up: they stay finite, times 15 they do not.
    payload[:2] = np.array([112], dtype="<i2").tobytes()
    with pytest.raises(ArtifactError, match=r"blocks\.0\.up .*not finite"):
        decode_int5(memoryview(bytes(payload)), layout)


def test_a_payload_of_another_size_is_refused():
    payload = encoded(tensors(), 0.0)
    for wrong in (payload[:-1], payload + b"\x00", b""):
        with pytest.raises(ArtifactError):
            decode_int5(memoryview(wrong), layout_of(tensors()))
