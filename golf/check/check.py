"""Checks record folders from their files alone: where what they claim differs from what their files say."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from golf.check.explain import Reading, readings
from golf.check.findings import LEVELS, Finding, info
from golf.check.folder import read_record
from golf.check.record import Record, Track, seed_of
from golf.check.rules import files, limits, scores
from golf.check.scripts import RUNNING
from golf.system.cli import escape_text

RULES: tuple[Callable[[Record], Iterable[Finding]], ...] = tuple(
    rule for module in (files, limits, scores) for rule in module.RULES
)
MAX_EVIDENCE_SHOWN = 6
MAX_SUMMARY_LINES = 5
MAX_SUMMARY_CHARACTERS = 90


@dataclass(frozen=True)
class Report:
    """The result of checking one folder."""

    folder: str
    track: Track = "unknown"
    claims: dict[str, float] = field(default_factory=dict)
    """The JSON's figures by meaning: bits per byte, nats per token, bytes, seconds."""
    logged: dict[str, list[float]] = field(default_factory=dict)
    """The logs' own figures: val_bpb and bytes_total of each run."""
    findings: tuple[Finding, ...] = ()
    looked_at: tuple[str, ...] = ()
    not_seen: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    """How each figure was read, if that was asked for."""
    error: str = ""
    """Why the folder could not be read; everything else is then empty."""

    @property
    def exit_code(self) -> int:
        """0 without an error, 1 with one, 2 if the folder could not be read."""
        return 2 if self.error else int(any(finding.level == "error" for finding in self.findings))


def check_folder(path: Path, explain: bool = False) -> Report:
    """Checks one folder; a folder that cannot be listed comes back with its error.

    With `explain` the report also says how each figure was read.
    """
    try:
        record = read_record(path)
        if not record.files and not record.problems:
            return Report(str(path), error="is empty")
        findings = [*record.problems, *(finding for rule in RULES for finding in rule(record))]
    except OSError as failure:
        return Report(str(path), error=f"cannot be read: {failure.strerror}")
    # A stranger's folder must not cost the others their check; this is a fault of ours to be reported.
    except Exception as failure:
        return Report(str(path), error=f"check failed: {failure!r}"[:300])
    claimed = record.submission.figures if record.submission else {}
    return Report(
        folder=str(path),
        track=record.track,
        claims={meaning: figure.value for meaning, figure in claimed.items()},
        logged={
            "val_bpb": [score.val_bpb for score in record.final_scores],
            "bytes_total": [float(total.shipped_bytes) for total in record.totals],
        },
        findings=_sorted(dict.fromkeys(findings)),
        looked_at=tuple(_looked_at(record)),
        not_seen=tuple(_not_seen(record)),
        readings=readings(record) if explain else (),
    )


FIRST_KINDS = (
    ("size", "artifact"),
    ("time", "budget", "overshoot"),
    ("score", "bytes", "claim", "gain", "metric"),
)
"""Words in the codes of the kinds of findings that are shown first."""


