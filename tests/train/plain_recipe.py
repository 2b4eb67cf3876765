"""A network and its training written out plainly, for comparison: weights in a dict, loops, no class of golf.

Sources of the formulas: openai/parameter-golf #65 (blend), #162 (bigrams), #287 (XSA), #315 (partial RoPE,
scale of norms), #334 (matrices by their dimensions), #549 (leaky relu^2), #1089 (skip gates), #1260 (row
normalization), #1529 (two lanes), #1667 (smear behind a gate), #1787 (gates of heads, floor of the learning
rate), #1855 (all of the latter);
arXiv:1711.05101 (AdamW), 2505.16932 (Polar Express), and Muon's author for its momentum and quintic.

Shapes: B batch, T time, D width, H heads, E head width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]
BOS = 1
POLAR_EXPRESS = (
    (8.15655, -22.48329, 15.87877),
    (4.04293, -2.80892, 0.50002),
    (3.89167, -2.77248, 0.50606),
    (3.28575, -2.36813, 0.46449),
    (2.34654, -1.70978, 0.42324),
)
QUINTIC = ((3.4445, -4.7750, 2.0315),) * 5
MATRICES = ("query", "key", "value", "output", "up", "down", "projection")
TABLES = ("embedding", "table")


@dataclass(frozen=True)
class PlainNetwork:
    """What the weights do not tell of a network."""

    heads: int
    kv_heads: int
    rotary_dims: int
    rotary_base: float
    softcap: float
    slope: float = 0.0
    xsa: bool = False
    gate_scale: float = 0.0
    lanes_from: int | None = None
    """First block with two lanes."""


@dataclass(frozen=True)
class PlainRates:
    """Learning rate and decoupled decay of matrices, tables and all else; what their optimizers take."""

    matrix: tuple[float, float]
    table: tuple[float, float]
    scalar: tuple[float, float]
    row_normalize: bool
    coefficients: Sequence[tuple[float, float, float]]
    betas: tuple[float, float]
    clip: float
    by_shape: bool = False
    """Whether all matrices but the token embedding have Muon."""
    eps: float = 1e-8


def rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + torch.finfo(x.dtype).eps)


def shifted(x_BTD: Tensor) -> Tensor:
    """The position before; zeros at the first."""
    return torch.cat((torch.zeros_like(x_BTD[:, :1]), x_BTD[:, :-1]), dim=1)


def embedded(w: Weights, tokens_BT: Tensor) -> Tensor:
    """The sum of embedding and bigram, normed: smeared behind a gate before (#1855), blended after (#334)."""
    starts_BT = tokens_BT == BOS
    starts_BT[:, 0] = True
    x_BTD = w["embedding.weight"][tokens_BT]
    if "bigram.table" in w:
        before_BT = torch.roll(tokens_BT, 1, dims=1)
        buckets_BT = (36313 * tokens_BT + 27191 * before_BT) % len(w["bigram.table"])
        buckets_BT[starts_BT] = 0
        x_BTD = x_BTD + w["bigram.scale"] * (w["bigram.table"][buckets_BT] @ w["bigram.projection.weight"].T)
    open_BT1 = (~starts_BT).to(x_BTD.dtype)[..., None]
    if "smear.strength" in w:
        gate_BT1 = torch.sigmoid(x_BTD[..., :12] @ w["smear.gate"])[..., None]
        return rms(x_BTD + open_BT1 * w["smear.strength"] * gate_BT1 * shifted(x_BTD))
    x_BTD, share_BTD = rms(x_BTD), open_BT1 * torch.sigmoid(w["smear.gate"])
    return (1 - share_BTD) * x_BTD + share_BTD * shifted(x_BTD)


def turned(x_BTE: Tensor, net: PlainNetwork) -> Tensor:
    """The first `rotary_dims` channels of a head as complex numbers times e^(i t base^(-2j / dims))."""
    half = net.rotary_dims // 2
    times_T = torch.arange(x_BTE.size(1), dtype=x_BTE.dtype)
    rates_P = net.rotary_base ** (-torch.arange(half, dtype=x_BTE.dtype) / half)
    angles_TP = times_T[:, None] * rates_P
    z_BTP = torch.complex(x_BTE[..., :half], x_BTE[..., half : 2 * half])
    z_BTP = z_BTP * torch.polar(torch.ones_like(angles_TP), angles_TP)
    return torch.cat((z_BTP.real, z_BTP.imag, x_BTE[..., 2 * half :]), dim=-1)


def attended(w: Weights, block: str, x_BTD: Tensor, net: PlainNetwork) -> Tensor:
    """Causal attention, one head after the other."""
    at, length = f"{block}.attention.", x_BTD.size(1)
    width = x_BTD.size(2) // net.heads
    future_TT = torch.ones(length, length, dtype=torch.bool).triu(1)
    outputs = []
    for head in range(net.heads):
        own, shared = (slice(n * width, (n + 1) * width) for n in (head, head * net.kv_heads // net.heads))
        q_BTE = rms(x_BTD @ w[at + "query.weight"][own].T) * w[at + "qk_gain"][head]
        k_BTE = rms(x_BTD @ w[at + "key.weight"][shared].T)
        v_BTE = x_BTD @ w[at + "value.weight"][shared].T
        logits_BTT = turned(q_BTE, net) @ turned(k_BTE, net).mT / math.sqrt(width)
        y_BTE = logits_BTT.masked_fill(future_TT, -math.inf).softmax(-1) @ v_BTE
        if net.xsa:
            length_BT1 = (v_BTE * v_BTE).sum(-1, keepdim=True)
            y_BTE = y_BTE - (y_BTE * v_BTE).sum(-1, keepdim=True) / length_BT1 * v_BTE
        if net.gate_scale:
            gate_BT = torch.sigmoid(net.gate_scale * (x_BTD[..., :12] @ w[at + "gates.gate"][head]))
            y_BTE = y_BTE * gate_BT[..., None]
        outputs.append(y_BTE)
    return torch.cat(outputs, dim=-1) @ w[at + "output.weight"].T


def fed(w: Weights, block: str, x_BTD: Tensor, net: PlainNetwork) -> Tensor:
    u = x_BTD @ w[f"{block}.feedforward.up.weight"].T
    return torch.where(u > 0, u, net.slope * u) ** 2 @ w[f"{block}.feedforward.down.weight"].T


def losses(w: Weights, inputs_BT: Tensor, targets_BT: Tensor, net: PlainNetwork, order: list[int]) -> Tensor:
    """Mean nats per token; `order` has the block of each visit. The first half feeds skips to the rest."""
    x0_BTD = lane0 = embedded(w, inputs_BT)
    lane1: Tensor | None = None
    skips: list[Tensor] = []
    num_skips = len(order) // 2
    for place, layer in enumerate(order):
        block, depth = f"blocks.{layer}", 1 / math.sqrt(layer + 1)
        if layer == net.lanes_from:
            lane1 = lane0
        if num_skips <= place and skips:
            skip_BTD = w["skip_weights"][place - num_skips] * skips.pop()
            if "skip_gates" in w:
                kept_D = torch.sigmoid(w["skip_gates"][place - num_skips])
                lane0 = kept_D * lane0 + (1 - kept_D) * skip_BTD
            else:
                lane0 = lane0 + skip_BTD
        mix_2D = w[f"{block}.mix"]
        x_BTD = mix_2D[0] * lane0 + mix_2D[1] * x0_BTD
        a_BTD = w[f"{block}.attention_scale"] * attended(w, block, depth * rms(x_BTD), net)
        if lane1 is None:
            x_BTD = x_BTD + a_BTD
            lane0 = x_BTD + w[f"{block}.feedforward_scale"] * fed(w, block, depth * rms(x_BTD), net)
        else:
            m_BTD = w[f"{block}.feedforward_scale"] * fed(w, block, depth * rms(lane1), net)
            keep, write = w[f"{block}.lane_keep"], w[f"{block}.lane_write"]
            lane0, lane1 = (
                keep[i] * lane + write[0, i] * a_BTD + write[1, i] * m_BTD
                for i, lane in enumerate((lane0, lane1))
            )
        if place < num_skips:
            skips.append(lane0)
    if lane1 is not None:
        lane0 = (lane0 + lane1) / 2
    logits_BTV = net.softcap * torch.tanh(rms(lane0) @ w["embedding.weight"].T / net.softcap)
    correct_BT = logits_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return (logits_BTV.logsumexp(-1) - correct_BT).mean()


def orthogonal(x: Tensor, coefficients: Sequence[tuple[float, float, float]]) -> Tensor:
    """Newton-Schulz, a X + b (X X^T) X + c (X X^T)^2 X a step, from X over its Frobenius norm."""
    norm = x.norm()
    if norm == 0:
        return x
    x = x / norm
    for a, b, c in coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class PlainTraining:
    """The optimizers of a dict of weights."""

    def __init__(self, weights: Weights, rates: PlainRates):
        self.weights = {name: each.clone().requires_grad_() for name, each in weights.items()}
        self.rates, self.steps = rates, 0
        self.buffers = {name: torch.zeros_like(each) for name, each in weights.items()}
        self.squares = {name: torch.zeros_like(each) for name, each in weights.items()}

    def gradients(self, loss: Tensor) -> Weights:
        """The gradient of a loss for every weight."""
        found = torch.autograd.grad(loss, list(self.weights.values()))
        return dict(zip(self.weights, found, strict=True))

    @torch.no_grad()
    def step(self, gradients: Weights, lr_scale: float, momentum: float) -> None:
        """One update of every weight; `lr_scale` multiplies all learning rates."""
        self.steps += 1
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values()))
        clip = min(1.0, self.rates.clip / norm)
        for name, weight in self.weights.items():
            parts = name.split(".")
            gradient = clip * gradients[name]
            if self.rates.by_shape:
                has_muon = weight.ndim == 2 and name != "embedding.weight"
            else:
                has_muon = parts[-1] == "weight" and parts[-2] in MATRICES
            if has_muon:
                rate, decay = self.rates.matrix
                change = self._muon(name, gradient, momentum)
            else:
                rate, decay = self.rates.table if set(parts) & set(TABLES) else self.rates.scalar
                change = self._adam(name, gradient)
            weight -= lr_scale * rate * (decay * weight + change)

    def _muon(self, name: str, gradient: Tensor, momentum: float) -> Tensor:
        """The orthogonalized direction of Nesterov's momentum, whose buffer is a sum."""
        self.buffers[name] = momentum * self.buffers[name] + gradient
        direction = gradient + momentum * self.buffers[name]
        if self.rates.row_normalize:
            norms = direction.norm(dim=1, keepdim=True)
            direction = torch.where(norms > 0, direction / norms, 0.0)
        rows, columns = direction.shape
        return math.sqrt(max(1.0, rows / columns)) * orthogonal(direction, self.rates.coefficients)

    def _adam(self, name: str, gradient: Tensor) -> Tensor:
        """The mean gradient over the root of the mean square, both corrected for their start at 0."""
        beta1, beta2 = self.rates.betas
        self.buffers[name] = beta1 * self.buffers[name] + (1 - beta1) * gradient
        self.squares[name] = beta2 * self.squares[name] + (1 - beta2) * gradient**2
        mean = self.buffers[name] / (1 - beta1**self.steps)
        square = self.squares[name] / (1 - beta2**self.steps)
        return mean / (square.sqrt() + self.rates.eps)


def linear_to_floor(progress: float, warmdown: float, floor: float) -> float:
    """1, then linear to 0 over the last `warmdown` of the run, but never below the floor."""
    return max(floor, min(1.0, (1.0 - progress) / warmdown))


def warming(progress: float, first: float, full: float, share: float) -> float:
    """Linear from `first` to `full` over the first `share` of the run."""
    return full if progress >= share else first + (full - first) * progress / share
