"""What is served depends neither on drawing ahead nor on how many processes share it."""

import numpy as np
import pytest
import torch

from golf.data.batches import TrainBatches
from golf.system.distributed import World
from golf.train.feed import BatchFeed

SIZES = [(2, 8)] * 5 + [(1, 16)] * 3 + [(3, 8)] * 30


def make_feed(world: World | None = None, ahead: bool = False) -> BatchFeed:
    tokens = np.random.default_rng(0).integers(2, 50, 700).astype(np.uint16)
    batches = TrainBatches([tokens], seed=3, held_out_tokens=0)
    return BatchFeed(batches, world or World(), torch.device("cpu"), ahead)


def draws(feed: BatchFeed, sizes: list[tuple[int, int]]) -> list[list[list[int]]]:
    return [feed.next(*size)[0].tolist() for size in sizes]


def test_drawing_ahead_serves_the_same_batches_and_leaves_no_trace():
    plain, ahead = make_feed(), make_feed(ahead=True)
    assert draws(plain, SIZES) == draws(ahead, SIZES)
    assert plain.state_dict() == ahead.state_dict() and plain.epoch == ahead.epoch > 1
    ahead.settle()
    assert ahead.batches.state_dict() == plain.state_dict()


@pytest.mark.parametrize("stop", [3, 5, 6, 20])
def test_a_feed_goes_on_from_the_state_of_one_that_draws_ahead(stop):
    whole, first, second = make_feed(), make_feed(ahead=True), make_feed(ahead=True)
    expected = draws(whole, SIZES)
    draws(first, SIZES[:stop])
    second.next(2, 8)
    second.load_state_dict(first.state_dict())
    assert draws(second, SIZES[stop:]) == expected[stop:]


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_what_one_would_read(size):
    alone = draws(make_feed(), [(2, 8)] * 6 * size)
    feeds = [make_feed(World(rank, size)) for rank in range(size)]
    shared = [draws(feed, [(2, 8)] * 6) for feed in feeds]
    assert [batch for together in zip(*shared, strict=True) for batch in together] == alone
    assert all(feed.state_dict() == feeds[0].state_dict() for feed in feeds)
