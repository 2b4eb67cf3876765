"""Calibration: the Fisher information of the loss about each weight matrix, from forward and backward passes.

For y = W x with W (R, C), a token's gradient by W is g x^T, with g = d(loss)/dy (R,). The empirical Fisher
matrix of row r is the sum over tokens of g_r^2 x x^T (C, C); it approximates the loss's second derivative.
One matrix per row is too large, so it is approximated by a Kronecker form, a factor per row times one matrix
for all:
    loss rise of an error E (R, C)  =  1/2 x sum over r of fisher_R[r] x E_r hessian_CC E_r^T
hessian_CC is the sum of mean_r(g_r^2) x x^T, scaled to a mean diagonal of 1; fisher_R[r] is the mean over
tokens of g_r^2 mean_c(x_c^2).
In a vocabulary of thousands most rows belong to tokens that the calibration's text has once or never, where
g says little. The head's g_v^2 is therefore its expectation over targets drawn from the predictions,
    E (p_v - 1[target = v])^2 = p_v (1 - p_v),   times the square of the soft cap's derivative,
and an input row is looked up as often as its token is expected to be the next.
Shapes: B batch, T time, N tokens of a batch, R rows, C columns, V vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golf.model.gpt import GPT
from golf.model.layers import Linear
from golf.model.loss import softcap, token_nats

EMBEDDING_WEIGHT = "embedding.weight"
"""Used twice, as the input table and as the head; both uses count."""
PRIOR_LOOKUPS = 1.0
"""Lookups with the mean gradient of all that every row of the table is given beside its own."""
CALIBRATION_PASS_TOKENS = 16_384
"""Maximum tokens of a pass: it is not compiled, and keeps about 0.7 MB per token of a frontier network."""


@dataclass
class Calibration:
    """Sums over the tokens seen so far, on the model's device; by weight name."""

    num_tokens: int = 0
    moments_CC: dict[str, Tensor] = field(default_factory=dict)
    """Sum of x x^T, each token weighted by its mean squared output gradient; matrices only."""
    squares_R: dict[str, Tensor] = field(default_factory=dict)
    """Sum of squared weight gradients, mean over the row: of each token for matrices, else of each batch.
    Those of the embedding are expected ones."""

    def hessian(self, name: str) -> Tensor | None:
        """Hessian of the inputs, scaled to a mean diagonal of 1, fp32 (C, C); None unless a matrix."""
        total_CC = self.moments_CC.get(name)
        return None if total_CC is None else total_CC / total_CC.diagonal().mean().clamp_min(1e-30)

    def fisher(self, name: str) -> Tensor:
        """Mean second derivative of a token's loss by row, in nats per unit of weight squared, (R,)."""
        return self.squares_R[name] / self.num_tokens

    def moved_to(self, device: torch.device) -> "Calibration":
        """The same sums on another device, where the rounding will then run."""
        return Calibration.from_tensors({name: sums.to(device) for name, sums in self.to_tensors().items()})

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything as CPU tensors by name, for a file."""
        stored = {f"moments_CC/{name}": sums for name, sums in self.moments_CC.items()}
        stored |= {f"squares_R/{name}": sums for name, sums in self.squares_R.items()}
        stored["num_tokens"] = torch.tensor(self.num_tokens)
        return {name: sums.cpu().contiguous() for name, sums in stored.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Calibration":
        """The inverse of `to_tensors`."""
        parts = {"moments_CC": {}, "squares_R": {}, "num_tokens": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        return cls(int(parts["num_tokens"][""]), parts["moments_CC"], parts["squares_R"])

    def add_uses(self, name: str, x_NC: Tensor, gradient_NR: Tensor) -> None:
        """Adds a matrix product's inputs and the summed loss's gradient by its outputs."""
        x_NC, squared_NR = x_NC.detach().flatten(0, -2).float(), gradient_NR.flatten(0, -2).float().square()
        weighted_NC = x_NC * squared_NR.mean(1, keepdim=True).sqrt()
        _add(self.moments_CC, name, weighted_NC.T @ weighted_NC)
        # sum over n of g_nr^2 mean_c(x_nc^2): (R, N) @ (N,).
        _add(self.squares_R, name, squared_NR.T @ x_NC.square().mean(1))

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Adds the summed loss's gradient by a weight that is not a matrix."""
        rows_RC = gradient.reshape(1, -1) if gradient.dim() < 2 else gradient.flatten(1)
        _add(self.squares_R, name, rows_RC.float().square().mean(1))


