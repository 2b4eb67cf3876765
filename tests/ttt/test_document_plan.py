import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_toys import BOS_ID, toy_documents

from golf.ttt.documents import DocumentSpan, plan_documents, split_documents

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(LENGTHS, st.integers(0, 5))
def test_documents_cover_every_target_once_in_order(lengths: list[int], before: int) -> None:
    tokens = np.concatenate([np.full(before, 9, np.uint16), toy_documents(lengths)])
    spans = split_documents(tokens, len(tokens) - 1, BOS_ID)
    assert [target for start, end in spans for target in range(start, end)] == list(range(len(tokens) - 1))
    assert all(span.num_targets >= 1 for span in spans)
    assert all(tokens[start] == BOS_ID for start, _ in spans[bool(before) :])


def test_a_stream_without_bos_is_one_document() -> None:
    assert split_documents(np.full(10, 5), 9, BOS_ID) == [DocumentSpan(0, 9)]


def test_a_stream_without_targets_has_no_documents() -> None:
    assert split_documents(np.array([BOS_ID]), 0, BOS_ID) == []


@given(LENGTHS, st.integers(1, 5))
def test_batches_take_every_document_once_the_longest_first(lengths: list[int], size: int) -> None:
    tokens = toy_documents(lengths)
    spans = split_documents(tokens, len(tokens) - 1, BOS_ID)
    batches = plan_documents(spans, (2, 4, 8), (5, 20), size)
    ordered = [span for batch in batches for span in batch.documents]
    assert sorted(ordered) == spans
    assert [span.num_targets for span in ordered] == sorted((s.num_targets for s in spans), reverse=True)
    assert all(len(batch.documents) <= size for batch in batches)


@pytest.mark.parametrize(("length", "chunk"), [(1, 2), (5, 2), (6, 4), (20, 4), (21, 8), (300_000, 8)])
def test_the_chunk_goes_by_the_length(length: int, chunk: int) -> None:
    (batch,) = plan_documents([DocumentSpan(7, 7 + length)], (2, 4, 8), (5, 20), 3)
    assert batch.chunk_tokens == (chunk,)


@given(LENGTHS)
def test_a_stream_in_the_order_of_grading_is_graded_in_its_own_order(lengths: list[int]) -> None:
    tokens = toy_documents(lengths)

    def grading_order(stream: np.ndarray) -> list[tuple[int, int]]:
        spans = split_documents(stream, len(stream) - 1, BOS_ID)
        return [span for batch in plan_documents(spans, (2, 4), (6,), 3) for span in batch.documents]

    spans = split_documents(tokens, len(tokens), BOS_ID)
    ordered = [span for batch in plan_documents(spans, (1,), (), 1) for span in batch.documents]
    stream = np.concatenate([tokens[start:end] for start, end in ordered])
    assert grading_order(stream) == sorted(grading_order(stream))
