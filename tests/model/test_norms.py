"""Norms against their formulas in float64."""

import pytest
import torch

from golf.model.kinds import NORMS


def test_each_norm_is_its_formula():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 16, dtype=torch.float64) + 0.5
    gain, offset = torch.randn(2, 16, dtype=torch.float64)
    scaled = x / (x.square().mean(-1, keepdim=True)).sqrt()
    centred = (x - x.mean(-1, keepdim=True)) / x.var(-1, keepdim=True, unbiased=False).sqrt()
    expected = {"rms": scaled, "rms-gain": scaled * gain, "layer": centred * gain + offset}
    for kind, wanted in expected.items():
        norm = NORMS[kind](16).double()
        with torch.no_grad():
            for parameter, value in zip(norm.parameters(), (gain, offset), strict=False):
                parameter.copy_(value)
        torch.testing.assert_close(norm(x), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["rms-gain", "layer"])
def test_a_norm_with_weights_starts_without_effect_and_keeps_the_dtype(kind):
    x = torch.randn(2, 16)
    x = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(NORMS[kind](16)(x), NORMS["rms"](16)(x), atol=1e-4, rtol=0)
    assert NORMS[kind](16)(x.bfloat16()).dtype == torch.bfloat16
