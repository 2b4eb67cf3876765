"""HTML pages from templates."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from golf.entry import plots
from golf.entry.progress import LiveRun
from golf.pack.fit import LIMIT_BYTES
from golf.plotting import css_border
from golf.site.load import EntryView, best_of, group_by_text


@lru_cache
def html_environment(package: str = "golf.site") -> Environment:
    """Templates of `package` and, for those it extends and includes, of golf.site; every value is escaped."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("golf.site")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": lambda value, spec=",.0f": "" if value is None else format(value, spec),
        "duration": duration,
        "hardware": plain_hardware,
        "border": css_border,
        "median": np.median,
    }
    return environment


def render_page(
    entries: Sequence[EntryView], live: Sequence[LiveRun], now: datetime, refresh: int | None
) -> str:
    """The whole page as HTML; with `refresh` a browser reads it again after so many seconds."""
    return (
        html_environment()
        .get_template("records.html.j2")
        .render(
            groups=group_by_text(entries),
            best=best_of(entries),
            live=live,
            now=now,
            refresh=refresh,
            limit=LIMIT_BYTES,
            plots=plots,
        )
    )


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    if seconds is None:
        return "not stated"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain_hardware(name: str) -> str:
    """A processor's name without its maker's marks."""
    return " ".join(re.sub(r"\((R|TM)\)|Processor", "", name).split())
