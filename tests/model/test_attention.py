"""Attention against plain float64 arithmetic, written head by head."""

import math
from dataclasses import replace

import pytest
import torch

from golf.model.attention import (
    Attention,
    HeadGates,
    exclusive_self_attention,
)
from golf.model.config import ModelConfig
from golf.model.kernels import causal_attention
from golf.model.positions import rotary_tables, rotate
from golf.model.state import Positions, VisitState

SMALL = ModelConfig(width=16, num_heads=4, num_kv_heads=2, rotary_dims=4)
ROTARY = rotary_tables(6, 4, 100.0, torch.device("cpu"))


@pytest.mark.parametrize("num_queries", [1, 5, 12])
def test_attention_equals_a_float64_loop_over_heads_and_positions(num_queries):
    torch.manual_seed(0)
    batch, heads, kv_heads, length, width = 2, 4, 2, 12, 8
    q = torch.randn(batch, heads, num_queries, width)
    k, v = torch.randn(2, batch, kv_heads, length, width)
    got = causal_attention(q, k, v)
    for b in range(batch):
        for h in range(heads):
            for i in range(num_queries):
                seen = length - num_queries + i + 1
                keys, values = (x[b, h // (heads // kv_heads), :seen].double() for x in (k, v))
                weights = (keys @ q[b, h, i].double() / math.sqrt(width)).softmax(0)
                torch.testing.assert_close(got[b, h, i].double(), weights @ values, atol=1e-6, rtol=0)


def test_what_is_left_of_an_output_is_orthogonal_to_its_own_value():
    torch.manual_seed(0)
    y, v = torch.randn(2, 5, 4, 8, dtype=torch.float64), torch.randn(2, 5, 2, 8, dtype=torch.float64)
    left = exclusive_self_attention(y, v)
    for head in range(4):
        own = v[:, :, head // 2]
        along = (y[:, :, head] * own).sum(-1, keepdim=True) / (own * own).sum(-1, keepdim=True)
        torch.testing.assert_close(left[:, :, head], y[:, :, head] - along * own)
        assert (left[:, :, head] * own).sum(-1).abs().max() < 1e-12
    assert left.shape == y.shape


def test_a_value_of_zero_takes_nothing_away():
    y = torch.randn(1, 2, 4, 8)
    assert torch.equal(exclusive_self_attention(y, torch.zeros(1, 2, 2, 8)), y)


def test_head_gates_read_the_first_twelve_channels_and_start_at_one_half():
    gates = HeadGates(3, 0.5)
    x = torch.randn(2, 4, 20)
    assert torch.equal(gates(x), torch.full((2, 4, 3), 0.5))
    torch.nn.init.normal_(gates.gate)
    expected = 1 / (1 + (-0.5 * x[..., :12].double() @ gates.gate.double().T).exp())
    torch.testing.assert_close(gates(x).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_last", [2, 6])
def test_the_value_is_taken_out_before_the_gate_and_both_before_the_output(num_last):
    torch.manual_seed(0)
    state = VisitState(0, num_last, Positions(*ROTARY))
    full = Attention(replace(SMALL, xsa=True, attention_gate=0.5))
    plain = Attention(SMALL)
    for parameter in full.parameters():
        torch.nn.init.normal_(parameter)
    plain.load_state_dict(full.state_dict(), strict=False)
    with torch.no_grad():
        plain.output.weight.copy_(torch.eye(16))
    x = torch.randn(2, 6, 16)
    y = plain(x, state).unflatten(-1, (4, 4))
    v = full.value(x)[:, -num_last:].unflatten(-1, (2, 4))
    expected = exclusive_self_attention(y, v) * full.gates(x[:, -num_last:])[..., None]
    torch.testing.assert_close(full(x, state), full.output(expected.flatten(2)))


@pytest.mark.parametrize("num_last", [2, 6])
def test_queries_are_normed_then_turned_then_scaled_by_their_heads_gain(num_last):
    torch.manual_seed(0)
    state = VisitState(0, num_last, Positions(*ROTARY))
    layer = Attention(SMALL)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    seen = []

    def attend(*heads):
        seen.extend(heads)
        return causal_attention(*heads)

    layer.kernel = attend
    x = torch.randn(2, 6, 16)
    layer(x, state)
    q, k = (projection(x).unflatten(-1, (-1, 4)).double() for projection in (layer.query, layer.key))
    q, k = (y / (y.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() for y in (q, k))
    turned_q, turned_k = (rotate(y, *ROTARY) for y in (q, k))
    expected_q = turned_q[:, -num_last:] * layer.qk_gain[:, None]
    torch.testing.assert_close(seen[0].double(), expected_q.transpose(1, 2), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(seen[1].double(), turned_k.transpose(1, 2), atol=1e-6, rtol=1e-6)
