"""The network: tokens in, logits out.

Shapes: B batch, T time, L last positions, D width, V vocabulary, S skips.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from golf.model.attention import Attention
from golf.model.embeddings import BigramHash, SmearAdd, SmearGate
from golf.model.feedforward import FeedForward
from golf.model.layers import GATE_INPUTS, Embedding, Linear, Softcap, TiedHead, rms_norm
from golf.model.passes import Visit, plan_visits, visit_order
from golf.model.positions import rotary_tables
from golf.model.residual import Block, LaneBlock, join_skip

MOST_LOOP_VISITS = 16
"""Far beyond what helps; it bounds the work that an artifact can ask for."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of the network; the defaults are the `seed` model, 26,666,073 parameters."""

    vocab_size: int = 1024
    """Tokens in the vocabulary."""
    num_layers: int = 11
    """Blocks; the first half feeds skips to the second."""
    width: int = 512
    """Channels of the residual stream."""
    num_heads: int = 8
    """Query heads; width / num_heads is the head width."""
    num_kv_heads: int = 4
    """Key/value heads, each shared by num_heads / num_kv_heads query heads."""
    mlp_hidden: int = 1536
    """Hidden units of each feed-forward sublayer."""
    context: int = 1024
    """Tokens of context in training, and in scoring unless said otherwise."""
    rotary_dims: int = 16
    """Dimensions of each head that carry position."""
    rotary_base: float = 50_000.0
    """Base of the rotary angles."""
    query_gain: float = 1.5
    """Initial gain of each query head after its norm."""
    exclusive_attention: bool = False
    """Whether each position's own value is taken out of its attention output."""
    attention_gate: float = 0.0
    """s in sigmoid(s W x), the factor on each head's output; 0 leaves the gates out."""
    activation_slope: float = 0.0
    """s in the feed-forward's activation max(u, s u)^2."""
    skip_gates: bool = False
    """Whether a skip is blended into the stream by a learned gate; otherwise it is added."""
    lane_blocks: int = 0
    """Last blocks in which attention and feed-forward run side by side on two lanes."""
    loop_first: int = 0
    """First of the blocks that are visited more than once."""
    loop_last: int = 0
    """Last of them."""
    loop_visits: int = 1
    """How often they are visited, as a group; 1 for no recurrence."""
    logit_softcap: float = 30.0
    """c in c * tanh(logit / c)."""
    smear: Literal["blend", "add", "off"] = "blend"
    """How the embedding takes in the one before it: blended per channel, added behind a gate, or not."""
    bigram_buckets: int = 2048
    """Rows of the hashed bigram table; 0 leaves it out."""
    bigram_width: int = 64
    """Columns of the hashed bigram table."""
    embedding_std: float = 0.005
    """Standard deviation of the token embedding at initialisation."""
    output_init: Literal["scaled", "zero"] = "scaled"
    """Attention and feed-forward outputs start orthogonal with gain 1 / sqrt(2 num_layers), or at zero."""
    bos_id: int = 1
    """The token that starts each document."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"width {self.width} must divide into num_heads {self.num_heads}, "
                f"and num_heads into num_kv_heads {self.num_kv_heads}"
            )
        if self.rotary_dims % 2 or not 0 < self.rotary_dims <= self.width // self.num_heads:
            raise ValueError(
                f"rotary_dims is {self.rotary_dims}; expected an even number up to the head width "
                f"{self.width // self.num_heads}"
            )
        for name in ("vocab_size", "num_layers", "mlp_hidden", "context", "bigram_width"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}; expected at least 1")
        if self.bigram_buckets < 0:
            raise ValueError(f"bigram_buckets is {self.bigram_buckets}; expected at least 0")
        if (self.attention_gate or self.smear == "add") and self.width < GATE_INPUTS:
            raise ValueError(f"width is {self.width}; a gate reads {GATE_INPUTS} channels")
        self._check_passes()

    def _check_passes(self) -> None:
        if not 0 <= self.loop_first <= self.loop_last < self.num_layers:
            raise ValueError(
                f"loop_first {self.loop_first} and loop_last {self.loop_last} must be blocks in this order; "
                f"there are {self.num_layers}"
            )
        if not 1 <= self.loop_visits <= MOST_LOOP_VISITS:
            raise ValueError(f"loop_visits is {self.loop_visits}; expected 1 to {MOST_LOOP_VISITS}")
        looped = self.loop_last if self.loop_visits > 1 else -1
        most_lanes = self.num_layers - max(self.num_layers // 2, looped + 1)
        if not 0 <= self.lane_blocks <= most_lanes:
            raise ValueError(
                f"lane_blocks is {self.lane_blocks}; expected 0 to {most_lanes}, the blocks of the second "
                "half behind those that loop"
            )


class GPT(nn.Module):
    """The network that a config describes; by default the seed's (openai/parameter-golf #334).

    Parameters are fp32 masters; activations have `compute_dtype`; logits come out in fp32. `looping` says
    whether the blocks that loop are visited more than once: training begins without, all else runs with it.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.looping = True
        self._plans = [
            plan_visits(visit_order(config.num_layers, config.loop_first, config.loop_last, visits))
            for visits in (1, config.loop_visits)
        ]
        num_skips = sum(visit.keeps for visit in self._plans[True])
        self.embedding = Embedding(config.vocab_size, config.width)
        self.bigram = build_bigram(config)
        self.smear = build_smear(config)
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.num_layers))
        self.head, self.softcap = TiedHead(), Softcap(config.logit_softcap)
        self.skip_weights = nn.Parameter(torch.ones(num_skips, config.width))
        self.skip_gates = nn.Parameter(torch.zeros(num_skips, config.width)) if config.skip_gates else None

    @property
    def plan(self) -> tuple[Visit, ...]:
        """The visits of a forward pass as the model stands."""
        return self._plans[self.looping]

    @property
    def num_visits(self) -> tuple[int, int]:
        """Visits of a forward pass without and with recurrence."""
        return len(self._plans[False]), len(self._plans[True])

    def initialize(self) -> None:
        """Draws all weights from torch's global generator: orthogonal matrices, normal embedding."""
        nn.init.normal_(self.embedding.weight, std=self.config.embedding_std)
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                is_output = name.endswith(("attention.output", "feedforward.down"))
                if is_output and self.config.output_init == "zero":
                    nn.init.zeros_(module.weight)
                else:
                    output_gain = (2 * self.config.num_layers) ** -0.5
                    nn.init.orthogonal_(module.weight, gain=output_gain if is_output else 1.0)

    def forward(self, inputs_BT: Tensor, num_last: int | None = None) -> Tensor:
        """Logits of the last `num_last` positions (all by default), fp32, shape (B, num_last, V).

        With `num_last` below T the last visit's queries and everything after them are computed for those
        positions alone: the same numbers for less work.
        """
        length = inputs_BT.size(1)
        num_last = length if num_last is None else num_last
        config, plan = self.config, self.plan
        rotary = rotary_tables(length, config.rotary_dims, config.rotary_base, inputs_BT.device)
        stream = embedding_BTD = self._embed(inputs_BT)
        kept: list[Tensor] = []
        for index, visit in enumerate(plan):
            if visit.layer == config.num_layers - config.lane_blocks:
                stream = (stream, stream)
            if visit.skip is not None:
                gate_D = None if self.skip_gates is None else self.skip_gates[visit.skip]
                stream = join_skip(stream, kept.pop(), self.skip_weights[visit.skip], gate_D)
            num_needed = num_last if index == len(plan) - 1 else length
            stream = self.blocks[visit.layer](stream, embedding_BTD, rotary, num_needed)
            if visit.keeps:
                kept.append(stream)
        return self.softcap(self.head(rms_norm(stream), self.embedding.weight).float())

    def _embed(self, inputs_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(inputs_BT)
        if self.bigram is not None:
            x_BTD = x_BTD + self.bigram(inputs_BT)
        x_BTD = rms_norm(x_BTD).to(self.compute_dtype)
        return x_BTD if self.smear is None else self.smear(x_BTD, inputs_BT)


def build_bigram(config: ModelConfig) -> BigramHash | None:
    """The hashed bigram, if the config has one."""
    if not config.bigram_buckets:
        return None
    return BigramHash(config.bigram_buckets, config.bigram_width, config.width, config.bos_id)


def build_smear(config: ModelConfig) -> SmearGate | SmearAdd | None:
    """The embedding's view of the previous position."""
    if config.smear == "off":
        return None
    return SmearGate(config.width, config.bos_id) if config.smear == "blend" else SmearAdd(config.bos_id)


def build_block(config: ModelConfig, layer: int) -> Block:
    """Block `layer`; 1/sqrt(layer + 1) damps its inputs at every visit (openai/parameter-golf #315)."""
    attention = Attention(
        config.width,
        config.num_heads,
        config.num_kv_heads,
        config.query_gain,
        config.exclusive_attention,
        config.attention_gate,
    )
    feedforward = FeedForward(config.width, config.mlp_hidden, config.activation_slope)
    damping = 1.0 / math.sqrt(layer + 1)
    if layer < config.num_layers - config.lane_blocks:
        return Block(config.width, damping, attention, feedforward)
    return LaneBlock(config.width, damping, attention, feedforward, layer == config.num_layers - 1)
