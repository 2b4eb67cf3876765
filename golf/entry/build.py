"""One entry from several seeds' runs, which must be the same run but for the seed."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from golf.entry.results import EntryError, read_results
from golf.entry.runs import SeedRun, read_run
from golf.entry.submission import SUBMISSION_NAME, Identity, adopt_best, best_entry
from golf.entry.write import write_runs
from golf.results import Results
from golf.run_folder import RunFolder
from golf.system.distributed import flat_fields


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
    beside = [path for parent in sorted({path.parent for path in taken}) for path in sorted(parent.iterdir())]
    return [path for path in beside if path not in taken and _is_of_configuration(path, runs[0].results)]


def _is_of_configuration(folder: Path, results: Results) -> bool:
    try:
        other = read_results(RunFolder(folder).results)
    except EntryError:
        # No run, or another program's results.json.
        return False
    changed = {field for field, _, _ in differences(results, other)}
    return not any(field.startswith(("config.", "data.")) for field in changed)
