from dataclasses import replace

import pytest
from score_toys import BOS_ID, toy_documents
from test_lora import STRONG, WINDOWS, network

from golf.score.lora import LoraLearner
from golf.score.memory import LoraMemoryError, lora_bytes, plan_documents_at_once
from golf.score.methods import plan_lora


def test_as_many_documents_learn_together_as_fit() -> None:
    model, config = network(), replace(STRONG, batch_documents=4)
    batches = plan_lora(toy_documents([30, 28, 26, 24]), BOS_ID, config)
    kept, each = lora_bytes(model, WINDOWS, config, 5)

    def planned(documents: float) -> int:
        return plan_documents_at_once(
            model, WINDOWS, config, batches, int((kept + documents * each) / 0.8) + 9
        )

    assert [planned(documents) for documents in (1, 1.9, 3, 4, 100)] == [1, 1, 3, 4, 4]
    assert plan_documents_at_once(model, WINDOWS, config, batches, None) == 4
    with pytest.raises(LoraMemoryError, match="adapters of rank 2 for 4 documents take"):
        planned(0.9)


@pytest.mark.parametrize("beta_first", [0.0, 0.5])
def test_the_plan_counts_what_a_learner_takes(beta_first: float) -> None:
    model, config = network(), replace(STRONG, beta_first=beta_first)
    learner = LoraLearner(model, config, 2)
    taken = [learner._store_SP, learner.gradient_BP, learner.second_BP, learner.first_BP]
    taken_bytes = sum(tensor.nbytes for tensor in taken if tensor is not None)
    kept, each = lora_bytes(model, WINDOWS, config, 5)
    without = lora_bytes(model, WINDOWS, replace(config, rank=1), 5)
    adapters = 2 * (each - without[1])
    assert kept == learner._store_SP.nbytes
    assert 2 * adapters == taken_bytes - kept
