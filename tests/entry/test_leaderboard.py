"""The leaderboard of public scores, and the neighbors of a score."""

from dataclasses import replace

import msgspec
import pytest
from entry_toys import make_results

from golf.entry.leaderboard import LEADERBOARD, neighbors, place_of, what_compares
from golf.results import Results


def results_on(num_bytes: int) -> Results:
    results = msgspec.convert(make_results(7, b"artifact"), Results)
    tally = replace(results.final.tally, num_bytes=num_bytes)
    stages = (*results.stages[:-1], replace(results.final, tally=tally))
    return replace(results, name="mine", scores=replace(results.scores, stages=stages))


def test_neighbours_are_the_nearest_on_either_side() -> None:
    above, below = neighbors(1.1000)
    assert above[-1].bpb == 1.0979
    assert below[0].bpb == 1.1026
    assert all(row.bpb < 1.1 for row in above) and all(row.bpb >= 1.1 for row in below)
    assert len(above) == len(below) == 3


def test_the_ends_of_the_leaderboard_have_neighbours_on_one_side() -> None:
    assert neighbors(0.5)[0] == []
    assert neighbors(9.0)[1] == []


def test_the_launch_day_baseline_stands_only_among_scores_on_its_own_text() -> None:
    (baseline,) = (row for row in LEADERBOARD if row.text == "launch-day")
    assert baseline.bpb == 1.2244
    above, below = neighbors(1.2244)
    assert baseline not in above + below
    assert neighbors(1.3, "launch-day") == ([baseline], [])


@pytest.mark.parametrize(("text", "said"), [(None, "another text"), ("launch-day", "155.77")])
def test_what_does_not_compare_is_said(text: str | None, said: str) -> None:
    assert said in what_compares(text, 1, 30)  # type: ignore[arg-type]


def test_compute_is_set_beside_that_of_a_record() -> None:
    said = what_compares("challenge", 1, 107)
    assert "107 GPU-minutes" in said and "80 on H100" in said and "1.2244" in said


def test_a_score_on_another_text_stands_alone() -> None:
    rows, said = place_of(results_on(300), 0.9, 300.0)
    assert rows == [("0.9000", "mine", "a processor (2 threads)", "5", "512 pieces", "this")]
    assert "another text" in said


def test_rows_stand_in_order_with_their_sources() -> None:
    rows, _ = place_of(results_on(151_080_000), 1.0600, 6600.0)
    scores = [float(row[0]) for row in rows]
    assert scores == sorted(scores) and ("1.0600", "mine") in [row[:2] for row in rows]
    assert ("1.0587", "the #1855 code (one seed)", "1xH200", "not stated", "CaseOps sp8192", "#2033") in rows


def test_every_row_has_a_source_or_is_of_the_repository_itself() -> None:
    assert len({(row.pull_request, row.bpb) for row in LEADERBOARD}) == len(LEADERBOARD)
    assert all(0.9 < row.bpb < 1.4 for row in LEADERBOARD)
    assert sum(row.pull_request is None for row in LEADERBOARD) == 2
