import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from score_toys import BOS_ID, VOCAB_SIZE, ToyVocabulary, toy_documents

from golf.audit.rescore import Probing
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.score import ledger
from golf.score.ledger import LegalityError, ScoredDocuments
from golf.score.scorer import ScoreResult, Scoring
from golf.score.windows import WindowConfig
from golf.ttt.document_scorer import score_documents
from golf.ttt.lora import TARGETS, LoraConfig, LoraLearner, find_matrices
from golf.ttt.methods import plan_lora

STRONG = LoraConfig(
    rank=2, rate=0.05, chunk_tokens=(3, 5), chunk_lengths=(20,), batch_documents=3, beta_first=0.5
)
WINDOWS = WindowConfig(context=16, stride=16, batch_tokens=64)
LENGTHS = [24, 3, 34, 31, 2, 28, 1]


def network(recurrence: int = 2, dtype: torch.dtype = torch.float32) -> GPT:
    torch.manual_seed(1)
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        num_layers=3,
        width=16,
        num_heads=2,
        num_kv_heads=1,
        mlp_hidden=24,
        context=16,
        rotary_dims=4,
        bigram_buckets=8,
        bigram_width=4,
        embedding_std=0.3,
        bos_id=BOS_ID,
        recurrence_first=1,
        recurrence_last=1,
        recurrence=recurrence,
    )
    model = GPT(config)
    model.initialize()
    model.compute_dtype = dtype
    return model


def adapted(
    tokens: np.ndarray, config: LoraConfig = STRONG, rows: int = 4, model: GPT | None = None
) -> ScoreResult:
    model = model or network()
    windows = replace(WINDOWS, batch_tokens=16 * rows)
    batches = plan_lora(tokens, BOS_ID, config)
    scoring = Scoring(model, tokens, ToyVocabulary(), windows)
    return score_documents(scoring, batches, LoraLearner(model, config))


def plain(tokens: np.ndarray, config: LoraConfig = STRONG, model: GPT | None = None) -> ScoreResult:
    batches = plan_lora(tokens, BOS_ID, config)
    return score_documents(Scoring(model or network(), tokens, ToyVocabulary(), WINDOWS), batches)


def replaced(tokens: np.ndarray, start: int, end: int) -> np.ndarray:
    """With other tokens there."""
    return Probing(tokens, (), VOCAB_SIZE, BOS_ID).replaced(start, end, np.random.default_rng(start))


def document_alone(model: GPT, document: np.ndarray) -> np.ndarray:
    """Nats of each target of a document that fits into the context, in one forward pass."""
    ids = torch.from_numpy(document.astype(np.int64))
    logits = model(ids[None, :-1])[0]
    return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_zero_gives_the_plain_score_to_the_last_bit(dtype: torch.dtype) -> None:
    tokens = toy_documents(LENGTHS)
    still = adapted(tokens, replace(STRONG, rate=0.0), model=network(dtype=dtype))
    assert np.array_equal(still.nats_N, plain(tokens, model=network(dtype=dtype)).nats_N)


@torch.no_grad()
def test_without_adapters_a_document_is_graded_from_itself_alone() -> None:
    tokens = toy_documents([15, 12, 3])
    model = network()
    nats_N = plain(tokens, model=model).nats_N
    for start, end in ((0, 16), (15, 28), (27, 30)):
        expected = document_alone(model, tokens[start:end])
        assert nats_N[start : end - 1] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_a_long_document_sees_a_window_of_inputs_that_saw_windows_of_their_own() -> None:
    """What lies behind the window is seen through what was kept, up to a window further at each visit."""
    tokens = toy_documents([100])
    model = network()
    before = plain(tokens, model=model).nats_N
    changed = replaced(tokens, 2, 5)
    after = plain(changed, model=model).nats_N
    reach = 5 + len(model.plan) * 16 + 2
    assert np.array_equal(before[:1], after[:1])
    assert not np.allclose(before[20:25], after[20:25], atol=1e-6)
    assert np.array_equal(before[reach:], after[reach:])


def test_one_document_at_a_time_gives_the_nats_of_the_batch() -> None:
    tokens = toy_documents(LENGTHS)
    together, one = adapted(tokens, rows=4), adapted(tokens, rows=1)
    assert together.notes["documents_at_once"] == 3 and one.notes["documents_at_once"] == 1
    assert np.abs(together.nats_N - one.nats_N).max() < 1e-4
    assert np.abs(together.nats_N - plain(tokens).nats_N).max() > 1e-2


