"""The kinds of each part of the network by name: a new kind is a file with its class, and a line here."""

from functools import partial

from torch import nn

from golf.model.attention import Attention, ModulatedAttention
from golf.model.config import ModelConfig
from golf.model.embeddings import SmearAdd, SmearGate
from golf.model.feedforward import Experts, FeedForward, GELUFeedForward, SwiGLUFeedForward, XIELUFeedForward
from golf.model.layers import LayerNorm, RMSNormGain

ATTENTIONS = {
    "gqa": Attention,
    "co4": ModulatedAttention,
}
"""Attention sublayers (`ModelConfig.attention`): constructors that take the config."""
FEEDFORWARDS = {
    "relu2": FeedForward,
    "gelu": GELUFeedForward,
    "swiglu": SwiGLUFeedForward,
    "xielu": XIELUFeedForward,
}
"""Feed-forward sublayers (`ModelConfig.feedforward`): constructors of (config, hidden units)."""
NORMS = {
    "rms": partial(nn.RMSNorm, elementwise_affine=False),
    "rms-gain": RMSNormGain,
    "layer": LayerNorm,
}
"""Norms (`ModelConfig.norm`): constructors that take the width."""
SMEARS = {
    "blend": SmearGate,
    "add": SmearAdd,
    "add-raw": SmearAdd,
}
"""Smears (`ModelConfig.smear`): constructors that take the config."""


def build_feedforward(config: ModelConfig) -> nn.Module:
    """The feed-forward sublayer of one block."""
    kind = FEEDFORWARDS[config.feedforward]
    return Experts(config, kind) if config.num_experts > 1 else kind(config, config.mlp_hidden)
