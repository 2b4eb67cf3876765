"""The leaderboard of public scores, and the neighbors of a score."""

import pytest

from golf.entry.leaderboard import LEADERBOARD, leaderboard_rows, neighbors, what_compares


def test_neighbours_are_the_nearest_on_either_side() -> None:
    found = neighbors(1.1000)
    assert found.above[-1].bpb == 1.0979
    assert found.below[0].bpb == 1.1026
    assert all(row.bpb < 1.1 for row in found.above) and all(row.bpb >= 1.1 for row in found.below)
    assert len(found.above) == len(found.below) == 3


def test_the_ends_of_the_leaderboard_have_neighbours_on_one_side() -> None:
    assert neighbors(0.5).above == ()
    assert neighbors(9.0).below == ()


def test_the_launch_day_baseline_stands_only_among_scores_on_its_own_text() -> None:
    (baseline,) = (row for row in LEADERBOARD if row.text == "launch-day")
    assert baseline.bpb == 1.2244
    assert baseline not in neighbors(1.2244).above + neighbors(1.2244).below
    assert neighbors(1.3, "launch-day").above == (baseline,)


@pytest.mark.parametrize(("text", "said"), [(None, "another text"), ("launch-day", "155.77")])
def test_what_does_not_compare_is_said(text: str | None, said: str) -> None:
    assert said in what_compares(text, 1, 30)  # type: ignore[arg-type]


def test_compute_is_set_beside_that_of_a_record() -> None:
    said = what_compares("challenge", 1, 107)
    assert "107 GPU-minutes" in said and "80 on H100" in said and "1.2244" in said


def test_a_score_on_another_text_stands_alone() -> None:
    assert leaderboard_rows(0.9, "mine", "cpu", 5, "sp512", None) == [
        ("0.9000", "mine", "cpu", "5", "sp512", "this")
    ]


def test_rows_stand_in_order_with_their_sources() -> None:
    rows = leaderboard_rows(1.0600, "mine", "1xH200", 110, "CaseOps sp8192", "challenge")
    scores = [float(row[0]) for row in rows]
    assert scores == sorted(scores)
    assert ("1.0587", "the #1855 code (one seed)", "1xH200", "not stated", "CaseOps sp8192", "#2033") in rows


def test_every_row_has_a_source_or_is_of_the_repository_itself() -> None:
    assert len({(row.pull_request, row.bpb) for row in LEADERBOARD}) == len(LEADERBOARD)
    assert all(0.9 < row.bpb < 1.4 for row in LEADERBOARD)
    assert sum(row.pull_request is None for row in LEADERBOARD) == 2
