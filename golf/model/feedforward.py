"""The feed-forward sublayer."""

from torch import Tensor, nn

from golf.model.fused import FUSED
from golf.model.layers import Linear
from golf.model.up_activation import fused_feedforward, squared_leaky


class FeedForward(nn.Module):
    """width -> hidden -> width with the activation max(u, slope u)^2.

    Source: relu(u)^2, slope 0, arXiv:2109.08668; with a slope openai/parameter-golf #549, swept in #1948.
    """

    def __init__(self, width: int, hidden: int, slope: float = 0.0):
        super().__init__()
        self.slope = slope
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Maps (B, T, width) to (B, T, width)."""
        if FUSED.is_open:
            up_FD, down_DF = (matrix.weight.to(x_BTD.dtype) for matrix in (self.up, self.down))
            return fused_feedforward(x_BTD, up_FD, down_DF, self.slope)
        return self.down(squared_leaky(self.up(x_BTD), self.slope))
