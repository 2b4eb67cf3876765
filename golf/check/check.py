"""Checks record folders from their files alone: what they claim, what their files say, where these differ."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from golf.check.claims import entry_runs, final_scores, seed_of, totals
from golf.check.findings import LEVELS, Finding, Level, note, sort_findings
from golf.check.folder import Folder, Track, read_folder
from golf.check.rules import code, files, origin, scores, seeds, sizes, text_bytes, times

Rule = Callable[[Folder], Iterable[Finding]]

RULES: tuple[Rule, ...] = (
    *files.RULES,
    *origin.RULES,
    *sizes.RULES,
    *scores.RULES,
    *text_bytes.RULES,
    *seeds.RULES,
    *times.RULES,
    *code.RULES,
)


@dataclass(frozen=True)
class Report:
    """What a check of one folder found, looked at and could not see."""

    folder: str
    track: Track
    claims: dict[str, float]
    """The JSON's figures by meaning: bits per byte, nats per token, bytes, seconds."""
    logged: dict[str, list[float]]
    """The logs' own: val_bpb and bytes_total of each run."""
    findings: tuple[Finding, ...]
    looked_at: tuple[str, ...]
    not_seen: tuple[str, ...]
    error: str = ""
    """Why the folder could not be read; everything else is then empty."""

    @property
    def exit_code(self) -> int:
        """0 without a defect, 1 with one, 2 if the folder could not be read."""
        return 2 if self.error else int(any(finding.level == "defect" for finding in self.findings))


def check_folder(path: Path) -> Report:
    """Checks one folder; a folder that cannot be listed comes back with its error."""
    with _without_collector():
        return _check_folder(path)


def _check_folder(path: Path) -> Report:
    try:
        folder = read_folder(path)
    except OSError as error:
        return _failed(path, f"cannot be read: {error.strerror}")
    if not folder.files and not folder.problems:
        return _failed(path, "is empty")
    findings = [finding for rule in RULES for finding in rule(folder)]
    runs = entry_runs(folder)
    return Report(
        folder=str(path),
        track=folder.track,
        claims=scores.claims(folder.submission) if folder.submission else {},
        logged={
            "val_bpb": [score.val_bpb for score in final_scores(runs)],
            "bytes_total": [float(total.shipped_bytes) for total in totals(folder, runs)],
        },
        findings=tuple(sort_findings(list(dict.fromkeys(findings)))),
        looked_at=tuple(_looked_at(folder)),
        not_seen=tuple(_not_seen(folder)),
    )


def check_folders(paths: Sequence[Path], workers: int | None = None) -> list[Report]:
    """Checks many folders in a pool of processes, in the order given.

    A folder whose check fails outright, or brings its process down, is reported as unreadable; the others go
    on. Figures that belong to a neighbour among `paths` are pointed out.
    """
    workers = min(workers or os.cpu_count() or 1, max(1, len(paths) // 4))
    if workers == 1:
        return note_neighbours([check_folder(path) for path in paths])
    reports: list[Report] = []
    with ProcessPoolExecutor(workers) as pool:
        jobs = [pool.submit(check_folder, path) for path in paths]
        for path, job in zip(paths, jobs, strict=True):
            failure = job.exception()
            reports.append(_failed(path, f"check failed: {failure!r}"[:300]) if failure else job.result())
    return note_neighbours(reports)


def note_neighbours(reports: Sequence[Report]) -> list[Report]:
    """Adds a note where a total that no log here states is stated by the logs of another folder."""
    owners: dict[float, str] = {}
    for report in reports:
        for value in report.logged.get("bytes_total", []):
            owners.setdefault(value, report.folder)
    noted = []
    for report in reports:
        total = report.claims.get("bytes_total")
        owner = owners.get(total, report.folder) if total else report.folder
        unsupported = {"size-unsupported", "json-of-another-run"} & {
            finding.code for finding in report.findings
        }
        if owner != report.folder and (unsupported or not report.logged.get("bytes_total")):
            text = f"the JSON's total, {total:,.0f} bytes, is stated by the logs of {Path(owner).name}"
            findings = tuple(sort_findings([*report.findings, note("json-of-neighbour", text)]))
            report = Report(**{**report.__dict__, "findings": findings})
        noted.append(report)
    return noted


def exit_code(reports: Sequence[Report]) -> int:
    """2 if a folder could not be read, else 1 if one has a defect, else 0."""
    return max((report.exit_code for report in reports), default=0)


def to_json(report: Report) -> dict[str, object]:
    """A report as JSON values."""
    return asdict(report) | {"exit_code": report.exit_code}


def render(report: Report) -> str:
    """A report as text: findings with their lines, then what was looked at and what could not be seen."""
    if report.error:
        return f"{report.folder}\n  unreadable: {report.error}"
    counts = ", ".join(_count(report, level) for level in LEVELS)
    lines = [f"{report.folder}  ({counts})"]
    for finding in report.findings:
        lines.append(f"  {finding.level:6} {finding.code}: {finding.message}")
        lines += [f"           {evidence}" for evidence in finding.evidence[:6]]
    lines.append("  looked at: " + "; ".join(report.looked_at))
    lines.append("  not seen: " + "; ".join(report.not_seen))
    return "\n".join(lines)


@contextmanager
def _without_collector() -> Iterator[None]:
    """A fifth of the time went into looking for cycles in syntax trees, which have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _count(report: Report, level: Level) -> str:
    count = sum(finding.level == level for finding in report.findings)
    return f"{count} {level}{'' if count == 1 else 's'}"


def _failed(path: Path, error: str) -> Report:
    return Report(str(path), "unknown", {}, {}, (), (), (), error)


def _looked_at(folder: Folder) -> Iterable[str]:
    if folder.submission and folder.submission.raw:
        yield f"{folder.submission.file} ({len(folder.submission.raw)} keys)"
    runs = entry_runs(folder)
    if runs:
        seeds = [str(seed) for log in runs if (seed := seed_of(log)) is not None]
        yield f"{len(runs)} of {len(folder.logs)} logs" + (f" (seeds {', '.join(seeds)})" if seeds else "")
    for script in folder.scripts[:3]:
        yield f"{script.file}" + (f" unpacked from {' and '.join(script.codecs)}" if script.codecs else "")
    if folder.readme:
        yield folder.readme[0]
    if not folder.submission and not runs and not folder.scripts:
        yield f"the names of {len(folder.files)} files"


def _not_seen(folder: Folder) -> Iterable[str]:
    if folder.script is None:
        yield "the script that trained and scored"
    if not folder.artifacts:
        yield "the packed weights"
    yield "the validation text"
    yield "whether scoring is causal, normalised and score-first (a run-time probe shows that)"
