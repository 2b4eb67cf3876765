"""Blocks, the residual streams between them, and the order in which a forward pass runs them.

Shapes: B batch, T time, L last positions, D width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from golf.model.config import ModelConfig
from golf.model.kinds import ATTENTIONS, NORMS, build_feedforward
from golf.model.roles import SCALAR, parameter
from golf.model.state import VisitState

Streams = tuple[Tensor, Tensor]
"""Two residual streams: attention reads the first, the feed-forward the second."""


class Visit(NamedTuple):
    """One run of one block; depth recurrence (openai/parameter-golf #1204, #1394) runs some several times."""

    layer: int
    keeps: bool
    """Whether its output is a U-net skip for a later visit."""
    skip: int | None
    """Index of the skip that is added before the block; None for none."""


def plan_visits(config: ModelConfig, repeats: int) -> tuple[Visit, ...]:
    """The visits of a forward pass that runs the group of recurrent blocks `repeats` times.

    The outputs of the first half are skips that the second half adds; plain blocks and dense connections have
    none.
    """
    first, end = config.recurrence_first, config.recurrence_last + 1
    order = [*range(first), *list(range(first, end)) * repeats, *range(end, config.num_layers)]
    num_kept = 0 if config.plain_blocks or config.dense_connections else len(order) // 2
    return tuple(
        Visit(layer, place < num_kept, place - num_kept if num_kept <= place < 2 * num_kept else None)
        for place, layer in enumerate(order)
    )


def join_skip(
    stream: Tensor | Streams, skip_BTD: Tensor, weight_D: Tensor, gate_D: Tensor | None = None
) -> Tensor | Streams:
    """The stream (of two streams the first) with an earlier output: x + weight * skip, all per channel.

    With a gate, lerp(weight * skip, x, sigmoid(gate)) instead (openai/parameter-golf #1089).
    """
    x_BTD = stream[0] if isinstance(stream, tuple) else stream
    scaled_BTD = weight_D.to(x_BTD.dtype) * skip_BTD
    if gate_D is None:
        joined_BTD = x_BTD + scaled_BTD
    else:
        joined_BTD = torch.lerp(scaled_BTD, x_BTD, torch.sigmoid(gate_D).to(x_BTD.dtype))
    return (joined_BTD, stream[1]) if isinstance(stream, tuple) else joined_BTD


class Block(nn.Module):
    """Attention and feed-forward, each on its normed input times `ln_scale`.

    Before them the stream is mixed per channel with the embedding, unless connections are dense; each output
    has a scale per channel.
    `ln_scale` is 1/sqrt(layer + 1) (openai/parameter-golf #315).
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config = config
        width = config.width
        self.ln_scale = 1.0 / math.sqrt(layer + 1)
        self.attention_norm, self.feedforward_norm = NORMS[config.norm](width), NORMS[config.norm](width)
        if not config.dense_connections:
            mix_2D = torch.zeros(2, width)
            mix_2D[0] = 1.0
            self.mix = parameter(mix_2D, SCALAR)
        self.attention = ATTENTIONS[config.attention](config)
        self.attention_scale = parameter(torch.ones(width), SCALAR)
        self.feedforward = build_feedforward(config)
        self.feedforward_scale = parameter(torch.ones(width), SCALAR)

    def forward(self, x_BTD: Tensor, embedding_BTD: Tensor, state: VisitState) -> Tensor:
        """The stream after this block at the last `state.num_last` positions, shape (B, num_last, D)."""
        dtype = x_BTD.dtype
        x_BTD = self._mixed(x_BTD, embedding_BTD)
        attended_BLD = self.attention(self.attention_norm(x_BTD) * self.ln_scale, state)
        x_BLD = x_BTD[:, -state.num_last :] + self.attention_scale.to(dtype) * attended_BLD
        fed_BLD = self.feedforward(self.feedforward_norm(x_BLD) * self.ln_scale, state.adapters)
        return x_BLD + self.feedforward_scale.to(dtype) * fed_BLD

    def _mixed(self, x_BTD: Tensor, embedding_BTD: Tensor) -> Tensor:
        if self.config.dense_connections:
            return x_BTD
        with_stream_D, with_embedding_D = self.mix.to(x_BTD.dtype)
        return with_stream_D * x_BTD + with_embedding_D * embedding_BTD


class PlainBlock(nn.Module):
    """GPT-2's block: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention, self.feedforward = ATTENTIONS[config.attention](config), build_feedforward(config)
        self.attention_norm = NORMS[config.norm](config.width)
        self.feedforward_norm = NORMS[config.norm](config.width)

    def forward(self, x_BTD: Tensor, embedding_BTD: Tensor, state: VisitState) -> Tensor:
        """The stream after this block at the last `state.num_last` positions; the embedding is not used."""
        x_BLD = x_BTD[:, -state.num_last :] + self.attention(self.attention_norm(x_BTD), state)
        return x_BLD + self.feedforward(self.feedforward_norm(x_BLD), state.adapters)


class ParallelResidualBlock(Block):
    """A block whose sublayers run in parallel on two residual streams (openai/parameter-golf #1529).

    Attention reads stream 0, mixed with the embedding, and the feed-forward stream 1; then
    stream_i <- keep_i stream_i + write_0i attention + write_1i feed-forward. The network's last block
    returns the mean of the streams.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__(config, layer)
        self.is_last = layer == config.num_layers - 1
        self.lane_keep = parameter(torch.full((2,), 1.1), SCALAR)
        self.lane_write = parameter(torch.ones(2, 2), SCALAR)

    # GPT gives two streams to these blocks, and to no other.
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, streams: Streams, embedding_BTD: Tensor, state: VisitState
    ) -> Tensor | Streams:
        """Both streams, or their mean, at the last `state.num_last` positions."""
        dtype = embedding_BTD.dtype
        lanes = [stream_BTD[:, -state.num_last :] for stream_BTD in streams]
        mixed_BTD = self._mixed(streams[0], embedding_BTD)
        attended_BLD = self.attention(self.attention_norm(mixed_BTD) * self.ln_scale, state)
        fed_BLD = self.feedforward(self.feedforward_norm(lanes[1]) * self.ln_scale, state.adapters)
        # (2, D): what each sublayer writes into each stream.
        from_attention = (self.lane_write[0, :, None] * self.attention_scale).to(dtype)
        from_feedforward = (self.lane_write[1, :, None] * self.feedforward_scale).to(dtype)
        keep_2 = self.lane_keep.to(dtype)
        for lane, stream_BLD in enumerate(lanes):
            kept_BLD = torch.addcmul(keep_2[lane] * stream_BLD, from_attention[lane], attended_BLD)
            lanes[lane] = torch.addcmul(kept_BLD, from_feedforward[lane], fed_BLD)
        first_BLD, second_BLD = lanes
        return (first_BLD + second_BLD) / 2 if self.is_last else (first_BLD, second_BLD)


def build_block(config: ModelConfig, layer: int) -> nn.Module:
    """Block number `layer`."""
    if config.plain_blocks:
        return PlainBlock(config)
    if layer < config.num_layers - config.parallel_residual_blocks:
        return Block(config, layer)
    return ParallelResidualBlock(config, layer)
