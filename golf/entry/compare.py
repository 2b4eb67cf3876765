"""Compares two entries: is A better than B, by the written rule and by the leaderboard's practice.

Shapes: D documents.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.check.folder import read_record
from golf.check.logs import bytes_per_token
from golf.check.record import Record, implied_bytes
from golf.entry.results import ENTRY_FORMAT, read_entry_results
from golf.entry.runs import final_nats
from golf.results import Results
from golf.run_folder import EntryFolder
from golf.score.tally import bits_per_byte
from golf.stats import Bootstrap, Sample, paired_bootstrap, sample_of, seeds_to_settle, welch

THRESHOLD_NATS = 0.005
"""By how much a record has to beat the last one (README of openai/parameter-golf). The rule does not say per
what: most entries read it per token, some per byte (#1392, #1915, #2018, #2049)."""
WRITTEN_P = 0.01
PRACTICED_P = 0.25
"""What the last audits of the leaderboard asked of each step of its chain (#1899, #1900, #1902)."""
TYPICAL_STD_BPB = 0.00067
"""Median deviation of published three-seed scores (181 folders); assumed where only one run is known."""
SAME_BYTES = 1e-3
"""Byte counts that differ by a larger share belong to other texts; exports of one text differ by 0.004%."""
BITS_PER_NAT = bits_per_byte(1.0, 1.0)


class CompareError(ValueError):
    """Two entries that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Documents:
    """Nats and bytes of each validation document."""

    nats_D: np.ndarray
    bytes_D: np.ndarray


@dataclass(frozen=True)
class EntryScores:
    """The scores of one entry and what they were measured on."""

    name: str
    sample: Sample
    """Bits per byte."""
    source: str
    """The files that state the scores."""
    bytes_per_token: float | None
    validation_sha256: str | None
    validation_bytes: float | None
    """As stated, or implied by loss, score and tokens."""
    documents: Documents | None


@dataclass(frozen=True)
class Threshold:
    """The rule's 0.005 nats in one of its readings."""

    reading: str
    bpb: float
    p: float | None
    """One-sided p that the gain is above it."""
    seeds: int | None
    """Runs on each side that would settle it at p < 0.01; None if no number would."""


@dataclass(frozen=True)
class Comparison:
    """The tests of A against B."""

    a: EntryScores
    b: EntryScores
    gain: float
    """B's mean minus A's, bits per byte."""
    p_improvement: float | None
    seeds_practiced: int | None
    thresholds: tuple[Threshold, ...]
    bootstrap: Bootstrap | None
    caution: str


def read_scores(path: Path) -> EntryScores:
    """The scores of an entry of this project (results.json), or of any folder (its logs, else its JSON)."""
    if not path.is_dir():
        raise CompareError(f"{path} is not a folder")
    if _is_own(path):
        return _own_scores(path)
    record = read_record(path)
    finals = record.final_scores
    if finals:
        ratios = [ratio for score in finals if (ratio := score.bytes_per_token)]
        counted = [value for log in record.runs if (value := implied_bytes(log))]
        return EntryScores(
            name=path.name,
            sample=sample_of(np.array([score.val_bpb for score in finals])),
            source=f"{len(finals)} log{'s' if len(finals) > 1 else ''}",
            bytes_per_token=ratios[0] if ratios else None,
            validation_sha256=None,
            validation_bytes=counted[0] if counted else None,
            documents=None,
        )
    return _claimed_scores(path, record)


def _claimed_scores(path: Path, record: Record) -> EntryScores:
    submission = record.submission
    bpb = submission.value("val_bpb") if submission else None
    if submission is None or bpb is None:
        raise CompareError(f"{path}: neither a log nor submission.json states a final score")
    by_seed = [
        results["val_bpb"].value for results in submission.seed_results.values() if "val_bpb" in results
    ]
    std, loss = submission.value("val_bpb_std"), submission.value("val_loss")
    num_runs = len(submission.seeds)
    stated = Sample(bpb, std, num_runs) if std and num_runs > 1 else Sample(bpb, None, 1)
    return EntryScores(
        name=path.name,
        sample=sample_of(np.array(by_seed)) if by_seed else stated,
        source="submission.json alone",
        bytes_per_token=bytes_per_token(loss, bpb) if loss and loss > 0 and bpb > 0 else None,
        validation_sha256=None,
        validation_bytes=None,
        documents=None,
    )


def _is_own(path: Path) -> bool:
    try:
        value = json.loads(EntryFolder(path).results.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("format") == ENTRY_FORMAT


def _own_scores(path: Path) -> EntryScores:
    runs = list(read_entry_results(EntryFolder(path).results).values())
    first = runs[0].final.tally
    return EntryScores(
        name=path.name,
        sample=sample_of(np.array([run.final.tally.bits_per_byte for run in runs])),
        source=f"results.json, {len(runs)} seed{'s' if len(runs) > 1 else ''}",
        bytes_per_token=first.num_bytes / first.num_tokens,
        validation_sha256=runs[0].data.validation_sha256,
        validation_bytes=first.num_bytes,
        documents=_read_documents(EntryFolder(path).per_document, runs[0]),
    )


def _read_documents(path: Path, results: Results) -> Documents | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Documents(arrays[final_nats(results)], arrays["bytes"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CompareError(f"{path}: cannot be read ({error})") from error


def require_same_text(a: EntryScores, b: EntryScores) -> str:
    """A caution, empty if both were certainly scored on the same text; CompareError if they were not."""
    if a.validation_sha256 and b.validation_sha256:
        if a.validation_sha256 == b.validation_sha256:
            return ""
        if a.validation_bytes != b.validation_bytes:
            raise CompareError(
                f"{a.name} and {b.name} were scored on different validation texts: sha256 "
                f"{a.validation_sha256[:12]} and {b.validation_sha256[:12]}, {a.validation_bytes:,.0f} and "
                f"{b.validation_bytes:,.0f} bytes"
            )
        return "the validation tokens differ and their bytes agree: assumed to be one text in two tokenizers"
    if a.validation_bytes and b.validation_bytes:
        off = a.validation_bytes / b.validation_bytes - 1
        if abs(off) > SAME_BYTES:
            raise CompareError(
                f"{a.name} and {b.name} imply {a.validation_bytes / 1e6:.2f} and "
                f"{b.validation_bytes / 1e6:.2f} million scored bytes, {100 * off:+.2f}% apart: not the same "
                "validation text"
            )
        return ""
    return "one side states no token count: whether both scored the same text is unknown"


def compare(a: EntryScores, b: EntryScores) -> Comparison:
    """Tests A against B; CompareError if they were scored on different texts."""
    caution = require_same_text(a, b)
    thresholds = []
    for reading, per_token in (("per token", a.bytes_per_token), ("per byte", 1.0)):
        if per_token is None:
            continue
        bpb = THRESHOLD_NATS * BITS_PER_NAT / per_token
        p = welch(a.sample, b.sample, bpb)
        seeds = seeds_to_settle(a.sample, b.sample, bpb, WRITTEN_P, TYPICAL_STD_BPB)
        thresholds.append(Threshold(reading, bpb, p, seeds))
    bootstrap = None
    if a.documents and b.documents and np.array_equal(a.documents.bytes_D, b.documents.bytes_D):
        bits_a_D, bits_b_D = (side.nats_D * BITS_PER_NAT for side in (a.documents, b.documents))
        bootstrap = paired_bootstrap(bits_a_D, bits_b_D, a.documents.bytes_D, thresholds[0].bpb)
    return Comparison(
        a=a,
        b=b,
        gain=b.sample.mean - a.sample.mean,
        p_improvement=welch(a.sample, b.sample),
        seeds_practiced=seeds_to_settle(a.sample, b.sample, 0.0, PRACTICED_P, TYPICAL_STD_BPB),
        thresholds=tuple(thresholds),
        bootstrap=bootstrap,
        caution=caution,
    )


def render_comparison(result: Comparison) -> str:
    """The comparison as text: each verdict and its figures."""
    lines = [f"A  {_describe(result.a)}", f"B  {_describe(result.b)}"]
    word = "better" if result.gain > 0 else "worse"
    difference = f"A is {abs(result.gain):.6f} bits per byte {word} than B."
    lines.append(difference if result.gain else "A and B have the same score.")
    lines.append(f"Any improvement (Welch, one-sided): {_p(result.p_improvement)}.")
    lines += [_threshold_line(threshold, result) for threshold in result.thresholds]
    passed = result.p_improvement is not None and result.p_improvement < PRACTICED_P
    verdict = "passes" if passed else "does not pass"
    more = "" if passed else f"; {_seeds(result.seeds_practiced, result)}"
    lines.append(f"The leaderboard's practice (p < {PRACTICED_P:g} for any improvement): {verdict}{more}.")
    if result.bootstrap:
        boot = result.bootstrap
        lines.append(
            f"Over documents (paired bootstrap, both artifacts as they are): gain {boot.gain:.6f}, "
            f"95% {boot.low:.6f} to {boot.high:.6f}; {_p(boot.p_improvement)} for any, "
            f"{_p(boot.p_threshold)} for {result.thresholds[0].bpb:.5f}."
        )
    if None in (result.a.sample.std, result.b.sample.std):
        lines.append(
            "A side with a single run is taken as exact: its own deviation is unknown"
            f" ({TYPICAL_STD_BPB} is usual; the numbers of seeds assume it)."
        )
    if result.caution:
        lines.append(f"Caution: {result.caution}.")
    return "\n".join(lines)


def _threshold_line(threshold: Threshold, result: Comparison) -> str:
    passed = threshold.p is not None and threshold.p < WRITTEN_P
    share = f"{result.gain / threshold.bpb:.2f} times that"
    text = (
        f"The written rule, {THRESHOLD_NATS} nats {threshold.reading} = {threshold.bpb:.5f} bpb at "
        f"p < {WRITTEN_P:g}: the gain is {share}, {_p(threshold.p)}: "
        f"{'passes' if passed else 'does not pass'}"
    )
    return text + ("." if passed else f"; {_seeds(threshold.seeds, result)}.")


def _seeds(count: int | None, result: Comparison) -> str:
    """How many seeds on each side would settle it, and how many of them are missing."""
    if count is None:
        return "no number of seeds would settle it at the measured gain"
    more = [
        f"{count - side.sample.num_runs} more of {name}"
        for name, side in (("A", result.a), ("B", result.b))
        if count > side.sample.num_runs
    ]
    needed = f" ({' and '.join(more)})" if more else ""
    return (
        f"{count} seeds on each side{needed} would settle it in four of five cases, at the measured gain and "
        "deviation"
    )


def _p(value: float | None) -> str:
    if value is None:
        return "no p (one run on each side has no deviation)"
    return f"p = {value:.4f}" if value >= 1e-4 else f"p = {value:.1e}"


def _describe(entry: EntryScores) -> str:
    spread = f" +- {entry.sample.std:.6f}" if entry.sample.std is not None else ""
    token = f", {entry.bytes_per_token:.4f} bytes per token" if entry.bytes_per_token else ""
    return (
        f"{entry.name}: {entry.sample.mean:.6f}{spread} (n = {entry.sample.num_runs}, {entry.source}{token})"
    )
