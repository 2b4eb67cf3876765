"""A tiny network, and every switch of its config, alone and with others."""

from dataclasses import replace

from golf.model.config import ModelConfig

TINY = ModelConfig(
    vocab_size=64,
    num_layers=3,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_hidden=48,
    context=24,
    rotary_dims=4,
    bigram_buckets=32,
    bigram_width=8,
)

SWITCHES = {
    "exclusive": {"xsa": True},
    "attention-gate": {"attention_gate": 0.5},
    "slope": {"activation_slope": 0.3},
    "skip-gates": {"skip_gates": True},
    "lanes": {"parallel_residual_blocks": 2},
    "loop": {"recurrence_first": 1, "recurrence_last": 2, "recurrence": 3},
    "smear-add": {"smear": "add"},
    "smear-add-raw": {"smear": "add-raw"},
    "smear-off": {"smear": "off"},
    "no-bigram": {"bigram_buckets": 0},
    "ngrams": {"ngram_buckets": (24, 20)},
}
VARIANTS = {
    "learned": {"positions": "learned"},
    "alibi": {"positions": "alibi"},
    "rotary+alibi": {"positions": "rotary+alibi"},
    "no-positions": {"positions": "none"},
    "bare-queries": {"qk_norm": False},
    "dense-gate": {"attention_gate_dense": True},
    "sinks": {"attention_sinks": True},
    "modulated": {"attention": "co4", "num_kv_heads": 4},
    "gain": {"norm": "rms-gain"},
    "layer-norm": {"norm": "layer"},
    "gelu": {"feedforward": "gelu"},
    "swiglu": {"feedforward": "swiglu"},
    "xielu": {"feedforward": "xielu"},
    "experts": {"num_experts": 4},
    "experts-unlike": {"num_experts": 3, "heterogeneous_experts": True},
    "plain": {"plain_blocks": True},
    "dense": {"dense_connections": True},
    "no-softcap": {"logit_softcap": 0.0},
}
"""Switches of studies."""
GPT2_LIKE = replace(
    TINY,
    num_layers=2,
    num_kv_heads=4,
    positions="learned",
    norm="layer",
    feedforward="gelu",
    qk_norm=False,
    plain_blocks=True,
    logit_softcap=0.0,
    smear="off",
    bigram_buckets=0,
)
ALONE = {
    name: replace(TINY, **({"num_layers": 5} | fields)) for name, fields in {**SWITCHES, **VARIANTS}.items()
}
TOGETHER = replace(
    TINY,
    num_layers=5,
    **{name: value for fields in SWITCHES.values() for name, value in fields.items()} | {"smear": "add"},
)
DENSE = replace(TOGETHER, skip_gates=False, dense_connections=True)
CONFIGS = {"seed": TINY, **ALONE, "together": TOGETHER, "gpt2": GPT2_LIKE, "all-dense": DENSE}
