"""Sizes and switches of the network."""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from golf.model.layers import GATE_INPUTS

MAX_SIZE, MAX_LAYERS, MAX_CONTEXT = 1 << 24, 256, 1 << 17
"""They bound the memory that an artifact can ask for."""
MAX_RECURRENCE = 16
"""Far beyond what helps; it bounds the work that an artifact can ask for."""
MAX_NGRAMS = 3
"""Tables of longer n-grams than two tokens."""
MAX_EXPERTS = 64
"""It bounds the work that an artifact can ask for."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of the network. The defaults are the preset `seed`: 26,666,073 parameters."""

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
    """Dimensions of each head that RoPE rotates; the head width for full RoPE."""
    rotary_base: float = 50_000.0
    """Base of the rotary angles."""
    positions: Literal["rotary", "learned", "alibi", "rotary+alibi", "none"] = "rotary"
    """Position encoding: RoPE, a learned table of `context` rows, ALiBi (arXiv:2108.12409), both of RoPE and
    ALiBi, or none."""
    qk_gain: float = 1.5
    """Initial gain of each query head after its RMS norm."""
    qk_norm: bool = True
    """Whether queries and keys are RMS-normed, and queries scaled by a learned gain."""
    xsa: bool = False
    """Exclusive self-attention: whether outputs are made orthogonal to the position's own value."""
    attention_gate: float = 0.0
    """s in the gate sigmoid(s W x) on each head's output, W reading 12 channels; 0 for no gate."""
    attention_gate_dense: bool = False
    """Whether attention's output is gated per channel by sigmoid(W x), W a full matrix (arXiv:2505.06708)."""
    attention_sinks: bool = False
    """Whether each head has a learned sink logit: a key without a value."""
    document_mask: bool = False
    """Whether attention is masked to the document that a token belongs to."""
    attention: str = "gqa"
    """Kind of the attention sublayers, a key of ATTENTIONS: gqa, or co4 (modulated, arXiv:2510.08404)."""
    norm: str = "rms"
    """Norm of the blocks' inputs and of the last stream, a key of NORMS: rms, rms-gain or layer."""
    feedforward: str = "relu2"
    """Kind of the feed-forward sublayers, a key of FEEDFORWARDS: relu2, gelu, swiglu or xielu."""
    activation_slope: float = 0.0
    """s in the activation of relu2, max(u, s u)^2."""
    num_experts: int = 1
    """Experts that share mlp_hidden, two of which are active for each token; 1 for no mixture."""
    heterogeneous_experts: bool = False
    """Whether experts have sizes of 1 : 2 : 3 ... instead of one size."""
    plain_blocks: bool = False
    """Whether blocks are x + f(norm(x)) as in GPT-2, without ln_scale, embedding mix, output scales, U-net
    skips and norm of the embedding."""
    dense_connections: bool = False
    """Whether the stream after each block is mixed with the outputs of all earlier ones, by weights that
    depend on the position (MUDD, arXiv:2502.12170), in place of U-net skips and of the embedding mix."""
    skip_gates: bool = False
    """Whether a U-net skip is blended in by a learned gate; otherwise it is added."""
    parallel_residual_blocks: int = 0
    """Number of last blocks in which attention and feed-forward run in parallel on two residual streams."""
    recurrence_first: int = 0
    """First block of the depth recurrence."""
    recurrence_last: int = 0
    """Last block of the depth recurrence."""
    recurrence: int = 1
    """How often the group of blocks is run; 1 for no recurrence."""
    logit_softcap: float = 30.0
    """c in c * tanh(logit / c); 0 leaves logits as they are."""
    smear: Literal["blend", "add", "add-raw", "off"] = "blend"
    """Smear of the previous token's embedding: blended per channel, added behind a gate after the embedding's
    norm or (raw) before it, or off."""
    bigram_buckets: int = 2048
    """Rows of the hashed bigram table; 0 for none."""
    ngram_buckets: tuple[int, ...] = ()
    """Rows of further hashed tables: of three tokens, of four, and so on."""
    bigram_width: int = 64
    """Columns of each of these tables."""
    embedding_std: float = 0.005
    """Standard deviation of the token embedding at initialisation."""
    future_tokens: int = 0
    """Multi-token prediction (arXiv:2404.19737): number of further tokens that training predicts, each by a
    matrix of its own before the head. These matrices are not exported."""
    output_init: Literal["scaled", "zero"] = "scaled"
    """Attention and feed-forward outputs start orthogonal with gain 1 / sqrt(2 num_layers), or at zero."""
    bos_id: int = 1
    """The token that starts each document."""

    def __post_init__(self) -> None:
        for name, kind in type(self).__annotations__.items():
            if get_origin(kind) is Literal and vars(self)[name] not in get_args(kind):
                expected = ", ".join(get_args(kind))
                raise ValueError(f"{name} is {vars(self)[name]!r}; expected one of {expected}")
        for name in ("width", "num_heads", "num_kv_heads", "mlp_hidden", "bigram_width"):
            self._require(name, 1, MAX_SIZE)
        self._require("num_layers", 1, MAX_LAYERS)
        self._require("context", 1, MAX_CONTEXT)
        self._require("vocab_size", 1, 1 << 16)
        self._require("bos_id", 0, self.vocab_size - 1)
        self._require("bigram_buckets", 0, MAX_SIZE)
        if len(self.ngram_buckets) > MAX_NGRAMS or not all(0 < n <= MAX_SIZE for n in self.ngram_buckets):
            raise ValueError(
                f"ngram_buckets is {self.ngram_buckets}; expected up to {MAX_NGRAMS} numbers, 1 to {MAX_SIZE}"
            )
        if self.width % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"width {self.width} must divide into num_heads {self.num_heads}, "
                f"and num_heads into num_kv_heads {self.num_kv_heads}"
            )
        if self.rotary_base <= 0 or self.embedding_std < 0:
            raise ValueError(f"rotary_base is {self.rotary_base} and embedding_std {self.embedding_std}")
        if self.rotary_dims % 2 or not 0 < self.rotary_dims <= self.width // self.num_heads:
            raise ValueError(
                f"rotary_dims is {self.rotary_dims}; expected an even number up to the head width "
                f"{self.width // self.num_heads}"
            )
        self._require("future_tokens", 0, MAX_RECURRENCE)
        self._require("recurrence", 1, MAX_RECURRENCE)
        self._require("recurrence_last", 0, self.num_layers - 1)
        self._require("recurrence_first", 0, self.recurrence_last)
        # The blocks of the second half after the recurrence.
        looped = self.recurrence_last if self.recurrence > 1 else -1
        max_parallel = self.num_layers - max(self.num_layers // 2, looped + 1)
        self._require("parallel_residual_blocks", 0, max_parallel)
        if self.num_experts != 1:
            self._require("num_experts", 2, min(MAX_EXPERTS, self.mlp_hidden))
        if (self.attention_gate or self.smear in ("add", "add-raw")) and self.width < GATE_INPUTS:
            raise ValueError(f"width is {self.width}; a gate reads {GATE_INPUTS} channels")
        if self.document_mask and (self.attention_sinks or self.positions in ("alibi", "rotary+alibi")):
            raise ValueError("document_mask goes with neither attention_sinks nor ALiBi")
        if self.plain_blocks and (self.parallel_residual_blocks or self.skip_gates):
            raise ValueError("plain_blocks have neither parallel_residual_blocks nor skip_gates")
        if self.dense_connections and self.skip_gates:
            raise ValueError(
                "dense_connections (MUDD) take the place of the skips that skip_gates would gate"
            )

    def _require(self, name: str, least: int, most: int) -> None:
        if not least <= vars(self)[name] <= most:
            raise ValueError(f"{name} is {vars(self)[name]}; expected {least} to {most}")
