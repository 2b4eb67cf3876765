"""Every entry under records/ as far as its files can be read: what a page of all of them shows.

Nothing here raises for what a folder holds: an entry of this toolkit is read whole, a stranger's by its JSON,
and one that cannot be read says why.
"""

import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golf.check.claims_json import Submission, SubmissionError, read_submission
from golf.entry.progress import Progress, read_log_progress
from golf.entry.results import EntryError, read_entry_results, read_json
from golf.entry.runs import final_nats
from golf.entry.submission import SUBMISSION_NAME
from golf.results import Results
from golf.score.tally import bits_per_byte

LINKED_FILES = ("README.md", "train_gpt.py", "results.json", "submission.json")
MAX_JSON_BYTES = 8 << 20
MAX_DOCUMENTS_BYTES = 64 << 20


@dataclass(frozen=True)
class Step:
    """One score of an entry: a mean over its seeds."""

    title: str
    bpb: float
    nats: float
    windows: str


@dataclass(frozen=True)
class TextScored:
    """What was scored; entries compare where these are equal."""

    name: str
    sha256: str
    """Of the validation tokens; empty where the entry does not say."""
    tokens: int
    num_bytes: int
    partial: bool = False


@dataclass(frozen=True)
class Documents:
    """Bits per byte of each document, and without test-time training where there was some."""

    bpb: np.ndarray
    plain_bpb: np.ndarray | None
    tokens: np.ndarray


@dataclass(frozen=True)
class SeedShown:
    """One seed's own figures."""

    seed: int
    bpb: float
    bytes_total: int
    train_seconds: float
    eval_seconds: float
    steps: int


@dataclass(frozen=True)
class EntryView:
    """An entry as the page shows it; None, or empty, is what its files do not say."""

    folder: str
    """Relative to records/."""
    track: str
    name: str
    problem: str = ""
    """Why there is less to show than an entry of this toolkit has."""
    author: str = ""
    date: str = ""
    blurb: str = ""
    bpb: float | None = None
    bpb_std: float | None = None
    text: TextScored | None = None
    steps: tuple[Step, ...] = ()
    before_bpb: float | None = None
    artifact_bpb: float | None = None
    adapted_bpb: float | None = None
    bytes_total: float | None = None
    bytes_code: float | None = None
    bytes_model: float | None = None
    parts: dict[str, int] = field(default_factory=dict)
    train_seconds: float | None = None
    eval_seconds: float | None = None
    hardware: str = ""
    seeds: tuple[int, ...] = ()
    by_seed: tuple[SeedShown, ...] = ()
    curves: dict[str, Progress] = field(default_factory=dict)
    """By seed, or by the log's name."""
    documents: Documents | None = None
    portrait: dict[str, Any] = field(default_factory=dict)
    features: tuple[dict[str, Any], ...] = ()
    audit: dict[str, Any] | None = None
    compressors: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    files: tuple[str, ...] = ()
    """Of LINKED_FILES those that are there."""

    @property
    def verdict(self) -> str:
        """passed, failed, or none for an entry that was not audited."""
        if self.audit is None:
            return "none"
        return "passed" if self.audit.get("passed") is True else "failed"


def load_entries(records_root: Path) -> list[EntryView]:
    """Every folder of every track, in order of their paths."""
    tracks = sorted(path for path in records_root.glob("*") if path.is_dir() and not _is_hidden(path))
    folders = [path for track in tracks for path in sorted(track.glob("*"))]
    return [read_shown(path) for path in folders if path.is_dir() and not _is_hidden(path)]


def read_shown(folder: Path) -> EntryView:
    """One entry; a folder that cannot be read comes back with its problem."""
    track = folder.parent.name
    bare = EntryView(folder=f"{track}/{folder.name}", track=track, name=folder.name)
    if folder.is_symlink():
        return replace(bare, problem="is a link; links are not followed")
    bare = replace(bare, files=tuple(name for name in LINKED_FILES if (folder / name).is_file()))
    try:
        return _own_entry(folder, bare)
    except (EntryError, OSError) as error:
        return _foreign_entry(folder, bare, _relative(str(error), folder))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return _foreign_entry(folder, bare, f"results.json cannot be read: {error!r:.120}")


def _own_entry(folder: Path, bare: EntryView) -> EntryView:
    results = read_entry_results(folder / "results.json")
    if not results:
        raise EntryError("results.json holds no seed")
    stated = read_json(folder / SUBMISSION_NAME)
    runs = list(results.values())
    first, largest = runs[0], max(runs, key=lambda run: run.packing.total_bytes)
    bpbs = [run.final.tally.bits_per_byte for run in runs]
    before = [stage.tally.bits_per_byte for run in runs if (stage := run.before_quantization)]
    adapted = [stage.tally.bits_per_byte for run in runs if (stage := run.stage("test_time_trained"))]
    scale = {"xz -9": first.data.xz_bits_per_byte, "zstd -22": first.data.zstd22_bits_per_byte}
    own = replace(
        bare,
        name=first.name,
        author=str(stated.get("author", "")),
        date=str(stated.get("date", "")),
        blurb=str(stated.get("blurb", "")),
        bpb=float(np.mean(bpbs)),
        bpb_std=float(np.std(bpbs, ddof=1)) if len(bpbs) > 1 else None,
        text=_text_of(first),
        steps=_steps(runs),
        before_bpb=float(np.mean(before)) if len(before) == len(runs) else None,
        artifact_bpb=float(np.mean([run.quantized.tally.bits_per_byte for run in runs])),
        adapted_bpb=float(np.mean(adapted)) if len(adapted) == len(runs) else None,
        bytes_total=largest.packing.total_bytes,
        bytes_code=largest.packing.code_bytes,
        bytes_model=largest.packing.artifact_bytes,
        parts=largest.packing.parts,
        train_seconds=max(run.train_seconds for run in runs),
        eval_seconds=max(run.eval_seconds for run in runs),
        hardware=str(first.environment.get("hardware", "")),
        seeds=tuple(results),
        by_seed=tuple(_seed_shown(run) for run in runs),
        curves=_curves(folder, [f"train_seed{seed}.log" for seed in results]),
        portrait=first.portrait,
        features=tuple(asdict(feature) for feature in first.features),
        compressors={name: bits for name, bits in scale.items() if bits is not None},
        parameters=first.training.model_parameters,
    )
    return _with_side_files(own, folder, first)


