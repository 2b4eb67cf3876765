"""The table of optimizers, which group of parameters each of them trains, and all of them as one."""

import inspect
import math
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.roles import roles_of
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
    x_NRC = x_NRC / (torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in coefficients:
        # An odd polynomial of X = U S V^T acts on S alone: X X^T X = U S^3 V^T.
        gram_NRR = x_NRC @ x_NRC.mT
        poly_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)  # b G + c G^2
        x_NRC = torch.baddbmm(x_NRC, poly_NRR, x_NRC, beta=a)  # a X + (b G + c G^2) X
    return x_NRC.mT if is_tall else x_NRC


def gradients_of(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradient of each parameter; zero where no visit used it."""
    return [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]


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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a `state_dict`; ValueError for one whose momentum is a running mean, as it once was."""
        if any("momentum_sum_NRC" not in state for state in state_dict["state"].values()):
            raise ValueError("Muon's momentum is a mean (a run of an earlier version cannot be resumed)")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates every matrix; one that no visit used has a gradient of zero."""
        pending = []
        for group in self.param_groups:
            gradients_NRC = torch.stack(gradients_of(group["params"]))
            state = self.state[group["params"][0]]
            if not state:
                state["momentum_sum_NRC"] = torch.zeros_like(gradients_NRC)
            # A sum, not a running mean: while the momentum warms up, a mean would weigh early gradients more.
            momentum_NRC = state["momentum_sum_NRC"].mul_(group["momentum"]).add_(gradients_NRC)
            # Nesterov's variant looks one update ahead.
            direction_NRC = gradients_NRC.add(momentum_NRC, alpha=group["momentum"])
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


def build_adamw(
    parameters: list[nn.Parameter],
    lr: float,
    weight_decay: float,
    adam_beta1: float,
    adam_beta2: float,
    adam_eps: float,
) -> torch.optim.AdamW:
    """torch's AdamW, one fused kernel for all parameters."""
    return torch.optim.AdamW(parameters, lr, (adam_beta1, adam_beta2), adam_eps, weight_decay, fused=True)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "muon": Muon,
    "adamw": build_adamw,
}
"""Optimizers by name. A new one is a file with a `torch.optim.Optimizer`, and a line here.

It is called with a list of parameters and, by keyword, those settings that its signature names, of the ones
that `Optimizers` lists and `OptimConfig.options`. The schedule scales "lr" in its param_groups, and sets
"momentum" where they have it.
"""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rate and decay (decoupled, times the learning rate) of each group of parameters."""

    matrix: str = "muon"
    """Optimizer of the matrices: muon, adamw, or another name of OPTIMIZERS."""
    embedding: str = "adamw"
    """Optimizer of the token embedding, the hashed tables and learned positions."""
    scalar: str = "adamw"
    """Optimizer of gains, scales, mixes and gates."""
    options: tuple[str, ...] = ()
    """Settings of optimizers that have no field here, as name=value; each goes to those that take it."""
    matrix_lr: float = 0.04
    """The matrices' learning rate; Muon's update of a square one has singular values of about this size."""
    matrix_weight_decay: float = 0.04
    """Decay of the matrices."""
    momentum: float = 0.95
    """Muon's full momentum (Nesterov)."""
    row_normalize: bool = False
    """Whether each row of Muon's update is scaled to length 1 before it is orthogonalized (MuonEq-R,
    openai/parameter-golf #1260)."""
    newton_schulz: Literal["quintic", "polar-express"] = "quintic"
    """Which polynomials orthogonalize Muon's update."""
    by_shape: bool = False
    """Whether all matrices but the token embedding are in the group `matrix`: the bigram table, the mix with
    the embedding and the skip weights too, as in openai/parameter-golf #334."""
    embedding_lr: float = 0.05
    """Learning rate of the tables."""
    embedding_weight_decay: float = 0.04
    """Decay of the tables."""
    scalar_lr: float = 0.04
    """Learning rate of the scalars."""
    scalar_weight_decay: float = 0.04
    """Decay of the scalars."""
    adam_beta1: float = 0.9
    """AdamW's decay of the mean gradient."""
    adam_beta2: float = 0.95
    """AdamW's decay of the mean squared gradient."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    gradient_clip: float = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down to it. 0 for no limit."""

    def __post_init__(self) -> None:
        for name in (self.matrix, self.embedding, self.scalar):
            if name not in OPTIMIZERS:
                raise ValueError(f"optimizer {name!r} is unknown; there are {', '.join(OPTIMIZERS)}")
        used = dict.fromkeys((self.matrix, self.embedding, self.scalar))
        known = {key for name in used for key in inspect.signature(OPTIMIZERS[name]).parameters}
        shared = vars(self).keys() | {"lr", "weight_decay", "compute_dtype", "world"}
        for name in sorted(parse_options(self.options).keys() - (known - shared)):
            raise ValueError(f"optim.options: {name!r} is no option of {', '.join(used)}")


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Pairs name=value as a dict: Python literals as such, other values as text; ValueError without a '='."""
    parsed: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"optim.options has {option!r}; expected name=value")
        try:
            parsed[name] = literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed


def split_parameters(model: nn.Module, by_shape: bool = False) -> dict[str, list[nn.Parameter]]:
    """Parameters by the optimizer group of their role.

    With `by_shape` every matrix but the token embedding is in the group of matrices, as in scripts that sort
    parameters by their number of dimensions.
    """
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "embedding": [], "scalar": []}
    for name, role in roles_of(model).items():
        parameter = model.get_parameter(name)
        is_matrix = by_shape and parameter.ndim == 2 and name != "embedding.weight"
        groups["matrix" if is_matrix else role.group].append(parameter)
    return groups


class Optimizers:
    """The optimizers of a model's groups of parameters as one: a step, a schedule, a state."""

    def __init__(
        self, model: nn.Module, config: OptimConfig, compute_dtype: torch.dtype, world: World | None = None
    ):
        self.world, self.gradient_clip = world or World(), config.gradient_clip or math.inf
        self.by_group: dict[str, torch.optim.Optimizer] = {}
        """The optimizer of each group of parameters that the model has: matrix, embedding, scalar."""
        chosen = {
            "matrix": (config.matrix, config.matrix_lr, config.matrix_weight_decay),
            "embedding": (config.embedding, config.embedding_lr, config.embedding_weight_decay),
            "scalar": (config.scalar, config.scalar_lr, config.scalar_weight_decay),
        }
        settings: dict[str, Any] = {
            "momentum": config.momentum,
            "row_normalize": config.row_normalize,
            "newton_schulz": config.newton_schulz,
            "adam_beta1": config.adam_beta1,
            "adam_beta2": config.adam_beta2,
            "adam_eps": config.adam_eps,
            "compute_dtype": compute_dtype,
            "world": self.world,
        }
        if config.options:
            settings |= parse_options(config.options)
        for kind, parameters in split_parameters(model, config.by_shape).items():
            if parameters:
                name, settings["lr"], settings["weight_decay"] = chosen[kind]
                taken = inspect.signature(OPTIMIZERS[name]).parameters.keys() & settings.keys()
                self.by_group[kind] = OPTIMIZERS[name](parameters, **{key: settings[key] for key in taken})
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, as torch's optimizers have them."""
        return [group for optimizer in self.by_group.values() for group in optimizer.param_groups]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters, in the order of their groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def set_schedule(self, lr_scale: float, momentum: float) -> None:
        """Sets each learning rate to `lr_scale` times its initial value, and momentum where there is one."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * lr_scale
            if "momentum" in group:
                group["momentum"] = momentum

    @torch.no_grad()
    def all_reduce_gradients(self) -> None:
        """Sums the gradients over all processes, in one message; a missing gradient counts as zero.

        A compiled graph returns all gradients at its end, so there is no backward pass left to overlap with.
        """
        if self.world.size == 1:
            return
        gradients = gradients_of(self.parameters)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        self.world.sum(flat)()
        sums = flat.split([gradient.numel() for gradient in gradients])
        for parameter, sum_N in zip(self.parameters, sums, strict=True):
            parameter.grad = sum_N.view_as(parameter)

    def step(self) -> Tensor:
        """Clips the norm of the whole gradient, updates every parameter, returns the norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.gradient_clip)
        for optimizer in self.by_group.values():
            optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """Drops the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The state of each group's optimizer, for `load_state_dict`."""
        return {kind: optimizer.state_dict() for kind, optimizer in self.by_group.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`; ValueError if it is of other groups, as before groups had names."""
        if set(state) != set(self.by_group):
            found = f"its optimizers are {', '.join(state)}; expected {', '.join(self.by_group)}"
            raise ValueError(f"{found} (a run of an earlier version cannot be resumed)")
        for kind, optimizer in self.by_group.items():
            optimizer.load_state_dict(state[kind])
