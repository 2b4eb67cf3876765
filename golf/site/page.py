"""records/index.html: one page of every entry and of the runs under way, which needs nothing but itself."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import NamedTuple

from golf.entry.progress import LiveRun
from golf.entry.readme import VALIDATION_BYTES
from golf.entry.runs import RECORD_TRACKS
from golf.pack.budget import LIMIT_BYTES
from golf.site.load import EntryView, TextScored
from golf.site.page_entry import entry_section
from golf.site.page_parts import (
    audit_tag,
    count,
    decimals,
    duration,
    live_chart,
    percent,
    plain_hardware,
    tag,
)
from golf.site.page_style import SCRIPT, STYLE

TRACK_NAMES = {
    "track_10min_16mb": "10-minute track",
    "track_non_record_16mb": "non-record track",
    "local": "local trial",
}


class Column(NamedTuple):
    """A column of the board: what it is called, its unit, and whether it sorts as text."""

    title: str
    unit: str
    kind: str = "number"


COLUMNS = (
    Column("entry", "", "text"),
    Column("score", "bits per byte"),
    Column("before packing", "bits per byte"),
    Column("packed", "bits per byte"),
    Column("adapting", "bits per byte"),
    Column("size", "bytes"),
    Column("training", "seconds"),
    Column("scoring", "seconds"),
    Column("seeds", "number"),
    Column("hardware", "", "text"),
    Column("audit", "", "text"),
)


def render_page(
    entries: Sequence[EntryView], live: Sequence[LiveRun], now: datetime, refresh: int | None
) -> str:
    """The whole page as HTML; `refresh` makes a browser read it again after so many seconds."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    groups = group_by_text(entries)
    parts = [
        hero(best_of(entries), len(entries)),
        running(live),
        *(board(text, members) for text, members in groups),
        entries_part([entry for _, members in groups for entry in members]),
        f"<footer>Made {now:%d %B %Y, %H:%M:%S} by <code>python -m golf report</code> from the "
        "entries' own files. Scores compare within one table alone: each is of another text.</footer>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{again}<title>Parameter Golf: records</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>Parameter Golf records</h1>\n{body}\n</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def group_by_text(entries: Sequence[EntryView]) -> list[tuple[TextScored | None, list[EntryView]]]:
    """Entries by the text they were scored on, the best first in each; the challenge's own text first."""
    groups: dict[tuple[str, int, bool] | None, list[EntryView]] = {}
    for entry in entries:
        text = entry.text
        groups.setdefault((text.sha256, text.tokens, text.partial) if text else None, []).append(entry)
    for members in groups.values():
        members.sort(key=lambda entry: (not _counts(entry), entry.bpb is None, entry.bpb or 0.0))
    ordered = sorted(groups.values(), key=lambda members: _text_order(members[0].text, members))
    return [(members[0].text, members) for members in ordered]


def best_of(entries: Sequence[EntryView]) -> EntryView | None:
    """The entry to show first: of those whose score counts, committed ones before trials, the best."""
    counted = [entry for entry in entries if _counts(entry) and entry.text]
    committed = [entry for entry in counted if entry.track in RECORD_TRACKS]
    groups = group_by_text(committed or counted)
    return groups[0][1][0] if groups else None


def hero(best: EntryView | None, num_entries: int) -> str:
    """The best score, large, and what stands behind it."""
    if best is None or best.bpb is None or best.text is None:
        some = f"{num_entries} entries, none with a score that counts" if num_entries else "No entry yet"
        made = "<code>python train_gpt.py</code> trains one, scores it and writes it down."
        return f'<section class="hero"><p class="what">{some}.</p><p>{made}</p></section>'
    spread = f" ± {best.bpb_std:.4f} over {len(best.seeds)} seeds" if best.bpb_std is not None else ""
    share = percent((best.bytes_total or 0) / LIMIT_BYTES)
    facts = {
        "Code and weights": f"{count(best.bytes_total)} bytes, {share} of the limit",
        "Training": duration(best.train_seconds),
        "Scoring": duration(best.eval_seconds),
        "Hardware": escape(plain_hardware(best.hardware)) or "not stated",
        "Audit": audit_tag(best),
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{fact}</dd></div>" for name, fact in facts.items())
    return (
        f'<section class="hero"><div class="score">{best.bpb:.4f}<small>bits per byte</small></div>'
        f'<p class="what"><a href="#{escape(best.folder)}">{escape(best.name)}</a>{spread} '
        f'<span class="soft">on {_text_words(best.text)}</span></p><dl class="facts">{listed}</dl></section>'
    )


def running(live: Sequence[LiveRun]) -> str:
    """Runs under way: how far each is, and its loss so far."""
    if not live:
        return ""
    return f'<h2>Runs without results yet</h2><div class="grid3">{"".join(map(_running_one, live))}</div>'


def board(text: TextScored | None, entries: Sequence[EntryView]) -> str:
    """The leaderboard of one text."""
    if text is None:
        title, words = "Other folders", "What they were scored on is not pinned, or they cannot be read."
    else:
        title = _text_title(text)
        of = "The first " if text.partial else ""
        words = f"{of}{text.tokens:,} tokens, {text.num_bytes:,} bytes; "
        words += f"tokens of sha256 <code>{escape(text.sha256[:12])}</code>."
    heads = "".join(_head(column, index) for index, column in enumerate(COLUMNS))
    best = entries[0] if text is not None and _counts(entries[0]) else None
    rows = "".join(_row(entry, entry is best) for entry in entries)
    return (
        f'<h2>{title}</h2><div class="scroll"><table class="board"><caption>{words}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def entries_part(entries: Iterable[EntryView]) -> str:
    """Each entry's own section, closed."""
    sections = "".join(entry_section(entry) for entry in entries)
    return f"<h2>Each entry</h2>{sections}" if sections else ""


def _counts(entry: EntryView) -> bool:
    whole = entry.text is None or not entry.text.partial
    return entry.bpb is not None and entry.verdict != "failed" and whole


def _text_order(text: TextScored | None, members: Sequence[EntryView]) -> tuple[int, int, str]:
    if text is None:
        return (3, 0, "")
    low, high = VALIDATION_BYTES["challenge"]
    kind = 2 if text.partial else 0 if low <= text.num_bytes <= high else 1
    return (kind, -len(members), text.name)


def _text_title(text: TextScored) -> str:
    low, high = VALIDATION_BYTES["challenge"]
    whole = low <= text.num_bytes <= high
    name = "The challenge's validation text" if whole else f"On {escape(text.name)}"
    return f"{name}, in part" if text.partial else name


def _text_words(text: TextScored) -> str:
    return f"{escape(text.name)}, {text.num_bytes:,} bytes of text"


def _head(column: Column, index: int) -> str:
    unit = f'<br><span class="unit">{column.unit}</span>' if column.unit else ""
    ordered = ' aria-sort="ascending"' if index == 1 else ""
    kind = ' class="text"' if column.kind == "text" else ""
    return f'<th scope="col" data-kind="{column.kind}"{kind}{ordered}>{column.title}{unit}</th>'


def _row(entry: EntryView, best: bool) -> str:
    about = [TRACK_NAMES.get(entry.track, escape(entry.track))]
    about += [f'<span class="whole">{escape(entry.date)}</span>'] if entry.date else []
    warnings = [tag("part of the text", "loud")] if entry.text and entry.text.partial else []
    if entry.problem:
        warnings.append(tag("incomplete" if entry.bpb is not None else "cannot be read", "loud"))
    name = (
        f'<a href="#{escape(entry.folder)}">{escape(entry.name)}</a>'
        f'<span class="sub">{" · ".join(about)} {" ".join(warnings)}</span>'
    )
    spread = f'<span class="sub">± {entry.bpb_std:.4f}</span>' if entry.bpb_std is not None else ""
    cells = [
        (entry.name.lower(), name),
        (entry.bpb, decimals(entry.bpb) + spread),
        (entry.before_bpb, decimals(entry.before_bpb)),
        (entry.artifact_bpb, decimals(entry.artifact_bpb)),
        (entry.adapted_bpb, decimals(entry.adapted_bpb)),
        (entry.bytes_total, count(entry.bytes_total)),
        (entry.train_seconds, count(entry.train_seconds)),
        (entry.eval_seconds, count(entry.eval_seconds)),
        (len(entry.seeds) or None, str(len(entry.seeds) or "")),
        (entry.hardware, escape(plain_hardware(entry.hardware))),
        (entry.verdict, audit_tag(entry)),
    ]
    row = "".join(_cell(column, *cell) for column, cell in zip(COLUMNS, cells, strict=True))
    kind = ' class="best"' if best else ""
    return f"<tr{kind}>{row}</tr>"


def _cell(column: Column, value: object, shown: str) -> str:
    kinds = ["text"] * (column.kind == "text") + ["bpb"] * (column.title == "score")
    kinds += ["wide"] * (column.title == "hardware") + ["none"] * (not shown)
    label = f"{column.title}, {column.unit}" if column.unit in ("bytes", "seconds") else column.title
    key = "" if value is None else escape(str(value))
    classes = f' class="{" ".join(kinds)}"' if kinds else ""
    return f'<td{classes} data-label="{label}" data-value="{key}">{shown}</td>'


def _running_one(run: LiveRun) -> str:
    share = "" if run.share is None else f"{percent(run.share)} of the training budget"
    track = "" if run.share is None else f'<span style="width:{100 * run.share:.1f}%"></span>'
    loss = f"loss {run.progress.loss[-1]:.4f} nats per token" if run.progress.loss else ""
    bpb = f"held-out {run.progress.bpb[-1]:.4f} bits per byte" if run.progress.bpb else ""
    speed = f"{run.tokens_per_second:,.0f} tokens per second" if run.tokens_per_second else ""
    said = f"last line {duration(run.quiet_seconds)} before this page"
    words = "; ".join(part for part in (share, loss, bpb, speed, said) if part)
    bar = f'<span class="bar-track">{track}</span>'
    return (
        f"<figure><h3>{escape(run.name)} {tag(run.phase, 'good')}</h3>{bar}"
        f"<figcaption>{words}.</figcaption>{live_chart(run)}</figure>"
    )
