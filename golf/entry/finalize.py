"""What the toolkit adds to a scored run: its facts, the audit, the place among known scores."""

import lzma
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import zstandard

from golf.audit.rescore import audit_path
from golf.config import RunConfig
from golf.data.reference import text_of_size
from golf.data.vocabulary import Vocabulary
from golf.entry.activity import find_features, print_features
from golf.entry.artifact_stats import portrait
from golf.entry.bundle import entry_script
from golf.entry.leaderboard import leaderboard_rows, what_compares
from golf.entry.runs import parse_events
from golf.entry.selfextract import pack_script
from golf.evaluate import EvaluateConfig
from golf.results import Results
from golf.run import RunContext
from golf.run_folder import RunFolder
from golf.system.clock import StageClock
from golf.system.files import write_json
from golf.system.log import RunLog
from golf.train.checkpoint import load_weights

MAX_TEXT_BYTES = 32_000_000
"""Longer texts take zstd-22 many minutes; they are not compressed."""
PROJECT = Path(__file__).resolve().parents[2]


class AuditError(ValueError):
    """The legality probes found a violation; audit.json says which."""


def charged_script(config: RunConfig, form: str, log: RunLog) -> bytes:
    """The file that a run is charged for, `readable` or `packed`: the script of its entry."""
    readable = entry_script(config)
    script = pack_script(readable) if form == "packed" else readable.encode()
    log.event("code", readable_bytes=len(readable.encode()), shipped_bytes=len(script), shipped=form)
    return script


def finalize_run(folder: RunFolder, run: RunContext, results: Results) -> None:
    """Completes a scored run's folder with results.json and audit.json, and says where its score stands.

    Adds what only the toolkit knows: its commit, the sizes of the same text under compressors, which of the
    techniques that were asked for acted, the artifact's bytes by part. AuditError when a probe finds a
    violation: such a run keeps its results and gets no entry. With a time plan the audit looks at as many
    targets as the time that is left allows.
    """
    dataset, log = run.dataset, run.log
    how = EvaluateConfig(device=run.scoring.device, eager=run.scoring.eager)
    scale = compressor_bits_per_byte(dataset.validation_tokens(StageClock()), dataset.vocabulary)
    log.event("compressors", **scale)
    events = parse_events(folder.events.read_text(encoding="utf-8"))
    features = tuple(find_features(run.config, results, load_weights(folder.weights), dataset, events))
    print_features(features, log)
    parts, described = portrait(folder, dataset, how.device)
    results = replace(
        results,
        data=replace(results.data, **scale),
        packing=replace(results.packing, parts=parts),
        toolkit_commit=toolkit_commit(PROJECT),
        features=features,
        portrait=described,
    )
    write_json(folder.results, asdict(results))
    print_place(results, log)
    if not audit_path(folder.path, dataset.folder, how, log, ttt=False, max_seconds=run.plan.left_seconds):
        raise AuditError(
            f"the audit found violations, listed above and in {folder.audit}; the results stay, "
            f"there is no entry; to audit again: python train_gpt.py --resume {folder}"
        )


def print_place(results: Results, log: RunLog) -> None:
    """The score among public ones on the same text, and what it may be compared with."""
    text = text_of_size(results.final.tally.num_bytes)
    minutes = round(results.train_seconds / 60, 1)
    hardware = str(results.environment["hardware"])
    if text is not None:
        columns = ("bits per byte", "what", "hardware", "training minutes", "tokenizer", "source")
        tokenizer = f"{results.config['model']['vocab_size']:,} pieces"
        own = (results.final.tally.bits_per_byte, results.name, hardware, minutes, tokenizer)
        log.table("among public scores", columns, leaderboard_rows(*own, text))
    log.info(what_compares(text, int(results.environment["device"] == "cuda"), minutes))


def toolkit_commit(root: Path) -> str:
    """The commit of the checkout at `root`, `-dirty` behind it if files differ; `unknown` outside git."""
    described = _git(root, "rev-parse", "HEAD")
    if described is None:
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{described}-dirty" if changed else described


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def decoded_text(tokens: np.ndarray, vocabulary: Vocabulary) -> bytes:
    """The text of a token stream, document by document, without separators."""
    starts = np.flatnonzero(tokens == vocabulary.bos_id)
    documents = np.split(tokens, starts)
    return b"".join(
        vocabulary.decode_tokens(document.tolist()).encode() for document in documents if len(document)
    )


def compressor_bits_per_byte(tokens: np.ndarray, vocabulary: Vocabulary) -> dict[str, float | None]:
    """Bits per byte of xz -9 and zstd -22 --long=27 on the decoded text; None for a text that is too long."""
    size = int(vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
    if size > MAX_TEXT_BYTES:
        return {"xz_bits_per_byte": None, "zstd22_bits_per_byte": None}
    text = decoded_text(tokens, vocabulary)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    zstd = zstandard.ZstdCompressor(compression_params=parameters).compress(text)
    return {
        "xz_bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / len(text),
        "zstd22_bits_per_byte": 8 * len(zstd) / len(text),
    }
