"""An entry folder under records/, made of run folders' own files: verified, described, whole or not at all.

    records/<track>/<date>_<slug>/
        README.md  submission.json  results.json     generated; results.json holds each run's, by seed
        train_gpt.py  requirements.txt               the script that is charged, and what it needs
        train_seed<N>.log  artifact_seed<N>.bin      one of each a seed; artifacts from 1 MB are git-ignored
        per_document.npz  training.png  audit.json   the last where the runs were audited

What a run folder must hold is in `golf.entry.runs`; the schema of its results.json in `golf.entry.results`.
"""

import datetime
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from golf.entry.plots import plot_training
from golf.entry.progress import curve_of
from golf.entry.readme import Page, render_readme
from golf.entry.requirements import requirements_for
from golf.entry.results import ENTRY_FORMAT
from golf.entry.runs import SeedRun, check_track, read_run
from golf.entry.selfextract import readable_source
from golf.entry.submission import Identity, read_identity, submission, versions
from golf.results import NATS_ARRAYS, Results
from golf.run_folder import EntryFolder
from golf.score.documents import save_arrays
from golf.system.files import write_json

COMMITTED_ARTIFACT_BYTES = 1_000_000
"""Artifacts of this size and above are git-ignored in their entry."""


def write_entry(
    run: Path,
    records_root: Path,
    track: str,
    blurb: str | None = None,
    identity: Identity | None = None,
    date: datetime.date | None = None,
) -> Path:
    """Makes the entry of one finished run and returns its folder.

    `blurb` is one sentence on what the entry is, `identity` by default that of the submission.json beside
    `records_root`, `date` today. An entry that exists is never touched: the new one gets -2, -3 and so on.
    Raises EntryError for a run whose files are missing or contradict each other, or that `track` excludes.
    """
    return write_runs([read_run(run)], records_root, track, blurb, identity, date)


def write_runs(
    runs: Sequence[SeedRun],
    records_root: Path,
    track: str,
    blurb: str | None = None,
    identity: Identity | None = None,
    date: datetime.date | None = None,
    left_out: Sequence[Path] = (),
) -> Path:
    """`write_entry` for runs that are read already and belong together: one entry over their seeds."""
    for run in runs:
        check_track(run, track)
    results = [run.results for run in runs]
    date = date or datetime.datetime.now(datetime.UTC).date()
    identity = identity or read_identity(records_root.parent)
    figures = submission(results, identity, blurb or describe(results[0]), track, date)
    folder = records_root / track / f"{date.isoformat()}_{slug(results[0].name)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        partial.chmod(0o755)
        _fill(EntryFolder(partial), runs, figures, left_out)
        return _move_to_free_name(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def describe(results: Results) -> str:
    """One sentence on what was trained on what, from the results alone."""
    done = results.training
    return (
        f"Preset {results.preset}: {done.model_parameters:,} parameters, {done.steps:,} steps over "
        f"{done.train_tokens:,} tokens of {results.data.name}."
    )


def slug(name: str) -> str:
    """A name as part of a folder's name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "run"


def _fill(
    entry: EntryFolder, runs: Sequence[SeedRun], figures: dict[str, Any], left_out: Sequence[Path]
) -> None:
    first = runs[0]
    for run in runs:
        shutil.copyfile(run.folder.artifact, entry.artifact(run.results.seed))
        shutil.copyfile(run.folder.log, entry.log(run.results.seed))
    large = [run for run in runs if run.results.packing.artifact_bytes >= COMMITTED_ARTIFACT_BYTES]
    ignored = [entry.artifact(run.results.seed).name for run in large]
    if ignored:
        entry.ignored.write_text("".join(f"{name}\n" for name in ignored), encoding="utf-8")
    shutil.copyfile(first.folder.script, entry.script)
    requirements = requirements_for(readable_source(first.script), versions(first.results))
    entry.requirements.write_text(requirements, encoding="utf-8")
    seeds = {str(run.results.seed): asdict(run.results) for run in runs}
    names = [path.name for path in left_out]
    write_json(entry.results, {"format": ENTRY_FORMAT, "seeds": seeds, "left_out": names})
    _write_documents(entry.per_document, runs)
    _write_audit(entry.audit, runs)
    parameters = first.results.training.model_parameters
    title = f"{figures['name']}: {parameters:,} parameters, {first.results.data.name}"
    plot_training({run.results.seed: curve_of(run.events) for run in runs}, title, entry.training_plot)
    pictures = [entry.training_plot.name]
    for path in sorted(first.folder.path.glob("*.png")):
        if path.name not in pictures:
            shutil.copyfile(path, entry.path / path.name)
            pictures.append(path.name)
    write_json(entry.submission, figures)
    page = Page(runs, figures, pictures, ignored, left_out)
    entry.readme.write_text(render_readme(page), encoding="utf-8")


def _write_documents(path: Path, runs: Sequence[SeedRun]) -> None:
    """One seed's arrays as they are; over several seeds the mean nats, and each seed's under its own name."""
    first = runs[0]
    if len(runs) == 1:
        shutil.copyfile(first.folder.per_document, path)
        return
    arrays = {name: first.documents[name] for name in ("tokens", "bytes")}
    for name in NATS_ARRAYS.values():
        if all(name in run.documents for run in runs):
            arrays[name] = np.stack([run.documents[name] for run in runs]).mean(0, dtype=np.float64)
            arrays |= {f"{name}_seed{run.results.seed}": run.documents[name] for run in runs}
    save_arrays(path, arrays)


def _write_audit(path: Path, runs: Sequence[SeedRun]) -> None:
    audits = {str(run.results.seed): run.audit for run in runs if run.audit is not None}
    if len(runs) == 1 and runs[0].audit is not None:
        write_json(path, runs[0].audit)
    elif len(audits) == len(runs):
        passed = all(audit.get("passed") is True for audit in audits.values())
        write_json(path, {"passed": passed, "seeds": audits})


def _move_to_free_name(partial: Path, folder: Path) -> Path:
    """Renames to `folder`, or to it with the first free number after it."""
    for number in range(1, 1000):
        target = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not target.exists():
            return partial.rename(target)
    raise FileExistsError(f"{folder} and 998 numbered ones beside it exist already")
