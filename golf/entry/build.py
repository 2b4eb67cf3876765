"""An entry folder, written from run folders: whole or not at all; the runs differ in their seed only."""

import datetime
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from golf.entry.plots import plot_training
from golf.entry.progress import curve_of
from golf.entry.readme import Page, render_readme
from golf.entry.results import ENTRY_FORMAT, EntryError, read_results
from golf.entry.runs import SeedRun, check_track, read_run
from golf.entry.selfextract import readable_source, requirements_for
from golf.entry.submission import (
    SUBMISSION_NAME,
    Identity,
    adopt_best,
    best_entry,
    read_identity,
    submission,
    versions,
)
from golf.results import NATS_ARRAYS, Results
from golf.run_folder import EntryFolder, RunFolder
from golf.score.documents import save_arrays
from golf.system.files import write_json
from golf.system.stored import flat_fields

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


def build(
    runs: Sequence[Path],
    records_root: Path,
    track: str,
    blurb: str | None = None,
    identity: Identity | None = None,
    date: datetime.date | None = None,
) -> Path:
    """Makes one entry of finished runs that differ in their seed alone, and returns its folder.

    Scores are means with sample deviations; the largest artifact counts for the limit. Finished runs of the
    same configuration that lie beside these and are not among them are named in the entry. Where it is the
    best of the record tracks, the submission.json beside `records_root` becomes its. Raises EntryError for a
    seed given twice, and for runs whose code, configuration or data differ, naming the field.
    """
    if not runs:
        raise EntryError("no run was given; an entry needs at least one")
    read = [read_run(folder) for folder in runs]
    check_alike(read)
    entry = write_runs(read, records_root, track, blurb, identity, date, other_runs(read))
    # An entry that is not the best, a trial run's above all, leaves the file and who it names alone.
    if entry == best_entry(records_root) and (records_root.parent / SUBMISSION_NAME).is_file():
        adopt_best(records_root)
    return entry


def check_alike(runs: Sequence[SeedRun]) -> None:
    """EntryError unless the runs differ in their seed, and in nothing else that decides the score."""
    first = runs[0]
    seeds: dict[int, SeedRun] = {}
    for run in runs:
        earlier = seeds.setdefault(run.results.seed, run)
        if earlier is not run:
            raise EntryError(f"{earlier.folder} and {run.folder} are both of seed {run.results.seed}")
        for field, expected, found in differences(first.results, run.results):
            raise EntryError(
                f"{run.folder} differs from {first.folder} in {field}: {found!r} and {expected!r}"
            )


def differences(first: Results, second: Results) -> Iterator[tuple[str, Any, Any]]:
    """What differs between two runs beyond their seed: the field, its first and its second value."""
    identities = [identity_of(results) for results in (first, second)]
    for name in dict.fromkeys([*identities[0], *identities[1]]):
        values = [identity.get(name, "nothing") for identity in identities]
        if values[0] != values[1]:
            yield name, values[0], values[1]


def identity_of(results: Results) -> dict[str, Any]:
    """Everything that decides a run's score, its seed aside, by field."""
    config = {
        f"config.{name}": value for name, value in flat_fields(results.config).items() if name != "seed"
    }
    final = results.final.tally
    return {
        "code_sha256": results.packing.code_sha256,
        **config,
        "data.tokenizer_sha256": results.data.tokenizer_sha256,
        "data.validation_sha256": results.data.validation_sha256,
        "data.manifest_sha256": results.data.manifest_sha256,
        "stages": [stage.name for stage in results.stages],
        "tokens_scored": final.num_tokens,
        "bytes_scored": final.num_bytes,
    }


def other_runs(runs: Sequence[SeedRun]) -> list[Path]:
    """Finished runs in the same folders that are of the same configuration as these and not among them."""
    taken = {run.folder.path.resolve() for run in runs}
    beside = [path for parent in {path.parent for path in taken} for path in parent.iterdir()]
    others = sorted(path for path in beside if path.is_dir() and path not in taken)
    return [path for path in others if _is_of_configuration(path, runs[0].results)]


def _is_of_configuration(folder: Path, results: Results) -> bool:
    try:
        other = read_results(RunFolder(folder).results)
    except EntryError:
        # No run, or another program's results.json.
        return False
    changed = {field for field, _, _ in differences(results, other)}
    return not any(field.startswith(("config.", "data.")) for field in changed)
