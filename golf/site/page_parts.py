"""Words, numbers and curves that several places of the page of records show alike."""

from collections.abc import Mapping
from html import escape

from golf.entry.progress import LiveRun, Progress
from golf.site.load import EntryView
from golf.site.svg import Series, line_chart, nice_axis, short

_VERDICTS = {"passed": ("passed", "good"), "failed": ("failed", "loud"), "none": ("not audited", "")}


def tag(words: str, kind: str = "") -> str:
    """A few words in a frame: `good`, `loud` or plain."""
    return f'<span class="tag {kind}">{escape(words)}</span>'


def audit_tag(entry: EntryView) -> str:
    """The verdict of the entry's audit."""
    return tag(*_VERDICTS[entry.verdict])


def decimals(value: float | None, digits: int = 4) -> str:
    """A number with so many digits behind its point; nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """A whole number with commas; nothing for None."""
    return "" if value is None else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}%"


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    if seconds is None:
        return "not stated"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def plain_hardware(name: str) -> str:
    """A processor's name without its maker's marks."""
    return " ".join(name.replace("(R)", "").replace("(TM)", "").replace("Processor", "").split())


def loss_chart(curves: Mapping[str, Progress]) -> str:
    """Training loss over tokens, or over steps where a log counts no tokens; nothing without a curve."""
    drawn = {name: curve for name, curve in curves.items() if len(curve.loss) > 1}
    if not drawn:
        return ""
    by_tokens = all(curve.tokens for curve in drawn.values())
    series = [
        Series(name, curve.tokens if by_tokens else curve.steps, curve.loss) for name, curve in drawn.items()
    ]
    losses = [loss for curve in drawn.values() for loss in _settled(curve.loss)]
    kept = [_below(one, max(losses)) for one in series]
    places = [x for one in series for x in one.xs]
    unit = "tokens" if by_tokens else "steps"
    return line_chart(
        "training loss, nats per token",
        kept,
        f"{unit} trained on" if by_tokens else unit,
        nice_axis(places, from_zero=True),
        nice_axis(losses),
        short,
    )


def look_chart(curves: Mapping[str, Progress]) -> str:
    """Bits per byte on the way; nothing with fewer than two looks."""
    drawn = {name: curve for name, curve in curves.items() if len(curve.bpb) > 1}
    if not drawn:
        return ""
    series = [Series(name, curve.look_steps, curve.bpb, dots=True) for name, curve in drawn.items()]
    return line_chart(
        "bits per byte of held-out text",
        series,
        "steps",
        nice_axis([x for one in series for x in one.xs], from_zero=True),
        nice_axis([y for one in series for y in one.ys]),
        short,
    )


def live_chart(run: LiveRun) -> str:
    """The loss of a run so far."""
    return loss_chart({run.name: run.progress})


def _settled(losses: tuple[float, ...]) -> tuple[float, ...]:
    """All but the first tenth of a curve, whose fall would flatten the rest."""
    return losses[len(losses) // 10 :]


def _below(series: Series, most: float) -> Series:
    points = [(x, y) for x, y in zip(series.xs, series.ys, strict=True) if y <= most]
    return Series(series.label, [x for x, _ in points], [y for _, y in points], series.dim, series.dots)
