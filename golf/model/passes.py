"""The order in which a forward pass visits the blocks, as data: training, scoring and packing share it.

Depth recurrence (openai/parameter-golf #1204, #1394) visits some blocks more than once.
"""

from typing import NamedTuple


class Visit(NamedTuple):
    """One run through one block."""

    layer: int
    """Which block."""
    keeps: bool
    """Whether its output waits for a later visit to take it in."""
    skip: int | None
    """Index of the skip that is taken in before the block; None for none."""


def visit_order(
    num_layers: int, recurrence_first: int, recurrence_last: int, recurrence: int
) -> tuple[int, ...]:
    """Blocks in the order of their visits: first to last of the recurrence as a group, `recurrence` times."""
    looped = tuple(range(recurrence_first, recurrence_last + 1))
    return (*range(recurrence_first), *looped * recurrence, *range(recurrence_last + 1, num_layers))


def plan_visits(order: tuple[int, ...], skips: bool = True) -> tuple[Visit, ...]:
    """The visits of `order` with their skips.

    The first half of the visits keeps its outputs, and the second half takes them in, the latest first;
    without `skips` there are none.
    """
    num_kept = len(order) // 2 if skips else 0
    kept = [Visit(layer, True, None) for layer in order[:num_kept]]
    taking = [
        Visit(layer, False, index if index < num_kept else None)
        for index, layer in enumerate(order[num_kept:])
    ]
    return (*kept, *taking)
