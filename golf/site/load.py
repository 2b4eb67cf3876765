"""Every entry under records/, as far as its files can be read: the values that a page of all of them shows.

Nothing here raises for what a folder holds: an entry of this toolkit is read whole, a foreign one by its
submission.json, and `problem` says what could not be read.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from golf.check.submission import SubmissionError, read_submission
from golf.data.reference import text_of_size
from golf.entry.artifact_stats import Portrait
from golf.entry.progress import Curve, read_log_curve
from golf.entry.readme import StageRow, stage_rows
from golf.entry.results import EntryError, read_entry_results, read_json
from golf.entry.runs import RECORD_TRACKS, final_nats
from golf.entry.submission import entry_figures
from golf.results import Feature, Results
from golf.run_folder import EntryFolder
from golf.score.tally import bits_per_byte

MAX_JSON_BYTES = 8 << 20
MAX_DOCUMENTS_BYTES = 64 << 20

_FIGURES = {
    "bpb": "val_bpb",
    "bpb_std": "val_bpb_std",
    "before_bpb": "pre_quant_val_bpb",
    **{name: name for name in ("bytes_total", "bytes_code", "bytes_model", "train_seconds", "eval_seconds")},
}
"""By field of EntryView, the key in submission.json."""


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
class Audit:
    """audit.json; in an entry of several seeds the probes are under each seed."""

    passed: bool = False
    probes: list[Probe] = field(default_factory=list)
    seeds: dict[str, "Audit"] = field(default_factory=dict)


@dataclass(frozen=True)
class EntryView:
    """An entry as the page shows it; None, or empty, is what its files do not say."""

    folder: str
    """Relative to records/."""
    track: str
    name: str
    problem: str = ""
    """What could not be read."""
    author: str = ""
    date: str = ""
    blurb: str = ""
    bpb: float | None = None
    bpb_std: float | None = None
    before_bpb: float | None = None
    """Of the weights that were quantized."""
    artifact_bpb: float | None = None
    """Of the artifact without test-time training."""
    adapted_bpb: float | None = None
    text: TextScored | None = None
    stages: Sequence[StageRow] = ()
    bytes_total: float | None = None
    bytes_code: float | None = None
    bytes_model: float | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    train_seconds: float | None = None
    eval_seconds: float | None = None
    hardware: str = ""
    seeds: tuple[int, ...] = ()
    seed_results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By seed, as in submission.json."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By seed, or by the log's name."""
    documents: Documents | None = None
    portrait: Portrait = field(default_factory=Portrait)
    features: Sequence[Feature] = ()
    audit: Audit | None = None
    compressors: Mapping[str, float] = field(default_factory=dict)
    parameters: int | None = None
    files: tuple[str, ...] = ()
    """Those to link to."""

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
    def size_parts(self) -> dict[str, float]:
        """What the total is made of, in bytes, the artifact's largest part first."""
        if self.bytes_total is None or self.bytes_code is None or self.bytes_model is None:
            return {}
        named = sorted(self.parts.items(), key=lambda part: -part[1])
        parts: dict[str, float] = {f"artifact: {name}": size for name, size in named}
        rest = self.bytes_model - sum(parts.values())
        name_of_rest = "artifact: header, grids, tables" if parts else "artifact"
        return {**parts, name_of_rest: rest, "code": self.bytes_code}


def load_entries(records_root: Path) -> list[EntryView]:
    """Every folder of every track, in order of their paths."""
    folders = sorted(path for path in records_root.glob("*/*") if path.is_dir())
    return [load_entry(path) for path in folders if "/." not in f"/{path.parent.name}/{path.name}"]


