"""The network: tokens in, logits out.

Shapes: B batch, T time, L last positions, D width, V vocabulary, S skips.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from golf.model.attention import Attention
from golf.model.embeddings import SmearKind, build_bigram, build_smear
from golf.model.layers import GATE_INPUTS, Embedding, Linear, Softcap, TiedHead, rms_norm
from golf.model.norms import NormKind, build_norm
from golf.model.passes import Visit, plan_visits, visit_order
from golf.model.positions import rotary_tables
from golf.model.residual import Block, ParallelResidualBlock, PlainBlock, join_skip
from golf.model.variants_feedforward import MAX_EXPERTS, FeedForwardKind, build_feedforward
from golf.model.varlen import find_documents

MAX_RECURRENCE = 16
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
    """Dimensions of each head that rotary angles turn; the head width for full RoPE."""
    rotary_base: float = 50_000.0
    """Base of the rotary angles."""
    positions: Literal["rotary", "learned", "alibi", "rotary+alibi", "none"] = "rotary"
    """What tells positions apart: RoPE, a learned table as long as the context, ALiBi's distance biases
    (arXiv:2108.12409), RoPE and ALiBi together, or nothing but the causal mask."""
    qk_gain: float = 1.5
    """Initial gain of each query head after its norm."""
    qk_norm: bool = True
    """Whether queries and keys are RMS-normed, and queries scaled by a learned gain."""
    xsa: bool = False
    """Whether each position's own value is taken out of its attention output."""
    attention_gate: float = 0.0
    """s in sigmoid(s W x), the factor on each head's output, W reading 12 channels; 0 for no gates."""
    attention_gate_dense: bool = False
    """Whether attention's output channels have factors sigmoid(W x), W a full matrix (arXiv:2505.06708)."""
    attention_sinks: bool = False
    """Whether each head has a learned logit for attending to nothing."""
    document_mask: bool = False
    """Whether attention stays inside a document, from its BOS on, instead of reading those before it too."""
    modulated_attention: bool = False
    """Whether queries, keys and values modulate each other before attention (Co4, arXiv:2510.08404)."""
    norm: NormKind = "rms"
    """RMS norm without or with a learned gain, or LayerNorm; of the blocks' inputs and of the last stream."""
    feedforward: FeedForwardKind = "relu2"
    """Activation of the feed-forward sublayers; swiglu has a third matrix."""
    activation_slope: float = 0.0
    """s in the feed-forward's activation relu2, max(u, s u)^2."""
    num_experts: int = 1
    """Parts that mlp_hidden is divided into, of which each token is given two; 1 for no mixture."""
    heterogeneous_experts: bool = False
    """Whether experts have sizes of 1 : 2 : 3 ... instead of one size."""
    plain_blocks: bool = False
    """Whether blocks are x + f(norm(x)) alone, as in GPT-2: nothing damped, mixed in, scaled or skipped, and
    the embedding not normed."""
    skip_gates: bool = False
    """Whether a skip is blended into the stream by a learned gate; otherwise it is added."""
    parallel_residual_blocks: int = 0
    """Last blocks in which attention and feed-forward run side by side on two lanes."""
    recurrence_first: int = 0
    """First of the blocks that are visited more than once."""
    recurrence_last: int = 0
    """Last of them."""
    recurrence: int = 1
    """How often they are visited, as a group; 1 for no recurrence."""
    logit_softcap: float = 30.0
    """c in c * tanh(logit / c); 0 leaves logits as they are."""
    smear: SmearKind = "blend"
    """How the embedding takes in the one before it: blended per channel, added behind a gate, or not."""
    bigram_buckets: int = 2048
    """Rows of the hashed bigram table; 0 leaves it out."""
    bigram_width: int = 64
    """Columns of the hashed bigram table."""
    embedding_std: float = 0.005
    """Standard deviation of the token embedding at initialisation."""
    future_tokens: int = 0
    """Tokens behind the next one that training predicts too, each by a map of its own before the head
    (arXiv:2404.19737); an artifact has none of these."""
    output_init: Literal["scaled", "zero"] = "scaled"
    """Attention and feed-forward outputs start orthogonal with gain 1 / sqrt(2 num_layers), or at zero."""
    bos_id: int = 1
    """The token that starts each document."""

    def __post_init__(self) -> None:
        for name, kind in type(self).__annotations__.items():
            if get_origin(kind) is Literal and vars(self)[name] not in get_args(kind):
                expected = ", ".join(get_args(kind))
                raise ValueError(f"{name} is {vars(self)[name]!r}; expected one of {expected}")
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
        if self.document_mask and (self.attention_sinks or self.positions.endswith("alibi")):
            raise ValueError("document_mask goes with neither attention_sinks nor ALiBi")
        if self.modulated_attention and self.num_kv_heads != self.num_heads:
            raise ValueError(f"num_kv_heads is {self.num_kv_heads}; modulated attention takes num_heads")
        if self.num_experts != 1 and not 2 <= self.num_experts <= min(MAX_EXPERTS, self.mlp_hidden):
            raise ValueError(f"num_experts is {self.num_experts}; expected 1, or 2 to {MAX_EXPERTS}")
        if not 0 <= self.future_tokens <= MAX_RECURRENCE:
            raise ValueError(f"future_tokens is {self.future_tokens}; expected 0 to {MAX_RECURRENCE}")
        if self.plain_blocks and (self.parallel_residual_blocks or self.skip_gates):
            raise ValueError("plain_blocks have neither parallel_residual_blocks nor skip_gates")
        self._check_passes()

    def _check_passes(self) -> None:
        if not 0 <= self.recurrence_first <= self.recurrence_last < self.num_layers:
            raise ValueError(
                f"recurrence_first {self.recurrence_first} and recurrence_last {self.recurrence_last} "
                f"must be blocks in this order; there are {self.num_layers}"
            )
        if not 1 <= self.recurrence <= MAX_RECURRENCE:
            raise ValueError(f"recurrence is {self.recurrence}; expected 1 to {MAX_RECURRENCE}")
        looped = self.recurrence_last if self.recurrence > 1 else -1
        most_lanes = self.num_layers - max(self.num_layers // 2, looped + 1)
        if not 0 <= self.parallel_residual_blocks <= most_lanes:
            raise ValueError(
                f"parallel_residual_blocks is {self.parallel_residual_blocks}; expected 0 to {most_lanes}, "
                "the blocks of the second half behind those that loop"
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
        self.looping = config.recurrence > 1
        self._plans = [
            plan_visits(
                visit_order(config.num_layers, config.recurrence_first, config.recurrence_last, visits),
                skips=not config.plain_blocks,
            )
            for visits in (1, config.recurrence)
        ]
        skips = (sum(visit.keeps for visit in self._plans[1]), config.width)
        self.embedding = Embedding(config.vocab_size, config.width)
        learned = config.positions == "learned"
        self.positions = Embedding(config.context, config.width) if learned else None
        self.bigram = build_bigram(config.bigram_buckets, config.bigram_width, config.width, config.bos_id)
        self.smear = build_smear(config.smear, config.width, config.bos_id)
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.num_layers))
        self.norm = build_norm(config.norm, config.width)
        self.head, self.softcap = TiedHead(), Softcap(config.logit_softcap)
        self.skip_weights = None if config.plain_blocks else nn.Parameter(torch.ones(skips))
        self.skip_gates = nn.Parameter(torch.zeros(skips)) if config.skip_gates else None
        self.future = nn.ModuleList(Linear(config.width, config.width) for _ in range(config.future_tokens))

    @property
    def plan(self) -> tuple[Visit, ...]:
        """The visits of a forward pass as the model stands."""
        # int(): Dynamo of torch 2.10 and 2.11 cannot index a list with a bool.
        return self._plans[int(self.looping)]

    @property
    def num_visits(self) -> tuple[int, int]:
        """Visits of a forward pass without and with recurrence."""
        return len(self._plans[0]), len(self._plans[1])

    def initialize(self) -> None:
        """Draws all weights from torch's global generator: orthogonal matrices, normal embeddings."""
        for table in (self.embedding, self.positions):
            if table is not None:
                nn.init.normal_(table.weight, std=self.config.embedding_std)
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                is_output = name.endswith(("attention.output", ".down"))
                zeroed = is_output and self.config.output_init == "zero"
                if zeroed or name.endswith(".dense_gate") or name.startswith("future."):
                    nn.init.zeros_(module.weight)
                else:
                    output_gain = (2 * self.config.num_layers) ** -0.5
                    nn.init.orthogonal_(module.weight, gain=output_gain if is_output else 1.0)

    def forward(self, inputs_BT: Tensor, num_last: int | None = None) -> Tensor:
        """Logits of the last `num_last` positions (all by default), fp32, shape (B, num_last, V).

        With `num_last` below T the last visit's queries and everything after them are computed for those
        positions alone: the same numbers for less work.
        """
        return self.read_out(self.last_stream(inputs_BT, num_last))

    def read_out(self, x_BLD: Tensor) -> Tensor:
        """Logits of a normed stream, fp32, (B, L, V)."""
        return self.softcap(self.head(x_BLD, self.embedding.weight).float())

    def last_stream(self, inputs_BT: Tensor, num_last: int | None = None) -> Tensor:
        """What the head reads: the normed stream behind the last block, (B, num_last, D)."""
        length = inputs_BT.size(1)
        num_last = length if num_last is None else num_last
        config, plan = self.config, self.plan
        rotary_dims = config.rotary_dims if config.positions.startswith("rotary") else 0
        rotary = rotary_tables(length, rotary_dims, config.rotary_base, inputs_BT.device)
        if config.document_mask:
            packed = inputs_BT.device.type == "cuda" and self.compute_dtype != torch.float32
            rotary = (*rotary, find_documents(inputs_BT, config.bos_id, packed))
        stream = embedding_BTD = self._embed(inputs_BT)
        kept: list[Tensor] = []
        for index, visit in enumerate(plan):
            if visit.layer == config.num_layers - config.parallel_residual_blocks:
                stream = (stream, stream)
            if visit.skip is not None:
                gate_D = None if self.skip_gates is None else self.skip_gates[visit.skip]
                stream = join_skip(stream, kept.pop(), self.skip_weights[visit.skip], gate_D)
            num_needed = num_last if index == len(plan) - 1 else length
            stream = self.blocks[visit.layer](stream, embedding_BTD, rotary, num_needed)
            if visit.keeps:
                kept.append(stream)
        return self.norm(stream)

    def _embed(self, inputs_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(inputs_BT)
        if self.bigram is not None:
            x_BTD = x_BTD + self.bigram(inputs_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(self._places(inputs_BT.size(1), inputs_BT.device))
        x_BTD = (x_BTD if self.config.plain_blocks else rms_norm(x_BTD)).to(self.compute_dtype)
        return x_BTD if self.smear is None else self.smear(x_BTD, inputs_BT)

    def _places(self, length: int, device: torch.device) -> Tensor:
        if length > self.config.context:
            raise ValueError(f"{length} tokens; the learned positions end at {self.config.context}")
        return torch.arange(length, device=device)


def distance_from_orthogonal(model: GPT) -> float:
    """Largest element of |W W^T - I| of the first block's query matrix: 0 for an orthogonal one."""
    matrix_RC = model.blocks[0].attention.query.weight.detach().double()
    gram_RR = matrix_RC @ matrix_RC.T
    return float((gram_RR - torch.eye(len(gram_RR), dtype=gram_RR.dtype, device=gram_RR.device)).abs().max())


def build_block(config: ModelConfig, layer: int) -> Block | PlainBlock:
    """Block `layer`; 1/sqrt(layer + 1) damps its inputs at every visit (openai/parameter-golf #315)."""
    attention = Attention(
        config.width,
        config.num_heads,
        config.num_kv_heads,
        config.qk_gain,
        config.xsa,
        config.attention_gate,
        config.attention_gate_dense,
        config.qk_norm,
        config.positions.endswith("alibi"),
        config.attention_sinks,
        config.modulated_attention,
        config.document_mask,
    )
    feedforward = build_feedforward(
        config.width,
        config.mlp_hidden,
        config.feedforward,
        config.activation_slope,
        config.num_experts,
        config.heterogeneous_experts,
    )
    if config.plain_blocks:
        return PlainBlock(config.width, attention, feedforward, config.norm)
    ln_scale = 1.0 / math.sqrt(layer + 1)
    if layer < config.num_layers - config.parallel_residual_blocks:
        return Block(config.width, ln_scale, attention, feedforward, config.norm)
    is_last = layer == config.num_layers - 1
    return ParallelResidualBlock(config.width, ln_scale, attention, feedforward, is_last, config.norm)
