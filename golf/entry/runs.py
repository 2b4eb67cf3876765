"""A finished run folder, read whole and checked against itself before anything is made of it."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.entry.results import EntryError, Results, StageScore, read_json, read_results
from golf.pack.fit import LIMIT_BYTES

ARTIFACT_NAME = "artifact.bin"
SCRIPT_NAME = "train_gpt.py"
DOCUMENTS_NAME = "per_document.npz"
AUDIT_NAME = "audit.json"
TEN_MINUTES_SECONDS = 600.0
TRACKS = ("local", "track_non_record_16mb", "track_10min_16mb")
"""Folders under records/; `local` is for trial runs and is not committed."""


@dataclass(frozen=True)
class SeedRun:
    """One seed's run, whose files agree with its results."""

    folder: Path
    results: Results
    raw: dict[str, Any]
    """results.json as it stands."""
    script: str
    """Text of the script that is charged."""
    events: tuple[dict[str, Any], ...]
    """The lines of run.jsonl."""
    documents: dict[str, np.ndarray]
    """`nats` (and `ttt_nats`), `tokens` and `bytes` of each validation document."""
    audit: dict[str, Any] | None


def read_run(folder: Path) -> SeedRun:
    """Reads a run folder; EntryError for a file that is missing, over the limit, or not what was scored."""
    results, raw = read_results(folder)
    for name in (ARTIFACT_NAME, SCRIPT_NAME, DOCUMENTS_NAME, "run.log", "run.jsonl"):
        if not (folder / name).is_file():
            raise EntryError(f"{folder} has no {name}")
    if results.scored_artifact_sha256 != results.artifact_sha256:
        raise EntryError(
            f"{folder}: the artifact that was scored has sha256 {results.scored_artifact_sha256}; "
            f"{results.artifact_sha256} is charged"
        )
    check_bytes(folder / ARTIFACT_NAME, results.bytes.artifact, results.artifact_sha256)
    check_bytes(folder / SCRIPT_NAME, results.bytes.code, results.code_sha256)
    check_total(folder, results)
    script = (folder / SCRIPT_NAME).read_text(encoding="utf-8")
    try:
        compile(script, SCRIPT_NAME, "exec")
    except SyntaxError as error:
        raise EntryError(f"{folder / SCRIPT_NAME} does not compile: {error}") from error
    for title, stage in results.stages.named():
        check_stage(f"{folder}: {title}", stage)
    with np.load(folder / DOCUMENTS_NAME) as arrays:
        documents = dict(arrays)
    check_documents(folder / DOCUMENTS_NAME, documents, results)
    audit = folder / AUDIT_NAME
    found = read_json(audit) if audit.is_file() else None
    check_audit(audit, found, results)
    return SeedRun(
        folder=folder,
        results=results,
        raw=raw,
        script=script,
        events=tuple(parse_events((folder / "run.jsonl").read_text(encoding="utf-8"))),
        documents=documents,
        audit=found,
    )


def check_bytes(path: Path, num_bytes: int, sha256: str) -> None:
    """EntryError unless the file has this size and hash: another one was scored or charged."""
    data = path.read_bytes()
    if len(data) != num_bytes:
        raise EntryError(f"{path} is {len(data):,} bytes; the results say {num_bytes:,}")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise EntryError(f"{path} has sha256 {found}; the results are of {sha256}")


def check_total(folder: Path, results: Results) -> None:
    """EntryError unless code and artifact add up to the stated total, within the challenge's limit."""
    size = results.bytes
    if size.limit != LIMIT_BYTES:
        raise EntryError(f"{folder}: was held against {size.limit:,} bytes; the limit is {LIMIT_BYTES:,}")
    if size.code + size.artifact != size.total:
        raise EntryError(
            f"{folder}: code {size.code:,} and artifact {size.artifact:,} make {size.code + size.artifact:,} "
            f"bytes; the results say {size.total:,}"
        )
    if size.total > LIMIT_BYTES:
        raise EntryError(
            f"{folder}: code and artifact are {size.total:,} bytes; the limit is {LIMIT_BYTES:,}"
        )


