import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from score_toys import ToyVocabulary, toy_documents
from test_lora import LENGTHS, STRONG, WINDOWS, network

from golf.model.state import ForwardState
from golf.score.ledger import Ledger, LegalityError
from golf.score.scorer import ScoreResult, Scoring
from golf.ttt.methods import score_adapting
from golf.ttt.sgd import PhaseTrainer, TTTConfig

PHASED = TTTConfig(
    method="lora",
    lora=replace(STRONG, batch_documents=2),
    phases=(2, 4),
    learning_rate=0.3,
    epochs=1,
    frozen_blocks=0,
    batch_sequences=2,
)


def phased(tokens: np.ndarray, model=None, **changes) -> ScoreResult:
    return score_adapting(
        Scoring(model or network(), tokens, ToyVocabulary(), WINDOWS), replace(PHASED, **changes)
    )


def test_phases_move_what_comes_after_them_and_nothing_before() -> None:
    tokens = toy_documents(LENGTHS)
    without, with_phases = phased(tokens, phases=()), phased(tokens)
    moved = without.nats_N != with_phases.nats_N
    first_batch = (24 + 3, 24 + 3 + 34), (24 + 3 + 34, 24 + 3 + 34 + 31)
    assert not any(moved[start:end].any() for start, end in first_batch)
    assert moved[:24].any()
    assert with_phases.notes["phases"] == 2 and "phases" not in without.notes


@pytest.mark.parametrize("cap_rate", [0.0, 5.0])
def test_at_rate_zero_phases_change_no_digit_and_caps_only_if_they_learn(cap_rate: float) -> None:
    tokens = toy_documents(LENGTHS)
    still = phased(tokens, learning_rate=0.0, cap_rate=cap_rate).nats_N
    assert np.array_equal(still, phased(tokens, phases=()).nats_N) == (cap_rate == 0.0)


def test_two_caps_that_have_not_learned_are_the_softcap_to_the_last_bit() -> None:
    model = network()
    inputs = torch.from_numpy(toy_documents([12]).astype(np.int64))[None]
    trainer = PhaseTrainer(model, replace(PHASED, cap_rate=1.0))
    expected = model(inputs)
    state = ForwardState(log_caps_2=trainer.caps)
    assert torch.equal(model(inputs, state=state), expected)
    assert trainer.caps is not None
    trainer.caps[0] = 1.0
    assert not torch.equal(model(inputs, state=state), expected)
    assert torch.equal(model(inputs), expected)


def test_a_phase_changes_the_blocks_matrices_alone_and_freezes_them_again() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    phased(toy_documents(LENGTHS), model, frozen_blocks=1)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed and all(name.startswith(("blocks.1.", "blocks.2.")) for name in changed)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_only_graded_documents_are_handed_over() -> None:
    tokens, ledger = toy_documents([20]), Ledger(19)
    ledger.grade(0, 10, "a chunk")
    with pytest.raises(LegalityError, match="target 10 had not been graded"):
        ledger.release_chunk(tokens, (5, 12), "a phase")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": (5, 2)}, "rising numbers"),
        ({"phases": (0,)}, "rising"),
        ({"cap_rate": -1.0}, "cap_rate is -1"),
    ],
)
def test_phases_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PHASED, **changes)
