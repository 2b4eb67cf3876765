"""HTML pages from templates, and records/index.html, written once or whenever a file it shows changes."""

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from golf.check.submission import SubmissionError, read_submission
from golf.data.reference import LIMIT_BYTES, text_of_size
from golf.entry import plots
from golf.entry.portrait import Portrait
from golf.entry.progress import (
    MAX_LOG_BYTES,
    Curve,
    LiveRun,
    is_stopped,
    read_live_runs,
    read_log_curve,
    run_folders,
)
from golf.entry.readme import stage_rows
from golf.entry.results import EntryError, read_entry_results, read_json
from golf.entry.runs import RECORD_TRACKS, final_nats
from golf.entry.submission import entry_figures
from golf.plotting import css_border
from golf.results import Results
from golf.run_folder import EntryFolder
from golf.score.tally import bits_per_byte
from golf.system.cli import escape_lines
from golf.system.files import write_bytes
from golf.system.foreign import ForeignError, read_arrays, read_text
from golf.system.log import RunLog

MAX_SUBMISSION_BYTES = 1 << 20

_FOREIGN_FIGURES = (
    *("val_bpb", "val_bpb_std", "pre_quant_val_bpb", "bytes_total", "bytes_code", "bytes_model"),
    *("train_seconds", "eval_seconds"),
)


@dataclass(frozen=True)
class TextScored:
    """The text that was scored; entries compare where these are equal."""

    name: str = field(compare=False)
    sha256: str
    """Of the validation tokens."""
    tokens: int
    num_bytes: int
    partial: bool

    @property
    def order(self) -> int:
        """0 for the challenge's whole validation text, 1 for any other, 2 for a part of one."""
        return 2 if self.partial else int(text_of_size(self.num_bytes) != "challenge")


@dataclass(frozen=True)
class Documents:
    """Bits per byte of each document, and the same without test-time training where there was some."""

    bpb: np.ndarray
    plain_bpb: np.ndarray | None


@dataclass(frozen=True)
class Probe:
    """One legality probe of an audit."""

    scorer: str = ""
    probe: str = ""
    checked: str = ""
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Proved:
    """One proof by decompression."""

    sentence: str = ""
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Audit:
    """audit.json; in an entry of several seeds probes and proofs are under each seed."""

    passed: bool = False
    probes: list[Probe] = field(default_factory=list)
    proofs: list[Proved] = field(default_factory=list)
    seeds: dict[str, "Audit"] = field(default_factory=dict)


@dataclass(frozen=True)
class EntryView:
    """An entry as the page shows it."""

    folder: str
    """Relative to records/."""
    name: str
    problem: str = ""
    """What could not be read."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """As in submission.json, as far as they are known; `quantized_bpb` and `adapted_bpb` are the artifact's
    without and with test-time training."""
    runs: tuple[Results, ...] = ()
    """The seeds of an entry of this toolkit."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By seed, or by the log's name."""
    documents: Documents | None = None
    portrait: Portrait = field(default_factory=Portrait)
    audit: Audit | None = None
    files: tuple[str, ...] = ()
    """Those to link to."""

    @property
    def track(self) -> str:
        """Folder under records/."""
        return self.folder.split("/")[0]

    @property
    def bpb(self) -> float | None:
        """The score; None if it is not known."""
        return self.figures.get("val_bpb")

    @property
    def text(self) -> TextScored | None:
        """What was scored; None if it is not known by its hash."""
        if not self.runs:
            return None
        data, tally = self.runs[0].data, self.runs[0].final.tally
        partial = self.runs[0].partial
        return TextScored(data.name, data.validation_sha256, tally.num_tokens, tally.num_bytes, partial)

    @property
    def verdict(self) -> str:
        """passed, failed, or not audited."""
        return "not audited" if self.audit is None else "passed" if self.audit.passed else "failed"

    @property
    def ranks(self) -> bool:
        """Whether the score ranks: it is of the whole text, and no audit failed."""
        whole = self.text is None or not self.text.partial
        return self.bpb is not None and self.verdict != "failed" and whole

    @property
    def better_compressors(self) -> str:
        """Names of the general compressors that do better on the same text."""
        known = self.runs and self.bpb is not None
        return self.runs[0].data.better_compressors(self.bpb or 0.0) if known else ""

    @property
    def size_parts(self) -> dict[str, float]:
        """What the total is made of, in bytes, the artifact's largest part first."""
        code, model = (self.figures.get(name) for name in ("bytes_code", "bytes_model"))
        if self.figures.get("bytes_total") is None or code is None or model is None:
            return {}
        runs = sorted(self.runs, key=lambda run: run.packing.total_bytes)
        named = sorted(runs[-1].packing.parts.items(), key=lambda part: -part[1]) if runs else ()
        parts: dict[str, float] = {f"artifact: {name}": size for name, size in named}
        name_of_rest = "artifact: header, grids, tables" if parts else "artifact"
        return {**parts, name_of_rest: model - sum(parts.values()), "code": code}


