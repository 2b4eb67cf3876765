"""The plan of visits against the published one and against its definition."""

from hypothesis import given
from hypothesis import strategies as st

from golf.model.blocks import plan_visits, visit_order


def test_three_visits_of_blocks_3_to_5_give_the_published_order():
    plan = plan_visits(visit_order(11, 3, 5, 3))
    kept = [visit.layer for visit in plan if visit.keeps]
    rest = [visit.layer for visit in plan if not visit.keeps]
    assert kept == [0, 1, 2, 3, 4, 5, 3, 4]
    assert rest == [5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [visit.skip for visit in plan] == [None] * 8 + [0, 1, 2, 3, 4, 5, 6, 7, None]


def test_without_recurrence_every_block_is_visited_once_in_order():
    assert visit_order(5, 0, 0, 1) == visit_order(5, 2, 3, 1) == (0, 1, 2, 3, 4)
    assert [visit.skip for visit in plan_visits((0, 1, 2, 3, 4))] == [None, None, 0, 1, None]


@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(0, 11), st.integers(0, 11)).filter(
        lambda sizes: sizes[1] <= sizes[2] < sizes[0]
    ),
    visits=st.integers(1, 4),
)
def test_every_block_is_visited_as_often_as_asked_and_every_kept_output_is_taken_once(sizes, visits):
    num_layers, first, last = sizes
    order = visit_order(num_layers, first, last, visits)
    assert [order.count(layer) for layer in range(num_layers)] == [
        visits if first <= layer <= last else 1 for layer in range(num_layers)
    ]
    plan = plan_visits(order)
    kept = 0
    for visit in plan:
        assert not (visit.keeps and visit.skip is not None)
        kept += visit.keeps - (visit.skip is not None)
        assert kept >= 0
    assert kept == 0 and tuple(visit.layer for visit in plan) == order
