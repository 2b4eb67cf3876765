"""The network: tokens in, logits out.

Shapes: B batch, T time, L last positions, D width, V vocabulary, S skips.
"""

import torch
from torch import Tensor, nn

from golf.model.blocks import Visit, build_block, join_skip, plan_visits
from golf.model.config import ModelConfig
from golf.model.dense import DenseConnections
from golf.model.document_mask import document_bounds, visible_keys
from golf.model.embeddings import NgramHash
from golf.model.kinds import ATTENTIONS, FEEDFORWARDS, NORMS, SMEARS
from golf.model.layers import Embedding, Linear, TiedHead, rms_norm
from golf.model.loss import softcap
from golf.model.positions import rotary_tables
from golf.model.roles import PROJECTION, SKIP, parameter, roles_of
from golf.model.state import NO_ADAPTERS, ForwardState, Past, Positions, VisitState


class GPT(nn.Module):
    """The network that a config describes; by default the seed's (openai/parameter-golf #334).

    Parameters are fp32 masters; activations have `compute_dtype`; logits are fp32. `looping` says whether the
    blocks of the recurrence run more than once: training begins without, everything else runs with it.
    Raises ValueError for a parameter without a role.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        for name, table in (("attention", ATTENTIONS), ("feedforward", FEEDFORWARDS), ("norm", NORMS)):
            if vars(config)[name] not in table:
                raise ValueError(f"{name} is {vars(config)[name]!r}; expected one of {', '.join(table)}")
        self.config = config
        self.compute_dtype = torch.float32
        self.looping = config.recurrence > 1
        self._plans = [plan_visits(config, repeats) for repeats in (1, config.recurrence)]
        self.embedding = Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.positions = Embedding(config.context, config.width)
        if config.bigram_buckets:
            self.bigram = NgramHash(config, 2, config.bigram_buckets)
        if config.ngram_buckets:
            sizes = enumerate(config.ngram_buckets, start=3)
            self.ngrams = nn.ModuleList(NgramHash(config, order, buckets) for order, buckets in sizes)
        if config.smear != "off":
            self.smear = SMEARS[config.smear](config)
        self.blocks = nn.ModuleList(build_block(config, layer) for layer in range(config.num_layers))
        if config.dense_connections:
            self.dense = nn.ModuleList(DenseConnections(config, layer) for layer in range(config.num_layers))
        self.norm = NORMS[config.norm](config.width)
        self.head = TiedHead()
        skips_SD = (sum(visit.keeps for visit in self._plans[1]), config.width)
        # A network of one visit has none.
        if not config.plain_blocks and skips_SD[0]:
            self.skip_weights = parameter(torch.ones(skips_SD), SKIP)
        if config.skip_gates and skips_SD[0]:
            self.skip_gates = parameter(torch.zeros(skips_SD), SKIP)
        self.future = nn.ModuleList(
            Linear(config.width, config.width, init="zero", role=PROJECTION)
            for _ in range(config.future_tokens)
        )
        roles_of(self)

    @property
    def plan(self) -> tuple[Visit, ...]:
        """The visits of a forward pass."""
        # int(): Dynamo of torch 2.10 and 2.11 cannot index a list with a bool.
        return self._plans[int(self.looping)]

    @property
    def num_visits(self) -> tuple[int, int]:
        """Visits of a forward pass without and with recurrence."""
        return len(self._plans[0]), len(self._plans[1])

    def initialize(self) -> None:
        """Draws all weights from torch's global generator: orthogonal matrices, normal embeddings.

        Outputs of residual branches have gain 1 / sqrt(2 num_layers), or are zero (`output_init`).
        """
        config = self.config
        for module in self.modules():
            if isinstance(module, Embedding):
                nn.init.normal_(module.weight, std=config.embedding_std)
        for module in self.modules():
            if isinstance(module, Linear):
                if module.init == "zero" or (module.init == "output" and config.output_init == "zero"):
                    nn.init.zeros_(module.weight)
                else:
                    gain = (2 * config.num_layers) ** -0.5 if module.init == "output" else 1.0
                    nn.init.orthogonal_(module.weight, gain)

    def forward(
        self, inputs_BT: Tensor, num_last: int | None = None, state: ForwardState | None = None
    ) -> Tensor:
        """Logits of the last `num_last` positions (all by default), fp32, shape (B, num_last, V).

        With `num_last` below T, the last visit's queries and everything after them are computed for those
        positions alone: the same numbers for less work. `state` adds earlier positions, adapters and caps.
        """
        return self.read_out(self.last_stream(inputs_BT, num_last, state), state)

    def read_out(self, x_BLD: Tensor, state: ForwardState | None = None) -> Tensor:
        """Logits of a normed stream, fp32, (B, L, V)."""
        adapter, log_caps_2 = (None, None) if state is None else (state.head_adapter, state.log_caps_2)
        logits_BLV = self.head(x_BLD, self.embedding.weight, adapter).float()
        return softcap(logits_BLV, self.config.logit_softcap, log_caps_2)

    def last_stream(
        self, inputs_BT: Tensor, num_last: int | None = None, state: ForwardState | None = None
    ) -> Tensor:
        """The normed stream after the last block, which the head reads, (B, num_last, D)."""
        config, plan = self.config, self.plan
        past = None if state is None else state.past
        stream = embedding_BTD = self.embed(inputs_BT, past)
        length = embedding_BTD.size(1)
        num_last = length if num_last is None else min(num_last, length)
        positions = None if past is None else past.positions()
        if positions is None:
            positions = self._positions(inputs_BT, length, num_last)
        # What later visits read: the skips, or what dense connections mix.
        kept: list[Tensor] = [embedding_BTD] if config.dense_connections else []
        for index, visit in enumerate(plan):
            if visit.layer == config.num_layers - config.parallel_residual_blocks:
                stream = (stream, stream)
            if visit.skip is not None:
                gate_D = self.skip_gates[visit.skip] if config.skip_gates else None
                stream = join_skip(stream, kept.pop(), self.skip_weights[visit.skip], gate_D)
            num_needed = num_last if index == len(plan) - 1 else length
            adapters = state.adapters[index] if state is not None and state.adapters else NO_ADAPTERS
            visit_state = VisitState(index, num_needed, positions, past, adapters)
            stream = self.blocks[visit.layer](stream, embedding_BTD, visit_state)
            if visit.keeps:
                kept.append(stream)
            if config.dense_connections:
                stream = self.dense[visit.layer](stream, kept)
        return self.norm(stream)

    def embed(self, inputs_BT: Tensor, past: Past | None = None) -> Tensor:
        """The stream before the first block, (B, T, D); with a past, of the new positions alone."""
        config = self.config
        x_BTD = self.embedding(inputs_BT)
        if config.bigram_buckets:
            x_BTD = x_BTD + self.bigram(inputs_BT)
        if config.ngram_buckets:
            for ngram in self.ngrams:
                x_BTD = x_BTD + ngram(inputs_BT)
        if config.positions == "learned":
            first = 0 if past is None else past.num_before
            end = first + inputs_BT.size(1)
            if end > config.context:
                raise ValueError(f"{end} tokens; the learned positions end at {config.context}")
            x_BTD = x_BTD + self.positions(torch.arange(first, end, device=inputs_BT.device))
        if config.smear == "add-raw":
            x_BTD = self.smear(x_BTD, inputs_BT)
        x_BTD = (x_BTD if config.plain_blocks else rms_norm(x_BTD)).to(self.compute_dtype)
        if config.smear in ("blend", "add"):
            x_BTD = self.smear(x_BTD, inputs_BT)
        return x_BTD if past is None else x_BTD[:, -past.num_new :]

    def _positions(self, inputs_BT: Tensor, num_queries: int, num_last: int) -> Positions:
        """Positions of a window that begins with the inputs, for queries of its last positions."""
        config, length = self.config, inputs_BT.size(1)
        rotary_dims = config.rotary_dims if config.positions in ("rotary", "rotary+alibi") else 0
        tables = rotary_tables(length, rotary_dims, config.rotary_base, inputs_BT.device)
        if not config.document_mask:
            return Positions(*tables)
        if inputs_BT.device.type != "cuda" or self.compute_dtype == torch.float32:
            return Positions(*tables, visible_keys(inputs_BT, config.bos_id, num_queries))
        # The kernel takes bounds, but only where all positions are queries.
        num_masked = num_last if num_queries == length else num_queries
        visible = None if num_masked == length else visible_keys(inputs_BT, config.bos_id, num_masked)
        return Positions(*tables, visible, document_bounds(inputs_BT, config.bos_id))


def distance_from_orthogonal(model: GPT) -> float:
    """Largest element of |W W^T - I| of the first block's query matrix: 0 for an orthogonal one."""
    matrix_RC = model.get_parameter("blocks.0.attention.query.weight").detach().double()
    gram_RR = matrix_RC @ matrix_RC.T
    return float((gram_RR - torch.eye(len(gram_RR), dtype=gram_RR.dtype, device=gram_RR.device)).abs().max())
