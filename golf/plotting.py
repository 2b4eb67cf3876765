"""The look of every chart, and how one is saved: as an SVG file for light and dark, or as part of a page."""

import html
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.optimize import isotonic_regression

from golf.system.files import write_bytes

PALETTE = ("#2a6fbb", "#d1661f", "#3a8f5b", "#8a56ac", "#b8423f", "#b0862a", "#2a9aa8", "#5f6b76")
"""Colors of lines and bars, in order, the last one gray; repeated where there are more lines."""
INK, SOFT, GRID = "#22303c", "#66727d", "#e3e7eb"

LINE_STYLES = ("solid", "dashed", "dotted")
"""Line styles of the first, second and third round through the palette; CSS borders have the same names."""
CSS_COLORS = {
    **{color: f"var(--c{index})" for index, color in enumerate(PALETTE)},
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    GRID: "var(--rule)",
}
"""What each color becomes in an SVG: a variable that the page defines for light and for dark."""
PAPER = "#ffffff"
_DARK: dict[str, str] = dict(
    zip(
        (*PALETTE, INK, SOFT, GRID, PAPER),
        (
            *("#7db4f0", "#f0955a", "#62c99c", "#c79be6", "#f08a8a", "#dcb75e", "#5cc8d6", "#a9b4be"),
            *("#eceae3", "#a09d92", "#2f302b", "#141512"),
        ),
        strict=True,
    )
)
"""The color in place of each in the dark."""

_SVG_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_SVG_NOISE = re.compile(
    "|".join(
        (
            r"<metadata>.*?</metadata>",
            r"<defs>\s*<style.*?</style>\s*</defs>",
            r"<!--.*?-->",
            r'<path d="[^"]*" style="fill: none"/>',  # Invisible backgrounds.
            r" xmlns\S*",
            r' version="1.1"',
            r' transform="rotate\(-0 [^"]*\)"',
            r'font-family: [^;"]*; ',
            r' id="(?![mp][0-9a-f]{8,}")[^"]*"',  # Ids that nothing refers to.
        )
    ),
    re.DOTALL,
)


