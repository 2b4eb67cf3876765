"""Charts of an entry: the picture of its training, and the charts of the page of records, all SVG.

A function that returns SVG returns an empty text where there is nothing to draw.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from golf.entry.portrait import CodeCounts, LossByPosition
from golf.entry.progress import Curve
from golf.plotting import (
    INK,
    PALETTE,
    label_ends,
    line_style,
    new_figure,
    save_svg,
    settled_limits,
    style_axes,
    to_svg,
)

MAX_POINTS = 200
"""Of the lines of an SVG chart together, but at least 40 each."""
MAX_NAME = 16
"""Characters of a line's name that are drawn."""
DOCUMENT_BINS = 28
CODES_SHOWN = 24
"""Codes from minus to plus this are drawn; the share of the others is stated."""

Line = tuple[tuple[float, ...], tuple[float, ...]]

_SKIPPED_SHARE = 0.08


def plot_training(curves: Mapping[int, Curve], title: str, path: Path) -> None:
    """Draws the curves, by seed, into an SVG: loss over tokens, held-out bits per byte over seconds.

    Held-out text is left out if no seed was evaluated on it.
    """
    looked = any(len(curve.held_out_bpb) for curve in curves.values())
    figure = new_figure(11 if looked else 6, 5.6, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    titles = ("training loss, nats per token", "held-out training text, bits per byte")
    axes = figure.subplots(2, 1 + looked, height_ratios=(3.4, 1), sharex="col", squeeze=False)
    for column, (above, below) in enumerate(axes.T):
        ends = []
        for index, (seed, curve) in enumerate(curves.items()):
            style = {**line_style(index), "linewidth": 1.6}
            xs, ys, steps = curve.tokens, curve.train_loss, curve.tokens
            if column == 1:
                xs, ys, steps = curve.held_out_seconds, curve.held_out_bpb, curve.seconds
            above.plot(xs, ys, marker="o" if column == 1 else "", markersize=4.5, **style)
            below.plot(steps, curve.lr_scale, **style)
            if len(ys):
                name = f"{ys[-1]:.3f}" if len(curves) == 1 else f"seed {seed}: {ys[-1]:.3f}"
                ends.append((xs[-1], ys[-1], name, style["color"]))
        style_axes(above, title=titles[column])
        style_axes(below, ("tokens trained on", "seconds of training")[column], title="learning rate scale")
        below.set_ylim(0, 1.08)
        limits = settled_limits([curve.train_loss for curve in curves.values()], _SKIPPED_SHARE)
        if column == 0 and limits is not None:
            above.set_ylim(*limits)
        label_ends(above, ends, 10)
    save_svg(figure, path, f"{title}: training")


def loss_chart(curves: Mapping[str, Curve]) -> str:
    """Training loss over tokens, or over steps where a log does not count tokens."""
    by_tokens = not any(np.isnan(curve.tokens).any() for curve in curves.values())
    lines = [(curve.tokens if by_tokens else curve.steps, curve.train_loss) for curve in curves.values()]
    limits = settled_limits([curve.train_loss for curve in curves.values()], _SKIPPED_SHARE)
    x_label, title = "tokens trained on" if by_tokens else "steps", "training loss, nats per token"
    return _line_chart(title, x_label, _thinned(lines), limits=limits, names=tuple(curves))


def held_out_chart(curves: Mapping[str, Curve]) -> str:
    """Bits per byte of held-out text over steps."""
    lines = [(curve.held_out_steps, curve.held_out_bpb) for curve in curves.values()]
    return _line_chart("bits per byte of held-out text", "steps", _thinned(lines), names=tuple(curves))


def position_chart(loss: LossByPosition) -> str:
    """Nats per token by position in the window, by powers of two."""
    lines = _thinned([(np.array(loss.up_to_position), np.array(loss.nats))])
    title = "nats per token by position in the window"
    return _line_chart(title, "position in the window, up to", lines, x_scale="log")


def code_chart(codes: Mapping[str, CodeCounts]) -> str:
    """Share of each code in percent, by part of the network, on a logarithmic scale."""
    lines = []
    for counted in codes.values():
        places = counted.first_code + np.arange(len(counted.counts))
        shares = 100 * np.array(counted.counts, np.float64) / max(1, sum(counted.counts))
        shown = (abs(places) <= CODES_SHOWN) & (shares > 0)
        lines.append((places[shown], shares[shown]))
    title = "share of each code in percent, by part of the network"
    return _line_chart(title, "code", _thinned(lines), y_scale="log", marker="")


def code_shares(counted: CodeCounts) -> tuple[int, float, float]:
    """Number of codes, the share (0 to 1) of zeros, and the share beyond CODES_SHOWN."""
    by_code = dict(enumerate(counted.counts, counted.first_code))
    total = sum(counted.counts)
    beyond = sum(count for code, count in by_code.items() if abs(code) > CODES_SHOWN)
    return total, by_code.get(0, 0) / max(1, total), beyond / max(1, total)


def document_chart(bpb: np.ndarray) -> str:
    """Histogram of the documents' bits per byte, the outermost 1% in the outermost bars, and the median."""
    low, high = np.quantile(bpb, (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, DOCUMENT_BINS + 1)
    counts, _ = np.histogram(np.clip(bpb, edges[0], edges[-1]), edges)
    return _histogram("bits per byte", tuple(edges.tolist()), tuple(counts.tolist()), float(np.median(bpb)))


def _thinned(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Line, ...]:
    """Evenly chosen points of each curve, with the first and the last: MAX_POINTS of all together."""
    lines = []
    for xs, ys in curves:
        most = min(len(xs), max(40, MAX_POINTS // len(curves)))
        kept = np.unique(np.linspace(0, len(xs) - 1, most).astype(int))
        lines.append((tuple(xs[kept].tolist()), tuple(ys[kept].tolist())))
    return tuple(lines)


@lru_cache(maxsize=4096)
def _line_chart(
    title: str,
    x_label: str,
    lines: tuple[Line, ...],
    x_scale: str = "linear",
    y_scale: str = "linear",
    marker: str = "o",
    limits: tuple[float, float] | None = None,
    names: tuple[str, ...] = (),
) -> str:
    """Cached: a page that is written again and again draws what is new alone.

    Several lines have their `names` at their ends.
    """
    if not any(len(xs) > 1 for xs, _ in lines):
        return ""
    names = tuple(name[:MAX_NAME] for name in names) if len(lines) > 1 else ()
    figure, axes = _new_chart(0.017 * max(map(len, names), default=0))
    for index, (xs, ys) in enumerate(lines):
        style = {**line_style(index), "linewidth": 1.8, "markersize": 4.5}
        axes.plot(xs, ys, marker=marker if len(xs) < 20 else "", **style)
    axes.set_xscale(x_scale, **{"base": 2} if x_scale == "log" else {})
    axes.set_yscale(y_scale)
    if limits is not None:
        axes.set_ylim(*limits)
    style_axes(axes, x_label)
    ends = [
        (xs[-1], ys[-1], name, line_style(index)["color"])
        for index, (name, (xs, ys)) in enumerate(zip(names, lines, strict=False))
        if xs
    ]
    label_ends(axes, ends)
    return to_svg(figure, title)


@lru_cache(maxsize=1024)
def _histogram(label: str, edges: tuple[float, ...], counts: tuple[int, ...], mark: float) -> str:
    figure, axes = _new_chart()
    axes.stairs(counts, edges, fill=True, color=PALETTE[0], alpha=0.8)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.axvline(mark, color=INK, linewidth=1, linestyle="dashed")
    style_axes(axes, label)
    return to_svg(figure, f"documents by {label}")


def _new_chart(name_share: float = 0.0) -> tuple[Figure, Axes]:
    """A figure and its axes, which leave a share of the width to the names of lines."""
    figure = new_figure(5.0, 2.64)
    return figure, figure.add_axes((0.11, 0.19, 0.86 - name_share, 0.76))
