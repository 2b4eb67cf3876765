"""Prefix tokens: the table against every pair of pieces, the loss against its formula."""

import math

import numpy as np
import pytest
import torch
from data_samples import SHARED, sample_text
from model_switches import TINY

from golf.data.vocabulary import NO_PREFIX, Vocabulary
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.prepare.tokenizer import train_tokenizer
from golf.train.config import TrainConfig
from golf.train.objective import Objective

PREFIXES = torch.tensor([NO_PREFIX] * 20 + [token - 20 for token in range(20, 64)])


def text_bytes(vocabulary: Vocabulary, token: int) -> bytes:
    piece = vocabulary.piece(token)
    if piece.startswith("<0x"):
        return bytes([int(piece[1:-1], 16)])
    return b"" if piece in ("<pad>", "<s>", "</s>", "<unk>") else piece.replace("\u2581", " ").encode()


def vocabularies() -> list[Vocabulary]:
    texts = [sample_text(seed) for seed in range(100)]
    made = [Vocabulary(train_tokenizer(texts, 400, marks), "made") for marks in (None, "marks", "fused")]
    file = SHARED / "tokenizers" / "fineweb_1024_bpe.model"
    return [*made, *([Vocabulary.load(file)] if file.exists() else [])]


def test_each_prefix_is_a_proper_one_and_no_token_is_a_longer_one():
    for vocabulary in vocabularies():
        texts = [text_bytes(vocabulary, token) for token in range(vocabulary.size)]
        prefixes = vocabulary.prefix_tokens()
        assert prefixes.shape == (vocabulary.size,) and prefixes.dtype == np.int64
        for token, text in enumerate(texts):
            proper = {other for other in texts if other and text.startswith(other) and other != text}
            longest = max(proper, key=len, default=b"")
            found = int(prefixes[token])
            assert (b"" if found == NO_PREFIX else texts[found]) == longest
        assert NO_PREFIX in prefixes and len(set(prefixes.tolist())) > 20


def test_a_character_goes_before_the_piece_of_its_byte():
    vocabulary = vocabularies()[0]
    token_of = {vocabulary.piece(token): token for token in range(vocabulary.size)}
    prefixes = vocabulary.prefix_tokens()
    assert "<0x65>" in token_of and "er" in token_of
    assert prefixes[token_of["er"]] == token_of["e"]
    assert prefixes[token_of["\u2581a"]] == token_of["\u2581"]


def made_model() -> GPT:
    torch.manual_seed(0)
    model = GPT(TINY)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def value_and_gradient(model: GPT, nats) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    inputs, targets = torch.randint(2, 64, (2, 2, 24), generator=torch.Generator().manual_seed(0))
    loss = nats(model, inputs, targets).mean()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), gradients


def plain(model, inputs, targets):
    return token_nats(model(inputs), targets)


@pytest.mark.parametrize(
    ("progress", "weight"), [(0.0, 0.5), (0.3, 0.5), (0.4, 1 / 3), (0.59, 0.5 / 30), (0.6, 0.0), (1.0, 0.0)]
)
def test_the_gradient_is_that_of_both_targets_and_the_value_that_of_the_next_token(progress, weight):
    model, objective = made_model(), Objective(TrainConfig(prefix_weight=0.5, prefix_until=0.6), PREFIXES)
    objective.advance(progress)

    def written_out(model, inputs, targets):
        logits = model(inputs)
        total = torch.zeros(())
        for row, target in zip(logits.flatten(0, 1), targets.flatten().tolist(), strict=True):
            normalizer = torch.log(torch.exp(row).sum())
            total = total + normalizer - row[target]
            if target >= 20:
                total = total + weight * (normalizer - row[target - 20])
        return total / targets.numel()

    own, alone = value_and_gradient(model, plain)
    value, found = value_and_gradient(model, objective.nats)
    _, expected = value_and_gradient(model, written_out)
    assert value == own
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
        assert torch.equal(found[name], alone[name]) or weight
    assert any(not torch.allclose(found[name], alone[name], rtol=1e-3) for name in found) == (weight > 0)


def test_without_a_weight_nothing_changes():
    model = made_model()
    objective = Objective(TrainConfig(prefix_until=0.6))
    assert objective.is_plain and objective.starts == [0.0]
    own, alone = value_and_gradient(model, plain)
    value, found = value_and_gradient(model, objective.nats)
    assert value == own and all(torch.equal(found[name], alone[name]) for name in alone)


@pytest.mark.parametrize("until", [0.0, -0.1, 1.01, math.nan])
def test_an_end_outside_the_run_is_refused(until):
    with pytest.raises(ValueError, match=r"train\.prefix_until"):
        TrainConfig(prefix_until=until)


def test_a_training_without_prefixes_is_refused():
    with pytest.raises(ValueError, match=r"train\.prefix_weight is 0\.25"):
        Objective(TrainConfig(prefix_weight=0.25))
