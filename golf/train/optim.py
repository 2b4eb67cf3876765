"""Muon for the matrices, AdamW for the rest, and who gets which.

Shapes: N matrices of one shape, R rows, C columns.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.roles import roles_of
from golf.system.distributed import World, noop

QUINTIC = ((3.4445, -4.7750, 2.0315),) * 5
"""Coefficients of Muon's author (kellerjordan.github.io/posts/muon), the same at each of five steps."""
POLAR_EXPRESS = (
    (8.15655, -22.48329, 15.87877),
    (4.04293, -2.80892, 0.50002),
    (3.89167, -2.77248, 0.50606),
    (3.28575, -2.36813, 0.46449),
    (2.34654, -1.70978, 0.42324),
)
"""Per-step coefficients of Polar Express (arXiv:2505.16932), as used in openai/parameter-golf #1787."""


@dataclass(frozen=True)
class OptimConfig:
    """Learning rates and decays; every decay is decoupled and scales with its learning rate."""

    matrix_optimizer: Literal["muon", "adamw"] = "muon"
    """What trains the matrices."""
    matrix_lr: float = 0.04
    """The matrices' learning rate; Muon's update of a square one has singular values of about this size."""
    matrix_weight_decay: float = 0.04
    """Decay of the matrices."""
    momentum: float = 0.95
    """Muon's full momentum (Nesterov)."""
    row_normalize: bool = False
    """Whether each row of Muon's update is scaled to length 1 before it is orthogonalised (MuonEq-R,
    openai/parameter-golf #1260)."""
    newton_schulz: Literal["quintic", "polar-express"] = "quintic"
    """Which polynomials orthogonalise the update."""
    embedding_lr: float = 0.05
    """AdamW's learning rate of the token embedding, the bigram table and learned positions."""
    embedding_weight_decay: float = 0.04
    """Decay of the same tables."""
    scalar_lr: float = 0.04
    """AdamW's learning rate of gains, scales, mixes and gates."""
    scalar_weight_decay: float = 0.04
    """Decay of gains, scales, mixes and gates."""
    adam_beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    adam_beta2: float = 0.95
    """AdamW's decay of the mean squared gradient."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down to it."""


def orthogonalize(updates_NRC: Tensor, coefficients: Iterable[tuple[float, float, float]]) -> Tensor:
    """Pushes every singular value of each matrix towards 1, by Newton-Schulz iteration on the whole stack.

    Computes in the input's dtype and returns it. Not U V^T exactly: with QUINTIC the singular values end
    within about [0.7, 1.2], with POLAR_EXPRESS closer to 1. All-zero matrices stay zero.
    """
    tall = updates_NRC.size(-2) > updates_NRC.size(-1)
    x_NRC = updates_NRC.mT if tall else updates_NRC
    x_NRC = x_NRC / (torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in coefficients:
        gram_NRR = x_NRC @ x_NRC.mT
        poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)
    return x_NRC.mT if tall else x_NRC


def nesterov_direction(
    gradients_NRC: Tensor, momentum_NRC: Tensor, momentum: float, row_normalize: bool
) -> Tensor:
    """Nesterov momentum as a running mean, rows at length 1 if asked; moves `momentum_NRC` in place."""
    momentum_NRC.lerp_(gradients_NRC, 1.0 - momentum)
    nesterov_NRC = gradients_NRC.lerp(momentum_NRC, momentum)
    return F.normalize(nesterov_NRC, dim=-1) if row_normalize else nesterov_NRC


def shape_scale(shape: Sequence[int]) -> float:
    """sqrt(max(1, R / C)), with which an update's effect on a unit input does not depend on the shape."""
    return max(1.0, shape[-2] / shape[-1]) ** 0.5


def muon_update(
    gradients_NRC: Tensor,
    momentum_NRC: Tensor,
    momentum: float,
    coefficients: Iterable[tuple[float, float, float]],
    compute_dtype: torch.dtype,
    row_normalize: bool = False,
) -> Tensor:
    """Muon's update direction for a stack of equal shapes; `momentum_NRC` is moved in place.

    The direction of `nesterov_direction`, orthogonalised in `compute_dtype`, times `shape_scale`. Returned in
    the gradients' dtype.
    """
    direction_NRC = nesterov_direction(gradients_NRC, momentum_NRC, momentum, row_normalize)
    update_NRC = orthogonalize(direction_NRC.to(compute_dtype), coefficients).to(gradients_NRC.dtype)
    return update_NRC * shape_scale(update_NRC.shape)


