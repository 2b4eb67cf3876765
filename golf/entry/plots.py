"""The picture of a training run: loss, held-out bits per byte and learning rate, over tokens and seconds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from golf.entry.progress import Curve
from golf.plotting import INK, line_style, new_figure, save_png, settled_limits, style_axes

_SKIPPED_SHARE = 0.08


def plot_training(curves: Mapping[int, Curve], title: str, path: Path) -> None:
    """Draws the curves, by seed, into a PNG: loss over tokens, held-out bits per byte over seconds."""
    figure = new_figure(11, 5.6, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    axes = figure.subplots(2, 2, height_ratios=(3.4, 1), sharex="col")
    for index, (seed, curve) in enumerate(curves.items()):
        style = {**line_style(index), "linewidth": 1.6, "alpha": 0.85}
        losses, bpb = _label(seed, curve.train_loss), _label(seed, curve.held_out_bpb)
        axes[0, 0].plot(curve.tokens, curve.train_loss, label=losses, **style)
        axes[0, 1].plot(
            curve.held_out_seconds, curve.held_out_bpb, label=bpb, marker="o", markersize=4.5, **style
        )
        axes[1, 0].plot(curve.tokens, curve.lr_scale, **style)
        axes[1, 1].plot(curve.seconds, curve.lr_scale, **style)
    style_axes(axes[0, 0], title="training loss, nats per token")
    style_axes(axes[0, 1], title="held-out training text, bits per byte")
    style_axes(axes[1, 0], "tokens trained on", title="learning rate scale")
    style_axes(axes[1, 1], "seconds of training", title="learning rate scale")
    limits = settled_limits([curve.train_loss for curve in curves.values()], _SKIPPED_SHARE)
    if limits is not None:
        axes[0, 0].set_ylim(*limits)
    for axis in axes[1]:
        axis.set_ylim(0, 1.08)
    for axis in axes[0]:
        axis.legend(loc="upper right", frameon=False, fontsize=10, labelcolor=INK)
    save_png(figure, path)


def _label(seed: int, values: np.ndarray) -> str:
    return f"seed {seed}: {values[-1]:.3f} at the end" if len(values) else f"seed {seed}: not measured"