class Lookups:
    """Rows looked up in a table (V, C), and the loss's gradients by them."""

    def __init__(self, table: Tensor):
        num_rows, columns = table.shape
        self.counts_V, self.squares_V, self.expected_V = torch.zeros((3, num_rows), device=table.device)
        self.moments_CC = torch.zeros((columns, columns), device=table.device)

    def add(self, rows_N: Tensor, gradient_NC: Tensor) -> None:
        """Adds lookups and the summed loss's gradient by what was looked up."""
        gradient_NC = gradient_NC.flatten(0, -2).float()
        # A lookup is onehot(row) @ W: the gradient is by columns, so it takes the place of x in add_uses, and
        # the one-hot vector, whose mean square is 1 / num_rows, that of the output gradient.
        self.moments_CC += gradient_NC.T @ gradient_NC / len(self.counts_V)
        self.squares_V.index_add_(0, rows_N.flatten(), gradient_NC.square().mean(1))
        self.counts_V += rows_N.flatten().bincount(minlength=len(self.counts_V))

    def squares(self) -> Tensor:
        """Sum of the mean squared gradients by row, (V,), had the rows come as often as expected."""
        mean = self.squares_V.sum() / self.counts_V.sum().clamp_min(1)
        own_V = (self.squares_V + PRIOR_LOOKUPS * mean) / (self.counts_V + PRIOR_LOOKUPS)
        return self.expected_V * own_V


def calibrate(model: GPT, batches: Iterable[tuple[Tensor, Tensor]]) -> Calibration:
    """Runs `batches` (inputs_BT, targets_BT of training text) forward and backward through the model.

    Weights stay as they are; gradients are dropped. Every use of a matrix counts, so a layer visited twice is
    calibrated by both visits.
    """
    calibration = Calibration()

    def observe(add: Callable[[Tensor, Tensor], None]) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(lambda gradient: add(inputs[0], gradient))

        return hook

    lookups, cap = Lookups(model.embedding.weight), model.config.logit_softcap

    def observe_head(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        logits_NV = softcap(output.detach().flatten(0, -2).float(), cap)
        p_NV = logits_NV.softmax(-1)
        lookups.expected_V += p_NV.sum(0)
        slope_NV = 1 - (logits_NV / cap).square() if cap else torch.ones_like(logits_NV)
        calibration.add_uses(EMBEDDING_WEIGHT, inputs[0], (p_NV * (1 - p_NV)).sqrt() * slope_NV)

    handles = [
        model.embedding.register_forward_hook(observe(lookups.add)),
        model.head.register_forward_hook(observe_head),
    ]
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            uses = partial(calibration.add_uses, f"{name}.weight")
            handles.append(module.register_forward_hook(observe(uses)))
    try:
        for inputs_BT, targets_BT in batches:
            model.zero_grad(set_to_none=True)
            token_nats(model(inputs_BT), targets_BT).sum().backward()
            calibration.num_tokens += targets_BT.numel()
            for name, parameter in model.named_parameters():
                if name not in calibration.moments_CC:
                    # One without a gradient is of no effect.
                    unused = torch.zeros_like(parameter)
                    calibration.add_gradient(name, unused if parameter.grad is None else parameter.grad)
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    _add(calibration.moments_CC, EMBEDDING_WEIGHT, lookups.moments_CC)
    _add(calibration.squares_R, EMBEDDING_WEIGHT, lookups.squares())
    return calibration


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
