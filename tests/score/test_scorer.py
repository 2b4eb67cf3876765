import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from score_toys import BOS_ID, VOCAB_SIZE, ToyModel, ToyVocabulary, toy_documents, toy_model
from torch import Tensor

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.score.ledger import LegalityError, ScoredChunk
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig

WINDOWS = WindowConfig(context=16, stride=4, batch_tokens=64)


def score_one_window_at_a_time(model: Callable, tokens: np.ndarray, context: int, stride: int) -> np.ndarray:
    """The oracle: for each target its own window, its own forward pass, in float64 after the logits."""
    stream = torch.from_numpy(tokens.astype(np.int64))
    num_targets = len(tokens) - 1
    nats = []
    for target in range(num_targets):
        steps = max(0, -(-(target + 1 - context) // stride))
        end = min(context + steps * stride, num_targets)
        with torch.no_grad():
            logits_V = model(stream[None, end - context : end])[0, target - end].double()
        nats.append(-float(logits_V.log_softmax(-1)[stream[target + 1]]))
    return np.array(nats)


@pytest.mark.parametrize("stride", [1, 3, 4, 16])
@pytest.mark.parametrize("chunk_tokens", [7, 64, 32_768])
def test_fast_scores_are_those_of_one_window_at_a_time(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary, stride: int, chunk_tokens: int
) -> None:
    expected = score_one_window_at_a_time(model, tokens, 16, stride)
    result = score(
        Scoring(model, tokens, vocabulary, WindowConfig(16, stride, 64)), chunk_tokens=chunk_tokens
    )
    assert np.allclose(result.nats_N, expected, atol=1e-5)
    assert result.tally.nats == pytest.approx(expected.sum(), abs=1e-4)
    assert result.tally.num_tokens == len(tokens) - 1
    assert result.tally.num_bytes == vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum()
    assert not result.partial


def test_the_network_scores_as_one_window_at_a_time() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        VOCAB_SIZE, 3, 16, 2, 1, mlp_hidden=24, context=16, rotary_dims=4, bigram_buckets=32, bigram_width=4
    )
    model = GPT(config)
    model.initialize()
    tokens = toy_documents([30, 2, 47])
    result = score(Scoring(model, tokens, ToyVocabulary(), WINDOWS), chunk_tokens=32)
    assert np.allclose(result.nats_N, score_one_window_at_a_time(model, tokens, 16, 4), atol=1e-5)


def test_the_batch_size_changes_no_score(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    scores = [
        score(Scoring(model, tokens, vocabulary, WindowConfig(16, 4, batch))).nats_N
        for batch in (16, 48, 4096)
    ]
    assert np.allclose(scores[0], scores[1], atol=1e-6)
    assert np.allclose(scores[0], scores[2], atol=1e-6)


def test_two_runs_agree_to_the_bit(model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary) -> None:
    first, second = (score(Scoring(model, tokens, vocabulary, WINDOWS), chunk_tokens=64) for _ in range(2))
    assert np.array_equal(first.nats_N, second.nats_N)
    assert first.tally == second.tally


@pytest.mark.parametrize("max_tokens", [16, 17, 100, 344])
def test_a_prefix_has_the_nats_that_it_has_in_the_whole(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary, max_tokens: int
) -> None:
    whole = score(Scoring(model, tokens, vocabulary, WINDOWS), chunk_tokens=64)
    prefix = score(Scoring(model, tokens, vocabulary, WINDOWS, max_tokens=max_tokens), chunk_tokens=64)
    assert prefix.partial
    assert max_tokens - 4 < prefix.tally.num_tokens <= max_tokens
    assert np.array_equal(prefix.nats_N, whole.nats_N[: prefix.tally.num_tokens])


def test_all_tokens_are_no_part(model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary) -> None:
    assert not score(Scoring(model, tokens, vocabulary, WINDOWS, max_tokens=10**9)).partial


def test_too_short_a_prefix_is_refused(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    with pytest.raises(ValueError, match="max_tokens is 15; the first window alone grades 16"):
        score(Scoring(model, tokens, vocabulary, WINDOWS, max_tokens=15))


def test_too_short_a_stream_is_refused(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    with pytest.raises(ValueError, match="11 tokens to score are fewer than one window of 16"):
        score(Scoring(model, tokens[:12], vocabulary, WINDOWS))


def test_a_token_outside_the_vocabulary_is_refused(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    tokens = tokens.copy()
    tokens[77] = VOCAB_SIZE
    with pytest.raises(ValueError, match="token 23 is to be scored; the vocabulary has 23"):
        score(Scoring(model, tokens, vocabulary, WINDOWS))


def test_a_loss_that_is_no_number_is_refused(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    with torch.no_grad():
        model.blocks[1].gain[0] = math.nan
    with pytest.raises(ValueError, match="was graded nan nats"):
        score(Scoring(model, tokens, vocabulary, WINDOWS))


@pytest.mark.parametrize("position", [1, 16, 40, 64, 65, 200, 345])
def test_no_nats_depend_on_a_later_token(
    tokens: np.ndarray, vocabulary: ToyVocabulary, position: int
) -> None:
    changed = tokens.copy()
    replacement = toy_documents([len(tokens)], seed=5)
    changed[position:] = np.where(tokens[position:] == BOS_ID, BOS_ID, replacement[position:])
    before, after = (
        score(Scoring(toy_model(), t, vocabulary, WINDOWS), chunk_tokens=64).nats_N for t in (tokens, changed)
    )
    assert np.array_equal(before[: position - 1], after[: position - 1])
    assert not np.array_equal(before, after)


def test_an_observer_sees_every_distribution_that_was_graded(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    seen: dict[int, Tensor] = {}

    def observe(targets_N: np.ndarray, log_probs_NV: Tensor) -> None:
        seen.update(zip(targets_N.tolist(), log_probs_NV, strict=True))

    result = score(Scoring(model, tokens, vocabulary, WINDOWS, observe=observe), chunk_tokens=64)
    assert sorted(seen) == list(range(len(tokens) - 1))
    graded = [-float(seen[target][tokens[target + 1]]) for target in range(len(tokens) - 1)]
    assert np.allclose(graded, result.nats_N, atol=1e-6)


def test_chunks_are_handed_on_after_they_are_graded_and_the_last_one_is_not(
    model: ToyModel, tokens: np.ndarray, vocabulary: ToyVocabulary
) -> None:
    chunks: list[tuple[ScoredChunk, float]] = []
    scoring = Scoring(model, tokens, vocabulary, WINDOWS)
    score(scoring, chunk_tokens=64, adapt=lambda *handed_on: chunks.append(handed_on))
    assert [progress for _, progress in chunks] == [0.0, 0.2, 0.4, 0.6, 0.8]
    for index, (chunk, _) in enumerate(chunks):
        assert np.array_equal(chunk.tokens_N1, tokens[64 * index : 64 * (index + 1) + 1])


def test_nobody_else_makes_a_scored_chunk() -> None:
    with pytest.raises(LegalityError, match="only the scorer"):
        ScoredChunk(object(), np.zeros(3, np.int64))
