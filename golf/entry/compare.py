"""Compares two entries: is A better than B, by the rules' measure and by the leaderboard's practice."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golf.check.claims import entry_runs, final_scores
from golf.check.folder import Folder, read_folder
from golf.check.reference_counts import bytes_per_token
from golf.check.rules.text_bytes import implied
from golf.entry.results import ENTRY_FORMAT, read_entry_results
from golf.entry.runs import final_nats
from golf.results import Results
from golf.run_folder import EntryFolder
from golf.stats import (
    PRACTISED_P,
    THRESHOLD_NATS,
    TYPICAL_STD_BPB,
    WRITTEN_P,
    Bootstrap,
    Sample,
    nats_to_bpb,
    paired_bootstrap,
    sample_of,
    seeds_to_settle,
    welch_samples,
)

SAME_BYTES = 1e-3
"""Implied bytes further apart than this share are of other texts; exports of one text differ by 0.004%."""


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
    """Where the scores stand."""
    bytes_per_token: float | None
    validation_sha256: str | None
    validation_bytes: float | None
    """As stated, or implied by loss, score and tokens."""
    documents: Documents | None


@dataclass(frozen=True)
class Threshold:
    """The rules' 0.005 nats in one of its readings."""

    reading: str
    bpb: float
    p: float | None
    """That the gain is above it."""
    seeds: int | None
    """Runs a side that would settle it at p < 0.01; None if none would."""


@dataclass(frozen=True)
class Comparison:
    """Is A better than B?"""

    a: EntryScores
    b: EntryScores
    gain: float
    """B's mean minus A's, bits per byte."""
    p_improvement: float | None
    seeds_practised: int | None
    thresholds: tuple[Threshold, ...]
    bootstrap: Bootstrap | None
    caution: str


def read_scores(path: Path) -> EntryScores:
    """The scores of an entry of this project (results.json), or of any folder (its logs, else its JSON)."""
    if not path.is_dir():
        raise CompareError(f"{path} is no folder")
    folder = read_folder(path)
    if _is_own(path):
        return _own_scores(path)
    finals = final_scores(entry_runs(folder))
    if finals:
        both = [(score.val_loss, score.val_bpb) for score in finals if score.val_loss and score.val_bpb > 0]
        counted = [value for log in entry_runs(folder) if (value := implied(log))]
        return EntryScores(
            name=path.name,
            sample=sample_of(np.array([score.val_bpb for score in finals])),
            source=f"{len(finals)} log{'s' if len(finals) > 1 else ''}",
            bytes_per_token=bytes_per_token(*both[0]) if both else None,
            validation_sha256=None,
            validation_bytes=counted[0] if counted else None,
            documents=None,
        )
    return _claimed_scores(path, folder)


def _claimed_scores(path: Path, folder: Folder) -> EntryScores:
    submission = folder.submission
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
    """CompareError unless both were scored on the same documents; what could not be told, as a caution."""
    if a.validation_sha256 and b.validation_sha256:
        if a.validation_sha256 == b.validation_sha256:
            return ""
        if a.validation_bytes != b.validation_bytes:
            raise CompareError(
                f"{a.name} and {b.name} were scored on different validation texts: sha256 "
                f"{a.validation_sha256[:12]} and {b.validation_sha256[:12]}, {a.validation_bytes:,.0f} and "
                f"{b.validation_bytes:,.0f} bytes"
            )
        return "the validation tokens differ, their bytes agree: taken for one text in two tokenizers"
    if a.validation_bytes and b.validation_bytes:
        off = a.validation_bytes / b.validation_bytes - 1
        if abs(off) > SAME_BYTES:
            raise CompareError(
                f"{a.name} and {b.name} imply {a.validation_bytes / 1e6:.2f} and "
                f"{b.validation_bytes / 1e6:.2f} million scored bytes, {100 * off:+.2f}% apart: not the same "
                "validation text"
            )
        return ""
    return "no token count is stated on one side: whether both scored the same text could not be told"


