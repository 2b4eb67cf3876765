"""The look of every chart, and how one is saved: as PNG, or as SVG with the colors of a page's CSS."""

import html
import io
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from golf.system.files import atomic_write

PALETTE = ("#2a6fbb", "#d1661f", "#3a8f5b", "#8a56ac", "#b8423f", "#5f6b76", "#b0862a", "#2a9aa8")
"""Colors of lines and bars, in order; repeated where there are more lines."""
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
            r'font-(?:size|family): [^;"]*; ',
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


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG; the same figure makes the same bytes."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=120, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg class="chart">` element to paste into HTML; the same figure makes the same text.

    Its background is transparent, its colors are CSS_COLORS, and its text is text in the page's font at the
    size that `svg.chart text` has. `label` describes the picture to those who do not see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "golf"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_SVG_METADATA)
    text = _SVG_NOISE.sub("", buffer.getvalue()[buffer.getvalue().index("<svg") :])
    text = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), text)
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
