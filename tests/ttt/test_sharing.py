"""Two processes score with test-time training as one does, each its share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import run_together
from score_toys import ToyVocabulary, toy_documents
from sharing_toys import CASES, STOP_AT, evaluate_toy, score_case, score_together
from test_lora import WINDOWS, network
from test_recipes import RECIPES

import eval_bpb
from golf.score.scorer import Scoring
from golf.system.distributed import World
from golf.ttt.documents import DocumentSpan, count_shares, deal_batch, plan_documents
from golf.ttt.methods import even_groups, score_adapting


@pytest.fixture(scope="module")
def two(artifact_path: Path, dataset_folder: Path, tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    return run_together(score_together, 2, artifact_path, dataset_folder, folder)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_nats_and_the_tally_of_one_to_the_last_bit(two, name: str) -> None:
    alone = score_case(World(), name)
    for found in two:
        assert np.array_equal(found[name]["nats"], alone["nats"])
        assert found[name]["tally"] == alone["tally"]
        assert found[name]["notes"] == alone["notes"]


@pytest.mark.parametrize("name", CASES)
def test_each_target_is_graded_by_one_process_and_none_is_idle_while_there_is_a_second_group(
    two, name: str
) -> None:
    first, second = (found[name]["own"] for found in two)
    assert not first & second
    assert first | second == set(range(len(two[0][name]["nats"])))
    assert len(first) < 2 * len(second) or name == "one place"


def test_a_process_whose_time_is_up_stops_alone_and_the_record_says_after_how_many_tokens(two) -> None:
    (first, second), free = (found["late lora"] for found in two), two[0]["lora"]["nats"]
    assert np.array_equal(first["nats"], second["nats"]) and first["notes"] == second["notes"]
    moved = set(np.flatnonzero(first["nats"] != free).tolist())
    assert moved and moved <= second["own"]
    stopped_after = first["notes"]["adaptation_stopped_after_tokens"] - len(first["own"])
    assert STOP_AT <= stopped_after <= len(second["own"]) - len(moved)


def test_phases_end_for_all_where_one_has_no_time_left(two) -> None:
    assert [found["late all"]["notes"]["phases"] for found in two] == [0, 0]
    assert two[0]["all"]["notes"]["phases"] == 2


def test_gradient_descent_by_chunks_runs_in_the_first_process_and_says_so(
    two, artifact_path: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    (scores, said), (others, _) = (found["evaluated sgd"] for found in two)
    assert "test-time training by sgd runs in the first of 2 processes alone" in said
    expected, said_alone = evaluate_toy(World(), artifact_path, dataset_folder, tmp_path, "sgd")
    assert scores.stages[1].tally == expected.stages[1].tally
    assert len(others.stages) == 1 and "processes" not in said_alone
    with pytest.raises(ValueError, match="is scored in one process; these are 2"):
        score_adapting(
            Scoring(network(), toy_documents([40]), ToyVocabulary(), WINDOWS, world=World(0, 2)),
            RECIPES["sgd"],
        )


def test_an_artifact_has_the_score_of_one_process_whose_documents_are_shared(
    two, artifact_path: Path, dataset_folder: Path, tmp_path: Path
) -> None:
    """Twelve documents go together in one process, six in each of two: other sums in the last digits."""
    (scores, said), (others, _) = (found["evaluated lora"] for found in two)
    expected, _ = evaluate_toy(World(), artifact_path, dataset_folder, tmp_path, "lora")
    assert scores.stages[1].tally.nats == pytest.approx(expected.stages[1].tally.nats, rel=1e-6)
    assert scores.stages[1].notes["documents_at_once"] == 6
    assert "2 of 2 processes learn from documents, 6 at once in each" in said
    assert [stage.tally for stage in others.stages] == [stage.tally for stage in scores.stages]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_every_document_is_dealt_to_the_process_of_its_place_and_shares_are_even(
    lengths: list[int], num_groups: int, at_once: int, num_processes: int
) -> None:
    ends = np.cumsum(lengths).tolist()
    documents = [DocumentSpan(end - length, end) for length, end in zip(lengths, ends, strict=True)]
    batches = plan_documents(documents, (4, 8), (20,), num_groups * num_processes * at_once)
    seen, work = [], np.zeros((2, num_processes), dtype=int)
    for batch in batches:
        groups = deal_batch(batch, at_once, num_processes)
        owners = {}
        for process, place, together in groups:
            first = batch.documents.index(together[0])
            assert process == first // at_once % num_processes
            assert place == first // (at_once * num_processes) * at_once
            owners[process, place] = together
            seen += together
            work[int(batch.chunk_tokens[0] > 4), process] += together[0].num_targets
        assert len(owners) == len(groups)
    assert sorted(seen) == documents
    assert sum(count_shares(batches, at_once, num_processes)) == sum(lengths)
    for kind, longest in ((0, 20), (1, 60)):
        assert work[kind].max() - work[kind].min() <= longest


@given(st.integers(1, 200), st.integers(1, 200))
def test_places_are_divided_into_the_fewest_groups_and_those_are_even(num_places: int, most: int) -> None:
    size = even_groups(num_places, most)
    fewest = -(-num_places // most)
    assert size <= most and -(-num_places // size) <= fewest
    assert size * fewest - num_places < fewest


@pytest.mark.parametrize("what", ["--audit", "--prove", "--verify"])
def test_audits_and_verifications_of_several_processes_are_refused(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert eval_bpb.main(["entry", what]) == 2
    assert f"{what} runs in one process; torchrun started 2" in capsys.readouterr().err
