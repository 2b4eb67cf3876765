"""Compares two entries: is A better than B, by the written rule and by the leaderboard's practice.

Shapes: D documents.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.check.folder import read_record
from golf.check.logs import bytes_per_token
from golf.check.record import Record, implied_bytes
from golf.entry.results import ENTRY_FORMAT, EntryError, read_entry_results, read_json
from golf.entry.runs import final_nats
from golf.run_folder import EntryFolder
from golf.score.tally import bits_per_byte
from golf.stats import Bootstrap, Sample, paired_bootstrap, sample_of, seeds_to_settle, welch
from golf.system.cli import escape_text
from golf.system.foreign import read_arrays

THRESHOLD_NATS = 0.005
"""By how much a record has to beat the last one (README of openai/parameter-golf). The rule does not say per
what: most entries read it per token, some per byte (#1392, #1915, #2018, #2049)."""
WRITTEN_P = 0.01
PRACTICED_P = 0.25
"""What the last audits of the leaderboard asked of each step of its chain (#1899, #1900, #1902)."""
TYPICAL_STD_BPB = 0.00067
"""Median deviation of published three-seed scores (181 folders); assumed where only one run is known."""
MAX_DOCUMENTS = 1 << 20
"""Twenty times the challenge's; it bounds the work of the bootstrap."""
SAME_BYTES = 1e-3
"""Byte counts that differ by a larger share belong to other texts; exports of one text differ by 0.004%."""
BITS_PER_NAT = bits_per_byte(1.0, 1.0)


class CompareError(ValueError):
    """Two entries that cannot be compared; the message says why."""


@dataclass(frozen=True)
class EntryScores:
    """The scores of one entry and what they were measured on; None is what its files do not say."""

    name: str
    sample: Sample
    """Bits per byte."""
    source: str
    """The files that state the scores."""
    bytes_per_token: float | None = None
    validation_sha256: str | None = None
    validation_bytes: float | None = None
    """As stated, or implied by loss, score and tokens."""
    documents: tuple[np.ndarray, np.ndarray] | None = None
    """nats_D and bytes_D."""


@dataclass(frozen=True)
class Test:
    """Whether A is better than B by more than `bpb`."""

    reading: str
    """How the rule's 0.005 nats are read."""
    bpb: float
    max_p: float
    """Below which the test passes."""
    p: float | None
    """One-sided."""
    seeds: int | None
    """Runs on each side that would settle it; None if no number would."""


@dataclass(frozen=True)
class Comparison:
    """The tests of A against B."""

    a: EntryScores
    b: EntryScores
    gain: float
    """B's mean minus A's, bits per byte."""
    thresholds: tuple[Test, ...]
    """The written rule in its readings."""
    improvement: Test
    """The leaderboard's practice: any improvement."""
    bootstrap: Bootstrap | None
    caution: str


def read_scores(path: Path) -> EntryScores:
    """The scores of an entry of this project (results.json), or of any folder (its logs, else its JSON)."""
    if not path.is_dir():
        raise CompareError(f"{path} is not a folder")
    if _is_own(path):
        return _own_scores(EntryFolder(path))
    record = read_record(path)
    finals = record.final_scores
    if not finals:
        return _claimed_scores(path, record)
    return EntryScores(
        path.name,
        sample_of(np.array([score.val_bpb for score in finals])),
        f"{len(finals)} log{'s' if len(finals) > 1 else ''}",
        bytes_per_token=next((ratio for score in finals if (ratio := score.bytes_per_token)), None),
        validation_bytes=next((value for log in record.runs if (value := implied_bytes(log))), None),
    )


def _claimed_scores(path: Path, record: Record) -> EntryScores:
    submission = record.submission
    bpb = submission.value("val_bpb") if submission else None
    if submission is None or bpb is None:
        raise CompareError(f"{path}: neither a log nor submission.json states a final score")
    by_seed = [stated["val_bpb"].value for stated in submission.seed_results.values() if "val_bpb" in stated]
    std, loss, num_runs = submission.value("val_bpb_std"), submission.value("val_loss"), len(submission.seeds)
    sample = Sample(bpb, std, num_runs) if std and num_runs > 1 else Sample(bpb, None, 1)
    if by_seed:
        sample = sample_of(np.array(by_seed))
    ratio = bytes_per_token(loss, bpb) if loss and loss > 0 and bpb > 0 else None
    return EntryScores(path.name, sample, "submission.json alone", ratio)


def _is_own(path: Path) -> bool:
    try:
        return read_json(EntryFolder(path).results).get("format") == ENTRY_FORMAT
    except EntryError:
        return False


def _own_scores(entry: EntryFolder) -> EntryScores:
    runs = list(read_entry_results(entry.results).values())
    first, documents = runs[0].final.tally, None
    if entry.per_document.is_file():
        arrays = read_arrays(entry.per_document)
        try:
            documents = arrays[final_nats(runs[0])], arrays["bytes"]
        except KeyError as error:
            raise CompareError(f"{entry.per_document}: has no array {error}") from error
        if len(documents[0]) != len(documents[1]) or len(documents[0]) > MAX_DOCUMENTS:
            raise CompareError(f"{entry.per_document}: has {len(documents[0]):,} documents' nats")
    return EntryScores(
        entry.path.name,
        sample_of(np.array([run.final.tally.bits_per_byte for run in runs])),
        f"results.json, {len(runs)} seed{'s' if len(runs) > 1 else ''}",
        first.num_bytes / first.num_tokens,
        runs[0].data.validation_sha256,
        first.num_bytes,
        documents,
    )


def require_same_text(a: EntryScores, b: EntryScores) -> str:
    """A caution, empty if both were certainly scored on the same text; CompareError if they were not."""
    if a.validation_bytes is None or b.validation_bytes is None:
        return "one side states no token count: whether both scored the same text is unknown"
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
    off = a.validation_bytes / b.validation_bytes - 1
    if abs(off) > SAME_BYTES:
        raise CompareError(
            f"{a.name} and {b.name} imply {a.validation_bytes / 1e6:.2f} and "
            f"{b.validation_bytes / 1e6:.2f} million scored bytes, {100 * off:+.2f}% apart: not the same "
            "validation text"
        )
    return ""


def compare(a: EntryScores, b: EntryScores) -> Comparison:
    """Tests A against B; CompareError if they were scored on different texts."""
    caution = require_same_text(a, b)

    def test(reading: str, bpb: float, max_p: float) -> Test:
        seeds = seeds_to_settle(a.sample, b.sample, bpb, max_p, TYPICAL_STD_BPB)
        return Test(reading, bpb, max_p, welch(a.sample, b.sample, bpb), seeds)

    readings = {"per token": a.bytes_per_token, "per byte": 1.0}
    thresholds = [
        test(reading, THRESHOLD_NATS * BITS_PER_NAT / num_bytes, WRITTEN_P)
        for reading, num_bytes in readings.items()
        if num_bytes is not None
    ]
    bootstrap = None
    if a.documents and b.documents and np.array_equal(a.documents[1], b.documents[1]):
        (nats_a_D, bytes_D), (nats_b_D, _) = a.documents, b.documents
        bits_a_D, bits_b_D = nats_a_D * BITS_PER_NAT, nats_b_D * BITS_PER_NAT
        bootstrap = paired_bootstrap(bits_a_D, bits_b_D, bytes_D, thresholds[0].bpb)
    gain, improvement = b.sample.mean - a.sample.mean, test("any improvement", 0.0, PRACTICED_P)
    return Comparison(a, b, gain, tuple(thresholds), improvement, bootstrap, caution)


def render_comparison(result: Comparison) -> str:
    """The comparison as text: each verdict and its figures."""
    lines = [f"A  {_describe(result.a)}", f"B  {_describe(result.b)}"]
    word = "better" if result.gain > 0 else "worse"
    difference = f"A is {abs(result.gain):.6f} bits per byte {word} than B."
    lines.append(difference if result.gain else "A and B have the same score.")
    lines.append(f"Any improvement (Welch, one-sided): {_p(result.improvement.p)}.")
    lines += [
        f"The written rule, {THRESHOLD_NATS} nats {test.reading} = {test.bpb:.5f} bpb at p < {test.max_p:g}: "
        f"the gain is {result.gain / test.bpb:.2f} times that, {_p(test.p)}: {_verdict(test, result)}"
        for test in result.thresholds
    ]
    verdict = _verdict(result.improvement, result)
    lines.append(f"The leaderboard's practice (p < {PRACTICED_P:g} for any improvement): {verdict}")
    if boot := result.bootstrap:
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
    return "\n".join(map(escape_text, lines))


def _verdict(test: Test, result: Comparison) -> str:
    """Whether it passes; if not, how many seeds would settle it, and how many are missing."""
    if test.p is not None and test.p < test.max_p:
        return "passes."
    if test.seeds is None:
        return "does not pass; no number of seeds would settle it at the measured gain."
    missing = {"A": test.seeds - result.a.sample.num_runs, "B": test.seeds - result.b.sample.num_runs}
    more = " and ".join(f"{count} more of {name}" for name, count in missing.items() if count > 0)
    return (
        f"does not pass; {test.seeds} seeds on each side{f' ({more})' if more else ''} would settle it in "
        "four of five cases, at the measured gain and deviation."
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
