"""What results.json says of an artifact under `portrait`: its codes by part, its loss by position."""

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


@dataclass(frozen=True)
class CodeCounts:
    """How often each code occurs in a part of the network: `counts[0]` is of `first_code`."""

    first_code: int
    counts: list[Count]


@dataclass(frozen=True)
class LossByPosition:
    """Mean nats per token by position in the window: `nats[i]` is of positions up to `up_to_position[i]`."""

    context: int
    """Positions of a window."""
    tokens_scored: Count
    up_to_position: list[Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]]
    nats: list[Annotated[float, msgspec.Meta(ge=0, le=1e6)]]


@dataclass(frozen=True)
class Portrait:
    """What results.json says of an artifact under `portrait`."""

    codes: dict[str, CodeCounts] = field(default_factory=dict)
    """By part of the network; empty for schemes without an entropy coder."""
    loss_by_position: LossByPosition | None = None
