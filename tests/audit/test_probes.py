from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_toys import BOS_ID, VOCAB_SIZE, ToyVocabulary, toy_documents, toy_model

from golf.audit.rescore import (
    Probing,
    Replay,
    probe_bytes,
    probe_causality,
    probe_ledger,
    probe_normalization,
)
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig
from golf.ttt import sgd as adapting
from golf.ttt.sgd import ChunkAdapter

TARGETS = (15, 64, 130)
TOKENS = toy_documents([40, 3, 70, 31])
ASKED = Probing(TOKENS, TARGETS, VOCAB_SIZE, BOS_ID)


def replay_toy(tokens: np.ndarray, targets: Sequence[int]) -> Replay:
    """The project's scorer with strong test-time training of the toy model."""
    model, log_probs = toy_model(), {}
    config = adapting.TTTConfig(chunk_tokens=64, learning_rate=0.5, frozen_blocks=1, batch_sequences=3)
    result = score(
        Scoring(
            model,
            tokens,
            ToyVocabulary(),
            WindowConfig(16, 4, 64),
            observe=lambda seen, logs: log_probs.update(zip(seen.tolist(), logs.numpy(), strict=True)),
        ),
        chunk_tokens=64,
        adapt=ChunkAdapter(model, config),
    )
    return Replay(result.nats_N, log_probs, result.ledger)


def test_the_projects_own_scorer_passes_through_test_time_training() -> None:
    assert probe_ledger(replay_toy, TOKENS).passed
    assert probe_causality(replay_toy, ASKED).passed
    assert probe_normalization(replay_toy, ASKED).passed


def test_a_move_within_the_stated_tolerance_passes() -> None:
    noise = np.random.default_rng(0)

    def noisy(tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        replay = replay_toy(tokens, targets)
        return Replay(replay.nats_N + noise.uniform(-1e-6, 1e-6), replay.log_probs, replay.ledger)

    assert not probe_causality(noisy, ASKED).passed
    assert probe_causality(noisy, replace(ASKED, tolerance_nats=1e-4)).passed


def test_a_distribution_over_part_of_the_vocabulary_is_caught() -> None:
    def cut(tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        replay = replay_toy(tokens, targets)
        return Replay(replay.nats_N, {t: replay.log_probs[t][:-1] for t in targets}, replay.ledger)

    violations = probe_normalization(cut, ASKED).violations
    assert len(violations) == len(TARGETS) and "has shape (22,)" in violations[0]


def test_a_grade_that_is_no_number_is_caught() -> None:
    def broken(tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        replay = replay_toy(tokens, targets)
        nats_N = np.where(np.arange(len(replay.nats_N)) == 7, np.nan, replay.nats_N)
        return Replay(nats_N, replay.log_probs, replay.ledger)

    assert probe_ledger(broken, TOKENS).violations == ["target 7 has no finite grade"]
    assert not probe_causality(broken, ASKED).passed


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000))
def test_replaced_tokens_all_differ_and_documents_stay(start: int, length: int, seed: int) -> None:
    end = min(start + length, len(TOKENS))
    changed = ASKED.replaced(start, end, np.random.default_rng(seed))
    differs = changed != TOKENS
    assert not differs[:start].any() and not differs[end:].any()
    assert np.array_equal(differs[start:end], TOKENS[start:end] != BOS_ID)
    assert np.array_equal(changed == BOS_ID, TOKENS == BOS_ID)
    assert changed.max() < VOCAB_SIZE and changed.dtype == TOKENS.dtype


def test_a_last_document_cut_inside_a_character_is_no_violation() -> None:
    tokens = np.array([BOS_ID, 5, 6])
    counts = np.array([0, 0, 0, 0, 0, 1, 1])
    decoded = {(5, 6): "a�", (5,): "a"}
    for text, passed in (("a�", True), ("aé", False)):
        decoded[5, 6] = text
        report = probe_bytes(
            lambda previous, targets: counts[targets], lambda ids: decoded[tuple(ids)], tokens, BOS_ID, 2
        )
        assert report.passed is passed


def test_wrong_documents_are_counted_when_they_are_many() -> None:
    tokens = np.array([BOS_ID, 5] * 9)
    report = probe_bytes(lambda previous, targets: (targets == 5) * 2, lambda ids: "x", tokens, BOS_ID, 18)
    assert len(report.violations) == 6
    assert report.violations[-1] == "4 more documents are counted wrong"
    assert report.violations[0] == "document 0 is counted as 2 bytes; its decoded text has 1"


@pytest.mark.parametrize("probe", [probe_causality, probe_normalization])
def test_probes_are_seeded(probe) -> None:
    seen: list[list[int]] = [[], []]
    for run in seen:

        def recording(tokens: np.ndarray, targets: Sequence[int], run: list[int] = run) -> Replay:
            run.append(hash(tokens.tobytes()))
            return replay_toy(tokens, targets)

        probe(recording, replace(ASKED, targets=(20,), seed=4))
    assert seen[0] == seen[1]
