"""Scores an artifact, or an entry that holds one, in bits per byte; audits, proves or verifies the score.

    golf score ARTIFACT_OR_ENTRY --data DIR            the score; by torchrun, of several processes
    golf score ARTIFACT_OR_ENTRY --data DIR --audit    does its scorer keep the rules?
    golf score ARTIFACT_OR_ENTRY --data DIR --prove    is the text restored from so many bits?
    golf score --verify ENTRY --data DIR               are its stated figures true?

Exit code 1 where an audit, a proof or a verification finds a fault, 2 on bad input.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from golf.audit.proof import DEFAULT_DOCUMENTS, ProofConfig, prove_path
from golf.audit.rescore import audit_path
from golf.entry.verify import print_verification, verify_entry
from golf.evaluate import SCORE_LEAST, EvaluateConfig, main_evaluate
from golf.hub.fetch import local_path, require_local
from golf.run_folder import find_artifact, find_data
from golf.system.cli import run_program
from golf.system.device import read_world
from golf.system.files import STANDARD_OUTPUT, name_standard_output
from golf.system.log import RunLog
from golf.system.options import read_options


@dataclass(frozen=True)
class ScoreCommand:
    """What to score, on what text, and how."""

    path: Annotated[Path, tyro.conf.Positional]
    """An artifact, or a folder with one: an entry or a run; or hf://USER/NAME, an entry on the hub."""
    data: Path | None = None
    """Dataset folder (validation text, its tokenizer, manifest.json); by default the entry's own, if any."""
    ttt: bool = False
    """Score, audit or prove with test-time training, too."""
    audit: bool = False
    """Probe whether the scorer keeps the rules, instead of scoring; writes audit.json beside the artifact."""
    verify: bool = False
    """Score by this project's own code, then by the entry's script in isolation, and compare every figure
    that the artifact decides."""
    prove: bool = False
    """Compress documents under the model's predictions, restore them in an isolated process that has no text,
    and compare the length with the score; the result goes into audit.json and README.md."""
    documents: int | None = None
    """Prove so many documents, the first of the text; by default 32."""
    all: bool = False
    """Prove all documents."""
    trust: bool = False
    """Verify: where this system has no isolation, run the entry's script with your own rights."""
    sample: int | None = None
    """Verify with this many windows only, on the documents they cover."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluateConfig)


def run_command(command: ScoreCommand, log: RunLog) -> bool:
    """Scores, audits or verifies; False for a fault found. ValueError for what cannot be done."""
    asked = [name for name in ("audit", "verify", "prove") if vars(command)[name]]
    if len(asked) > 1:
        raise ValueError(f"--{asked[0]} and --{asked[1]} are two commands; give one of them")
    if command.all and command.documents is not None:
        raise ValueError("--all and --documents contradict each other; give one of them")
    for name in ("documents", "all"):
        if vars(command)[name] not in (None, False) and not command.prove:
            raise ValueError(f"--{name} belongs to --prove")
    if command.sample is not None and not command.verify:
        raise ValueError("--sample belongs to --verify; a score of a prefix is --max-tokens")
    if asked and (size := read_world().size) > 1:
        raise ValueError(f"--{asked[0]} runs in one process; torchrun started {size}")
    if command.trust and not command.verify:
        raise ValueError("--trust belongs to --verify")
    if command.audit:
        unread = ("max_tokens", "max_seconds", "sample_documents", "json", "per_document")
        command.config.require_unused(unread, "does not go with --audit")
    if command.verify:
        unread = ("context", "stride", "method", "order", "max_tokens", "max_seconds", "sample_documents")
        command.config.require_unused((*unread, "per_document", "eager"), "does not go with --verify")
        if command.ttt:
            raise ValueError("--ttt does not go with --verify, which scores as the entry states")
    if command.prove:
        unread = ("max_tokens", "max_seconds", "sample_documents", "per_document", "eager")
        command.config.require_unused(unread, "does not go with --prove")
        if not command.ttt:
            command.config.require_unused(("method", "order"), "belongs to test-time training; add --ttt")
    for place in (command.path, command.data):
        if asked and place is not None:
            require_local(place, f"{asked[0]} takes a folder on this machine")
    path = local_path(command.path)
    data = find_data(command.data and local_path(command.data), path)
    if command.audit:
        return audit_path(command.path, data, command.config, log, command.ttt, isolated=True)
    if command.prove:
        documents = None if command.all else command.documents or DEFAULT_DOCUMENTS
        return prove_path(command.path, data, command.config, ProofConfig(documents, command.ttt), log)
    if command.verify:
        how = command.config.device, log, command.trust
        found = verify_entry(command.path, data, command.sample, *how)
        return print_verification(found, log, command.config.json)
    main_evaluate(find_artifact(path), data, command.config, ttt=command.ttt)
    return True


def main(arguments: list[str], program: str = "golf score") -> int:
    """Exit code: 0 done, 1 for a fault found, 2 bad input, 130 stopped."""

    def work() -> int:
        given = name_standard_output(arguments)
        command = read_options(ScoreCommand, given, program, __doc__, least=SCORE_LEAST | {"documents": 1})
        return int(not run_command(command, RunLog(quiet=command.config.json == STANDARD_OUTPUT)))

    return run_program(program, work)
