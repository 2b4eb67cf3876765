"""Reading with a cache against reading everything at once."""

import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.decoder import Decoder
from golf.model.gpt import GPT

NETWORKS = {
    "plain": {"smear": "off", "bigram_buckets": 0},
    "bigram-and-smear": {},
    "smear-add": {"smear": "add"},
    "smear-add-raw": {"smear": "add-raw"},
    "loops": {"recurrence_first": 1, "recurrence_last": 2, "recurrence": 3},
    "lanes-and-gates": {
        "parallel_residual_blocks": 2,
        "skip_gates": True,
        "xsa": True,
        "attention_gate": 0.5,
    },
    "learned-positions": {"positions": "learned"},
    "alibi-with-sinks": {"positions": "alibi", "attention_sinks": True},
    "rotary-and-alibi": {"positions": "rotary+alibi", "attention_gate_dense": True},
    "no-positions": {"positions": "none", "qk_norm": False, "norm": "layer"},
    "modulated": {"attention": "co4", "num_kv_heads": 2},
    "experts": {"num_experts": 3, "heterogeneous_experts": True, "feedforward": "swiglu"},
    "documents-apart": {"document_mask": True},
    "dense": {
        "dense_connections": True,
        "parallel_residual_blocks": 1,
        "recurrence_first": 1,
        "recurrence_last": 2,
        "recurrence": 2,
    },
    "plain-blocks": {"plain_blocks": True, "feedforward": "gelu", "norm": "rms-gain"},
}


def network(**changes: object) -> GPT:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 50,
        "num_layers": 4,
        "width": 16,
        "num_heads": 2,
        "num_kv_heads": 1,
        "mlp_hidden": 24,
        "context": 20,
        "rotary_dims": 4,
        "bigram_buckets": 16,
        "bigram_width": 4,
        "embedding_std": 0.5,
    }
    model = GPT(ModelConfig(**{**sizes, **changes}))
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def random_tokens(rows: int, length: int) -> torch.Tensor:
    """With a BOS in the middle, behind which bigram and smear look at nothing."""
    tokens_BT = torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(1))
    tokens_BT[:, 7:8] = 1
    return tokens_BT


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("pieces", [(1, 1, 1, 17), (5, 1, 1, 3, 10)], ids=str)
def test_reading_in_pieces_gives_the_logits_of_reading_at_once(changes, pieces):
    model, tokens_BT = network(**changes), random_tokens(3, 20)
    with torch.no_grad():
        wanted_BTV = model(tokens_BT)
    decoder, start = Decoder(model, 20), 0
    for length in pieces:
        found_BNV = decoder.read(tokens_BT[:, start : start + length], length)
        torch.testing.assert_close(found_BNV, wanted_BTV[:, start : start + length], atol=1e-5, rtol=1e-5)
        start += length
    assert decoder.num_read == 20


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_the_last_logits_alone_are_the_same(changes):
    model, tokens_BT = network(**changes), random_tokens(2, 12)
    with torch.no_grad():
        wanted_BTV = model(tokens_BT)
    decoder = Decoder(model, 12)
    for start, end in ((0, 4), (4, 5), (5, 12)):
        found_BV = decoder.read(tokens_BT[:, start:end])[:, -1]
        torch.testing.assert_close(found_BV, wanted_BTV[:, end - 1], atol=1e-5, rtol=1e-5)


def test_only_new_positions_are_computed():
    model, tokens_BT = network(), random_tokens(1, 16)
    seen = []
    model.blocks[0].attention.value.register_forward_hook(lambda m, i, o: seen.append(i[0].size(1)))
    decoder = Decoder(model, 16)
    for start, end in ((0, 10), (10, 11), (11, 14)):
        decoder.read(tokens_BT[:, start:end])
    assert seen == [10, 1, 3]


def test_a_network_is_as_it_was_after_reading():
    model, tokens_BT = network(), random_tokens(2, 9)
    with torch.no_grad():
        before = model(tokens_BT)
        Decoder(model, 9).read(tokens_BT)
        assert torch.equal(model(tokens_BT), before)


def test_more_than_the_room_is_refused():
    decoder = Decoder(network(), 4)
    decoder.read(random_tokens(1, 3))
    with pytest.raises(ValueError, match="2 tokens after 3; the capacity is 4"):
        decoder.read(random_tokens(1, 2))


def test_a_full_window_keeps_its_first_tokens_and_forgets_the_oldest_others():
    """In one layer without smear keys and values are each token's own: the cut text gives the same logits."""
    model = network(num_layers=1, smear="off", bigram_buckets=0)
    tokens_BT = random_tokens(2, 24)
    decoder = Decoder(model, 16, sink_tokens=3)
    for place in range(24):
        found_BNV = decoder.read(tokens_BT[:, place : place + 1])
        assert decoder.num_read <= 16
    dropped = 24 - decoder.num_read
    cut_BT = torch.cat((tokens_BT[:, :3], tokens_BT[:, 3 + dropped :]), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(found_BNV, model(cut_BT)[:, -1:], atol=1e-5, rtol=1e-5)


def test_deep_networks_remember_what_their_sinks_saw_and_differ_without_them():
    model, tokens_BT = network(), random_tokens(1, 40)
    last = {}
    for sinks in (0, 4):
        decoder = Decoder(model, 16, sink_tokens=sinks)
        for place in range(40):
            last[sinks] = decoder.read(tokens_BT[:, place : place + 1])
    assert all(logits.isfinite().all() for logits in last.values())
    assert not torch.allclose(last[0], last[4], atol=1e-3)


def test_a_window_that_is_not_full_reads_as_without_sinks():
    model, tokens_BT = network(), random_tokens(2, 16)
    assert torch.equal(
        Decoder(model, 16, sink_tokens=4).read(tokens_BT, 16), Decoder(model, 16).read(tokens_BT, 16)
    )
    with pytest.raises(ValueError, match="sink_tokens is 9; expected 0 to 8"):
        Decoder(model, 16, sink_tokens=9)