def test_every_target_is_graded_once_and_by_its_first_chunk_unadapted() -> None:
    tokens = toy_documents(LENGTHS)
    result, base = adapted(tokens), plain(tokens)
    assert np.isfinite(result.nats_N).all() and len(result.nats_N) == len(tokens) - 1
    result.ledger.close(len(tokens) - 1)
    first = result.tally
    assert first.num_tokens == len(tokens) - 1
    starts = np.flatnonzero(tokens[:-1] == BOS_ID)
    for start in starts:
        assert result.nats_N[start : start + 1] == pytest.approx(base.nats_N[start : start + 1], abs=1e-5)


def test_what_repeats_itself_is_learned() -> None:
    tokens = np.concatenate([np.tile(toy_documents([6], seed)[1:], 12) for seed in range(4)])
    tokens[::60] = BOS_ID
    assert adapted(tokens).tally.nats < plain(tokens).tally.nats


@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_later_document_moves_no_grade_before_it_in_the_order(place: int) -> None:
    tokens = toy_documents(LENGTHS)
    before = adapted(tokens).nats_N
    order = [span for batch in plan_lora(tokens, BOS_ID, STRONG) for span in batch.documents]
    middle = order[place].start + order[place].num_targets // 2
    changed = replaced(tokens, middle + 1, order[place].end + 1)
    for start, end in order[place + 1 :]:
        changed = replaced(changed, start + 1, end + 1)
    after = adapted(changed).nats_N
    for start, end in order[:place]:
        assert np.array_equal(before[start:end], after[start:end])
    assert np.array_equal(before[order[place].start : middle], after[order[place].start : middle])


def test_documents_of_a_batch_do_not_see_each_other() -> None:
    tokens = toy_documents([60, 50, 40])
    changed = replaced(tokens, 1, 60)
    before, after = adapted(tokens).nats_N, adapted(changed).nats_N
    assert np.array_equal(before[60:], after[60:])
    assert not np.array_equal(before[:60], after[:60])


def test_the_model_itself_stays_as_it_was() -> None:
    model = network()
    weights = copy.deepcopy(model.state_dict())
    adapted(toy_documents(LENGTHS), model=model)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [2], [1, 150, 1, 2]])
def test_documents_of_any_length_are_graded(lengths: list[int]) -> None:
    tokens = np.append(toy_documents(lengths), BOS_ID).astype(np.uint16)
    result = adapted(tokens)
    result.ledger.close(len(tokens) - 1)
    assert np.isfinite(result.nats_N).all()
    assert result.notes["documents"] == len(lengths)


def test_a_stream_without_bos_is_graded_as_one_document() -> None:
    tokens = toy_documents([90])[1:]
    result = adapted(tokens)
    assert result.notes["documents"] == 1 and np.isfinite(result.nats_N).all()


def test_a_stream_without_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="no target to score"):
        plan_lora(np.array([BOS_ID]), BOS_ID, STRONG)


def test_a_broken_adapter_falls_back_to_the_unadapted_score_and_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = toy_documents([60, 50, 40])
    base, sound = plain(tokens).nats_N, adapted(tokens).nats_N
    learn = LoraLearner.learn

    def breaks_the_first(self: LoraLearner, scored: ScoredDocuments) -> None:
        learn(self, scored)
        if self.steps_1 == 2:
            self.adapters_BP[0] = float("nan")

    monkeypatch.setattr(LoraLearner, "learn", breaks_the_first)
    result = adapted(tokens)
    assert result.notes["unadapted_documents"] == 1
    assert np.array_equal(result.nats_N[:10], sound[:10])
    assert result.nats_N[10:60] == pytest.approx(base[10:60], abs=1e-5)
    assert np.array_equal(result.nats_N[60:], sound[60:])


def test_only_the_scorer_hands_out_what_may_be_learned() -> None:
    with pytest.raises(LegalityError, match="only the scorer"):
        ScoredDocuments(object(), torch.zeros(1, 3))


def test_learning_before_grading_is_refused_by_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.Ledger, "grade", lambda *_: None)
    with pytest.raises(LegalityError, match="had not been graded"):
        adapted(toy_documents([30]))


