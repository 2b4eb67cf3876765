import copy

import numpy as np
import pytest
import torch
from score_toys import BOS_ID, ToyModel, ToyVocabulary, toy_documents, toy_model

from golf.score.ledger import Ledger, ScoredChunk
from golf.score.scorer import ScoreResult, Scoring, score
from golf.score.windows import WindowConfig
from golf.ttt import sgd as adapting
from golf.ttt.sgd import ChunkAdapter, adapted_parameters, cut_sequences

WINDOWS = WindowConfig(context=16, stride=4, batch_tokens=64)
ONE_EPOCH = adapting.TTTConfig(epochs=1, batch_sequences=3)
STRONG = adapting.TTTConfig(chunk_tokens=64, learning_rate=0.5, frozen_blocks=1, batch_sequences=3)


def adapted_score(
    tokens: np.ndarray, config: adapting.TTTConfig = STRONG, model: ToyModel | None = None
) -> ScoreResult:
    model = model or toy_model()
    adapter = ChunkAdapter(model, config)
    return score(
        Scoring(model, tokens, ToyVocabulary(), WINDOWS), chunk_tokens=config.chunk_tokens, adapt=adapter
    )


def graded(tokens_N1: np.ndarray) -> ScoredChunk:
    ledger = Ledger(len(tokens_N1) - 1)
    ledger.grade(0, len(tokens_N1) - 1, "a chunk")
    return ledger.release_chunk(tokens_N1, (0, len(tokens_N1) - 1), "a test")


def repeated_documents() -> np.ndarray:
    return np.tile(toy_documents([40, 24]), 6)


def test_learning_rate_zero_gives_the_plain_score_to_the_last_bit(tokens: np.ndarray) -> None:
    still = adapting.TTTConfig(chunk_tokens=64, learning_rate=0.0, frozen_blocks=1)
    plain = score(Scoring(toy_model(), tokens, ToyVocabulary(), WINDOWS), chunk_tokens=64)
    assert np.array_equal(adapted_score(tokens, still).nats_N, plain.nats_N)
    assert adapted_score(tokens, still).tally == plain.tally


def test_the_first_chunk_is_graded_by_the_weights_as_they_were(tokens: np.ndarray) -> None:
    plain = score(Scoring(toy_model(), tokens, ToyVocabulary(), WINDOWS), chunk_tokens=64)
    adapted = adapted_score(tokens)
    assert np.array_equal(adapted.nats_N[:64], plain.nats_N[:64])
    assert not np.array_equal(adapted.nats_N[64:], plain.nats_N[64:])


def test_adapting_to_a_text_that_repeats_itself_helps() -> None:
    tokens = repeated_documents()
    plain = score(Scoring(toy_model(), tokens, ToyVocabulary(), WINDOWS), chunk_tokens=64)
    assert adapted_score(tokens).tally.nats < plain.tally.nats


@pytest.mark.parametrize("position", [1, 63, 64, 65, 66, 128, 200, 300])
def test_no_nats_depend_on_a_later_token_through_adaptation(tokens: np.ndarray, position: int) -> None:
    changed = tokens.copy()
    replacement = toy_documents([len(tokens)], seed=5)
    changed[position:] = np.where(tokens[position:] == BOS_ID, BOS_ID, replacement[position:])
    before, after = adapted_score(tokens).nats_N, adapted_score(changed).nats_N
    assert np.array_equal(before[: position - 1], after[: position - 1])
    assert not np.array_equal(before, after)


def test_a_prefix_is_adapted_to_as_in_the_whole(tokens: np.ndarray) -> None:
    model = toy_model()
    adapter = ChunkAdapter(model, STRONG)
    prefix = score(
        Scoring(model, tokens, ToyVocabulary(), WINDOWS, max_tokens=150), chunk_tokens=64, adapt=adapter
    )
    assert np.array_equal(prefix.nats_N, adapted_score(tokens).nats_N[: len(prefix.nats_N)])


def test_only_matrices_of_later_blocks_learn(tokens: np.ndarray) -> None:
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    adapted_score(tokens, model=model)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"blocks.1.up.weight", "blocks.2.up.weight"}


def test_freezing_every_block_is_refused(model: ToyModel) -> None:
    with pytest.raises(ValueError, match=r"ttt.frozen_blocks is 3; that leaves nothing"):
        adapted_parameters(model, 3)


@pytest.mark.parametrize("num_targets", [1, 15, 16, 17, 47, 48, 49, 100, 144])
def test_every_target_of_a_chunk_is_trained_on_with_the_same_share(num_targets: int) -> None:
    tokens_N1 = np.arange(2, num_targets + 3)
    batches = cut_sequences([graded(tokens_N1)], 16, ONE_EPOCH)
    assert len({inputs.shape for inputs, _, _ in batches}) == 1
    inputs, targets, shares = (torch.cat([batch[i].flatten() for batch in batches]) for i in range(3))
    used = shares > 0
    assert torch.equal(inputs[used], torch.from_numpy(tokens_N1[:-1]))
    assert torch.equal(targets[used], torch.from_numpy(tokens_N1[1:]))
    assert len(shares[used].unique()) == 1
    assert all(float(share.sum()) <= 1 + 1e-6 for _, _, share in batches)


def test_a_full_batch_takes_the_gradient_of_the_mean_loss() -> None:
    (batch,) = cut_sequences([graded(np.arange(49))], 16, ONE_EPOCH)
    assert float(batch[2].sum()) == pytest.approx(1.0)
    assert batch[0].shape == (3, 16)


def test_the_learning_rate_follows_a_cosine_over_the_chunks(tokens: np.ndarray) -> None:
    model, rates = toy_model(), []
    adapter = ChunkAdapter(model, STRONG)

    def record(chunk: ScoredChunk, progress: float) -> None:
        adapter(chunk, progress)
        rates.append(adapter.optimizer.param_groups[0]["lr"])

    score(Scoring(model, tokens, ToyVocabulary(), WINDOWS), chunk_tokens=64, adapt=record)
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(5) / 5))
    assert np.allclose(rates, expected)


@pytest.mark.parametrize("field", ["chunk_tokens", "epochs", "batch_sequences"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"ttt.{field} is 0; expected at least 1"):
        adapting.TTTConfig(**{field: 0})


def test_a_negative_learning_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ttt.learning_rate is -0.1"):
        adapting.TTTConfig(learning_rate=-0.1)


def test_a_batch_of_several_passes_takes_the_step_of_one(
    tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, passes = {}, []

    def note(module: ToyModel, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            passes.append(inputs[0].numel())

    for most in (48, 32, 1):
        monkeypatch.setattr(adapting, "ADAPTING_PASS_TOKENS", most)
        model = toy_model()
        model.register_forward_pre_hook(note)
        adapted_score(tokens, model=model)
        weights[most] = model.state_dict()
        assert max(passes) == max(most, 16)
        passes.clear()
    for most in (32, 1):
        for name, weight in weights[48].items():
            torch.testing.assert_close(weights[most][name], weight, atol=1e-5, rtol=1e-4)
