"""Nothing at the input sees across a document's start."""

import pytest
import torch

from golf.model.config import ModelConfig
from golf.model.embeddings import HASH_FACTORS, NgramHash, SmearAdd, SmearGate, ngram_buckets

BOS = 1


def config(width: int) -> ModelConfig:
    return ModelConfig(
        width=width, num_heads=1, num_kv_heads=1, rotary_dims=2, bigram_buckets=16, bigram_width=4, bos_id=BOS
    )


TOKENS_BT = torch.tensor([[5, 9, BOS, 7, 7, BOS, BOS, 3]])


def test_buckets_hash_the_pair_and_are_zero_without_a_previous_token():
    buckets = ngram_buckets(TOKENS_BT, 2, 2048, BOS)[0].tolist()
    expected = [
        (36313 * token + 27191 * previous) % 2048 for previous, token in [(5, 9), (BOS, 7), (7, 7), (BOS, 3)]
    ]
    assert buckets == [0, expected[0], 0, expected[1], expected[2], 0, 0, expected[3]]


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_ngrams_hash_their_tokens_and_are_zero_where_the_document_has_fewer(order):
    tokens = [5, 9, 8, 4, 6, BOS, 7, 7, 6, 5, 3, BOS, BOS, 3]
    buckets = ngram_buckets(torch.tensor([tokens]), order, 2048, BOS)[0].tolist()
    start, expected = 0, []
    for position, token in enumerate(tokens):
        start = position if token == BOS else start
        last = tokens[position - order + 1 : position + 1][::-1]
        hashed = sum(factor * each for factor, each in zip(HASH_FACTORS, last, strict=False)) % 2048
        expected.append(hashed if position - start >= order - 1 else 0)
    assert buckets == expected and all(buckets[4:5] + buckets[10:11]) and not any(buckets[11:13])
    for length in (1, 2, 3):
        assert (
            ngram_buckets(torch.tensor([tokens[:length]]), order, 2048, BOS)[0].tolist() == buckets[:length]
        )


def test_smear_leaves_document_starts_alone_and_blends_the_rest():
    torch.manual_seed(0)
    smear = SmearGate(config(4))
    torch.nn.init.normal_(smear.gate)
    x = torch.randn(1, 8, 4)
    out = smear(x, TOKENS_BT)
    gate = smear.gate.sigmoid()
    for position in (0, 2, 5, 6):
        assert torch.equal(out[0, position], x[0, position])
    for position in (1, 3, 4, 7):
        expected = (1 - gate) * x[0, position] + gate * x[0, position - 1]
        torch.testing.assert_close(out[0, position], expected)


def test_a_zero_table_adds_nothing():
    bigram = NgramHash(config(8), 2, 16)
    torch.nn.init.normal_(bigram.projection.weight)
    assert not bigram(TOKENS_BT).any()


def test_the_added_smear_follows_its_formula_and_is_masked_at_document_starts():
    torch.manual_seed(0)
    smear = SmearAdd(config(16))
    x = torch.randn(1, 8, 16)
    assert torch.equal(smear(x, TOKENS_BT), x), "it starts as nothing"
    torch.nn.init.normal_(smear.gate)
    torch.nn.init.normal_(smear.strength)
    out = smear(x, TOKENS_BT)
    for position in (0, 2, 5, 6):
        assert torch.equal(out[0, position], x[0, position])
    for position in (1, 3, 4, 7):
        share = smear.strength * torch.sigmoid(smear.gate @ x[0, position, :12])
        torch.testing.assert_close(out[0, position], x[0, position] + share * x[0, position - 1])
