"""Dense connections across depth: after each block the stream is mixed with the outputs of earlier blocks.

Shapes: B batch, T time, D width, S sources, H hidden units.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.blocks import Streams
from golf.model.config import ModelConfig
from golf.model.layers import Linear, rms_norm
from golf.model.roles import PROJECTION, SCALAR, SKIP, parameter

DENSE_HIDDEN = 16
"""Hidden units that give the dynamic weights of a block's sources."""
DYNAMIC_SCALE = 0.02
"""Factor on the dynamic weights, so that they learn slowly beside the static ones. They concern all channels
at once; without it AdamW's first steps, equal in size for all parameters, turn the whole stream over."""


class DenseConnections(nn.Module):
    """The stream after a block, x, plus a weighted sum of the embedding and the latest output of each block.

    x + sum over s of w_s source_s,  w_SD = static_SD + 0.02 (dynamic_SH gelu(hidden_HD rms_norm(x)))_S,  anew
    for each position; x itself is a source. `static` and `dynamic` start at zero: the identity. This is MUDD
    (arXiv:2502.12170) without its ways for queries, keys and values, as most layers of openai/parameter-golf
    #1936 have it, with static weights per channel, as the skips and the embedding mix have them that it
    replaces. A block that depth recurrence repeats is one source, its latest output.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.own = layer + 1
        # Within the recurrence, the blocks behind this one have been visited too.
        looped = config.recurrence > 1 and config.recurrence_first <= layer <= config.recurrence_last
        num_sources = 2 + (config.recurrence_last if looped else layer)
        self.hidden = Linear(config.width, DENSE_HIDDEN, role=PROJECTION)
        self.dynamic = parameter(torch.zeros(num_sources, DENSE_HIDDEN), SCALAR)
        self.static = parameter(torch.zeros(num_sources, config.width), SKIP)

    def forward(self, stream: Tensor | Streams, sources: list[Tensor]) -> Tensor | Streams:
        """The mixed stream (of two streams the first), (B, T, D); enters what it was before into `sources`.

        Of longer sources the last T positions count, of the weights those of the sources that there are.
        """
        x_BTD = stream[0] if isinstance(stream, tuple) else stream
        sources[self.own : self.own + 1] = [x_BTD]
        dtype, num_sources = x_BTD.dtype, len(sources)
        units_BTH = F.gelu(self.hidden(rms_norm(x_BTD)))
        dynamic_BTS = DYNAMIC_SCALE * F.linear(units_BTH, self.dynamic[:num_sources].to(dtype))
        mixed_BTD, static_SD = x_BTD, self.static.to(dtype)
        for number, source_BTD in enumerate(sources):
            weight_BTD = static_SD[number] + dynamic_BTS[..., number, None]
            mixed_BTD = torch.addcmul(mixed_BTD, weight_BTD, source_BTD[:, -x_BTD.size(1) :])
        return (mixed_BTD, stream[1]) if isinstance(stream, tuple) else mixed_BTD