def _with_side_files(shown: EntryView, folder: Path, first: Results) -> EntryView:
    """Adds audit and documents; one that cannot be read is a problem, and the rest still shows."""
    problems, audit, documents = [], None, None
    if (folder / "audit.json").is_file():
        try:
            audit = read_json(folder / "audit.json")
        except EntryError:
            problems.append("audit.json cannot be read")
    try:
        documents = _documents(folder / "per_document.npz", final_nats(first))
    except (EntryError, OSError, ValueError, KeyError, zipfile.BadZipFile):
        problems.append("per_document.npz cannot be read")
    return replace(shown, audit=audit, documents=documents, problem="; ".join(problems))


def _foreign_entry(folder: Path, bare: EntryView, problem: str) -> EntryView:
    """What a submission.json alone says, whoever wrote it."""
    try:
        submission = _read_foreign(folder)
    except (SubmissionError, OSError, UnicodeDecodeError) as error:
        return replace(bare, problem=f"{problem}; {SUBMISSION_NAME}: {_relative(str(error), folder)}")
    value = submission.value
    names = ("bytes_total", "bytes_code", "bytes_model", "train_seconds", "eval_seconds")
    raw = submission.raw
    return replace(
        bare,
        name=submission.names["name"] or bare.name,
        author=submission.names["author"],
        date=submission.names["date"],
        blurb=raw["blurb"] if isinstance(raw.get("blurb"), str) else "",
        bpb=value("val_bpb"),
        bpb_std=value("val_bpb_std"),
        before_bpb=value("pre_quant_val_bpb"),
        hardware=raw["hardware"] if isinstance(raw.get("hardware"), str) else "",
        seeds=submission.seeds,
        curves=_curves(folder, sorted(path.name for path in folder.glob("*.log"))[:8]),
        problem=problem,
        **{name: value(name) for name in names},
    )


def _read_foreign(folder: Path) -> Submission:
    path = folder / SUBMISSION_NAME
    if not path.is_file() or path.is_symlink():
        raise SubmissionError("there is none")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise SubmissionError(f"is {path.stat().st_size:,} bytes")
    return read_submission(SUBMISSION_NAME, path.read_text(encoding="utf-8"))


def _text_of(results: Results) -> TextScored:
    final, data = results.final.tally, results.data
    return TextScored(data.name, data.validation_sha256, final.num_tokens, final.num_bytes, results.partial)


def _steps(runs: list[Results]) -> tuple[Step, ...]:
    named = [{stage.title: stage for stage in run.stages} for run in runs]
    steps = []
    for title, stage in named[0].items():
        stages = [one[title] for one in named if title in one]
        bpb = float(np.mean([one.tally.bits_per_byte for one in stages]))
        nats = float(np.mean([one.tally.nats_per_token for one in stages]))
        windows = stage.windows
        if windows == "sliding" and stage.stride:
            windows = f"sliding by {stage.stride:,} tokens"
        steps.append(Step(f"{title} ({stage.output})" if stage.output else title, bpb, nats, windows))
    return tuple(steps)


def _seed_shown(run: Results) -> SeedShown:
    return SeedShown(
        run.seed,
        run.final.tally.bits_per_byte,
        run.packing.total_bytes,
        run.train_seconds,
        run.eval_seconds,
        run.training.steps,
    )


def _curves(folder: Path, names: list[str]) -> dict[str, Progress]:
    found = {}
    for name in names:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            progress = read_log_progress(path)
            if len(progress.loss) > 1:
                found[name.removeprefix("train_").removesuffix(".log").replace("seed", "seed ")] = progress
    return found


def _documents(path: Path, final: str) -> Documents:
    if path.stat().st_size > MAX_DOCUMENTS_BYTES:
        raise EntryError(f"{path} is too large")
    with np.load(path) as arrays:
        counted = arrays["bytes"] > 0
        num_bytes, tokens = arrays["bytes"][counted], arrays["tokens"][counted]
        bpb = bits_per_byte(arrays[final][counted], num_bytes)
        plain = bits_per_byte(arrays["nats"][counted], num_bytes) if final != "nats" else None
    return Documents(bpb, plain, tokens)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _relative(message: str, folder: Path) -> str:
    """A message without the path to the folder that the page names anyway."""
    return message.replace(f"{folder}/", "").replace(f"{folder} ", "")
