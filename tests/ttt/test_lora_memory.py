from dataclasses import replace

import pytest
import torch
from score_toys import BOS_ID, ToyVocabulary, toy_documents
from test_lora import STRONG, WINDOWS, network

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.kernels import cpu_flash_shares_heads
from golf.model.loss import token_nats
from golf.model.state import ForwardState
from golf.score.scorer import Scoring
from golf.score.windows import WindowConfig
from golf.ttt.document_step import PastInputs
from golf.ttt.lora import LoraConfig, LoraLearner
from golf.ttt.methods import LoraMemoryError, lora_bytes, plan_groups, plan_lora


def test_as_many_documents_learn_together_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = network(), replace(STRONG, batch_documents=4)
    tokens = toy_documents([30, 28, 26, 24])
    batches = plan_lora(tokens, BOS_ID, config)
    kept, each = lora_bytes(model, WINDOWS, config, 5)

    def planned(documents: float | None) -> int:
        memory = None if documents is None else int((kept + documents * each) / 0.8) + 9
        monkeypatch.setattr("golf.ttt.methods.free_bytes", lambda *device: memory)
        return plan_groups(Scoring(model, tokens, ToyVocabulary(), WINDOWS), config, batches)[0]

    # Three of four that fit are two and two.
    assert [planned(documents) for documents in (1, 1.9, 3, 4, 100)] == [1, 1, 2, 4, 4]
    assert planned(None) == 4
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


@pytest.mark.skipif(not cpu_flash_shares_heads(), reason="the math kernel of torch 2.8 keeps all weights")
def test_the_plan_counts_what_the_backward_pass_of_a_chunk_keeps() -> None:
    config = ModelConfig(
        vocab_size=64, num_layers=4, width=64, num_heads=4, num_kv_heads=2, mlp_hidden=256, context=512
    )
    model, chunk, documents = GPT(config), 8, 2
    model.initialize()
    lora = LoraConfig(rank=4, batch_documents=documents, projections=("query", "value", "up"))
    learner, past = LoraLearner(model, lora), PastInputs()
    learner.start(0, documents)
    tokens_BT = torch.randint(2, 64, (documents, 512))
    with torch.no_grad():
        model(tokens_BT[:, :-chunk], state=ForwardState(past.window(documents, 0, 512 - chunk)))
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[:1] == (documents,):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        state = learner.state(documents, past.window(documents, 512 - chunk, chunk))
        nats_BL = token_nats(model(tokens_BT, chunk, state), tokens_BT[:, -chunk:])
    kept.pop(learner._store_SP.untyped_storage().data_ptr(), None)
    _, each = lora_bytes(model, WindowConfig(context=512), lora, chunk)
    moments = (learner.gradient_BP.nbytes + learner.second_BP.nbytes) / documents
    windows = sum(x_BTD.nbytes for x_BTD in past.kept.values()) / documents
    assert nats_BL.requires_grad
    assert 1.0 < (each - moments - windows) / (sum(kept.values()) / documents) < 2.0
