"""Steps of fixed shapes give what documents by themselves give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_toys import BOS_ID, ToyVocabulary, toy_documents
from test_lora import STRONG, WINDOWS, network, plain

from golf.score import ledger
from golf.score.ledger import LegalityError, ScoredDocuments
from golf.score.scorer import ScoreResult, Scoring
from golf.ttt.deadline import Deadline
from golf.ttt.document_scorer import score_documents
from golf.ttt.document_step import DocumentSteps, window_lengths
from golf.ttt.lora import LoraConfig, LoraLearner
from golf.ttt.methods import plan_lora, score_adapting
from golf.ttt.sgd import TTTConfig
from golf.ttt.tilt import NgramTilt, TiltConfig

GENTLE = replace(STRONG, rate=0.002)
"""Slow enough that rounding stays rounding: a step is as long for a gradient of 1e-8 as for one of 1."""
CONTEXT = 32


class AskedOften(Deadline):
    """Stops when it is asked for the `most`-th time."""

    def __init__(self, most: int):
        super().__init__(1e9, 1, 0.0)
        self.rest = most

    def stops(self, num_graded: int) -> bool:
        self.rest -= 1
        if self.rest < 0 and self.stopped_after is None:
            self.stopped_after = num_graded
        return self.stopped_after is not None


def scored(
    tokens: np.ndarray,
    recorded: bool,
    config: LoraConfig = GENTLE,
    rows: int = 3,
    boost: float = 0.0,
    deadline: Deadline | None = None,
    by_length: bool = True,
) -> ScoreResult:
    model = network()
    windows = replace(WINDOWS, context=CONTEXT, stride=CONTEXT, batch_tokens=CONTEXT * rows)
    learner = LoraLearner(model, config, rows, recorded=recorded)
    tilt = NgramTilt(TiltConfig(boost=boost, context_tokens=2, table_bits=12), tokens) if boost else None
    batches = plan_lora(tokens, BOS_ID, config, by_length=by_length)
    scoring = Scoring(model, tokens, ToyVocabulary(), windows)
    return score_documents(scoring, batches, learner, tilt, deadline=deadline)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 120), min_size=1, max_size=7),
    chunks=st.sampled_from([(3, 5), (8, 16), (5, 40)]),
    rows=st.integers(1, 5),
    boost=st.sampled_from([0.0, 2.0]),
    by_length=st.booleans(),
)
def test_windows_and_batches_that_are_filled_up_change_no_grade(
    lengths: list[int], chunks: tuple[int, int], rows: int, boost: float, by_length: bool
) -> None:
    tokens = toy_documents([*lengths, 2])
    config = replace(GENTLE, chunk_tokens=chunks, batch_documents=5)
    filled = scored(tokens, True, config, rows, boost, by_length=by_length)
    # Of two contexts that meet in the tilt's table the later one stays: the same rows with a tilt.
    alone = scored(tokens, False, config, rows if boost else 1, boost, by_length=by_length)
    assert np.abs(filled.nats_N - alone.nats_N).max() < 1e-3
    filled.ledger.close(len(tokens) - 1)


def test_observers_see_the_distributions_that_grade() -> None:
    tokens, model = toy_documents([60, 50, 40]), network()
    seen: dict[int, float] = {}

    def observe(targets_N: np.ndarray, log_probs_NV: torch.Tensor) -> None:
        for target, log_probs_V in zip(targets_N.tolist(), log_probs_NV, strict=True):
            seen[target] = -float(log_probs_V[int(tokens[target + 1])])

    batches = plan_lora(tokens, BOS_ID, GENTLE)
    learner = LoraLearner(model, GENTLE, recorded=True)
    scoring = Scoring(model, tokens, ToyVocabulary(), WINDOWS, observe=observe)
    result = score_documents(scoring, batches, learner)
    assert [seen[target] for target in range(len(tokens) - 1)] == pytest.approx(result.nats_N, abs=1e-5)


def test_recorded_steps_learn() -> None:
    tokens = toy_documents([60, 50, 40])
    assert np.abs(scored(tokens, True).nats_N - plain(tokens).nats_N).max() > 1e-2


def test_a_whole_score_has_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is new after the longest batch of each chunk and each number of rows."""
    made: list[DocumentSteps] = []
    build = DocumentSteps.__init__

    def keep(self: DocumentSteps, *arguments: object) -> None:
        build(self, *arguments)
        made.append(self)

    monkeypatch.setattr(DocumentSteps, "__init__", keep)
    draw = np.random.default_rng(0)
    scored(toy_documents(draw.integers(2, 200, 40).tolist()), True, rows=4)
    (steps,) = made
    windows = {(num_new, length) for _, _, num_new, length in steps.shapes}
    assert len(windows) <= len(GENTLE.chunk_tokens) * (1 + len(window_lengths(CONTEXT)))
    assert {rows for _, rows, _, _ in steps.shapes} <= {1, 2, 3}


def test_windows_have_few_lengths_up_to_the_context() -> None:
    assert window_lengths(2048) == (256, 512, 768, 1024, 1280, 1536, 1792, 2048)
    assert window_lengths(16) == (8, 16)
    assert window_lengths(5) == (5,)