def check_stage(where: str, stage: StageScore) -> None:
    """EntryError unless loss, tokens and bytes give the stated bits per byte."""
    implied = stage.val_loss * stage.tokens_scored / math.log(2.0) / max(1, stage.bytes_scored)
    if not math.isclose(implied, stage.val_bpb, rel_tol=1e-9):
        raise EntryError(
            f"{where}: val_bpb is {stage.val_bpb}; {stage.val_loss} nats a token over "
            f"{stage.tokens_scored:,} tokens and {stage.bytes_scored:,} bytes make {implied}"
        )


def final_nats(results: Results) -> str:
    """The array of per_document.npz that belongs to the score that counts."""
    return "ttt_nats" if results.stages.test_time_trained else "nats"


def check_documents(path: Path, documents: dict[str, np.ndarray], results: Results) -> None:
    """EntryError unless the documents add up to the score that counts."""
    nats, final = final_nats(results), results.stages.final
    for name in (nats, "tokens", "bytes"):
        if name not in documents:
            raise EntryError(f"{path} has no array {name!r}; it has {', '.join(documents)}")
    sums = {name: documents[name].sum(dtype=np.int64) for name in ("tokens", "bytes")}
    if (sums["tokens"], sums["bytes"]) != (final.tokens_scored, final.bytes_scored):
        raise EntryError(
            f"{path} adds up to {sums['tokens']:,} tokens and {sums['bytes']:,} bytes; "
            f"{final.tokens_scored:,} and {final.bytes_scored:,} were scored"
        )
    bpb = float(documents[nats].sum(dtype=np.float64)) / math.log(2.0) / final.bytes_scored
    if not math.isclose(bpb, final.val_bpb, rel_tol=1e-6):
        raise EntryError(f"{path} adds up to {bpb} bits per byte; the score is {final.val_bpb}")


def check_audit(path: Path, audit: dict[str, Any] | None, results: Results) -> None:
    """EntryError for an audit of another artifact, such as one from before the weights were packed again."""
    if audit is not None and audit.get("artifact_sha256") != results.artifact_sha256:
        raise EntryError(
            f"{path} is of the artifact with sha256 {audit.get('artifact_sha256')}; "
            f"{results.artifact_sha256} is charged: audit it again"
        )


def check_plan(track: str, max_tokens: int | None, minutes: float | None) -> None:
    """EntryError for a run that `track` could not admit whatever it scores; asked before any training."""
    if track == "local":
        return
    if max_tokens is not None:
        raise EntryError(
            f"--max-tokens {max_tokens} scores part of the validation text; {track} needs all of it"
        )
    if track == "track_10min_16mb" and minutes is not None and minutes * 60 > TEN_MINUTES_SECONDS:
        raise EntryError(f"--minutes {minutes:g} is over the {TEN_MINUTES_SECONDS / 60:.0f} of {track}")


def check_track(run: SeedRun, track: str) -> None:
    """EntryError for a run that its track does not admit; `local` admits all."""
    if track not in TRACKS:
        raise EntryError(f"track is {track!r}; expected one of {', '.join(TRACKS)}")
    if track == "local":
        return
    if run.results.partial:
        raise EntryError(f"{run.folder}: scored part of the validation text; {track} needs all of it")
    if run.audit is None:
        raise EntryError(
            f"{run.folder}: was not audited; {track} needs an audit that passed (eval_bpb.py RUN --audit)"
        )
    if run.audit.get("passed") is not True:
        raise EntryError(f"{run.folder}: its audit did not pass; {track} needs one that did")
    if track == "track_10min_16mb":
        spent = {"training": run.results.train_seconds, "scoring": run.results.eval_seconds}
        for what, seconds in spent.items():
            if seconds > TEN_MINUTES_SECONDS:
                raise EntryError(
                    f"{run.folder}: {what} took {seconds:.1f} s; the track allows {TEN_MINUTES_SECONDS:.0f}"
                )


def parse_events(text: str) -> list[dict[str, Any]]:
    """The events of a run.jsonl; a line cut by a kill is left out."""
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events