def new_figure(width: float, height: float, **options: object) -> Figure:
    """An empty figure of `width` by `height` inches, which no global state of matplotlib holds on to."""
    figure = Figure(figsize=(width, height), **options)  # pyright: ignore[reportArgumentType]
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Labels the axes, and gives them horizontal grid lines, short numbers and no frame."""
    axes.set_title(title, loc="left", fontsize=10, color=SOFT)
    axes.set_xlabel(x_label, loc="right", fontsize=10, color=SOFT)
    axes.set_ylabel(y_label, fontsize=10, color=SOFT)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=SOFT, labelsize=9, length=0)
    axes.minorticks_off()
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(short_number))


def line_style(index: int) -> dict[str, Any]:
    """Color and line style of line number `index`, of which 24 differ; -1 is a baseline in INK."""
    color = PALETTE[index % len(PALETTE)] if index >= 0 else INK
    return {"color": color, "linestyle": LINE_STYLES[max(0, index) // len(PALETTE) % len(LINE_STYLES)]}


def css_border(index: int) -> str:
    """CSS of a top border that looks like line number `index` of an SVG, for a legend."""
    style = line_style(index)
    return f"border-top: 3px {style['linestyle']} {CSS_COLORS[style['color']]}"


def settled_limits(curves: Iterable[np.ndarray], skipped_share: float) -> tuple[float, float] | None:
    """Limits of an axis for all but the first `skipped_share` (0 to 1) of each curve, whose fall would
    flatten the rest; None if no curve has two points left."""
    settled = [curve[int(np.ceil(skipped_share * len(curve))) :] for curve in curves]
    values = np.concatenate([curve for curve in settled if len(curve) > 1] or [np.zeros(0)])
    if not len(values):
        return None
    margin = 0.06 * max(float(np.ptp(values)), 1e-3)
    return float(values.min()) - margin, float(values.max()) + margin


def short_number(value: float, position: int | None = None) -> str:
    """A number with k, M or B behind it from 10,000 on; matplotlib passes a position as well."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """The heights (N), ascending, that are `gap` apart and closest to these; within 0 to 1 if they fit."""
    steps = gap * np.arange(len(heights))
    return isotonic_regression(heights - steps).x.clip(0.0, max(0.0, 1.0 - steps[-1])) + steps


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], size: float = 9.0) -> None:
    """Writes a name to the right of the axes for each line's end (x, y, name, color), none over another.

    Call it when the limits are set: names keep to the heights of the ends as closely as their size allows.
    """
    ends = sorted((end for end in ends if np.isfinite(end[:2]).all()), key=lambda end: end[1])
    if not ends:
        return
    assert axes.figure is not None
    axes.figure.draw_without_rendering()  # pyright: ignore[reportAttributeAccessIssue]
    gap = 1.3 * size / (72 * axes.get_window_extent().height / axes.figure.dpi)
    heights = (axes.transData + axes.transAxes.inverted()).transform([end[:2] for end in ends])[:, 1]
    steps = gap * np.arange(len(ends))
    # The closest heights that are a step apart.
    places = isotonic_regression(heights - steps).x.clip(0.0, max(0.0, 1.0 - steps[-1])) + steps
    for (x, y, name, color), place in zip(ends, places, strict=True):
        leader = {
            "arrowstyle": "-",
            "color": color,
            "linewidth": 0.6,
            "alpha": 0.5,
            "shrinkA": 1,
            "shrinkB": 2,
        }
        axes.annotate(
            name,
            (x, y),
            (1.03, place),
            textcoords="axes fraction",
            color=color,
            fontsize=size,
            verticalalignment="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={**leader, "color": color},
        )


def save_svg(figure: Figure, path: Path, label: str) -> None:
    """Writes the figure as an SVG file, light or dark as its reader's screen is; always the same bytes."""
    text = to_svg(figure, label, keeps_sizes=True)
    names = {**CSS_COLORS, PAPER: "var(--paper)"}
    light, dark = (
        ";".join(f"{name[4:-1]}:{colors[color]}" for color, name in names.items())
        for colors in ({color: color for color in names}, _DARK)
    )
    style = f":root{{{light};background:var(--paper);font-family:system-ui,sans-serif}}"
    style += f"@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    opening, rest = text.split(">", 1)
    opening = opening.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    write_bytes(path, f"{opening}><style>{style}</style>{rest}\n".encode())


def _shorter(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def to_svg(figure: Figure, label: str, keeps_sizes: bool = False) -> str:
    """The figure as an `<svg class="chart">` element to paste into HTML; the same figure makes the same text.

    Its background is transparent, its colors are CSS_COLORS, and its text is text in the page's font at the
    size that `svg.chart text` has, unless it `keeps_sizes`. `label` describes the picture to those who do not
    see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "golf"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_SVG_METADATA)
    text = _SVG_NOISE.sub("", buffer.getvalue()[buffer.getvalue().index("<svg") :])
    # Coordinates alone: what is written in the chart keeps its digits.
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", _shorter, tag[0]), text)
    if not keeps_sizes:
        text = re.sub(r'font-size: [^;"]*; ', "", text)
    text = re.sub(r"\s+", " ", text).replace("> <", "><").replace("xlink:href", "href")
    text, unwrapped = re.sub(r"<g ?/>", "", text), 1
    while unwrapped:
        text, unwrapped = re.subn(r"<g>((?:(?!</?g).)*)</g>", r"\1", text)
    for color, variable in CSS_COLORS.items():
        text = text.replace(color, variable)
    # Ids are unique on a page: a reference into another chart fails where that one is hidden.
    text = re.sub(r"(?<=[\"#])([mp][0-9a-f]{3})[0-9a-f]{5,}", rf"\g<1>{zlib.crc32(text.encode()):x}", text)
    opening = f'<svg class="chart" role="img" aria-label="{html.escape(label)}"'
    return re.sub(r'^<svg width="\S+" height="\S+"', lambda _: opening, text).strip()
