from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from score_toys import VOCAB_SIZE, toy_documents

from golf.ttt.document_step import grade_logits
from golf.ttt.tilt import NgramTable, NgramTilt, TiltConfig, context_keys


def spans_of(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts (1, 1) and targets (1, N) of a stream taken as one document."""
    return np.array([[0]]), np.arange(len(tokens) - 1)[None]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=40))
def test_the_table_expects_what_followed_most_often(pairs: list[tuple[int, int]]) -> None:
    """Told all at once, as the counts of every context say; a draw goes to either."""
    table = NgramTable(TiltConfig(boost=1.0, least_share=0.5, table_bits=12))
    keys = np.array([key << 60 for key, _ in pairs], dtype=np.uint64)
    table.add(keys, np.array([token for _, token in pairs], dtype=np.int32))
    counts: dict[int, Counter] = defaultdict(Counter)
    for key, token in pairs:
        counts[key][token] += 1
    for key, counter in counts.items():
        (expected,) = table.expect(np.array([key << 60], dtype=np.uint64))
        best = max(counter.values())
        assert (counter[int(expected)] == best) if best >= 0.5 * counter.total() else expected == -1


def test_a_context_that_went_on_differently_too_often_is_not_expected_to_go_on() -> None:
    table = NgramTable(TiltConfig(boost=1.0, least_share=0.8))
    key = np.array([1 << 60], dtype=np.uint64)
    for tokens, expected in (([5], 5), ([5, 5, 5], 5), ([6], 5), ([6], -1), ([6, 6, 6], -1)):
        table.add(np.repeat(key, len(tokens)), np.array(tokens, dtype=np.int32))
        assert table.expect(key) == expected, tokens


def test_contexts_that_meet_in_a_place_do_not_speak_for_each_other() -> None:
    table = NgramTable(TiltConfig(boost=1.0, table_bits=4))
    first, second = (np.array([(3 << 60) + key], dtype=np.uint64) for key in (1, 3))
    table.add(first, np.array([7], dtype=np.int32))
    table.add(np.concatenate([first, second]), np.array([7, 9], dtype=np.int32))
    assert (table.expect(first), table.expect(second)) == (-1, 9)


def test_keys_are_of_the_tokens_before_the_target_alone() -> None:
    tokens = toy_documents([30])
    keys = context_keys(tokens, *spans_of(tokens), 4)[0]
    assert (keys[:3] == 0).all() and (keys[3:] != 0).all()
    changed = tokens.copy()
    changed[20] += 1
    moved = keys != context_keys(changed, *spans_of(tokens), 4)[0]
    assert moved.tolist() == [20 <= target < 24 for target in range(29)]
    repeated = np.concatenate([tokens[:10], tokens[2:10]])
    again = context_keys(repeated, *spans_of(repeated), 4)[0]
    assert np.array_equal(again[13:17], keys[5:9])


def tilted(tilt: NgramTilt, start: int, targets: range) -> np.ndarray:
    """What the tilt adds to logits of 0, by target."""
    logits, target = torch.zeros(1, len(targets), VOCAB_SIZE), torch.zeros(1, len(targets), dtype=torch.int64)
    expected = torch.from_numpy(tilt.expect(np.array([[start]]), np.array([list(targets)]))).long()
    raised = grade_logits(logits, target, expected, tilt.config.boost).logits_BLV
    assert raised is not None
    return raised.numpy()[0]


def test_the_expected_token_is_raised_by_the_boost_within_a_document_and_across_when_its_batch_is_done() -> (
    None
):
    line = toy_documents([12])
    tokens = np.concatenate([line, line[1:], line]).astype(np.uint16)
    tilt = NgramTilt(TiltConfig(boost=2.5, context_tokens=3), tokens)
    first, own, other = range(0, 11), range(14, 22), range(26, 34)
    assert not tilted(tilt, 0, first).any()
    tilt.learn(np.array([[0]]), np.array([list(first)]), np.ones((1, 11), dtype=bool))
    assert not tilted(tilt, 23, other).any()
    raised = tilted(tilt, 0, own)
    assert (raised.argmax(1) == tokens[15:23]).all()
    assert (raised.sum(1) == 2.5).all() and (raised.max(1) == 2.5).all()
    tilt.finish_batch()
    assert (tilted(tilt, 23, other).argmax(1) == tokens[27:35]).all()


def test_what_was_not_graded_is_not_counted() -> None:
    tokens = np.tile(toy_documents([12])[1:], 3)
    tilt = NgramTilt(TiltConfig(boost=1.0, context_tokens=3), tokens)
    tilted(tilt, 0, range(11))
    tilt.learn(np.array([[0]]), np.arange(11)[None], np.zeros((1, 11), dtype=bool))
    assert not tilted(tilt, 0, range(13, 20)).any() and tilt.num_tilted == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"boost": -1.0},
        {"boost": float("nan")},
        {"context_tokens": 0},
        {"least_share": 0.0},
        {"table_bits": 50},
    ],
)
def test_tilts_that_make_no_sense_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"ttt.tilt.*{next(iter(changes))}"):
        TiltConfig(**changes)