def check_folders(paths: Sequence[Path], workers: int | None = None, explain: bool = False) -> list[Report]:
    """Checks many folders in a pool of processes, in the order given.

    A folder whose check fails, or ends its process, is reported as unreadable; the others go on. Figures that
    belong to another folder of `paths` get an info.
    """
    workers = min(workers or os.cpu_count() or 1, max(1, len(paths) // 4))
    if workers == 1:
        return note_neighbors([check_folder(path, explain) for path in paths])
    reports: list[Report] = []
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(check_folder, path, explain) for path in paths]
        for path, job in zip(paths, jobs, strict=True):
            failed = Report(str(path), error=f"check failed: {job.exception()!r}"[:300])
            reports.append(failed if job.exception() else job.result())
    return note_neighbors(reports)


def note_neighbors(reports: Sequence[Report]) -> list[Report]:
    """Adds an info where a total that no log here states is stated by the logs of another folder."""
    owners: dict[float, str] = {}
    for report in reports:
        for value in report.logged.get("bytes_total", []):
            owners.setdefault(value, report.folder)
    noted = []
    for report in reports:
        total = report.claims.get("bytes_total")
        owner = owners.get(total, report.folder) if total else report.folder
        unsupported = {"size-unsupported", "json-of-another-run"} & {f.code for f in report.findings}
        if owner != report.folder and (unsupported or not report.logged.get("bytes_total")):
            text = f"the JSON's total, {total:,.0f} bytes, is stated by the logs of {Path(owner).name}"
            report = replace(report, findings=_sorted([*report.findings, info("json-of-neighbour", text)]))
        noted.append(report)
    return noted


def exit_code(reports: Sequence[Report]) -> int:
    """2 if a folder could not be read, else 1 if one has an error, else 0."""
    return max((report.exit_code for report in reports), default=0)


def to_json(report: Report) -> dict[str, Any]:
    """A report as JSON values."""
    return asdict(report) | {"exit_code": report.exit_code}


def render(report: Report, show_all: bool = False) -> str:
    """A report as text: what a reviewer must look at, then the findings with their lines.

    Infos are counted, and shown with `show_all`.
    """
    if report.error:
        return "\n".join(map(escape_text, (report.folder, f"  unreadable: {report.error}")))
    counts = {level: sum(finding.level == level for finding in report.findings) for level in LEVELS}
    plural = {level: "" if count == 1 or level == "info" else "s" for level, count in counts.items()}
    counted = ", ".join(f"{count} {level}{plural[level]}" for level, count in counts.items())
    lines = [f"{report.folder}  ({counted})", *_summary(report)]
    for finding in report.findings:
        if finding.level == "info" and not show_all:
            continue
        lines.append(f"  {finding.level:7} {finding.code}: {finding.message}")
        lines += [f"            {evidence}" for evidence in finding.evidence[:MAX_EVIDENCE_SHOWN]]
    if counts["info"] and not show_all:
        codes = dict.fromkeys(finding.code for finding in report.findings if finding.level == "info")
        lines.append(f"  {counts['info']} info (--all shows them): {', '.join(codes)}")
    if report.readings:
        lines += ["  how each figure was read:", *(f"    {reading}" for reading in report.readings)]
    lines.append("  looked at: " + "; ".join(report.looked_at))
    lines.append("  not seen: " + "; ".join(report.not_seen))
    return "\n".join(map(escape_text, lines))


def _summary(report: Report) -> Iterator[str]:
    """What a reviewer must look at, in at most MAX_SUMMARY_LINES lines."""
    found = [finding for finding in report.findings if finding.level != "info"]
    if not found:
        yield "  nothing that a reviewer must look at was found"
        return
    yield "  a reviewer must look at:"
    shown = found if len(found) < MAX_SUMMARY_LINES else found[: MAX_SUMMARY_LINES - 2]
    for finding in shown:
        place = next((f" ({at.file}{f':{at.line}' if at.line else ''})" for at in finding.evidence), "")
        message = shorten(finding.message, MAX_SUMMARY_CHARACTERS, placeholder=" ...")
        yield f"    {finding.code}: {message}{place}"
    if len(shown) < len(found):
        codes = Counter(finding.code for finding in found[len(shown) :])
        listed = ", ".join(code if count == 1 else f"{code} ({count})" for code, count in codes.items())
        rest = f"    and {len(found) - len(shown)} more: {listed}"
        yield rest if len(rest) <= 160 else f"{rest[:156]} ..."


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The most severe first: size, then time, scores and the rest; then by code, whose own order is kept."""

    def weight(finding: Finding) -> tuple[int, int, str]:
        kinds = [kind for kind, words in enumerate(FIRST_KINDS) if any(w in finding.code for w in words)]
        return LEVELS.index(finding.level), kinds[0] if kinds else len(FIRST_KINDS), finding.code

    return tuple(sorted(findings, key=weight))


def _looked_at(record: Record) -> Iterator[str]:
    runs = record.runs
    if record.submission and record.submission.raw:
        yield f"{record.submission.file} ({len(record.submission.raw)} keys)"
    if runs:
        seeds = [str(seed) for log in runs if (seed := seed_of(log)) is not None]
        yield f"{len(runs)} of {len(record.logs)} logs" + (f" (seeds {', '.join(seeds)})" if seeds else "")
    for script in record.scripts[:3]:
        unpacked = f" unpacked from {' and '.join(script.codecs)}" if script.codecs else ""
        parsed = f"parsed by Python {RUNNING}" if script.verdict.parses else "not parsed"
        yield f"{script.file}{unpacked} ({parsed})"
    if record.readme:
        yield record.readme[0]
    if not record.submission and not runs and not record.scripts:
        yield f"the names of {len(record.files)} files"


def _not_seen(record: Record) -> Iterator[str]:
    if record.script is None:
        yield "the script that trained and scored"
    if not record.artifacts:
        yield "the packed weights"
    unread = [log for log in record.logs if log.num_unread]
    if unread:
        first = unread[0].unread[0]
        count = sum(log.num_unread for log in unread)
        lines = "line with a number was" if count == 1 else "lines with numbers were"
        yield f"{count:,} {lines} not understood; the first: {first.file}:{first.line}: {first.text[:100]}"
    yield "the validation text"
    yield "whether scoring is causal, normalised and score-first (a run-time probe shows that)"
