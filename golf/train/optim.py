"""The table of optimizers, which group of parameters each of them trains, and all of them as one."""

import inspect
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from golf.model.roles import roles_of
from golf.system.distributed import World
from golf.train.muon import Muon


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
    """Optimizer of the token embedding, the bigram table and learned positions."""
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
    """Largest norm of the whole gradient; a larger one is scaled down to it."""

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


def split_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by the optimizer group of their role."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "embedding": [], "scalar": []}
    for name, role in roles_of(model).items():
        groups[role.group].append(model.get_parameter(name))
    return groups


class Optimizers:
    """The optimizers of a model's groups of parameters as one: a step, a schedule, a state."""

    def __init__(
        self, model: nn.Module, config: OptimConfig, compute_dtype: torch.dtype, world: World | None = None
    ):
        self.world, self.gradient_clip = world or World(), config.gradient_clip
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
        for kind, parameters in split_parameters(model).items():
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
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in self.parameters
        ]
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
