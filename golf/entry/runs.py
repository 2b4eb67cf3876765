"""A finished run folder, read whole and checked against itself before an entry is made of it."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from golf.data.manifest import sha256_of_file
from golf.data.reference import LIMIT_BYTES
from golf.entry.results import EntryError, read_json, read_results
from golf.results import NATS_ARRAYS, Results
from golf.run_folder import RunFolder
from golf.system.foreign import ForeignError, read_arrays

TEN_MINUTES_SECONDS = 600.0
Track = Literal["local", "track_non_record_16mb", "track_10min_16mb"]
"""Folders under records/; `local` is for trial runs and is not committed."""
TRACKS: tuple[Track, ...] = get_args(Track)
RECORD_TRACKS = TRACKS[1:]
"""Tracks whose entries are committed."""


@dataclass(frozen=True)
class SeedRun:
    """One seed's run, whose files agree with its results."""

    folder: RunFolder
    results: Results
    script: str
    """Text of the script that is charged."""
    events: tuple[dict[str, Any], ...]
    """The lines of run.jsonl."""
    documents: dict[str, np.ndarray]
    """`nats` (and `ttt_nats`), `tokens` and `bytes` of each validation document."""
    audit: dict[str, Any] | None


def read_run(path: Path) -> SeedRun:
    """Reads a run folder; EntryError for a file that is missing, over the limit, or not what was scored."""
    folder = RunFolder(path)
    results = read_results(folder.results)
    for file in (folder.artifact, folder.script, folder.per_document, folder.log, folder.events):
        if not file.is_file():
            raise EntryError(f"{folder} has no {file.name}")
    size, charged = results.packing, f"{results.packing.artifact_sha256} is charged"
    if (scored := results.scores.artifact_sha256) != size.artifact_sha256:
        raise EntryError(f"{folder}: the artifact that was scored has sha256 {scored}; {charged}")
    _check_bytes(folder.artifact, size.artifact_bytes, size.artifact_sha256)
    _check_bytes(folder.script, size.code_bytes, size.code_sha256)
    limit = f"the limit is {LIMIT_BYTES:,}"
    if size.limit_bytes != LIMIT_BYTES:
        raise EntryError(f"{folder}: was held against {size.limit_bytes:,} bytes; {limit}")
    if size.total_bytes > LIMIT_BYTES:
        raise EntryError(f"{folder}: code and artifact are {size.total_bytes:,} bytes; {limit}")
    try:
        script = folder.script.read_text(encoding="utf-8")
        compile(script, folder.script.name, "exec")
        documents = read_arrays(folder.per_document)
    except (SyntaxError, UnicodeDecodeError, RecursionError, MemoryError) as error:
        raise EntryError(f"{folder.script} does not compile: {error}") from error
    except ForeignError as error:
        raise EntryError(str(error)) from error
    check_documents(folder.per_document, documents, results)
    audit = read_json(folder.audit) if folder.audit.is_file() else None
    if audit is not None and (audited := audit.get("artifact_sha256")) != size.artifact_sha256:
        raise EntryError(f"{folder.audit} is of the artifact of sha256 {audited}; {charged}: audit it again")
    events = tuple(parse_events(folder.events.read_text(encoding="utf-8")))
    return SeedRun(folder, results, script, events, documents, audit)


def _check_bytes(path: Path, num_bytes: int, sha256: str) -> None:
    """EntryError unless the file has this size and hash: another one was scored or charged."""
    if (size := path.stat().st_size) != num_bytes:
        raise EntryError(f"{path} is {size:,} bytes; the results say {num_bytes:,}")
    found = sha256_of_file(path)
    if found != sha256:
        raise EntryError(f"{path} has sha256 {found}; the results are of {sha256}")


def final_nats(results: Results) -> str:
    """The array of per_document.npz that belongs to the score that counts."""
    return NATS_ARRAYS[results.final.name]


def check_documents(path: Path, documents: dict[str, np.ndarray], results: Results) -> None:
    """EntryError unless the documents add up to the score that counts."""
    nats, final = final_nats(results), results.final.tally
    for name in (nats, "tokens", "bytes"):
        if name not in documents:
            raise EntryError(f"{path} has no array {name!r}; it has {', '.join(documents)}")
    if len({len(array) for array in documents.values()}) > 1:
        raise EntryError(f"{path} has arrays of several lengths")
    tokens, num_bytes = (int(documents[name].sum(dtype=np.int64)) for name in ("tokens", "bytes"))
    if (tokens, num_bytes) != (final.num_tokens, final.num_bytes):
        raise EntryError(
            f"{path} adds up to {tokens:,} tokens and {num_bytes:,} bytes; "
            f"{final.num_tokens:,} and {final.num_bytes:,} were scored"
        )
    summed = float(documents[nats].sum(dtype=np.float64))
    if not math.isclose(summed, final.nats, rel_tol=1e-6):
        raise EntryError(f"{path} adds up to {summed} nats; the score is of {final.nats}")


def check_plan(track: str, max_tokens: int | None, minutes: float | None) -> None:
    """EntryError for a run that `track` could not admit whatever it scores; asked before any training."""
    if max_tokens is not None and track != "local":
        raise EntryError(
            f"--max-tokens {max_tokens} scores part of the validation text; {track} needs all of it"
        )
    if track == "track_10min_16mb" and minutes is not None and minutes * 60 > TEN_MINUTES_SECONDS:
        raise EntryError(f"--minutes {minutes:g} is over the {TEN_MINUTES_SECONDS / 60:.0f} of {track}")


def check_track(run: SeedRun, track: str) -> None:
    """EntryError for a run that its track does not admit; `local` admits all."""
    results, problem = run.results, ""
    if track not in TRACKS:
        raise EntryError(f"track is {track!r}; expected one of {', '.join(TRACKS)}")
    if results.partial:
        problem = f"scored part of the validation text; {track} needs all of it"
    elif run.audit is None:
        problem = f"was not audited; {track} needs an audit that passed (eval_bpb.py RUN --audit)"
    elif run.audit.get("passed") is not True:
        problem = f"its audit did not pass; {track} needs one that did"
    elif track == "track_10min_16mb":
        for what, seconds in (("training", results.train_seconds), ("scoring", results.eval_seconds)):
            if seconds > TEN_MINUTES_SECONDS:
                problem = f"{what} took {seconds:.1f} s; the track allows {TEN_MINUTES_SECONDS:.0f}"
    if problem and track != "local":
        raise EntryError(f"{run.folder}: {problem}")


def parse_events(text: str) -> list[dict[str, Any]]:
    """The events of a run.jsonl; a line cut by a kill is left out."""
    events = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict)]
