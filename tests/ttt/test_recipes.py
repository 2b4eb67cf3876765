"""Every recipe of test-time training before the probes, and against plain scoring at rate 0."""

from dataclasses import replace

import numpy as np
import pytest
from score_toys import BOS_ID, VOCAB_SIZE, ToyVocabulary
from test_lora import STRONG, WINDOWS, network, plain

from golf.audit.rescore import Probing, Replay, probe_causality, probe_ledger, probe_normalization
from golf.score.scorer import Scoring, score
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import TTTConfig
from golf.ttt.tilt import TiltConfig

LORA = TTTConfig(
    method="lora",
    lora=replace(STRONG, batch_documents=2, projections=("query", "value", "down", "head")),
    learning_rate=0.1,
    epochs=1,
    frozen_blocks=0,
    batch_sequences=2,
)
TILT = TiltConfig(boost=3.0, context_tokens=2, table_bits=8)
RECIPES = {
    "sgd": replace(LORA, method="sgd", chunk_tokens=32),
    "lora": LORA,
    "tilt": replace(LORA, tilt=TILT),
    "phases": replace(LORA, phases=(2, 4), cap_rate=1.0),
    "all": replace(LORA, tilt=TILT, phases=(2,), cap_rate=1.0),
}
LENGTHS = (34, 31, 28, 24, 22, 3)


def repetitive_stream() -> np.ndarray:
    """Documents in the order of their grading whose lines come again, in themselves and in others."""
    draw = np.random.default_rng(3)
    line = draw.integers(2, VOCAB_SIZE, 7)
    parts = [np.concatenate(([BOS_ID], np.tile(line, 5)[: length - 1])) for length in LENGTHS]
    return np.concatenate(parts).astype(np.uint16)


def replayed(ttt: TTTConfig, tokens: np.ndarray, targets: list[int]) -> Replay:
    log_probs: dict[int, np.ndarray] = {}

    def observe(seen_N, log_probs_NV) -> None:
        log_probs.update(
            {
                int(target): row.numpy()
                for target, row in zip(seen_N, log_probs_NV, strict=True)
                if target in targets
            }
        )

    result = score_adapting(Scoring(network(), tokens, ToyVocabulary(), WINDOWS, observe=observe), ttt)
    return Replay(result.nats_N, log_probs, result.ledger)


@pytest.mark.parametrize("name", ["sgd", "lora", "all"])
def test_every_recipe_passes_the_probes(name: str) -> None:
    tokens = repetitive_stream()

    def scorer(stream: np.ndarray, targets: list[int]) -> Replay:
        return replayed(RECIPES[name], stream, targets)

    asked = Probing(tokens, [40, 120], VOCAB_SIZE, BOS_ID)
    reports = [
        probe_ledger(scorer, tokens),
        probe_causality(scorer, asked),
        probe_normalization(scorer, asked),
    ]
    assert not [violation for report in reports for violation in report.violations]


def test_every_part_of_a_recipe_moves_the_score() -> None:
    tokens = repetitive_stream()
    nats = {name: replayed(ttt, tokens, []).nats_N.sum() for name, ttt in RECIPES.items()}
    assert len({float(total) for total in nats.values()}) == len(RECIPES)
    assert nats["tilt"] < nats["lora"]


@pytest.mark.parametrize("name", ["sgd", "lora", "phases"])
def test_at_rate_zero_every_recipe_is_plain_scoring_to_the_last_digit(name: str) -> None:
    tokens = repetitive_stream()
    ttt = replace(RECIPES[name], learning_rate=0.0, cap_rate=0.0, lora=replace(LORA.lora, rate=0.0))
    still = replayed(ttt, tokens, []).nats_N
    if name == "sgd":
        expected = score(Scoring(network(), tokens, ToyVocabulary(), WINDOWS), chunk_tokens=32).nats_N
    else:
        expected = plain(tokens, ttt.lora).nats_N
    assert np.array_equal(still, expected)


def test_tilt_and_phases_do_not_depend_on_how_many_documents_are_graded_at_once() -> None:
    tokens, ttt = repetitive_stream(), RECIPES["all"]
    together, one = (
        score_adapting(
            Scoring(network(), tokens, ToyVocabulary(), replace(WINDOWS, batch_tokens=16 * rows)), ttt
        )
        for rows in (2, 1)
    )
    assert together.notes["documents_at_once"] == 2 and one.notes["documents_at_once"] == 1
    assert together.notes["tilted_tokens"] == one.notes["tilted_tokens"] > 20
    # AdamW divides by what it has seen: last digits, which every CPU rounds in its own way, grow.
    assert np.abs(together.nats_N - one.nats_N).max() < 2e-3


def test_a_tilt_alone_follows_the_order_of_the_documents() -> None:
    """With adapters that do not learn, only expected tokens and what they take from others move."""
    tokens = repetitive_stream()
    ttt = replace(RECIPES["tilt"], lora=replace(LORA.lora, rate=0.0))
    moved = replayed(ttt, tokens, []).nats_N != plain(tokens, ttt.lora).nats_N
    assert not moved[:5].any() and moved[10:].mean() > 0.5


def test_a_deadline_ends_adapting_and_the_rest_is_graded_without(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = repetitive_stream()
    asked = iter(range(10**6))
    monkeypatch.setattr("golf.ttt.deadline.Deadline.stops", lambda self, graded: next(asked) >= 3)
    monkeypatch.setattr("golf.ttt.methods.measure_plain", lambda scoring: 1e-9)
    result = score_adapting(
        Scoring(network(), tokens, ToyVocabulary(), WINDOWS), RECIPES["all"], max_seconds=5.0
    )
    free = replayed(RECIPES["all"], tokens, []).nats_N
    first_documents = slice(0, 15), slice(34, 49)
    assert all(np.array_equal(result.nats_N[part], free[part]) for part in first_documents)
    assert result.notes["phases"] == 0 and result.notes["max_seconds"] == 5.0
    lone = plain(np.concatenate([tokens[93:118]]), LORA.lora)
    assert result.nats_N[93:108] == pytest.approx(lone.nats_N[:15], abs=1e-5)
