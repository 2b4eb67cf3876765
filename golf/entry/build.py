"""An entry folder, written from run folders: whole or not at all; the runs differ in their seed only."""

import datetime
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from golf.entry.progress import curve_of
from golf.entry.readme import render_readme
from golf.entry.results import ENTRY_FORMAT, EntryError, read_results
from golf.entry.runs import SeedRun, check_track, read_run
from golf.entry.selfextract import readable_source, requirements_for
from golf.entry.submission import SUBMISSION_NAME, best_entry, find_identity, submission, versions
from golf.results import NATS_ARRAYS, Results
from golf.run_folder import EntryFolder, RunFolder
from golf.score.documents import save_arrays
from golf.system.files import write_bytes, write_json
from golf.system.lock import owned_folder
from golf.system.stored import flat_fields

COMMITTED_ARTIFACT_BYTES = 1_000_000
"""Artifacts of this size and above are git-ignored in their entry."""


def build(
    runs: Sequence[Path],
    records_root: Path,
    track: str,
    blurb: str | None = None,
    date: datetime.date | None = None,
    author: str = "",
    github_id: str = "",
) -> Path:
    """Makes one entry of finished runs that differ in their seed alone, and returns its folder.

    Scores are means with sample deviations; the largest artifact counts for the limit. `blurb` says in one
    sentence what the entry is, `date` is by default today. An entry that exists is never touched: the new one
    gets -2, -3 and so on. Finished runs of the same configuration that lie beside these, not among them, are
    named in the entry. `author` and `github_id` say who submits, by default as `find_identity` finds it.
    Where the entry is the best of the record tracks, the submission.json beside `records_root` becomes the
    entry's. Raises EntryError for a run whose files are missing or
    contradict each other, or that `track` excludes, for a seed given twice, and for runs whose code,
    configuration or data differ, naming the field.
    """
    if not runs:
        raise EntryError("no run was given; an entry needs at least one")
    read = [read_run(folder) for folder in runs]
    check_alike(read)
    for run in read:
        check_track(run, track)
    results = [run.results for run in read]
    date = date or datetime.datetime.now(datetime.UTC).date()
    first, done = results[0], results[0].training
    blurb = blurb or (
        f"Preset {first.preset}: {done.model_parameters:,} parameters, {done.steps:,} steps over "
        f"{done.train_tokens:,} tokens of {first.data.name}."
    )
    identity = find_identity(records_root.parent, author, github_id)
    figures = submission(results, identity, blurb, track, date)
    folder = records_root / track / f"{date.isoformat()}_{slug(first.name)}"
    with owned_folder(folder.parent, say_waiting=print):
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            partial.chmod(0o755)
            _fill(EntryFolder(partial), read, figures)
            entry = _move_to_free_name(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    own = records_root.parent / SUBMISSION_NAME
    # An entry that is not the best, a trial run's above all, leaves the file and who it names alone.
    if own.is_file() and entry == best_entry(records_root):
        write_bytes(own, (entry / SUBMISSION_NAME).read_bytes())
    return entry


def check_alike(runs: Sequence[SeedRun]) -> None:
    """EntryError unless the runs differ in their seed, and in nothing else that decides the score."""
    first = runs[0]
    seeds: dict[int, SeedRun] = {}
    for run in runs:
        earlier = seeds.setdefault(run.results.seed, run)
        if earlier is not run:
            raise EntryError(f"{earlier.folder} and {run.folder} are both of seed {run.results.seed}")
        for field, (expected, found) in _differences(first.results, run.results).items():
            raise EntryError(
                f"{run.folder} differs from {first.folder} in {field}: {found!r} and {expected!r}"
            )


def slug(name: str) -> str:
    """A name as part of a folder's name: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "run"


def _differences(first: Results, second: Results) -> dict[str, tuple[Any, Any]]:
    """What differs between two runs, of all that decides their scores but the seed: both values by field."""
    one, other = _identity(first), _identity(second)
    pairs = {name: (one.get(name, "nothing"), other.get(name, "nothing")) for name in one | other}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _identity(results: Results) -> dict[str, Any]:
    data, final = results.data, results.final.tally
    config = {f"config.{name}": value for name, value in flat_fields(results.config).items()}
    config.pop("config.seed", None)
    return {
        "code_sha256": results.packing.code_sha256,
        **config,
        "data.tokenizer_sha256": data.tokenizer_sha256,
        "data.validation_sha256": data.validation_sha256,
        "data.manifest_sha256": data.manifest_sha256,
        "stages": [stage.name for stage in results.stages],
        "tokens_scored": final.num_tokens,
        "bytes_scored": final.num_bytes,
    }


def _other_runs(runs: Sequence[SeedRun]) -> list[str]:
    """Names of finished runs in the same folders that have the same configuration and are not among these."""
    taken = {run.folder.path.resolve() for run in runs}
    beside = sorted(path for parent in {path.parent for path in taken} for path in parent.iterdir())
    found = []
    for path in beside:
        if not path.is_dir() or path in taken:
            continue
        try:
            changed = _differences(runs[0].results, read_results(RunFolder(path).results))
        except EntryError:
            # No run, or another program's results.json.
            continue
        if not any(field.startswith(("config.", "data.")) for field in changed):
            found.append(path.name)
    return found


def _fill(entry: EntryFolder, runs: Sequence[SeedRun], figures: dict[str, Any]) -> None:
    first, left_out, ignored = runs[0], _other_runs(runs), []
    for run in runs:
        artifact = entry.artifact(run.results.seed)
        shutil.copyfile(run.folder.artifact, artifact)
        shutil.copyfile(run.folder.log, entry.log(run.results.seed))
        if run.results.packing.artifact_bytes >= COMMITTED_ARTIFACT_BYTES:
            ignored.append(artifact.name)
    if ignored:
        entry.ignored.write_text("".join(f"{name}\n" for name in ignored), encoding="utf-8")
    shutil.copyfile(first.folder.script, entry.script)
    readable = readable_source(first.script)
    requirements = requirements_for(readable, versions(first.results))
    entry.requirements.write_text(requirements, encoding="utf-8")
    seeds = {str(run.results.seed): asdict(run.results) for run in runs}
    write_json(entry.results, {"format": ENTRY_FORMAT, "seeds": seeds, "left_out": left_out})
    _write_documents(entry.per_document, runs)
    _write_audit(entry.audit, runs)
    parameters = first.results.training.model_parameters
    title = f"{figures['name']}: {parameters:,} parameters, {first.results.data.name}"
    # Imported here: matplotlib takes half a second, which scoring and resuming do without.
    from golf.entry.plots import plot_training

    plot_training({run.results.seed: curve_of(run.events) for run in runs}, title, entry.training_plot)
    pictures = [entry.training_plot.name]
    for path in sorted(first.folder.path.glob("*.png")):
        shutil.copyfile(path, entry.path / path.name)
        pictures.append(path.name)
    write_json(entry.submission, figures)
    readme = render_readme(runs, readable, figures, pictures, ignored, left_out)
    entry.readme.write_text(readme, encoding="utf-8")


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
    """One seed's audit as it is; the joined ones of several, if each has one."""
    audits = {str(run.results.seed): run.audit for run in runs if run.audit is not None}
    if len(audits) < len(runs):
        return
    passed = all(audit.get("passed") is True for audit in audits.values())
    write_json(path, {"passed": passed, "seeds": audits} if len(runs) > 1 else runs[0].audit)


def _move_to_free_name(partial: Path, folder: Path) -> Path:
    """Renames to `folder`, or to it with the first free number after it."""
    for number in range(1, 1000):
        target = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not target.exists():
            return partial.rename(target)
    raise FileExistsError(f"{folder} and 998 numbered ones beside it exist already")
