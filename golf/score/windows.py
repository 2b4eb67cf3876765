"""Which tokens each forward pass reads, and which of its predictions count."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

MAX_WINDOW_TOKENS = 1 << 22
"""It bounds the memory that an artifact can ask for."""


@dataclass(frozen=True)
class WindowConfig:
    """Sliding windows: how far a prediction sees, and how far the window moves."""

    context: int | None = None
    """Tokens that a window reads; by default the context that the model was trained with."""
    stride: int = 64
    """Tokens that each window after the first grades; all but the first `context` tokens are predicted from
    at least context - stride tokens. Equal to the context, windows are disjoint."""
    batch_tokens: int | None = None
    """Input tokens of one forward pass, which moves a score in its last digits only; by default 131,072 on a
    GPU and 4,096 elsewhere."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value > MAX_WINDOW_TOKENS:
                raise ValueError(f"score.{name} is {value}; expected at most {MAX_WINDOW_TOKENS:,}")

    def resolve(self, trained_context: int, device_type: str) -> "ResolvedWindows":
        """The same windows with every default filled in; ValueError for sizes that contradict each other."""
        context = trained_context if self.context is None else self.context
        usual = max(context, 131_072 if device_type == "cuda" else 4_096)
        batch_tokens = usual if self.batch_tokens is None else self.batch_tokens
        if not 1 <= self.stride <= context:
            raise ValueError(f"stride is {self.stride}; expected 1 to the context, {context}")
        if batch_tokens < context:
            raise ValueError(f"batch_tokens is {batch_tokens}; expected at least the context, {context}")
        return ResolvedWindows(context, self.stride, batch_tokens)


class ResolvedWindows(WindowConfig):
    """Windows whose sizes are all known, made by `WindowConfig.resolve`."""

    context: int
    batch_tokens: int


class Window(NamedTuple):
    """Inputs tokens[start:end] predict tokens[start + 1:end + 1]; the last `num_graded` of these count.

    Target i is token i + 1 of the stream, so the window grades targets end - num_graded to end - 1.
    """

    start: int
    end: int
    num_graded: int


def plan_windows(num_targets: int, context: int, stride: int) -> list[Window]:
    """Windows that grade each of `num_targets` targets exactly once, in order.

    All have `context` tokens. The first grades all it reads, each later one the `stride` targets that its
    predecessor did not reach; the last is moved back to end with the stream and grades what is left.
    ValueError if the stream is shorter than one window.
    """
    if num_targets < context:
        raise ValueError(f"{num_targets:,} tokens to score are fewer than one window of {context:,}")
    windows = [Window(0, context, context)]
    for graded in range(context, num_targets, stride):
        end = min(graded + stride, num_targets)
        windows.append(Window(end - context, end, end - graded))
    return windows


def group_chunks(windows: Sequence[Window], chunk_tokens: int) -> list[list[Window]]:
    """Runs of windows whose graded targets end within the same `chunk_tokens` of the stream."""
    return [list(chunk) for _, chunk in groupby(windows, lambda window: (window.end - 1) // chunk_tokens)]
