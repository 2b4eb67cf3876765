from dataclasses import replace

import pytest
import torch
from torch import Tensor

from golf.model import document_mask
from golf.model.config import ModelConfig
from golf.model.document_mask import VarlenKernel, document_bounds, visible_keys
from golf.model.gpt import GPT
from golf.model.kernels import masked_attention
from golf.model.loss import token_nats

BOS = 1
TINY = ModelConfig(
    vocab_size=50,
    num_layers=3,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_hidden=48,
    context=48,
    rotary_dims=4,
    bigram_buckets=16,
    bigram_width=4,
    smear="add",
    parallel_residual_blocks=1,
    recurrence_first=0,
    recurrence_last=0,
    recurrence=2,
    xsa=True,
    document_mask=True,
)


def build(config: ModelConfig) -> GPT:
    torch.manual_seed(3)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def document(seed: int, length: int) -> Tensor:
    tokens = torch.randint(2, 50, (length,), generator=torch.Generator().manual_seed(seed))
    tokens[0] = BOS
    return tokens


DOCUMENTS = [document(0, 13), document(1, 2), document(2, 1), document(3, 25), document(4, 7)]
PACKED = torch.cat(DOCUMENTS)


@torch.no_grad()
def test_logits_of_a_document_do_not_depend_on_its_neighbours():
    model = build(TINY)
    logits = model(PACKED[None])[0]
    position = 0
    for tokens in DOCUMENTS:
        alone = model(tokens[None])[0]
        here = logits[position : position + len(tokens)]
        torch.testing.assert_close(here, alone, atol=2e-5, rtol=0)
        position += len(tokens)
    together = build(replace(TINY, document_mask=False))(PACKED[None])[0]
    torch.testing.assert_close(together[:13], logits[:13], atol=2e-5, rtol=0)
    assert (together[13:] - logits[13:]).abs().max() > 1e-3


def test_loss_and_gradients_of_packed_documents_are_those_of_one_at_a_time():
    packed, alone = build(TINY), build(TINY)
    targets = torch.cat((PACKED[1:], torch.tensor([BOS])))
    loss = token_nats(packed(PACKED[None]), targets[None]).mean()
    loss.backward()
    nats = []
    for number, tokens in enumerate(DOCUMENTS):
        following = torch.cat((tokens[1:], torch.tensor([BOS])))
        nats.append(token_nats(alone(tokens[None]), following[None]).flatten())
        assert number == len(DOCUMENTS) - 1 or following[-1] == DOCUMENTS[number + 1][0]
    expected = torch.cat(nats).mean()
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    for one, other in zip(packed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_last_positions_alone_have_the_same_logits():
    model = build(TINY)
    rows = torch.stack((PACKED, PACKED.roll(5)))
    torch.testing.assert_close(model(rows, 9), model(rows)[:, -9:], atol=2e-5, rtol=0)


def test_bounds_are_where_documents_and_rows_start():
    rows = torch.stack((PACKED, PACKED.roll(5)))
    bounds = document_bounds(rows, BOS)
    starts = sorted({0, 48, *torch.nonzero(rows.flatten() == BOS).flatten().tolist()})
    assert bounds.dtype == torch.int32 and len(bounds) == 2 * 16 + 1
    assert bounds.unique().tolist() == [*starts, 96]
    assert (bounds.diff() >= 0).all() and bounds[0] == 0


def test_documents_beyond_a_rows_slots_are_one_and_end_with_the_row():
    rows = torch.full((2, 40), BOS)
    bounds = document_bounds(rows, BOS)
    assert bounds.tolist() == [*range(16), *range(40, 56), 80]


@pytest.mark.parametrize("length", [1, 3, 16, 40])
def test_attention_by_bounds_is_attention_by_mask(length: int, monkeypatch: pytest.MonkeyPatch):
    """The kernel is CUDA's; a plain one in its place shows what it is given."""

    def plain(q_NHE, k_NHE, v_NHE, bounds, same, longest, _, **options) -> Tensor:
        assert options in (
            {"window_size": (-1, 0), "enable_gqa": True},
            {"is_causal": True},
            {"window_size": (-1, 0)},
        )
        assert int(bounds.diff().max()) <= longest == length
        parts = []
        for start, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
            q, k, v = (x[start:end].transpose(0, 1)[None] for x in (q_NHE, k_NHE, v_NHE))
            kernel = torch.nn.functional.scaled_dot_product_attention
            parts.append(kernel(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
        return torch.cat([part for part in parts if len(part)])

    torch.manual_seed(0)
    tokens = torch.randint(0, 6, (3, length))
    q = torch.randn(3, 4, length, 8)
    k, v = torch.randn(2, 3, 2, length, 8)
    kernel = VarlenKernel()
    by_mask = masked_attention(q, k, v, visible_keys(tokens, BOS, length))
    for shares_keys in (True, False):
        monkeypatch.setattr(kernel, "_kernel", plain)
        monkeypatch.setattr(kernel, "_shares_keys", shares_keys)
        by_bounds = kernel(q, k, v, document_bounds(tokens, BOS))
        torch.testing.assert_close(by_bounds, by_mask, atol=1e-5, rtol=0)
    fewer = masked_attention(q[:, :, -1:], k, v, visible_keys(tokens, BOS, 1))
    torch.testing.assert_close(fewer, by_mask[:, :, -1:], atol=1e-5, rtol=0)


def test_a_torch_without_a_varlen_kernel_has_its_flash_kernel_with_gradients(monkeypatch):
    """Shapes alone: the kernel is CUDA's. Torch 2.8 and 2.9 have no torch.nn.attention.varlen."""
    monkeypatch.setattr(document_mask, "find_spec", lambda name: None)
    q, k, v = (torch.randn(3, num, 16, 8, device="meta", requires_grad=True) for num in (4, 2, 2))
    y = VarlenKernel()(q, k, v, torch.empty(7, dtype=torch.int32, device="meta"))
    y.sum().backward()
    assert y.shape == q.shape == q.grad.shape and k.grad.shape == k.shape == v.grad.shape


@pytest.mark.parametrize("change", [{"attention_sinks": True}, {"positions": "alibi"}])
def test_biases_on_attention_are_refused_beside_it(change: dict[str, object]):
    with pytest.raises(ValueError, match="document_mask goes with neither attention_sinks nor ALiBi"):
        replace(TINY, **change)


@pytest.mark.gpu
def test_the_kernel_agrees_with_the_mask_on_a_gpu():
    torch.manual_seed(0)
    tokens = torch.randint(0, 40, (4, 256), device="cuda")
    q = torch.randn(4, 8, 256, 64, device="cuda", dtype=torch.bfloat16)
    k, v = torch.randn(2, 4, 4, 256, 64, device="cuda", dtype=torch.bfloat16)
    kernel = VarlenKernel()
    exact = masked_attention(q.double(), k.double(), v.double(), visible_keys(tokens, BOS, 256))
    packed = kernel(q, k, v, document_bounds(tokens, BOS))
    torch.testing.assert_close(packed.double(), exact, atol=2e-2, rtol=0)