def load_entries(records_root: Path) -> list[EntryView]:
    """Every folder of every track, in order of their paths."""
    folders = sorted(path for path in records_root.glob("*/*") if path.is_dir())
    return [load_entry(path) for path in folders if "/." not in f"/{path.parent.name}/{path.name}"]


def load_entry(folder: Path) -> EntryView:
    """One entry that the page can show; a folder that cannot be read comes back with its problem."""
    bare = EntryView(f"{folder.parent.name}/{folder.name}", folder.name)
    if folder.is_symlink():
        return replace(bare, problem="is a link; links are not followed")
    try:
        entry = _read_entry(EntryFolder(folder), bare)
        render_page([entry], [], datetime.now(), None)
    # Whatever a stranger's folder holds, it must not cost the other entries their page.
    except Exception as error:
        return replace(bare, problem=f"cannot be shown: {error!r:.200}")
    return entry


def _read_entry(entry: EntryFolder, bare: EntryView) -> EntryView:
    linked = (entry.readme, entry.script, entry.results, entry.submission)
    bare = replace(bare, files=tuple(path.name for path in linked if path.is_file()))
    try:
        return _own_entry(entry, bare)
    except (EntryError, ForeignError) as error:
        return _foreign_entry(entry, bare, _relative(error, entry.path))


def group_by_text(entries: Sequence[EntryView]) -> list[tuple[TextScored | None, list[EntryView]]]:
    """Entries by the text they were scored on, the best first in each; the challenge's own text first."""
    groups: dict[TextScored | None, list[EntryView]] = {}
    for entry in sorted(entries, key=lambda entry: (not entry.ranks, entry.bpb is None, entry.bpb or 0.0)):
        groups.setdefault(entry.text, []).append(entry)
    orders = {text: (text.order, -len(members), text.name) for text, members in groups.items() if text}
    return sorted(groups.items(), key=lambda group: orders[group[0]] if group[0] else (3, 0, ""))


def best_of(entries: Sequence[EntryView]) -> EntryView | None:
    """The entry to show first: of those whose score ranks, committed ones before trials, the best."""
    ranked = [entry for entry in entries if entry.ranks and entry.text]
    groups = group_by_text([entry for entry in ranked if entry.track in RECORD_TRACKS] or ranked)
    return groups[0][1][0] if groups else None


def _own_entry(entry: EntryFolder, bare: EntryView) -> EntryView:
    by_seed = read_entry_results(entry.results)
    runs, stated = tuple(by_seed.values()), read_json(entry.submission)
    said = {name: str(stated.get(name, "")) for name in ("author", "date", "blurb")}
    figures = {**said, **entry_figures(runs), "quantized_bpb": _mean_bpb(runs, "quantized")}
    figures["adapted_bpb"] = _mean_bpb(runs, "test_time_trained")
    audited, found, problems = entry.audit.is_file(), {}, []
    readers = {
        "portrait": lambda: msgspec.convert(runs[0].portrait, Portrait),
        "audit": lambda: msgspec.convert(read_json(entry.audit), Audit) if audited else None,
        "documents": lambda: _documents(entry.per_document, final_nats(runs[0])),
    }
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except (ValueError, KeyError) as error:
            # One that cannot be read is a problem, the rest shows.
            problems.append(f"{name} cannot be read: {_relative(error, entry.path):.120}")
    curves, problem = _curves([entry.log(seed) for seed in by_seed]), "; ".join(problems)
    name = runs[0].name
    return replace(bare, name=name, problem=problem, figures=figures, runs=runs, curves=curves, **found)


