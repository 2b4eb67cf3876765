"""Muon: momentum SGD whose updates are orthogonalized by a Newton-Schulz iteration.

Source: kellerjordan.github.io/posts/muon. Shapes: N matrices of one shape, R rows, C columns.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.system.distributed import World, noop

Coefficients = tuple[tuple[float, float, float], ...]
"""(a, b, c) of each Newton-Schulz step x <- a x + b x^3 + c x^5, applied to the singular values."""
QUINTIC: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5
"""Those of Muon's author: the slope at 0 is as steep as possible, so that small singular values grow fast."""
POLAR_EXPRESS: Coefficients = (
    (8.15655, -22.48329, 15.87877),
    (4.04293, -2.80892, 0.50002),
    (3.89167, -2.77248, 0.50606),
    (3.28575, -2.36813, 0.46449),
    (2.34654, -1.70978, 0.42324),
)
"""Per-step coefficients of Polar Express (arXiv:2505.16932), as used in openai/parameter-golf #1787."""
NEWTON_SCHULZ = {"quintic": QUINTIC, "polar-express": POLAR_EXPRESS}


def orthogonalize(updates_NRC: Tensor, coefficients: Coefficients) -> Tensor:
    """Moves every singular value of each matrix to about 1 and keeps the singular vectors.

    Computes in the input's dtype and returns it. The result approximates U V^T: singular values end within
    about [0.7, 1.2] with QUINTIC, closer to 1 with POLAR_EXPRESS. All-zero matrices stay zero.
    """
    # X X^T has the size of the shorter side if the matrix is wide: fewer operations, same result.
    is_tall = updates_NRC.size(-2) > updates_NRC.size(-1)
    x_NRC = updates_NRC.mT if is_tall else updates_NRC
    # The iteration converges for singular values in [0, 1]; the Frobenius norm bounds the largest one.
    # 1.01 leaves room for bf16 rounding.
    x_NRC = x_NRC / (torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in coefficients:
        # An odd polynomial of X = U S V^T acts on S alone: X X^T X = U S^3 V^T.
        gram_NRR = x_NRC @ x_NRC.mT
        poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)  # b G + c G^2
        x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)  # a X + (b G + c G^2) X
    return x_NRC.mT if is_tall else x_NRC


class Muon(torch.optim.Optimizer):
    """Muon for matrices; those of one shape are one stack and one parameter group.

    `lr`, `momentum` and `weight_decay` (decoupled, times `lr`) are read from the group at each step. With
    `row_normalize` each row of the update is scaled to length 1 before it is orthogonalized. Newton-Schulz
    runs in `compute_dtype`. With several processes, each orthogonalizes its share of every stack; gradients
    must be equal in all of them.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        row_normalize: bool = False,
        newton_schulz: str = "quintic",
        compute_dtype: torch.dtype = torch.bfloat16,
        world: World | None = None,
    ):
        self.row_normalize, self.coefficients = row_normalize, NEWTON_SCHULZ[newton_schulz]
        self.compute_dtype, self.world = compute_dtype, world or World()
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        groups = [{"params": [m for m in matrices if tuple(m.shape) == shape]} for shape in shapes]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates every matrix; a matrix without a gradient is an error."""
        pending = []
        for group in self.param_groups:
            gradients_NRC = torch.stack([matrix.grad for matrix in group["params"]])
            state = self.state[group["params"][0]]
            if not state:
                state["momentum_NRC"] = torch.zeros_like(gradients_NRC)
            momentum_NRC = state["momentum_NRC"]
            # Momentum as a running mean; Nesterov's variant looks one update ahead.
            momentum_NRC.lerp_(gradients_NRC, 1.0 - group["momentum"])
            direction_NRC = gradients_NRC.lerp(momentum_NRC, group["momentum"])
            if self.row_normalize:
                direction_NRC = F.normalize(direction_NRC, dim=-1)
            pending.append((group, *self._orthogonalize_shared(direction_NRC.to(self.compute_dtype))))
        for group, update_NRC, wait in pending:
            wait()
            matrices = group["params"]
            # An orthogonal R x C matrix maps inputs of RMS 1 to outputs of RMS sqrt(C / R) if R > C, else of
            # RMS 1: with this factor an update changes outputs equally in every shape.
            scale = max(1.0, update_NRC.size(-2) / update_NRC.size(-1)) ** 0.5
            updates = (update_NRC.to(matrices[0].dtype) * scale).unbind()
            torch._foreach_mul_(matrices, 1.0 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(matrices, updates[: len(matrices)], alpha=-group["lr"])  # pyright: ignore[reportPrivateImportUsage]

    def _orthogonalize_shared(self, direction_NRC: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """The orthogonalized stack, complete once the returned function has been called."""
        if self.world.size == 1:
            return orthogonalize(direction_NRC, self.coefficients), noop
        # Every process takes equally many matrices: the stack is padded with zeros, which `step` cuts off.
        share = -(-direction_NRC.size(0) // self.world.size)
        own_NRC = direction_NRC[self.world.rank * share : (self.world.rank + 1) * share]
        own_NRC = F.pad(own_NRC, (0, 0, 0, 0, 0, share - own_NRC.size(0)))
        return self.world.gather_rows(orthogonalize(own_NRC, self.coefficients))
