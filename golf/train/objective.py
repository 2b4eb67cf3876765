"""The training loss: the next token's nats, those of later and prefix tokens, SIGReg; and exported weights.

Shapes: B batch, T time, D width, V vocabulary, N = B x T tokens, M directions, P points of the characteristic
function.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.config import ModelConfig
from golf.model.gpt import GPT
from golf.model.loss import token_nats
from golf.train.config import TrainConfig

SIGREG_DIRECTIONS = 64
SIGREG_POINTS = 9
SIGREG_REACH = 5.0


def sigreg(x_ND: Tensor, real_only: bool) -> Tensor:
    """Distance of the tokens' distribution from an isotropic Gaussian, a scalar >= 0 (arXiv:2511.08544).

    The Epps-Pulley statistic of the tokens along random directions, the mean over directions: N times the
    integral over [-5, 5] of |phi(t) - e^(-t^2/2)|^2 e^(-t^2/2), phi being the empirical characteristic
    function. With `real_only` the difference is that of the real part, to which symmetric deviations alone
    contribute.
    """
    # A distribution is Gaussian if and only if all its one-dimensional projections are.
    directions_DM = torch.randn(x_ND.size(-1), SIGREG_DIRECTIONS, device=x_ND.device)
    along_NM = x_ND.float() @ F.normalize(directions_DM, dim=0)
    points_P = torch.linspace(0.0, SIGREG_REACH, SIGREG_POINTS, device=x_ND.device)
    angles_NMP = along_NM[..., None] * points_P
    # phi(t) = mean of cos(t x) + i sin(t x); that of a standard Gaussian is real: e^(-t^2/2).
    target_P = torch.exp(-0.5 * points_P.square())
    distance_MP = (angles_NMP.cos().mean(0) - target_P).square()
    if not real_only:
        distance_MP = distance_MP + angles_NMP.sin().mean(0).square()
    # The integrand is even: twice the integral over [0, 5], by the trapezoid rule.
    return 2 * x_ND.size(0) * torch.trapezoid(distance_MP * target_P, points_P, dim=-1).mean()


def future_nats(model: GPT, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean nats of later tokens, a scalar: x + W_k x predicts the k-th after the next (model.future)."""
    each = []
    for offset, ahead in enumerate(model.future, start=1):
        logits_BLV = model.read_out((x_BTD + ahead(x_BTD))[:, :-offset])
        each.append(token_nats(logits_BLV, targets_BT[:, offset:]).mean())
    return torch.stack(each).mean()


class Objective:
    """The training loss with the terms that a config adds, each until its end.

    `prefixes_V` is each token's prefix (`Vocabulary.prefix_tokens`), on the device of the batches; ValueError
    where the config wants it and it is missing.
    """

    def __init__(self, config: TrainConfig, prefixes_V: Tensor | None = None):
        self.config = config
        ends: list[float] = []
        if config.sigreg_weight:
            ends.append(config.sigreg_until)
        if config.prefix_weight:
            if prefixes_V is None:
                raise ValueError(f"train.prefix_weight is {config.prefix_weight}; no prefix tokens are given")
            ends.append(config.prefix_until)
            self.prefixes_V = prefixes_V
            # A tensor: compiled training is then one graph for all of its values.
            self._prefix_weight = torch.zeros((), device=prefixes_V.device)
        self._last_end = max(ends, default=0.0)
        self.starts = sorted({0.0, *(end for end in ends if end < 1)})
        """The progress at which each set of terms, a graph of its own in compiled training, begins."""
        self.advance(0.0)

    def advance(self, progress: float) -> None:
        """Ends the terms that end before this progress of the run, and sets the weight that decays."""
        self.is_plain = progress >= self._last_end
        """Whether all have ended but those of model.future_tokens."""
        self._regularizing = progress < self.config.sigreg_until
        if self.config.prefix_weight:
            left = 1 - progress / self.config.prefix_until
            self._predicting_prefixes = left > 0
            self._prefix_weight.fill_(self.config.prefix_weight * max(0.0, min(1.0, 2 * left)))

    def nats(self, model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Nats of each target, fp32, (B, T); the gradient of their mean is that of the sum of all terms."""
        x_BTD = model.last_stream(inputs_BT)
        logits_BTV = model.read_out(x_BTD)
        nats_BT = token_nats(logits_BTV, targets_BT)
        # term - term.detach() is 0 with the gradient of term: the logged loss stays the next token's.
        if model.config.future_tokens:
            term = self.config.future_weight * future_nats(model, x_BTD, targets_BT)
            nats_BT = nats_BT + (term - term.detach())
        if self.config.sigreg_weight and self._regularizing:
            term = self.config.sigreg_weight * sigreg(x_BTD.flatten(0, 1), self.config.sigreg_real_only)
            nats_BT = nats_BT + (term - term.detach())
        if self.config.prefix_weight and self._predicting_prefixes:
            term_BT = self._prefix_weight * token_nats(logits_BTV, self.prefixes_V[targets_BT])
            nats_BT = nats_BT + (term_BT - term_BT.detach())
        return nats_BT


def export_config(config: ModelConfig) -> ModelConfig:
    """The configuration of the model for export: without the maps that predict further ahead."""
    return replace(config, future_tokens=0)


def export_state_dict(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights for export, those of `export_config`'s model."""
    return {name: weight for name, weight in weights.items() if not name.startswith("future.")}
