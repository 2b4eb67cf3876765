"""The picture of a training run: loss, held-out bits per byte and learning rate, over tokens and seconds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from golf.system.files import atomic_write

COLOURS = ("#2a6fbb", "#d1661f", "#3a8f5b", "#8a56ac", "#b8423f", "#5f6b76")
_DARK = "#22303c"
_GREY = "#5f6b76"
_SKIPPED_SHARE = 0.08


@dataclass(frozen=True)
class Curve:
    """What a run said of itself while it trained; arrays of one length each."""

    tokens: np.ndarray
    seconds: np.ndarray
    train_loss: np.ndarray
    """Nats per token of the step."""
    lr_scale: np.ndarray
    held_out_tokens: np.ndarray
    held_out_bpb: np.ndarray
    """Bits per byte of held-out training text."""

    @property
    def held_out_seconds(self) -> np.ndarray:
        """Training seconds at each look at the held-out text."""
        if not len(self.tokens):
            return np.zeros_like(self.held_out_tokens)
        return np.interp(self.held_out_tokens, self.tokens, self.seconds)


def curve_of(events: Iterable[Mapping[str, Any]]) -> Curve:
    """The curve in a run's events; what a resumed run did twice counts as it went the second time."""
    steps: list[Mapping[str, Any]] = []
    looks: list[Mapping[str, Any]] = []
    for event in events:
        kind = event.get("event")
        if kind in ("step", "held_out"):
            steps = [step for step in steps if step["tokens"] < event["tokens"] + (kind == "held_out")]
            # A step is logged one step late, so after the look at the point that it has reached.
            looks = [look for look in looks if look["tokens"] < event["tokens"] + (kind == "step")]
            (steps if kind == "step" else looks).append(event)

    def column(rows: list[Mapping[str, Any]], name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    return Curve(
        tokens=column(steps, "tokens"),
        seconds=column(steps, "train_seconds"),
        train_loss=column(steps, "train_loss"),
        lr_scale=column(steps, "lr_scale"),
        held_out_tokens=column(looks, "tokens"),
        held_out_bpb=column(looks, "bpb"),
    )


def plot_training(curves: Mapping[int, Curve], title: str, path: Path) -> None:
    """Draws the curves, by seed, into a PNG: loss over tokens, held-out bits per byte over seconds."""
    figure = Figure(figsize=(11, 5.6), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_DARK)
    axes = figure.subplots(2, 2, height_ratios=(3.4, 1), sharex="col")
    for colour, (seed, curve) in zip(_cycle(len(curves)), curves.items(), strict=True):
        line = {"color": colour, "linewidth": 1.6, "alpha": 0.85}
        dots = {**line, "marker": "o", "markersize": 4.5}
        axes[0, 0].plot(curve.tokens, curve.train_loss, label=_label(seed, curve.train_loss), **line)
        axes[0, 1].plot(
            curve.held_out_seconds, curve.held_out_bpb, label=_label(seed, curve.held_out_bpb), **dots
        )
        axes[1, 0].plot(curve.tokens, curve.lr_scale, **line)
        axes[1, 1].plot(curve.seconds, curve.lr_scale, **line)
    _dress(axes[0, 0], "training loss, nats per token", "")
    _dress(axes[0, 1], "held-out training text, bits per byte", "")
    _dress(axes[1, 0], "learning rate scale", "tokens trained on")
    _dress(axes[1, 1], "learning rate scale", "seconds of training")
    _zoom(axes[0, 0], [curve.train_loss for curve in curves.values()])
    axes[1, 0].xaxis.set_major_formatter(FuncFormatter(_short_number))
    for axis in axes[1]:
        axis.set_ylim(0, 1.08)
    for axis in axes[0]:
        axis.legend(loc="upper right", frameon=False, fontsize=10, labelcolor=_DARK)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _dress(axis: Axes, title: str, x_label: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=_GREY)
    axis.set_xlabel(x_label, fontsize=10, color=_GREY)
    axis.grid(True, color="#e3e7eb", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=_GREY, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#c4ccd3")
    axis.margins(x=0.02)


def _label(seed: int, values: np.ndarray) -> str:
    return f"seed {seed}: {values[-1]:.3f} at the end" if len(values) else f"seed {seed}: not measured"


def _zoom(axis: Axes, losses: list[np.ndarray]) -> None:
    """Leaves the fall of the very first steps out of the picture, where the rest would look flat."""
    settled = [loss[int(np.ceil(_SKIPPED_SHARE * len(loss))) :] for loss in losses if len(loss) > 2]
    if settled:
        low, high = min(map(np.min, settled)), max(map(np.max, settled))
        margin = 0.08 * max(high - low, 1e-3)
        axis.set_ylim(low - margin, high + margin)


def _short_number(value: float, position: int | None = None) -> str:
    for size, suffix in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