def load_entry(folder: Path) -> EntryView:
    """One entry; a folder that cannot be read comes back with its problem."""
    track, entry = folder.parent.name, EntryFolder(folder)
    linked = (entry.readme, entry.script, entry.results, entry.submission)
    files = tuple(path.name for path in linked if path.is_file())
    bare = EntryView(folder=f"{track}/{folder.name}", track=track, name=folder.name, files=files)
    if folder.is_symlink():
        return replace(bare, files=(), problem="is a link; links are not followed")
    try:
        return _own_entry(entry, bare)
    except (EntryError, OSError) as error:
        return _foreign_entry(entry, bare, _relative(error, folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return _foreign_entry(entry, bare, f"{entry.results.name} cannot be read: {error!r:.120}")


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
    if not by_seed:
        raise EntryError(f"{entry.results.name} holds no seed")
    stated, runs = read_json(entry.submission), list(by_seed.values())
    first, largest = runs[0], max(runs, key=lambda run: run.packing.total_bytes)
    data, scored, figures = first.data, first.final.tally, entry_figures(runs)
    adapted = [stage.tally.bits_per_byte for run in runs if (stage := run.stage("test_time_trained"))]
    amounts = (scored.num_tokens, scored.num_bytes, first.partial)
    scale = {"xz -9": data.xz_bits_per_byte, "zstd -22": data.zstd22_bits_per_byte}
    found, problem = _details(entry, first)
    return replace(
        bare,
        name=first.name,
        problem=problem,
        artifact_bpb=float(np.mean([run.quantized.tally.bits_per_byte for run in runs])),
        adapted_bpb=float(np.mean(adapted)) if len(adapted) == len(runs) else None,
        text=TextScored(data.name, data.validation_sha256, *amounts),
        stages=stage_rows(runs),
        parts=largest.packing.parts,
        hardware=str(figures["hardware"]),
        seeds=tuple(by_seed),
        seed_results=figures["seed_results"],
        curves=_curves([entry.log(seed) for seed in by_seed]),
        compressors={name: bits for name, bits in scale.items() if bits is not None},
        parameters=first.training.model_parameters,
        features=first.features,
        **{name: str(stated.get(name, "")) for name in ("author", "date", "blurb")},
        **{name: figures[key] for name, key in _FIGURES.items()},
        **found,
    )


def _details(entry: EntryFolder, first: Results) -> tuple[dict[str, Any], str]:
    """Portrait, audit and documents as far as they can be read, and what cannot be."""
    audited, found, problems = entry.audit.is_file(), {}, []
    readers = {
        "portrait": lambda: msgspec.convert(first.portrait, Portrait),
        "audit": lambda: msgspec.convert(read_json(entry.audit), Audit) if audited else None,
        "documents": lambda: _documents(entry.per_document, final_nats(first)),
    }
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except (EntryError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            problems.append(f"{name} cannot be read: {_relative(error, entry.path):.120}")
    return found, "; ".join(problems)


def _foreign_entry(entry: EntryFolder, bare: EntryView, problem: str) -> EntryView:
    """What a submission.json alone says, whoever wrote it."""
    path = entry.submission
    try:
        if not path.is_file() or path.is_symlink():
            raise SubmissionError("there is none")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise SubmissionError(f"is {path.stat().st_size:,} bytes")
        found = read_submission(path.name, path.read_text(encoding="utf-8"))
    except (SubmissionError, OSError, UnicodeDecodeError) as error:
        return replace(bare, problem=f"{problem}; {path.name}: {_relative(error, entry.path)}")
    texts = {name: value for name, value in found.raw.items() if isinstance(value, str)}
    return replace(
        bare,
        name=found.names["name"] or bare.name,
        author=found.names["author"],
        date=found.names["date"],
        blurb=texts.get("blurb", ""),
        hardware=texts.get("hardware", ""),
        seeds=found.seeds,
        curves=_curves(sorted(entry.path.glob("*.log"))[:8]),
        problem=problem,
        **{name: found.value(key) for name, key in _FIGURES.items()},
    )


def _curves(logs: Sequence[Path]) -> dict[str, Curve]:
    curves = {
        path.stem.removeprefix("train_").replace("seed", "seed "): read_log_curve(path)
        for path in logs
        if path.is_file() and not path.is_symlink()
    }
    return {name: curve for name, curve in curves.items() if len(curve.steps) > 1}


def _documents(path: Path, final: str) -> Documents:
    if path.stat().st_size > MAX_DOCUMENTS_BYTES:
        raise ValueError("is too large")
    with np.load(path) as arrays:
        counted = arrays["bytes"] > 0
        num_bytes = arrays["bytes"][counted]
        bpb, plain = (bits_per_byte(arrays[name][counted], num_bytes) for name in (final, "nats"))
    if not (np.isfinite(bpb).all() and np.isfinite(plain).all()):
        raise ValueError("holds nats that are not finite")
    return Documents(bpb, plain if final != "nats" else None)


def _relative(error: Exception, folder: Path) -> str:
    """An error's message without the path to the folder that the page names anyway."""
    return str(error).replace(f"{folder}/", "").replace(f"{folder} ", "")
