"""Roles of parameters, each declared where the parameter is made; `GPT` refuses a parameter without one."""

from typing import Literal, NamedTuple

from torch import Tensor, nn

TensorKind = Literal["matrix", "embedding", "small"]
"""How a tensor is packed: as a matrix of the blocks, as another matrix or table, as a small tensor."""


class Role(NamedTuple):
    """What the rest of the project does with a parameter."""

    group: Literal["matrix", "embedding", "scalar"]
    """Optimizer group: hidden matrices, tables that tokens look up, and all others."""
    kind: TensorKind


MATRIX = Role("matrix", "matrix")
PROJECTION = Role("matrix", "embedding")
"""A matrix outside the blocks."""
TABLE = Role("embedding", "embedding")
SCALAR = Role("scalar", "small")
SKIP = Role("scalar", "embedding")
"""Skip weights: a table only where a network has 16 skips or more."""


def parameter(data: Tensor, role: Role) -> nn.Parameter:
    """A parameter with a role."""
    made = nn.Parameter(data)
    made.role = role  # type: ignore[attr-defined]
    return made


def roles_of(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by name; ValueError names one that has none."""
    roles = {}
    for name, each in model.named_parameters():
        if not isinstance(role := vars(each).get("role"), Role):
            raise ValueError(f"parameter {name} has no role; make it with golf.model.roles.parameter")
        roles[name] = role
    return roles
