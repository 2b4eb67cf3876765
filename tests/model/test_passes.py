"""The plan of visits against the published one and against its definition."""

from hypothesis import given
from hypothesis import strategies as st

from golf.model.blocks import Visit, plan_visits
from golf.model.config import ModelConfig


def plan(num_layers: int, first: int, last: int, repeats: int) -> tuple[Visit, ...]:
    recurrence = {"recurrence_first": first, "recurrence_last": last, "recurrence": repeats}
    return plan_visits(ModelConfig(num_layers=num_layers, **recurrence), repeats)


def order(*sizes: int) -> tuple[int, ...]:
    return tuple(visit.layer for visit in plan(*sizes))


def test_three_visits_of_blocks_3_to_5_give_the_published_order():
    visits = plan(11, 3, 5, 3)
    kept = [visit.layer for visit in visits if visit.keeps]
    rest = [visit.layer for visit in visits if not visit.keeps]
    assert kept == [0, 1, 2, 3, 4, 5, 3, 4]
    assert rest == [5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [visit.skip for visit in visits] == [None] * 8 + [0, 1, 2, 3, 4, 5, 6, 7, None]


def test_without_recurrence_every_block_is_visited_once_in_order():
    assert order(5, 0, 0, 1) == order(5, 2, 3, 1) == (0, 1, 2, 3, 4)
    assert [visit.skip for visit in plan(5, 0, 0, 1)] == [None, None, 0, 1, None]


@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(0, 11), st.integers(0, 11)).filter(
        lambda sizes: sizes[1] <= sizes[2] < sizes[0]
    ),
    repeats=st.integers(1, 4),
)
def test_every_block_is_visited_as_often_as_asked_and_every_kept_output_is_taken_once(sizes, repeats):
    num_layers, first, last = sizes
    visited = order(num_layers, first, last, repeats)
    assert [visited.count(layer) for layer in range(num_layers)] == [
        repeats if first <= layer <= last else 1 for layer in range(num_layers)
    ]
    kept = 0
    for visit in plan(num_layers, first, last, repeats):
        assert not (visit.keeps and visit.skip is not None)
        kept += visit.keeps - (visit.skip is not None)
        assert kept >= 0
    assert kept == 0
