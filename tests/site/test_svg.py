import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golf.site.svg import Series, histogram, line_chart, log_axis, nice_axis, short, spark_bars, thin

LINE = Series("b & c", [1, 2], [3, 4])
DOTS = Series("d", [1, 256], [1, 1], dots=True)
FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_an_axis_covers_its_values_with_few_rising_ticks(values: list[float]) -> None:
    axis = nice_axis(values)
    slack = 1e-9 * (axis.high - axis.low)
    assert axis.low - slack <= min(values) and max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 7
    assert all(a < b for a, b in itertools.pairwise(axis.ticks))


@given(st.integers(2, 5000), st.integers(2, 200))
def test_thinning_keeps_both_ends_and_the_order(length: int, most: int) -> None:
    kept = thin(range(length), most)
    assert (kept[0], kept[-1], len(kept)) == (0, length - 1, min(length, most))
    assert kept == sorted(set(kept))


@pytest.mark.parametrize(
    "picture",
    [
        line_chart("<a>", [LINE], "<x>", nice_axis([1, 2]), nice_axis([3, 4]), short),
        line_chart("log", [DOTS], "x", log_axis([1, 256]), nice_axis([1]), short),
        histogram("h", [0.0, 0.5, 1.0], [0, 3], "x", short, 0.25),
        spark_bars("codes", -3, [1, 0, 2, 5], -2, 2),
        spark_bars("nothing", 0, [], -2, 2),
    ],
)
def test_a_chart_is_well_formed_and_stays_within_its_frame(picture: str) -> None:
    root = ElementTree.fromstring(picture)
    width, height = (float(n) for n in root.attrib["viewBox"].split()[2:])
    for x, y in re.findall(r"([-\d.]+),([-\d.]+)", picture.split("<polyline")[-1]):
        assert 0 <= float(x) <= width and 0 <= float(y) <= height
    assert root.attrib["aria-label"]


def test_numbers_are_short() -> None:
    assert [short(n) for n in (0.5, 12, 1500, 2.5e6, 3e9)] == ["0.5", "12", "1.5k", "2.5M", "3B"]