def compare(a: EntryScores, b: EntryScores) -> Comparison:
    """Tests A against B; CompareError if they were scored on different texts."""
    caution = require_same_text(a, b)
    thresholds = []
    for reading, per_token in (("per token", a.bytes_per_token), ("per byte", 1.0)):
        if per_token is None:
            continue
        bpb = nats_to_bpb(THRESHOLD_NATS, per_token)
        p = welch_samples(a.sample, b.sample, bpb)
        seeds = seeds_to_settle(a.sample, b.sample, bpb, WRITTEN_P)
        thresholds.append(Threshold(reading, bpb, p, seeds))
    bootstrap = None
    if a.documents and b.documents and np.array_equal(a.documents.bytes_D, b.documents.bytes_D):
        bound = thresholds[0].bpb
        bootstrap = paired_bootstrap(a.documents.nats_D, b.documents.nats_D, a.documents.bytes_D, bound)
    return Comparison(
        a=a,
        b=b,
        gain=b.sample.mean - a.sample.mean,
        p_improvement=welch_samples(a.sample, b.sample),
        seeds_practised=seeds_to_settle(a.sample, b.sample, 0.0, PRACTISED_P),
        thresholds=tuple(thresholds),
        bootstrap=bootstrap,
        caution=caution,
    )


def render_comparison(result: Comparison) -> str:
    """A comparison in words, with the figures behind them."""
    lines = [f"A  {_describe(result.a)}", f"B  {_describe(result.b)}"]
    word = "better" if result.gain > 0 else "worse"
    lines.append(f"A is {abs(result.gain):.6f} bits per byte {word} than B.")
    lines.append(f"Any improvement (Welch, one-sided): {_p(result.p_improvement)}.")
    lines += [_threshold_line(threshold, result) for threshold in result.thresholds]
    passed = result.p_improvement is not None and result.p_improvement < PRACTISED_P
    verdict = "passes" if passed else "does not pass"
    more = "" if passed else f"; {_seeds(result.seeds_practised, result)}"
    lines.append(f"The practised chain (p < {PRACTISED_P:g} for any improvement): {verdict}{more}.")
    if result.bootstrap:
        boot = result.bootstrap
        lines.append(
            f"Over documents (paired bootstrap, both artifacts as they are): gain {boot.gain:.6f}, "
            f"95% {boot.low:.6f} to {boot.high:.6f}; {_p(boot.p_improvement)} for any, "
            f"{_p(boot.p_threshold)} for {result.thresholds[0].bpb:.5f}."
        )
    if None in (result.a.sample.std, result.b.sample.std):
        lines.append(
            "A single run on a side is taken as exact; its own spread is unknown"
            f" ({TYPICAL_STD_BPB} is usual, and is what numbers of seeds assume)."
        )
    if result.caution:
        lines.append(f"Caution: {result.caution}.")
    return "\n".join(lines)


def _threshold_line(threshold: Threshold, result: Comparison) -> str:
    passed = threshold.p is not None and threshold.p < WRITTEN_P
    share = f"{result.gain / threshold.bpb:.2f} of it"
    text = (
        f"The written rule, {THRESHOLD_NATS} nats {threshold.reading} = {threshold.bpb:.5f} bpb at "
        f"p < {WRITTEN_P:g}: the gain is {share}, {_p(threshold.p)}: "
        f"{'passes' if passed else 'does not pass'}"
    )
    return text + ("." if passed else f"; {_seeds(threshold.seeds, result)}.")


def _seeds(count: int | None, result: Comparison) -> str:
    """How many seeds a side would settle it, and how many more than there are."""
    if count is None:
        return "no number of seeds would settle it at the gain seen"
    more = [
        f"{count - side.sample.num_runs} more of {name}"
        for name, side in (("A", result.a), ("B", result.b))
        if count > side.sample.num_runs
    ]
    needed = f" ({' and '.join(more)})" if more else ""
    return f"{count} seeds a side{needed} would settle it four times in five, at the gain and spread seen"


def _p(value: float | None) -> str:
    if value is None:
        return "no p (one run a side shows no spread)"
    return f"p = {value:.4f}" if value >= 1e-4 else f"p = {value:.1e}"


def _describe(entry: EntryScores) -> str:
    spread = f" +- {entry.sample.std:.6f}" if entry.sample.std is not None else ""
    token = f", {entry.bytes_per_token:.4f} bytes per token" if entry.bytes_per_token else ""
    return (
        f"{entry.name}: {entry.sample.mean:.6f}{spread} (n = {entry.sample.num_runs}, {entry.source}{token})"
    )
