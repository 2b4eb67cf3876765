"""One entry's section on the page of records: stages, curves, bytes, losses, codes, probes."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from golf.pack.fit import LIMIT_BYTES
from golf.site.load import Documents, EntryView
from golf.site.page_parts import (
    audit_tag,
    count,
    decimals,
    look_chart,
    loss_chart,
    percent,
    plain_hardware,
    tag,
)
from golf.site.svg import Series, histogram, line_chart, log_axis, nice_axis, short, spark_bars

DOCUMENT_BINS = 28
CODES_SHOWN = 24
"""Codes from minus to plus this are drawn; the few beyond are named."""
_OPACITIES = (1.0, 0.78, 0.6, 0.45, 0.32, 0.22)


def entry_section(entry: EntryView) -> str:
    """The entry's collapsible section; figures of a shape that cannot be shown leave its problem alone."""
    try:
        return _section(entry)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"{entry.problem} its figures cannot be shown: {error!r:.160}".strip()
        bare = EntryView(entry.folder, entry.track, entry.name, problem, bpb=entry.bpb)
        return _section(bare)


def _section(entry: EntryView) -> str:
    score = f"{entry.bpb:.4f} bits per byte" if entry.bpb is not None else "no score"
    warning = tag("incomplete", "loud") if entry.problem else ""
    parts = [
        _words(entry),
        _stages(entry),
        _seeds(entry),
        _grid([_loss(entry), _looks(entry), _positions(entry), _documents(entry.documents)]),
        _bytes(entry),
        _codes(entry),
        _grid([_probes(entry), _features(entry)]),
    ]
    return (
        f'<details class="entry" id="{escape(entry.folder)}"><summary><span class="name">'
        f'{escape(entry.name)}</span><span class="soft">{escape(entry.folder)}</span>{warning}'
        f'<span class="right">{score}</span></summary><div class="inside">{"".join(parts)}</div></details>'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small table of HTML cells, the first column to the left."""
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="small"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _words(entry: EntryView) -> str:
    problem = f'<p class="note">{escape(entry.problem[:400])}</p>' if entry.problem else ""
    blurb = f"<p>{escape(entry.blurb[:600])}</p>" if entry.blurb else ""
    by = [
        f"by {escape(entry.author)}" if entry.author else "",
        escape(entry.date),
        escape(plain_hardware(entry.hardware)),
    ]
    by.append(f"{entry.parameters:,} parameters" if entry.parameters else "")
    links = " ".join(f'<a href="{escape(entry.folder)}/{name}">{name}</a>' for name in entry.files)
    told = ", ".join(part for part in by if part)
    return f'{problem}{blurb}<p class="soft">{told}{". " if told else ""}{links}</p>'


def _stages(entry: EntryView) -> str:
    if not entry.steps:
        return ""
    rows, before = [], None
    for step in entry.steps:
        change = "" if before is None else f"{step.bpb - before:+.4f}"
        rows.append([escape(step.title), f"{step.bpb:.6f}", change, f"{step.nats:.6f}", escape(step.windows)])
        before = step.bpb
    columns = ["stage", "bits per byte", "change", "nats per token", "windows"]
    scale = [f"{name} makes {bits:.4f}" for name, bits in entry.compressors.items()]
    said = f'<p class="soft">On the same text {" and ".join(scale)} bits per byte.</p>' if scale else ""
    return f'<div class="block stages"><h3>Score, stage by stage</h3>{table(columns, rows)}{said}</div>'


def _seeds(entry: EntryView) -> str:
    if len(entry.by_seed) < 2:
        return ""
    rows = [
        [
            str(one.seed),
            f"{one.bpb:.6f}",
            count(one.bytes_total),
            decimals(one.train_seconds, 1),
            decimals(one.eval_seconds, 1),
            count(one.steps),
        ]
        for one in entry.by_seed
    ]
    columns = ["seed", "bits per byte", "bytes", "training, s", "scoring, s", "steps"]
    return f'<div class="block"><h3>Seeds</h3>{table(columns, rows)}</div>'


def _grid(parts: Sequence[str]) -> str:
    filled = "".join(part for part in parts if part)
    return f'<div class="grid2">{filled}</div>' if filled else ""


def _figure(title: str, picture: str, caption: str) -> str:
    return f"<figure><h3>{title}</h3>{picture}<figcaption>{caption}</figcaption></figure>"


def _loss(entry: EntryView) -> str:
    picture = loss_chart(entry.curves)
    ends = _ends({name: curve.loss for name, curve in entry.curves.items()})
    return (
        _figure("Training loss, nats per token", picture, f"At the end {ends} nats per token.")
        if picture
        else ""
    )


def _looks(entry: EntryView) -> str:
    picture = look_chart(entry.curves)
    ends = _ends({name: curve.bpb for name, curve in entry.curves.items()})
    title = "Held-out text on the way, bits per byte"
    return _figure(title, picture, f"At the last look {ends} bits per byte.") if picture else ""


def _ends(values: Mapping[str, Sequence[float]]) -> str:
    """Where the first few curves end, each named where there are several."""
    known = {name: last[-1] for name, last in values.items() if last}
    if len(known) == 1:
        return f"{next(iter(known.values())):.4f}"
    return ", ".join(f"{last:.4f} ({escape(name)})" for name, last in list(known.items())[:5])


def _positions(entry: EntryView) -> str:
    """Loss by position in the window; nothing where the run did not measure it."""
    found = entry.portrait.get("loss_by_position")
    if not isinstance(found, dict) or len(found.get("nats", ())) < 2:
        return ""
    places, nats = found["up_to_position"], found["nats"]
    series = [Series("loss", places, nats, dots=True)]
    picture = line_chart(
        "nats per token by position in the window",
        series,
        "position in the window, up to",
        log_axis(places),
        nice_axis(nats),
        short,
    )
    caption = (
        f"The packed model by position, over disjoint windows of {found['tokens_scored']:,} targets: "
        f"{nats[0]:.3f} nats for the first, {nats[-1]:.3f} in the last half."
    )
    return _figure("Loss by position, nats per token", picture, caption)


def _documents(documents: Documents | None) -> str:
    """How the score spreads over documents."""
    if documents is None or len(documents.bpb) < 2:
        return ""
    bpb = documents.bpb
    low, high = np.quantile(bpb, (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, DOCUMENT_BINS + 1)
    counts, _ = np.histogram(np.clip(bpb, edges[0], edges[-1]), edges)
    median = float(np.median(bpb))
    picture = histogram(
        "documents by bits per byte", edges.tolist(), counts.tolist(), "bits per byte", short, median
    )
    words = f"{len(bpb):,} documents; the median, dashed, is {median:.3f} bits per byte, "
    words += f"the easiest {bpb.min():.3f}, the hardest {bpb.max():.3f}."
    if documents.plain_bpb is not None:
        better = int((bpb < documents.plain_bpb).sum())
        words += f" Learning while scoring makes {better:,} of them better."
    return _figure("Documents by their bits per byte", picture, words)


def _bytes(entry: EntryView) -> str:
    if entry.bytes_total is None or entry.bytes_code is None or entry.bytes_model is None:
        return ""
    parts = {f"artifact: {name}": size for name, size in sorted(entry.parts.items(), key=lambda p: -p[1])}
    rest = entry.bytes_model - sum(parts.values())
    parts["artifact: header, grids, tables" if parts else "artifact"] = rest
    parts["code"] = entry.bytes_code
    bars, rows = [], []
    for index, (name, size) in enumerate(parts.items()):
        shade = f"opacity:{_OPACITIES[min(index, len(_OPACITIES) - 1)]}"
        share = size / max(1, entry.bytes_total)
        bars.append(f'<span style="flex:{max(share, 0):.5f};{shade}"></span>')
        swatch = f'<span class="swatch" style="{shade}"></span>'
        rows.append([f"{swatch}{escape(name)}", count(size), percent(share)])
    rows.append(["<b>total</b>", f"<b>{count(entry.bytes_total)}</b>", percent(1.0)])
    left = LIMIT_BYTES - entry.bytes_total
    over = "left of" if left >= 0 else "over"
    rows.append([f"{over} {LIMIT_BYTES:,}", count(abs(left)), ""])
    return (
        f'<div class="block"><h3>Bytes</h3><div class="budget">{"".join(bars)}</div>'
        f"{table(['part', 'bytes', 'share'], rows)}</div>"
    )


def _codes(entry: EntryView) -> str:
    """How often each code of the artifact occurs, by part of the network."""
    codes = entry.portrait.get("codes")
    if not isinstance(codes, dict) or not codes:
        return ""
    figures = []
    for part, found in codes.items():
        counts, first = found["counts"], found["first_code"]
        total = sum(counts)
        if not total:
            continue
        inside = sum(number for index, number in enumerate(counts) if abs(first + index) <= CODES_SHOWN)
        zeros = counts[-first] if first <= 0 < first + len(counts) else 0
        picture = spark_bars(f"codes of {part}", first, counts, -CODES_SHOWN, CODES_SHOWN)
        beyond = "" if inside == total else f", {percent(1 - inside / total)} beyond ±{CODES_SHOWN}"
        caption = f"{escape(part)}: {total:,} weights, {percent(zeros / total)} zero{beyond}"
        figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    how = '<p class="soft">Heights go by the square root, so that rare codes show; the hair marks zero.</p>'
    return (
        f'<div class="block"><h3>Codes of the artifact</h3>{how}'
        f'<div class="sparks">{"".join(figures)}</div></div>'
    )


def _probes(entry: EntryView) -> str:
    """What the audit probed, by seed where there are several."""
    if entry.audit is None:
        return f"<div><h3>Audit {audit_tag(entry)}</h3><p>The legality probes were not run.</p></div>"
    by_seed = entry.audit.get("seeds")
    audits = by_seed if isinstance(by_seed, dict) else {"": entry.audit}
    rows = []
    for seed, audit in audits.items():
        for probe in audit.get("probes", ()) if isinstance(audit, dict) else ():
            violations = probe.get("violations") or []
            verdict = tag("failed", "loud") if violations else tag("passed", "good")
            about = str(violations[0]) if violations else str(probe.get("checked", ""))
            of_seed = f"seed {seed}, " if seed else ""
            name = escape(f"{of_seed}{probe.get('scorer', '')}: {probe.get('probe', '')}")
            rows.append([f'{name}<span class="sub soft">{escape(about[:160])}</span>', verdict])
    return f"<div><h3>Audit {audit_tag(entry)}</h3>{table(['probe', 'verdict'], rows) if rows else ''}</div>"


def _features(entry: EntryView) -> str:
    if not entry.features:
        return ""
    rows = [
        [
            f'{escape(str(one.get("name")))}<span class="sub soft">{escape(str(one.get("evidence")))}</span>',
            tag("active", "good") if one.get("active") else tag("never active", "loud"),
        ]
        for one in entry.features
    ]
    return f"<div><h3>Techniques that acted</h3>{table(['technique', ''], rows)}</div>"
