"""The network against its definition: size, causality, document starts, the trimmed last visit.

Every switch is held to the same properties, alone and with all others.
"""

from dataclasses import replace

import pytest
import torch
from model_switches import ALONE, CONFIGS, DENSE, GPT2_LIKE, TINY, TOGETHER

from golf.model.attention import Attention
from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.kinds import ATTENTIONS
from golf.model.layers import Linear
from golf.model.loss import token_nats
from golf.model.roles import roles_of

every_switch = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def make_model(config: ModelConfig = TINY, seed: int = 0) -> GPT:
    """A model whose every parameter is random, those that start at zero too."""
    torch.manual_seed(seed)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def random_tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, TINY.vocab_size, (batch, length), generator=generator)


def test_the_seed_model_has_exactly_26666073_parameters():
    with torch.device("meta"):
        model = GPT(ModelConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 26_666_073


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("num_last", [1, 7, 23, 24])
def test_the_last_positions_alone_give_the_same_logits(num_layers, num_last):
    assert_trimming_is_exact(make_model(replace(TINY, num_layers=num_layers)), num_last)


@every_switch
@pytest.mark.parametrize("looping", [False, True])
def test_trimming_is_exact_with_every_switch(config, looping):
    model = make_model(config)
    model.looping = looping
    assert_trimming_is_exact(model, 7)


def assert_trimming_is_exact(model: GPT, num_last: int) -> None:
    tokens_BT = random_tokens(2, 24)
    with torch.no_grad():
        full, trimmed = model(tokens_BT)[:, -num_last:], model(tokens_BT, num_last)
    assert trimmed.shape == (2, num_last, TINY.vocab_size)
    torch.testing.assert_close(trimmed, full, atol=1e-5, rtol=0)


@every_switch
def test_no_logit_depends_on_a_later_token(config):
    model = make_model(config)
    tokens_BT = random_tokens(1, 24)
    with torch.no_grad():
        before = model(tokens_BT)
        for position in (1, 11, 23):
            changed_BT = tokens_BT.clone()
            changed_BT[0, position:] = random_tokens(1, 24 - position, seed=9)
            after = model(changed_BT)
            assert torch.equal(after[:, :position], before[:, :position])
            assert not torch.equal(after[:, position:], before[:, position:])


@every_switch
def test_what_is_mixed_into_the_embedding_stops_at_a_document_start(config):
    model = make_model(config)
    tokens_BT = random_tokens(1, 24)
    tokens_BT[0, 10] = config.bos_id
    changed_BT = tokens_BT.clone()
    changed_BT[0, 9] = 2 if tokens_BT[0, 9] != 2 else 3
    before, after = (model.embed(tokens)[0, 10:] for tokens in (tokens_BT, changed_BT))
    assert torch.equal(before, after)


@every_switch
def test_every_parameter_moves_the_loss(config):
    model = make_model(config)
    model(random_tokens(2, 24)).square().mean().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("config", ALONE.values(), ids=ALONE.keys())
def test_every_switch_changes_the_logits(config):
    plain = replace(TINY, num_layers=5)
    tokens_BT = random_tokens(1, 24)
    with torch.no_grad():
        model, reference = make_model(config), make_model(plain)
        reference.load_state_dict(model.state_dict() | extra_weights(reference, model), strict=False)
        assert not torch.allclose(model(tokens_BT), reference(tokens_BT), atol=1e-3)


def extra_weights(reference: GPT, model: GPT) -> dict[str, torch.Tensor]:
    """The reference's own values where the two differ in shape."""
    own = model.state_dict()
    return {
        name: weight
        for name, weight in reference.state_dict().items()
        if name not in own or own[name].shape != weight.shape
    }


def test_recurrence_switched_off_is_the_network_without_it():
    config = ALONE["loop"]
    looped, plain = make_model(config), make_model(replace(TINY, num_layers=5))
    weights = looped.state_dict()
    weights["skip_weights"] = weights["skip_weights"][:2]
    plain.load_state_dict(weights)
    tokens_BT = random_tokens(1, 24)
    with torch.no_grad():
        assert not torch.allclose(looped(tokens_BT), plain(tokens_BT), atol=1e-3)
        looped.looping = False
        assert torch.equal(looped(tokens_BT), plain(tokens_BT))


@pytest.mark.parametrize(
    "config", [TINY, TOGETHER, DENSE, GPT2_LIKE], ids=["seed", "together", "dense", "gpt2"]
)
def test_the_loss_compiles_into_one_graph(config):
    model, tokens_BT = make_model(config), random_tokens(2, 24)

    def loss() -> torch.Tensor:
        return token_nats(model(tokens_BT), tokens_BT).mean()

    for looping in (False, True):
        model.looping = looping
        explained = torch._dynamo.explain(loss)()
        assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


def test_the_logits_stay_inside_the_softcap():
    model = make_model()
    with torch.no_grad():
        model.embedding.weight *= 1e3
    assert model(random_tokens(1, 24)).abs().max() <= TINY.logit_softcap


def test_weights_start_orthogonal_with_damped_outputs():
    torch.manual_seed(0)
    model = GPT(TINY)
    model.initialize()
    block = model.blocks[0]
    identity = torch.eye(TINY.width)
    query, output = block.attention.query.weight, block.attention.output.weight
    torch.testing.assert_close(query @ query.T, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(output @ output.T, identity / (2 * TINY.num_layers), atol=1e-5, rtol=0)


def test_outputs_start_at_zero_when_asked_for():
    model = GPT(replace(TINY, output_init="zero"))
    model.initialize()
    assert (
        not model.blocks[1].attention.output.weight.any()
        and not model.blocks[1].feedforward.down.weight.any()
    )
    assert model.blocks[1].feedforward.up.weight.any()


def test_bfloat16_activations_stay_near_the_fp32_logits():
    model = make_model()
    tokens_BT = random_tokens(2, 24)
    with torch.no_grad():
        exact = model(tokens_BT)
        model.compute_dtype = torch.bfloat16
        rounded = model(tokens_BT)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_heads": 5},
        {"num_kv_heads": 3},
        {"rotary_dims": 3},
        {"rotary_dims": 10},
        {"num_layers": 0},
        {"bigram_buckets": -1},
        {"recurrence_last": 3},
        {"recurrence_first": 2, "recurrence_last": 1},
        {"recurrence": 0},
        {"recurrence": 1000},
        {"parallel_residual_blocks": 3},
        {"parallel_residual_blocks": 1, "recurrence_last": 2, "recurrence": 2},
        {"width": 8, "rotary_dims": 2, "smear": "add"},
        {"positions": "sine"},
        {"norm": "batch"},
        {"num_experts": 0},
        {"num_experts": 65},
        {"attention": "co4"},
        {"attention": "mamba"},
        {"feedforward": "relu3"},
        {"plain_blocks": True, "parallel_residual_blocks": 1},
        {"dense_connections": True, "skip_gates": True},
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[-1]):
        GPT(replace(TINY, **wrong))


def test_positions_beyond_the_learned_table_are_refused():
    with pytest.raises(ValueError, match="25 tokens; the learned positions end at 24"):
        make_model(GPT2_LIKE)(random_tokens(1, 25))


def test_a_learned_position_moves_the_logits_from_there_on():
    model, tokens_BT = make_model(GPT2_LIKE), random_tokens(1, 24)
    with torch.no_grad():
        before = model(tokens_BT)
        model.positions.weight[7] += 1.0
        moved = (model(tokens_BT) != before).any(-1)[0]
    assert moved.tolist() == [False] * 7 + [True] * 17


def test_a_plain_model_equals_gpt2_written_out():
    model, tokens_BT = make_model(GPT2_LIKE), random_tokens(1, 24)
    x = model.embedding.weight[tokens_BT] + model.positions.weight
    for block in model.blocks:
        attention, feedforward = block.attention, block.feedforward
        h = layer_norm(x, block.attention_norm)
        q, k, v = (
            (h @ p.weight.T).unflatten(-1, (4, 8)) for p in (attention.query, attention.key, attention.value)
        )
        scores = torch.einsum("bihe,bjhe->bhij", q, k) / 8**0.5
        scores = scores.masked_fill(torch.ones(24, 24).triu(1).bool(), -torch.inf).softmax(-1)
        x = x + torch.einsum("bhij,bjhe->bihe", scores, v).flatten(2) @ attention.output.weight.T
        u = layer_norm(x, block.feedforward_norm) @ feedforward.up.weight.T
        u = 0.5 * u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3)))
        x = x + u @ feedforward.down.weight.T
    torch.testing.assert_close(
        model(tokens_BT), layer_norm(x, model.norm) @ model.embedding.weight.T, atol=1e-4, rtol=0
    )


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.gain + norm.offset


def test_a_parameter_without_a_role_is_refused():
    class Unknown(Attention):
        def __init__(self, config):
            super().__init__(config)
            self.extra = torch.nn.Parameter(torch.zeros(3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ATTENTIONS, "unknown", Unknown)
        with pytest.raises(ValueError, match=r"parameter blocks\.0\.attention\.extra has no role"):
            GPT(replace(TINY, attention="unknown"))


@every_switch
def test_every_parameter_has_one_role(config):
    model = GPT(config)
    roles = roles_of(model)
    assert set(roles) == {name for name, _ in model.named_parameters()}
    matrices = {name for name, role in roles.items() if role.group == "matrix"}
    assert matrices == {f"{n}.weight" for n, module in model.named_modules() if isinstance(module, Linear)}
    small = {name for name, role in roles.items() if role.kind == "small"}
    assert all(name.startswith("blocks.") for name, role in roles.items() if role.kind == "matrix")
    assert {"embedding.weight"} <= set(roles) - small
