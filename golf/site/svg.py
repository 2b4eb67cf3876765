"""Small charts as SVG text that takes its colours from the page around it, light or dark.

Classes: `grid`, `axis` (text), `line`, `line dim`, `dot`, `bar`, `bar dim`, `mark`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 34
MAX_POINTS = 100
MAX_DOTS = 16

Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """A line of points; `dim` for one that stands behind the others."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    dim: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along one side of a chart, linear or by powers of two."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def nice_axis(values: Sequence[float], from_zero: bool = False, most_ticks: int = 5) -> Axis:
    """An axis over the values with round ticks, which it begins and ends near."""
    low, high = min(values), max(values)
    low = min(0.0, low) if from_zero else low
    if high - low < 1e-12:
        low, high = low - max(0.5, abs(low) * 0.05), high + max(0.5, abs(high) * 0.05)
    step = nice_step((high - low) / (most_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(step * index, 12) for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def log_axis(values: Sequence[float], most_ticks: int = 6) -> Axis:
    """An axis by powers of two."""
    low, high = min(values), max(max(values), min(values) * 2)
    every = max(1, math.ceil(math.log2(high / low) / (most_ticks - 1)))
    ticks = [low * 2**power for power in range(0, int(math.log2(high / low) + 1e-9) + 1, every)]
    return Axis(low, high, tuple(ticks), log=True)


def nice_step(raw: float) -> float:
    """The round number (1, 2, 2.5 or 5 times a power of ten) next above `raw`."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)


def line_chart(
    title: str, series: Sequence[Series], x_label: str, x_axis: Axis, y_axis: Axis, x_format: Format
) -> str:
    """Lines over shared axes; with several series each is named where it ends, by its title on a pointer."""
    parts = [*_frame(x_axis, y_axis, x_label, x_format)]
    most = MAX_POINTS if len(series) < 3 else MAX_POINTS // 2
    for one in sorted(series, key=lambda one: not one.dim):
        xs, ys = thin(one.xs, most), thin(one.ys, most)
        points = [(_x(x_axis, x), _y(y_axis, y)) for x, y in zip(xs, ys, strict=True)]
        name = f"<title>{escape(one.label)}</title>"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        kind = "line dim" if one.dim else "line"
        parts.append(f'<polyline class="{kind}" points="{path}">{name}</polyline>')
        if one.dots and len(points) <= MAX_DOTS:
            parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points]
    return svg(title, "".join(parts))


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[float], x_label: str, x_format: Format, mark: float
) -> str:
    """Bars between edges, none where nothing was counted, and a line at `mark`."""
    x_axis = Axis(edges[0], edges[-1], _inner_ticks(edges[0], edges[-1]))
    y_axis = nice_axis(counts, from_zero=True, most_ticks=4)
    parts = [*_frame(x_axis, y_axis, x_label, x_format)]
    floor = _y(y_axis, 0.0)
    places = [_x(x_axis, edge) for edge in edges]
    bars = [
        _bar(left + 0.5, right - left - 1.0, _y(y_axis, count), floor)
        for left, right, count in zip(places, places[1:], counts, strict=False)
        if count
    ]
    parts.append(svg_path(bars))
    at = _x(x_axis, mark)
    parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{floor:.1f}"/>')
    return svg(title, "".join(parts))


def spark_bars(title: str, first: int, counts: Sequence[int], low: int, high: int) -> str:
    """How often each integer from `low` to `high` was counted, by its square root; a hair marks zero."""
    width, height = 160, 64
    step, most = width / (high - low + 1), math.sqrt(max(counts, default=1) or 1)
    zero = (0.5 - low) * step
    parts = [f'<line class="grid" x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="{height}"/>']
    bars = []
    for code, count in enumerate(counts, first):
        if count and low <= code <= high:
            tall = max(0.6, height * math.sqrt(count) / most)
            bars.append(_bar((code - low) * step, max(0.8, step - 0.5), height - tall, height))
    parts.append(svg_path(bars))
    return svg(title, "".join(parts), width, height)


def svg_path(bars: Sequence[str]) -> str:
    """Bars as one path."""
    path = "".join(bars)
    return f'<path class="bar" d="{path}"/>'


def svg(title: str, content: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """A picture as wide as its place, named for those who do not see it."""
    named = f'role="img" aria-label="{escape(title)}"'
    return f'<svg viewBox="0 0 {width} {height}" {named}>{content}</svg>'


def thin(values: Sequence[float], most: int = MAX_POINTS) -> list[float]:
    """At most so many of the values, evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def short(value: float) -> str:
    """A number with k, M or B behind it."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.4g}"


def _inner_ticks(low: float, high: float, most_ticks: int = 6) -> tuple[float, ...]:
    step = nice_step((high - low) / (most_ticks - 1))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(step * index, 12) for index in range(first, last + 1))


def _bar(left: float, width: float, top: float, floor: float) -> str:
    """A bar as a piece of a path, which takes a third of a rectangle's text."""
    return f"M{left:.1f} {floor:.1f}V{top:.1f}h{width:.1f}V{floor:.1f}"


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, x_format: Format) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        y = _y(y_axis, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="axis" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    below = HEIGHT - BOTTOM
    for tick in x_axis.ticks:
        place = f'x="{_x(x_axis, tick):.1f}" y="{below + 14}" text-anchor="middle"'
        parts.append(f'<text class="axis" {place}>{escape(x_format(tick))}</text>')
    named = f'x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end"'
    return [*parts, f'<text class="axis" {named}>{escape(x_label)}</text>']
