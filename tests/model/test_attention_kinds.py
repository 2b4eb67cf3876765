"""Attention's variants against float64 arithmetic, written position by position."""

from dataclasses import replace

import pytest
import torch

from golf.model.attention import Attention, BiasedAttention, ModulatedAttention, alibi_slopes, modulate
from golf.model.config import ModelConfig
from golf.model.kernels import causal_attention
from golf.model.positions import rotary_tables
from golf.model.state import Positions, VisitState

SMALL = ModelConfig(width=16, num_heads=4, num_kv_heads=2, rotary_dims=4)


def biased(num_heads: int, alibi: bool, sinks: bool) -> ModelConfig:
    positions = "alibi" if alibi else "rotary"
    return replace(
        SMALL, num_heads=num_heads, num_kv_heads=num_heads, positions=positions, attention_sinks=sinks
    )


def at(num_last: int) -> VisitState:
    return VisitState(0, num_last, Positions(*rotary_tables(6, 4, 100.0, torch.device("cpu"))))


def test_slopes_are_those_of_the_alibi_paper():
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(16)[:2] == [2**-0.5, 0.5]
    assert alibi_slopes(12) == alibi_slopes(8) + alibi_slopes(16)[0::2][:4]
    assert alibi_slopes(1) == [2.0**-8]


@pytest.mark.parametrize("num_queries", [1, 5, 12])
@pytest.mark.parametrize(("alibi", "sinks"), [(True, False), (False, True), (True, True)])
def test_biased_attention_equals_a_float64_loop(num_queries, alibi, sinks):
    torch.manual_seed(0)
    heads, kv_heads, length, width = 4, 2, 12, 8
    q = torch.randn(1, heads, num_queries, width)
    k, v = torch.randn(2, 1, kv_heads, length, width)
    attend = BiasedAttention(biased(heads, alibi, sinks))
    if sinks:
        torch.nn.init.normal_(attend.sinks)
    got = attend(q, k, v)
    slopes = alibi_slopes(heads) if alibi else [0.0] * heads
    for h in range(heads):
        for i in range(num_queries):
            at = length - num_queries + i
            keys, values = (x[0, h // 2, : at + 1].double() for x in (k, v))
            logits = keys @ q[0, h, i].double() / width**0.5
            logits -= slopes[h] * (at - torch.arange(at + 1))
            weights = logits.exp()
            weights /= weights.sum() + (attend.sinks[h].double().exp() if sinks else 0.0)
            torch.testing.assert_close(got[0, h, i].double(), weights @ values, atol=1e-5, rtol=0)


def test_the_gradient_reaches_the_sinks_as_finite_differences_say():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 6, 4, dtype=torch.float64)
    attend = BiasedAttention(biased(2, alibi=True, sinks=True)).double()
    assert torch.autograd.gradcheck(
        lambda sinks: torch.func.functional_call(attend, {"sinks": sinks}, (q, k, v)),
        torch.randn(2, dtype=torch.float64, requires_grad=True),
        atol=1e-4,
    )


def test_without_slopes_and_with_a_sink_far_below_it_is_plain_attention():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    attend = BiasedAttention(biased(4, alibi=False, sinks=True))
    with torch.no_grad():
        attend.sinks.fill_(-1e4)
    torch.testing.assert_close(attend(q, k, v), causal_attention(q, k, v), atol=1e-5, rtol=0)


def test_the_dense_gate_scales_each_output_channel_and_starts_at_one_half():
    torch.manual_seed(0)
    gated, plain = Attention(replace(SMALL, attention_gate_dense=True)), Attention(SMALL)
    for parameter in gated.parameters():
        torch.nn.init.normal_(parameter)
    plain.load_state_dict(gated.state_dict(), strict=False)
    with torch.no_grad():
        plain.output.weight.copy_(torch.eye(16))
    x = torch.randn(2, 6, 16)
    expected = plain(x, at(3)) * torch.sigmoid(x[:, -3:] @ gated.dense_gate.weight.T)
    torch.testing.assert_close(gated(x, at(3)), gated.output(expected))


def test_modulation_is_the_published_formula_between_zero_and_six():
    r, c = torch.randn(2, 1000, dtype=torch.float64)
    expected = [min(6.0, max(0.0, a * a + 2 * a + 2 * b * (1 + abs(a)))) for a, b in zip(r, c, strict=True)]
    torch.testing.assert_close(modulate(r, c), torch.tensor(expected, dtype=torch.float64))


def test_modulated_attention_mixes_queries_keys_and_values_of_each_position():
    torch.manual_seed(0)
    config = replace(SMALL, num_kv_heads=4)
    modulated, plain = ModulatedAttention(config), Attention(config)
    for parameter in modulated.parameters():
        torch.nn.init.normal_(parameter)
    plain.load_state_dict(modulated.state_dict())
    x = torch.randn(2, 6, 16)
    q, k, v = plain.project(x, x, {})
    found = modulated.project(x, x[:, -2:], {})
    torch.testing.assert_close(found[0], modulate(q, k + v)[:, -2:])
    torch.testing.assert_close(found[1], modulate(k, q + v))
    torch.testing.assert_close(found[2], modulate(v, q + k))
    with pytest.raises(ValueError, match="co4 takes num_heads"):
        ModulatedAttention(SMALL)
