"""What the loss feels of each weight's error, measured on training text.

The loss's rise is modelled as 1/2 x sum over rows of energy_R x error_R Hessian error_R^T (a Kronecker form
of the empirical Fisher matrix): the Hessian is that of the matrix's inputs, weighted by each token's output
gradient, the energy the row's own share.
Shapes: B batch, T time, N tokens of a batch, R rows, C columns, D width, V vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from golf.model.gpt import GPT
from golf.model.layers import Embedding, Linear
from golf.model.loss import token_nats

EMBEDDING_WEIGHT = "embedding.weight"
"""Used twice, as the input table and as the head; both uses count."""
CALIBRATION_PASS_TOKENS = 16_384
"""Most tokens of a pass: it is not compiled, and keeps some 0.7 MB a token of the frontier's network."""


@dataclass
class Calibration:
    """Sums over the tokens seen so far, on the model's device; by weight name."""

    num_tokens: int = 0
    moments_CC: dict[str, Tensor] = field(default_factory=dict)
    """Sum of x x^T, each token weighted by its mean squared output gradient; matrices alone."""
    squares_R: dict[str, Tensor] = field(default_factory=dict)
    """Sum of squared weight gradients, mean over the row: of each token for matrices, else of each batch."""

    def hessian(self, name: str) -> Tensor | None:
        """Input Hessian with a mean diagonal of 1, fp32 (C, C); None for what is no matrix product."""
        total_CC = self.moments_CC.get(name)
        return None if total_CC is None else total_CC / total_CC.diagonal().mean().clamp_min(1e-30)

    def energy(self, name: str) -> Tensor:
        """Mean second derivative of a token's loss by row, in nats per unit of weight squared, (R,)."""
        return self.squares_R[name] / self.num_tokens

    def to(self, device: torch.device) -> "Calibration":
        """The same sums on another device: rounding happens where they are."""
        moved = {name: value.to(device) for name, value in self.moments_CC.items()}
        return Calibration(self.num_tokens, moved, {k: v.to(device) for k, v in self.squares_R.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Everything as CPU tensors by name, for a file."""
        sums = {"num_tokens": torch.tensor(self.num_tokens)}
        sums |= {f"moments_CC/{name}": value.cpu().contiguous() for name, value in self.moments_CC.items()}
        return sums | {
            f"squares_R/{name}": value.cpu().contiguous() for name, value in self.squares_R.items()
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Calibration":
        """The inverse of `tensors`."""
        calibration = cls(int(tensors["num_tokens"]))
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if name:
                vars(calibration)[kind][name] = value
        return calibration

    def _add(self, sums: dict[str, Tensor], name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    def add_uses(self, name: str, x_NC: Tensor, gradient_NR: Tensor) -> None:
        """Takes in a matrix product's inputs and the gradient of the summed loss by its outputs."""
        x_NC, squared_NR = x_NC.detach().flatten(0, -2).float(), gradient_NR.flatten(0, -2).float().square()
        weighted_NC = x_NC * squared_NR.mean(1, keepdim=True).sqrt()
        self._add(self.moments_CC, name, weighted_NC.T @ weighted_NC)
        self._add(self.squares_R, name, squared_NR.T @ x_NC.square().mean(1))

    def add_gradient(self, name: str, gradient: Tensor) -> None:
        """Takes in the gradient of a batch's summed loss by a weight that is no matrix."""
        rows_RC = gradient.reshape(1, -1) if gradient.dim() < 2 else gradient.flatten(1)
        self._add(self.squares_R, name, rows_RC.float().square().mean(1))

    def add_lookups(self, name: str, rows_N: Tensor, num_rows: int, gradient_NC: Tensor) -> None:
        """Takes in the rows that were looked up in a table, and the gradient by what they gave."""
        gradient_NC = gradient_NC.flatten(0, -2).float()
        # A row is an output of a one-hot product; relative to add_uses, rows and columns change places.
        self._add(self.moments_CC, name, gradient_NC.T @ gradient_NC / num_rows)
        squares_R = torch.zeros(num_rows, device=gradient_NC.device)
        squares_R.index_add_(0, rows_N.flatten(), gradient_NC.square().mean(1))
        self._add(self.squares_R, name, squares_R)


def calibrate(model: GPT, batches: Iterable[tuple[Tensor, Tensor]]) -> Calibration:
    """Runs `batches` (inputs_BT, targets_BT of training text) forward and backward through the model.

    Weights stay as they are; gradients are dropped. Every use of a matrix counts, so a layer visited twice is
    calibrated by both visits.
    """
    calibration = Calibration()
    handles = [
        module.register_forward_hook(_observe_linear(calibration, f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, Linear)
    ]
    handles.append(model.embedding.register_forward_hook(_observe_table(calibration)))
    handles.append(model.head.register_forward_hook(_observe_linear(calibration, EMBEDDING_WEIGHT)))
    try:
        for inputs_BT, targets_BT in batches:
            model.zero_grad(set_to_none=True)
            token_nats(model(inputs_BT), targets_BT).sum().backward()
            calibration.num_tokens += targets_BT.numel()
            for name, parameter in model.named_parameters():
                if name not in calibration.moments_CC and parameter.grad is not None:
                    calibration.add_gradient(name, parameter.grad)
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return calibration


def _observe_linear(
    calibration: Calibration, name: str
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda gradient: calibration.add_uses(name, inputs[0], gradient))

    return hook


def _observe_table(calibration: Calibration) -> Callable[[Embedding, tuple[Tensor], Tensor], None]:
    def hook(module: Embedding, inputs: tuple[Tensor], output: Tensor) -> None:
        rows = module.weight.size(0)
        output.register_hook(
            lambda gradient: calibration.add_lookups(EMBEDDING_WEIGHT, inputs[0], rows, gradient)
        )

    return hook