def own_share(stack_NRC: Tensor, world: World) -> Tensor:
    """This process's part of a stack, as many matrices as every other's: zero ones fill the last part up."""
    each = -(-stack_NRC.size(0) // world.size)
    own_MRC = stack_NRC[world.rank * each : (world.rank + 1) * each]
    return F.pad(own_MRC, (0, 0, 0, 0, 0, each - own_MRC.size(0)))


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, all matrices of one shape at a time.

    Each parameter group holds matrices of one shape; `lr`, `momentum` and `weight_decay` are read from the
    group at each step. In a world of several each process orthogonalises its share of every stack, from
    gradients that are the same everywhere. Source: kellerjordan.github.io/posts/muon.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        config: OptimConfig,
        compute_dtype: torch.dtype,
        world: World | None = None,
    ):
        self.compute_dtype = compute_dtype
        self.row_normalize = config.row_normalize
        self.coefficients = QUINTIC if config.newton_schulz == "quintic" else POLAR_EXPRESS
        self.world = World() if world is None else world
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        groups = [{"params": [m for m in matrices if tuple(m.shape) == shape]} for shape in shapes]
        defaults = {
            "lr": config.matrix_lr,
            "momentum": config.momentum,
            "weight_decay": config.matrix_weight_decay,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Moves every matrix by its update; a matrix without a gradient is an error."""
        under_way = [(group, *self._launch(group)) for group in self.param_groups]
        for group, update_NRC, wait in under_way:
            wait()
            matrices: list[nn.Parameter] = group["params"]
            steps = list((update_NRC.to(matrices[0].dtype) * shape_scale(update_NRC.shape)).unbind())
            torch._foreach_mul_(matrices, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, steps[: len(matrices)], alpha=-group["lr"])

    def _launch(self, group: dict[str, Any]) -> tuple[Tensor, Callable[[], None]]:
        """A stack's orthogonal directions, whole once the function has been called."""
        matrices: list[nn.Parameter] = group["params"]
        state = self.state[matrices[0]]
        gradients_NRC = torch.stack([matrix.grad for matrix in matrices])
        if not state:
            state["momentum_NRC"] = torch.zeros_like(gradients_NRC)
        direction_NRC = nesterov_direction(
            gradients_NRC, state["momentum_NRC"], group["momentum"], self.row_normalize
        ).to(self.compute_dtype)
        if self.world.size == 1:
            return orthogonalize(direction_NRC, self.coefficients), noop
        own_MRC = orthogonalize(own_share(direction_NRC, self.world), self.coefficients)
        return self.world.gather_rows(own_MRC)


def split_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Every parameter by the optimizer group of its role; ValueError for one without a role."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "embedding": [], "scalar": []}
    roles = roles_of(model)
    for name, parameter in model.named_parameters():
        groups[roles[name].group].append(parameter)
    return groups


class Optimizers:
    """Muon and AdamW as one, or AdamW alone: a step, a schedule, a state."""

    def __init__(
        self,
        model: nn.Module,
        config: OptimConfig,
        compute_dtype: torch.dtype,
        world: World | None = None,
    ):
        groups = split_parameters(model)
        self.gradient_clip = config.gradient_clip
        with_muon = config.matrix_optimizer == "muon"
        self.muon = Muon(groups["matrix"], config, compute_dtype, world) if with_muon else None
        self.adam = torch.optim.AdamW(
            [
                {
                    "params": groups["embedding"],
                    "lr": config.embedding_lr,
                    "weight_decay": config.embedding_weight_decay,
                },
                {
                    "params": groups["scalar"],
                    "lr": config.scalar_lr,
                    "weight_decay": config.scalar_weight_decay,
                },
            ],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            fused=True,
        )
        if not with_muon:
            matrices = {"lr": config.matrix_lr, "weight_decay": config.matrix_weight_decay}
            self.adam.add_param_group({"params": groups["matrix"], **matrices})
        self._full_lr = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._all]

    @property
    def _all(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.adam,) if self.muon is None else (self.muon, self.adam)

    def set_schedule(self, lr_scale: float, momentum: float) -> None:
        """Scales every learning rate from its full value and sets Muon's momentum."""
        for optimizer, full in zip(self._all, self._full_lr, strict=True):
            for group, lr in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = lr * lr_scale
        for group in self.muon.param_groups if self.muon is not None else ():
            group["momentum"] = momentum

    def step(self) -> Tensor:
        """Clips the whole gradient's norm, updates every parameter and returns what the norm was."""
        parameters = [
            parameter
            for optimizer in self._all
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        norm = nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        for optimizer in self._all:
            optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """What `load_state_dict` needs to go on exactly."""
        muon = {} if self.muon is None else {"muon": self.muon.state_dict()}
        return {**muon, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restores both optimisers."""
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