def test_a_step_is_that_of_adamw() -> None:
    """Against torch.optim.AdamW on the flat adapters of each document."""
    model = network()
    learner = LoraLearner(model, STRONG)
    learner.start(0, 2)
    learner.adapters_BP.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    reference = torch.nn.Parameter(learner.adapters_BP.clone())
    optimizer = torch.optim.AdamW(
        [reference], STRONG.rate, (STRONG.beta_first, STRONG.beta_second), 1e-10, STRONG.decay
    )
    inputs = torch.from_numpy(toy_documents([12, 12]).astype(np.int64)).view(2, 12)
    for step in range(3):
        logits_BLV = model(inputs[:, :-1], state=learner.state(2))
        nats_BL = torch.nn.functional.cross_entropy(logits_BLV.mT, inputs[:, 1:], reduction="none")
        learner.learn(ScoredDocuments(ledger._SEAL, nats_BL))
        reference.grad = learner.gradient_BP[:2].clone()
        optimizer.step()
        assert torch.allclose(learner.adapters_BP, reference, atol=1e-6), step


def test_a_batch_of_adapters_is_the_sum_of_single_ones() -> None:
    """The output with adapters is that of a model whose matrices were changed by scale x B A."""
    model = network(recurrence=1)
    config = replace(STRONG, projections=TARGETS)
    learner = LoraLearner(model, config)
    learner.start(0, 2)
    learner.adapters_BP.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.2)
    inputs = torch.from_numpy(toy_documents([12, 12]).astype(np.int64)).view(2, 12)
    with torch.no_grad():
        together = model(inputs, state=learner.state(2))
    shapes = learner._shapes
    for row in range(2):
        changed = copy.deepcopy(model)
        parts = learner.adapters_BP[row].split([rows * columns for rows, columns in shapes])
        parts = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        half = len(parts) // 2
        changes = [config.alpha / config.rank * parts[half + site] @ parts[site] for site in range(half)]
        for matrix, change in zip(find_matrices(changed, TARGETS[:-1]), changes[:-1], strict=True):
            matrix.weight.data += change
        head_change = changes[-1]
        changed.head.register_forward_hook(
            lambda module, inputs, output, change=head_change: output + inputs[0] @ change.T
        )
        with torch.no_grad():
            assert torch.allclose(changed(inputs[row : row + 1])[0], together[row], atol=1e-4)


def test_a_network_without_the_named_matrices_is_refused() -> None:
    torch.manual_seed(0)
    config = replace(network().config, num_experts=2)
    model = GPT(config)
    assert [matrix.name for matrix in find_matrices(model, ("up", "head"))] == ["head"]
    with pytest.raises(ValueError, match="this network has no such matrix"):
        find_matrices(model, ("up",))


@pytest.mark.slow
def test_a_document_of_300_000_tokens_is_graded_in_the_memory_of_a_window() -> None:
    config = replace(STRONG, chunk_tokens=(3, 16), projections=("head",))
    result = adapted(toy_documents([300_000, 1]), config)
    result.ledger.close(300_000 - 1)
    assert np.isfinite(result.nats_N).all()


def test_the_head_has_one_adapter_which_learns() -> None:
    model = network()
    config = replace(STRONG, projections=("head",))
    (head,) = find_matrices(model, config.projections)
    assert head.weight is model.embedding.weight and head.visit is None
    tokens = toy_documents([60, 50])
    together, one = (adapted(tokens, config, rows) for rows in (2, 1))
    assert np.abs(together.nats_N - plain(tokens, config).nats_N).max() > 1e-2
    assert np.abs(together.nats_N - one.nats_N).max() < 1e-4


def test_each_visit_of_a_block_has_its_own_adapter() -> None:
    model = network(recurrence=3)
    matrices = find_matrices(model, ("up",))
    assert sorted(matrix.visit for matrix in matrices) == [0, 1, 2, 3, 4]
    assert len({id(matrix.weight) for matrix in matrices}) == 3
    tokens = toy_documents([60])
    learner = LoraLearner(model, replace(STRONG, projections=("up",)))
    batches = plan_lora(tokens, BOS_ID, STRONG)
    score_documents(Scoring(model, tokens, ToyVocabulary(), WINDOWS), batches, learner)
    outputs = learner.adapters_BP[0, learner._num_kept :].view(5, -1)
    assert (outputs.abs().max(1).values > 0).all()
    assert len({tuple(row.tolist()) for row in outputs}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "ttt.lora.rank is 0"),
        ({"rate": -1.0}, "ttt.lora.rate is -1.0"),
        ({"rate": float("nan")}, "ttt.lora.rate is nan"),
        ({"beta_second": 1.0}, "expected below 1"),
        ({"projections": ("tail",)}, "expected some of query"),
        ({"projections": ()}, "expected some of query"),
        ({"chunk_tokens": (8,)}, "one chunk more"),
        ({"chunk_tokens": (8, 0, 4)}, "all at least 1"),
        ({"chunk_lengths": (9, 3)}, "rising lengths"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraConfig(**changes)