def _mean_bpb(runs: Sequence[Results], name: str) -> float | None:
    stages = [run.stage(name) for run in runs]
    scores = [stage.tally.bits_per_byte for stage in stages if stage is not None]
    return float(np.mean(scores)) if len(scores) == len(runs) else None


def _foreign_entry(entry: EntryFolder, bare: EntryView, problem: str) -> EntryView:
    """What a submission.json alone says, whoever wrote it."""
    path = entry.submission
    try:
        found = read_submission(path.name, read_text(path, MAX_SUBMISSION_BYTES))
    except (SubmissionError, ForeignError) as error:
        return replace(bare, problem=f"{problem}; {path.name}: {_relative(error, entry.path)}")
    figures: dict[str, Any] = {name: found.value(name) for name in _FOREIGN_FIGURES}
    said = {name: found.raw.get(name) for name in ("blurb", "hardware")}
    figures |= {name: text for name, text in said.items() if isinstance(text, str)}
    figures |= {"author": found.names["author"], "date": found.names["date"], "seeds": found.seeds}
    curves = _curves(sorted(entry.path.glob("*.log"))[:8])
    name = found.names["name"] or bare.name
    return replace(bare, name=name, problem=problem, figures=figures, curves=curves)


def _curves(logs: Sequence[Path]) -> dict[str, Curve]:
    curves = {
        path.stem.removeprefix("train_").replace("seed", "seed "): read_log_curve(
            path, MAX_LOG_BYTES // len(logs)
        )
        for path in logs
        if path.is_file() and not path.is_symlink()
    }
    return {name: curve for name, curve in curves.items() if len(curve.steps) > 1}


def _documents(path: Path, final: str) -> Documents:
    arrays = read_arrays(path)
    counted = arrays["bytes"] > 0
    num_bytes = arrays["bytes"][counted]
    bpb, plain = (bits_per_byte(arrays[name][counted], num_bytes) for name in (final, "nats"))
    if not (np.isfinite(bpb).all() and np.isfinite(plain).all()):
        raise ValueError("holds nats that are not finite")
    return Documents(bpb, plain if final != "nats" else None)


def _relative(error: Exception, folder: Path) -> str:
    """An error's message without the path to the folder that the page names anyway."""
    return str(error).replace(f"{folder}/", "").replace(f"{folder} ", "")


PAGE_NAME = "index.html"
REFRESH_SECONDS = 10
"""After which a browser reloads a watched page."""


def _escape_lines(value: object) -> object:
    """What a template inserts, but for finished markup, without control characters in its lines."""
    return escape_lines(value) if type(value) is str else value


@lru_cache
def html_environment(package: str = "golf.site") -> Environment:
    """Templates of `package` and, for those it extends and includes, of golf.site; every value is escaped."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("golf.site")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_escape_lines,
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
            stage_rows=stage_rows,
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


def write_report(records_root: Path, runs_root: Path, out: Path, refresh: int | None = None) -> int:
    """Writes the page of everything under both folders, which need not exist; returns its size in bytes."""
    page = render_page(load_entries(records_root), read_live_runs(runs_root), datetime.now(), refresh)
    data = page.encode("utf-8", errors="replace")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    return len(data)


def watch(records_root: Path, runs_root: Path, out: Path, every_seconds: float, log: RunLog) -> None:
    """Writes the page again whenever a file that it shows has changed, until Ctrl-C."""
    seen = None
    try:
        while True:
            found = signature(records_root, runs_root)
            if found != seen:
                size = write_report(records_root, runs_root, out, REFRESH_SECONDS)
                log.event("page", path=str(out), bytes=size)
                seen = found
            time.sleep(every_seconds)
    except KeyboardInterrupt:
        write_report(records_root, runs_root, out)
        log.info("stopped; the page no longer reloads itself")


def signature(records_root: Path, runs_root: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file whose change would change the page, and which runs are stopped."""
    files = list(records_root.glob("*/*/*.json"))
    folders = run_folders(runs_root)
    files += [path for folder in folders for path in (folder.events, folder.results)]
    found = []
    for path in files:
        with suppress(OSError):  # A run may be moved away meanwhile, or have no results yet.
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    for folder in folders:
        with suppress(OSError):
            found.append((str(folder), int(is_stopped(folder)), 0))
    return tuple(sorted(found))
