import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.entry import plots
from golf.entry.portrait import CodeCounts, LossByPosition
from golf.entry.progress import curve_of
from golf.plotting import (
    CSS_COLORS,
    INK,
    PALETTE,
    label_ends,
    line_style,
    new_figure,
    settled_limits,
    short_number,
    spread,
    to_svg,
)

EVENTS = [{"step": n, "tokens": 100 * n, "train_loss": 9 / n, "bpb": 3 / n} for n in range(1, 6)]
CURVE = curve_of(EVENTS)


def charts() -> dict[str, str]:
    plots._line_chart.cache_clear()
    plots._histogram.cache_clear()
    return {
        "loss": plots.loss_chart({"a": CURVE, "<b>": CURVE}),
        "steps": plots.loss_chart({"a": curve_of([{"step": n, "train_loss": n} for n in (1, 2)])}),
        "held-out": plots.held_out_chart({"a": CURVE}),
        "position": plots.position_chart(LossByPosition(8, 64, [1, 2, 4, 8], [4.0, 3.0, 2.0, 1.0])),
        "documents": plots.document_chart(np.array([1.0, 1.5, 2.0])),
        "equal documents": plots.document_chart(np.array([1.0, 1.0])),
        "codes": plots.code_chart({"a": CodeCounts(-3, [1, 0, 2, 5]), "none": CodeCounts(0, [])}),
    }


@pytest.mark.parametrize("name", list(charts()))
def test_a_chart_is_well_formed_svg_in_the_pages_colors(name: str) -> None:
    text = charts()[name]
    root = ElementTree.fromstring(text)
    assert root.attrib["class"] == "chart" and root.attrib["aria-label"]
    assert [float(n) for n in root.attrib["viewBox"].split()[2:]] == pytest.approx([360, 190], abs=0.5)
    assert not re.search(r"#[0-9a-f]{6}|font-family|http|<style|<metadata", text)
    assert "var(--c0)" in text and "var(--soft)" in text
    assert set(re.findall(r"url\(#(\w+)\)", text)) <= set(re.findall(r' id="(\w+)"', text))


def test_the_same_chart_is_the_same_text() -> None:
    assert charts() == charts()


def test_nothing_to_draw_is_an_empty_text() -> None:
    assert plots.loss_chart({}) == plots.held_out_chart({"a": curve_of(EVENTS[:1])}) == ""
    assert plots.code_chart({"a": CodeCounts(0, [])}) == ""


def test_a_line_chart_keeps_the_ends_of_a_long_curve() -> None:
    curve = (np.arange(5_000), np.arange(5_000) * 2.0)
    (xs, ys), _ = plots._thinned([curve, curve])
    assert (xs[0], xs[-1], ys[-1], len(xs)) == (0, 4_999, 9_998.0, plots.MAX_POINTS // 2)


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=30), max_size=4), st.floats(0, 0.5))
def test_limits_hold_all_but_the_first_part_of_each_curve(curves: list[list[float]], skipped: float) -> None:
    limits = settled_limits([np.array(curve) for curve in curves], skipped)
    settled = [curve[int(np.ceil(skipped * len(curve))) :] for curve in curves]
    values = [value for curve in settled if len(curve) > 1 for value in curve]
    assert (limits is None) == (not values)
    if limits is not None:
        assert limits[0] < min(values) and max(values) < limits[1]


def test_twenty_four_lines_differ_and_each_color_has_a_variable() -> None:
    styles = [tuple(line_style(index).values()) for index in range(-1, 24)]
    assert len(set(styles)) == 25 and {color for color, _ in styles} <= set(CSS_COLORS)
    assert len(set(PALETTE)) == len(PALETTE)


def test_numbers_of_an_axis_are_short() -> None:
    numbers = (0.5, 12, 1024, 15_000, 2.5e6, 3e9, -20_000)
    assert [short_number(n) for n in numbers] == ["0.5", "12", "1024", "15k", "2.5M", "3B", "-20k"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.1))
def test_names_of_lines_do_not_cover_each_other_and_stay_where_there_is_room(
    values: list[float], gap: float
) -> None:
    heights = np.sort(values)
    found = spread(heights, gap)
    assert min(np.diff(found), default=gap) >= gap * (1 - 1e-9)
    assert found[0] >= 0 and found[-1] <= max(1.0, gap * (len(values) - 1)) + 1e-9
    if min(np.diff(heights), default=gap) >= gap:
        assert found == pytest.approx(heights)


def test_a_line_without_an_end_has_no_name() -> None:
    axes = new_figure(4, 3).subplots()
    label_ends(axes, [(1, np.nan, "c", INK)])
    assert not axes.texts
    label_ends(axes, [(1, 0.2, "a", INK), (1, np.nan, "c", INK)])
    assert [text.get_text() for text in axes.texts] == ["a"]


def test_what_is_written_in_a_chart_keeps_its_digits() -> None:
    figure = new_figure(2, 2)
    figure.text(0.123456, 0.5, "1.0625")
    assert ">1.0625</text>" in to_svg(figure, "digits")
