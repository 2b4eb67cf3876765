"""Skips and lanes against their formulas in float64, term by term."""

import pytest
import torch
from torch import nn

from golf.model.blocks import ParallelResidualBlock, join_skip
from golf.model.config import ModelConfig
from golf.model.positions import rotary_tables
from golf.model.state import Positions, VisitState

WIDTH, LENGTH = 16, 6
ROTARY = rotary_tables(LENGTH, 4, 100.0, torch.device("cpu"))
CONFIG = ModelConfig(
    num_layers=2, width=WIDTH, num_heads=4, num_kv_heads=2, mlp_hidden=32, rotary_dims=4, activation_slope=0.3
)


def at(num_last: int) -> VisitState:
    return VisitState(0, num_last, Positions(*ROTARY))


def make_lane_block(is_last: bool) -> ParallelResidualBlock:
    torch.manual_seed(0)
    block = ParallelResidualBlock(CONFIG, 1 if is_last else 0)
    block.ln_scale = 0.5
    for parameter in block.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return block.double()


def norm(x: torch.Tensor) -> torch.Tensor:
    return x / x.square().mean(-1, keepdim=True).add(torch.finfo(torch.float64).eps).sqrt()


@pytest.mark.parametrize("num_last", [1, 4, LENGTH])
def test_lanes_follow_their_formula(num_last):
    block = make_lane_block(is_last=False)
    lane0, lane1, embedding = torch.randn(3, 2, LENGTH, WIDTH, dtype=torch.float64)
    got = block((lane0, lane1), embedding, at(num_last))
    read = block.mix[0] * lane0 + block.mix[1] * embedding
    attention = block.attention_scale * block.attention(norm(read) * 0.5, at(LENGTH))
    feedforward = block.feedforward_scale * block.feedforward(norm(lane1) * 0.5)
    keep, write = block.lane_keep, block.lane_write
    for lane, before in enumerate((lane0, lane1)):
        expected = keep[lane] * before + write[0, lane] * attention + write[1, lane] * feedforward
        torch.testing.assert_close(got[lane], expected[:, -num_last:], atol=1e-10, rtol=0)


def test_the_last_lane_block_returns_the_mean_of_its_lanes():
    lanes = tuple(torch.randn(2, 2, LENGTH, WIDTH, dtype=torch.float64))
    embedding = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    first, second = make_lane_block(is_last=False)(lanes, embedding, at(LENGTH))
    mean = make_lane_block(is_last=True)(lanes, embedding, at(LENGTH))
    torch.testing.assert_close(mean, (first + second) / 2)


def test_lanes_start_as_a_sum_with_a_gain_of_one_tenth_more():
    block = ParallelResidualBlock(CONFIG, 0)
    assert block.lane_keep.tolist() == pytest.approx([1.1, 1.1])
    assert block.lane_write.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_skip_is_added_or_blended_by_its_gate():
    torch.manual_seed(0)
    x, skip = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    weight, gate = torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(join_skip(x, skip, weight), x + weight * skip)
    share = 1 / (1 + (-gate).exp())
    torch.testing.assert_close(join_skip(x, skip, weight, gate), share * x + (1 - share) * weight * skip)


def test_a_skip_joins_the_first_lane_alone():
    x, skip = torch.randn(2, 3, 4, 5)
    first, second = join_skip((x, x), skip, torch.ones(5))
    assert torch.equal(first, x + skip) and torch.equal(second, x)
