"""What training adds to the loss: predictions further ahead, and a regularised distribution of the stream.

Shapes: B batch, T time, D width, N = B x T tokens, M directions, P points of the characteristic function.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.train.budget import TrainConfig

SIGREG_DIRECTIONS = 64
SIGREG_POINTS = 9
SIGREG_REACH = 5.0


def read_out_nats(model: GPT, x_BLD: Tensor, targets_BL: Tensor) -> Tensor:
    """Nats of each target read out of a normed stream, fp32, (B, L)."""
    return token_nats(model.read_out(x_BLD), targets_BL)


def target_nats(model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Nats of each target, fp32, (B, T)."""
    return read_out_nats(model, model.last_stream(inputs_BT), targets_BT)


def mean_nats(model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """The training loss where nothing is added to it: mean nats per token."""
    return target_nats(model, inputs_BT, targets_BT).mean()


def sigreg(x_ND: Tensor, real_only: bool) -> Tensor:
    """How far tokens are from an isotropic Gaussian, on random directions (arXiv:2511.08544).

    Of each direction the Epps-Pulley statistic: N times the integral over [-5, 5] of |phi(t) - e^(-t^2/2)|^2
    e^(-t^2/2), phi being the tokens' characteristic function, by the trapezoid rule; the mean over
    directions. The integrand is even, so half of the points do. With `real_only` the difference is that of
    the real part, which symmetric deviations alone move.
    """
    directions_DM = torch.randn(x_ND.size(-1), SIGREG_DIRECTIONS, device=x_ND.device)
    along_NM = x_ND.float() @ F.normalize(directions_DM, dim=0)
    points_P = torch.linspace(0.0, SIGREG_REACH, SIGREG_POINTS, device=x_ND.device)
    angles_NMP = along_NM[..., None] * points_P
    target_P = torch.exp(-0.5 * points_P.square())
    distance_MP = (angles_NMP.cos().mean(0) - target_P).square()
    if not real_only:
        distance_MP = distance_MP + angles_NMP.sin().mean(0).square()
    return 2 * x_ND.size(0) * torch.trapezoid(distance_MP * target_P, points_P, dim=-1).mean()


def future_nats(model: GPT, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean nats of the tokens behind the next one: the k-th map W_k predicts from x + W_k x, k tokens on."""
    each = [
        read_out_nats(model, (x_BTD + ahead(x_BTD))[:, : -offset or None], targets_BT[:, offset:]).mean()
        for offset, ahead in enumerate(model.future, start=1)
    ]
    return torch.stack(each).mean()


class Objective:
    """The training loss with what a config adds to it; `regularizing` says whether SIGReg still counts."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.regularizing = config.sigreg_weight > 0.0

    def set_progress(self, progress: float) -> None:
        """Ends SIGReg once `progress` has reached the config's `sigreg_until`."""
        self.regularizing = self.config.sigreg_weight > 0.0 and progress < self.config.sigreg_until

    def mean_nats(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean nats per token; its gradient is that of all terms, its value that of the next token alone."""
        x_BTD = model.last_stream(inputs_BT)
        loss = read_out_nats(model, x_BTD, targets_BT).mean()
        if len(model.future):
            loss = with_gradient_of(loss, self.config.future_weight * future_nats(model, x_BTD, targets_BT))
        if self.regularizing:
            term = self.config.sigreg_weight * sigreg(x_BTD.flatten(0, 1), self.config.sigreg_real_only)
            loss = with_gradient_of(loss, term)
        return loss


def with_gradient_of(loss: Tensor, term: Tensor) -> Tensor:
    """`loss` as a value, with the gradient of `loss` + `term`: what is logged stays the model's own loss."""
    return loss + (term - term.detach())


def export_config(config: ModelConfig) -> ModelConfig:
    """The network that leaves training: without the maps that predict further ahead."""
    return replace(config, future_tokens=0)


def export_state_dict(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network that leaves training."""
    return {name: weight for name, weight in weights.items() if not name.startswith("future.")}
