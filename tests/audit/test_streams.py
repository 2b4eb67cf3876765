from pathlib import Path

import numpy as np
import pytest
from score_toys import BOS_ID, toy_documents

from golf.audit.rescore import (
    AuditConfig,
    affordable_targets,
    choose_documents,
    choose_stream,
    choose_targets,
)
from golf.data.manifest import open_dataset
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.ttt.documents import plan_documents, split_documents


def test_the_stream_starts_with_a_document_and_holds_the_start_of_another(dataset_folder: Path) -> None:
    dataset = open_dataset(dataset_folder)
    tokens = dataset.validation_tokens(StageClock())
    for seed in range(10):
        stream = choose_stream(tokens, 129, dataset.vocabulary.bos_id, seed)
        assert len(stream) == 129
        assert stream[0] == dataset.vocabulary.bos_id
        assert (stream[1:] == dataset.vocabulary.bos_id).any()


def test_targets_lie_where_documents_windows_and_chunks_meet() -> None:
    stream = np.full(129, 5)
    stream[[0, 50]] = 1
    for seed in range(10):
        targets = choose_targets(stream, WindowConfig(32, 8), 64, 1, AuditConfig(seed=seed, targets=6))
        assert 49 in targets
        assert len(targets) == 6 == len(set(targets))
        assert len(set(targets) & {31, 32, 39, 40, 63, 64}) >= 3
        assert all(0 <= target < 128 for target in targets)


@pytest.mark.parametrize("seed", range(5))
def test_documents_of_an_audit_stand_in_the_order_of_their_grading(seed: int) -> None:
    tokens = toy_documents([5, 90, 30, 12, 70, 44, 3])
    stream = choose_documents(tokens, BOS_ID, 32, seed)
    spans = split_documents(stream, len(stream) - 1, BOS_ID)
    assert len(spans) == 5 and stream[0] == BOS_ID
    assert [span for batch in plan_documents(spans, (4,), (), 2) for span in batch.documents] == spans


def test_a_text_of_one_document_is_audited_on_that_one() -> None:
    stream = choose_documents(toy_documents([100]), BOS_ID, 32, 0)
    assert np.array_equal(stream, toy_documents([100])[:40])


@pytest.mark.parametrize(
    ("replay_seconds", "left_seconds", "expected"),
    [
        (1.0, None, [3, 5, 8, 13, 21, 34]),
        (1.0, 60.0, [3, 5, 8, 13, 21, 34]),
        (1.0, 9.0, [3, 8, 21]),
        (1.0, 0.0, [3, 13]),
        (1.0, -5.0, [3, 13]),
    ],
)
def test_an_audit_that_is_short_of_time_looks_at_fewer_targets(replay_seconds, left_seconds, expected):
    assert affordable_targets([3, 5, 8, 13, 21, 34], replay_seconds, left_seconds) == expected
