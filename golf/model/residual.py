"""How the blocks read from the residual stream and write to it.

Shapes: B batch, T time, L last positions, D width.
"""

import torch
from torch import Tensor, nn

from golf.model.attention import Attention
from golf.model.norms import NormKind, build_norm

Lanes = tuple[Tensor, Tensor]
"""Two residual streams: the first is read by attention, the second by the feed-forward."""


def join_skip(
    stream: Tensor | Lanes, skip_BTD: Tensor, weight_D: Tensor, gate_D: Tensor | None = None
) -> Tensor | Lanes:
    """The stream (of two lanes the first) with an earlier output: x + weight * skip, all per channel.

    With a gate, lerp(weight * skip, x, sigmoid(gate)) instead (openai/parameter-golf #1089).
    """
    if isinstance(stream, tuple):
        return join_skip(stream[0], skip_BTD, weight_D, gate_D), stream[1]
    scaled_BTD = weight_D.to(stream.dtype) * skip_BTD
    if gate_D is None:
        return stream + scaled_BTD
    return torch.lerp(scaled_BTD, stream, torch.sigmoid(gate_D).to(stream.dtype))


class Block(nn.Module):
    """Attention and feed-forward, each on a normed input times `ln_scale`.

    Before them the stream is mixed per channel with the embedding; each output is scaled per channel.
    """

    def __init__(
        self,
        width: int,
        ln_scale: float,
        attention: Attention,
        feedforward: nn.Module,
        norm: NormKind = "rms",
    ):
        super().__init__()
        self.ln_scale = ln_scale
        self.attention_norm, self.feedforward_norm = build_norm(norm, width), build_norm(norm, width)
        mix_2D = torch.zeros(2, width)
        mix_2D[0] = 1.0
        self.mix = nn.Parameter(mix_2D)
        self.attention = attention
        self.attention_scale = nn.Parameter(torch.ones(width))
        self.feedforward = feedforward
        self.feedforward_scale = nn.Parameter(torch.ones(width))

    def forward(
        self, x_BTD: Tensor, embedding_BTD: Tensor, rotary: tuple[Tensor, Tensor], num_last: int
    ) -> Tensor:
        """The stream after this block at the last `num_last` positions, shape (B, num_last, D)."""
        dtype = x_BTD.dtype
        x_BTD = self._mixed(x_BTD, embedding_BTD)
        attended_BLD = self.attention(self.attention_norm(x_BTD) * self.ln_scale, rotary, num_last)
        x_BLD = x_BTD[:, -num_last:] + self.attention_scale.to(dtype) * attended_BLD
        fed_BLD = self.feedforward(self.feedforward_norm(x_BLD) * self.ln_scale)
        return x_BLD + self.feedforward_scale.to(dtype) * fed_BLD

    def _mixed(self, x_BTD: Tensor, embedding_BTD: Tensor) -> Tensor:
        with_stream_D, with_embedding_D = self.mix.to(x_BTD.dtype)
        return with_stream_D * x_BTD + with_embedding_D * embedding_BTD


class PlainBlock(nn.Module):
    """GPT-2's block: x + attention(norm(x)), then x + feed-forward(norm(x)), and nothing else."""

    def __init__(self, width: int, attention: Attention, feedforward: nn.Module, norm: NormKind):
        super().__init__()
        self.attention, self.feedforward = attention, feedforward
        self.attention_norm, self.feedforward_norm = build_norm(norm, width), build_norm(norm, width)

    def forward(
        self, x_BTD: Tensor, embedding_BTD: Tensor, rotary: tuple[Tensor, Tensor], num_last: int
    ) -> Tensor:
        """The stream after this block at the last `num_last` positions; it has no use for the embedding."""
        x_BLD = x_BTD[:, -num_last:] + self.attention(self.attention_norm(x_BTD), rotary, num_last)
        return x_BLD + self.feedforward(self.feedforward_norm(x_BLD))


class ParallelResidualBlock(Block):
    """A block whose sublayers run side by side on two lanes (openai/parameter-golf #1529).

    Attention reads lane 0, mixed with the embedding, and the feed-forward lane 1; then
    lane_i <- keep_i lane_i + write_0i attention + write_1i feed-forward. The network's last block
    returns the lanes' mean.
    """

    def __init__(
        self,
        width: int,
        ln_scale: float,
        attention: Attention,
        feedforward: nn.Module,
        is_last: bool,
        norm: NormKind = "rms",
    ):
        super().__init__(width, ln_scale, attention, feedforward, norm)
        self.is_last = is_last
        self.lane_keep = nn.Parameter(torch.full((2,), 1.1))
        self.lane_write = nn.Parameter(torch.ones(2, 2))

    def forward(
        self, lanes: Lanes, embedding_BTD: Tensor, rotary: tuple[Tensor, Tensor], num_last: int
    ) -> Tensor | Lanes:
        """Both lanes, or their mean, at the last `num_last` positions."""
        dtype = embedding_BTD.dtype
        first_BLD, second_BLD = (lane_BTD[:, -num_last:] for lane_BTD in lanes)
        mixed_BTD = self._mixed(lanes[0], embedding_BTD)
        attended_BLD = self.attention(self.attention_norm(mixed_BTD) * self.ln_scale, rotary, num_last)
        fed_BLD = self.feedforward(self.feedforward_norm(second_BLD) * self.ln_scale)
        from_attention = (self.lane_write[0, :, None] * self.attention_scale).to(dtype)
        from_feedforward = (self.lane_write[1, :, None] * self.feedforward_scale).to(dtype)
        keep = self.lane_keep.to(dtype)
        first_BLD, second_BLD = (
            torch.addcmul(
                torch.addcmul(keep[lane] * lane_BLD, from_attention[lane], attended_BLD),
                from_feedforward[lane],
                fed_BLD,
            )
            for lane, lane_BLD in enumerate((first_BLD, second_BLD))
        )
        return (first_BLD + second_BLD) / 2 if self.is_last else (first_BLD, second_BLD)