def break_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter of the first document is not finite after two steps."""
    learn = LoraLearner.learn

    def breaks(self: LoraLearner, scored: ScoredDocuments) -> None:
        learn(self, scored)
        if self.steps_1 == 2 and self.learns_B.any():
            self.adapters_BP[0] = float("nan")

    monkeypatch.setattr(LoraLearner, "learn", breaks)


def test_a_broken_document_is_predicted_unadapted_from_where_it_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = toy_documents([60, 50, 40])
    base, sound = scored(tokens, True, replace(GENTLE, rate=0.0)).nats_N, scored(tokens, True).nats_N
    break_the_first(monkeypatch)
    result = scored(tokens, True)
    assert result.notes["unadapted_documents"] == 1
    assert np.array_equal(result.nats_N[:10], sound[:10])
    assert result.nats_N[10:60] == pytest.approx(base[10:60], abs=1e-5)
    assert np.array_equal(result.nats_N[60:], sound[60:])


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("by_length", [True, False])
def test_a_broken_document_that_ends_before_others_is_predicted_unadapted(
    recorded: bool, by_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By length it is the last of the rows; as they stand it is the first document."""
    learn = LoraLearner.learn

    def breaks(self: LoraLearner, scored: ScoredDocuments) -> None:
        learn(self, scored)
        if self.steps_1 == 2 and self.learns_B.any():
            self.adapters_BP[2] = float("nan")

    tokens = toy_documents([40, 60, 50])
    base = scored(tokens, recorded, replace(GENTLE, rate=0.0), by_length=by_length).nats_N
    monkeypatch.setattr(LoraLearner, "learn", breaks)
    result = scored(tokens, recorded, by_length=by_length)
    assert result.notes["unadapted_documents"] == 1
    assert result.nats_N[10:39] == pytest.approx(base[10:39], abs=1e-5)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_document_that_broke_before_the_deadline_is_unadapted_behind_it(
    recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its past was mended, too: what comes behind the deadline sees inputs of the unadapted model."""
    tokens = toy_documents([60, 50, 40])
    base = scored(tokens, recorded, replace(GENTLE, rate=0.0), deadline=AskedOften(4)).nats_N
    break_the_first(monkeypatch)
    result = scored(tokens, recorded, deadline=AskedOften(4))
    assert result.notes["unadapted_documents"] == 1
    assert result.nats_N[10:60] == pytest.approx(base[10:60], abs=1e-5)
    assert np.isfinite(result.nats_N).all()


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 30])
def test_a_deadline_ends_recorded_steps_and_the_rest_is_graded_unadapted(stop: int) -> None:
    tokens = toy_documents([100, 90, 80, 12])

    fixed, alone = (scored(tokens, recorded, deadline=AskedOften(stop)) for recorded in (True, False))
    assert np.abs(fixed.nats_N - alone.nats_N).max() < 1e-3
    assert fixed.notes == alone.notes


def test_recorded_steps_cannot_learn_before_grading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.Ledger, "grade", lambda *_: None)
    with pytest.raises(LegalityError, match="had not been graded"):
        scored(toy_documents([30]), True)


@pytest.mark.parametrize("beta_first", [0.0, 0.5])
def test_a_recorded_step_is_that_of_adamw(beta_first: float) -> None:
    """Against the step by calls; what does not learn stays."""
    config = replace(STRONG, beta_first=beta_first)
    learners = [LoraLearner(network(), config, recorded=recorded) for recorded in (False, True)]
    for learner in learners:
        learner.start(0, 2)
        learner.adapters_BP.normal_(generator=torch.Generator().manual_seed(0))
    before = learners[1].adapters_BP.clone()
    learners[1].learns_B[1] = 0
    for step in range(3):
        for learner in learners:
            draw = torch.Generator().manual_seed(step)
            learner.backward = lambda _, learner=learner, draw=draw: learner.gradient_BP.normal_(
                generator=draw
            )
            learner.learn(ScoredDocuments(ledger._SEAL, torch.zeros(2, 3)))
    called, recorded = (learner.adapters_BP for learner in learners)
    assert torch.allclose(called[0], recorded[0], atol=1e-6)
    assert torch.equal(recorded[1], before[1])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_kept_learners_and_their_steps_give_the_grades_of_fresh_ones(device: str) -> None:
    """After other text, and phases, which change the model: its weights are put back between the two."""
    tokens, others = (toy_documents(lengths) for lengths in ([70, 66, 50, 33, 9], [64, 40, 31, 31, 12]))
    tilt = TiltConfig(boost=1.0, context_tokens=2, table_bits=12)
    config = TTTConfig(method="lora", lora=GENTLE, tilt=tilt, phases=(2,), cap_rate=0.01)
    windows = replace(WINDOWS, context=CONTEXT, stride=CONTEXT)
    model, kept = network().to(device), {}
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = []
    for text, learners in ((tokens, None), (others, kept), (tokens, kept)):
        model.load_state_dict(weights)
        scoring = Scoring(model, text, ToyVocabulary(), windows)
        result = score_adapting(scoring, config, learners=learners)
        assert result.notes["phases"] == 1
        found.append(result.nats_N)
    assert len(kept) == 1
    difference = np.abs(found[0] - found[2]).max()
    assert difference == 0 if device == "cpu" else difference < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_recorded_steps_give_the_grades_of_calls(dtype: torch.dtype) -> None:
    """Enough documents of each chunk that both halves are recorded and replayed."""
    tokens = toy_documents([140, 130, 120, 110, 100, 90, 18, 17, 16, 15, 14, 13, 12])
    found = []
    for recorded in (True, False):
        model = network(dtype=dtype).to("cuda")
        windows = replace(WINDOWS, context=CONTEXT, stride=CONTEXT, batch_tokens=CONTEXT * 3)
        learner = LoraLearner(model, GENTLE, 3, recorded=recorded)
        batches = plan_lora(tokens, BOS_ID, GENTLE)
        scoring = Scoring(model, tokens, ToyVocabulary(), windows)
        found.append(score_documents(scoring, batches, learner).nats_N)
    assert np.abs(found[0] - found[1]).mean() < (1e-4 if dtype == torch.float32 else 2e-2)
