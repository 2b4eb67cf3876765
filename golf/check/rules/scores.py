"""Rules on the score: the one that counts is the last on the artifact, and the JSON has to be it."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from golf.check.claims import at_score, entry_runs, final_scores, matches, mean
from golf.check.claims_json import Figure, Submission
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder
from golf.check.logs.read import ParsedLog
from golf.check.reference_counts import bytes_per_token, find_export
from golf.check.rules.origin import find_foreign

FAR_BPB = 0.002
"""A claim further than this from every score of the logs cannot be a slip of rounding."""
LARGE_GAIN_BPB = 0.08
"""More than windows and legal adaptation gained over the plain pass in any accepted record."""

_README_BPB = re.compile(r"val_bpb\W{0,12}(\d\.\d{3,8})")


def final_score_present(folder: Folder) -> Iterable[Finding]:
    """Each run has to score what it packed; a log that ends before has no score that counts."""
    for log in entry_runs(folder):
        if log.final_score is None and log.scores and log.last_line:
            last = Evidence(log.file, log.last_line.number, log.last_line.text[:160])
            if log.sizes:
                text = "packs a model and holds no score of it; the log ends here"
                yield defect("no-final-score", text, last)
            else:
                yield doubt("no-final-score", "ends in training, or in a form not known here", last)
        for score in log.scores:
            if not math.isfinite(score.val_bpb):
                yield defect("score-not-finite", f"a score is {score.val_bpb}", at_score(log, score))
                break


def claim_supported(folder: Folder) -> Iterable[Finding]:
    """The JSON's score has to be what the logs end on: their mean, or the one run's."""
    submission, logs = folder.submission, entry_runs(folder)
    figure = submission.figures.get("val_bpb") if submission else None
    if submission is None or figure is None or not any(log.scores for log in logs):
        return
    at = submission.evidence(figure.key)
    finals = final_scores(logs)
    if not finals:
        yield _without_final(figure, logs, at)
        return
    average = mean([score.val_bpb for score in finals])
    resolution = max(10.0**-score.decimals for score in finals)
    if not matches(figure, average, resolution) and not find_foreign(folder):
        yield from _explain(figure, at, logs, average, resolution)


def _explain(
    figure: Figure, at: Evidence, logs: Sequence[ParsedLog], average: float, resolution: float
) -> Iterable[Finding]:
    values = [score.val_bpb for score in final_scores(logs)]
    shown = [at_score(log, log.final_score) for log in logs if log.final_score]
    if any(matches(figure, value, resolution) for value in values):
        which = "the best" if figure.value <= min(values) + resolution else "one"
        text = f"claims {figure.written}, {which} of {len(values)} seeds; their mean is {average:.6f}"
        yield doubt("score-one-seed", text, at, *shown)
        return
    for log in logs:
        for score in log.scores:
            if not matches(figure, score.val_bpb, 10.0**-score.decimals):
                continue
            if score.stage != "final":
                text = f"claims {figure.written}, a score before quantisation; the artifact's: {average:.6f}"
                yield defect("score-pre-quantisation", text, at, at_score(log, score), *shown)
            else:
                text = f"claims {figure.written}, the score of {score.label!r}; the last is {average:.6f}"
                level = note if figure.value >= average else doubt
                yield level("score-earlier-stage", text, at, at_score(log, score), *shown)
            return
    off = min(abs(figure.value - value) for value in [*values, average])
    listed = ", ".join(f"{value:.6f}" for value in values)
    text = f"claims {figure.written}; the logs end on {listed} (mean {average:.6f}), {off:.5f} away"
    yield (defect if off > FAR_BPB else doubt)("score-unsupported", text, at, *shown)


def _without_final(figure: Figure, logs: Sequence[ParsedLog], at: Evidence) -> Finding:
    log = next(log for log in logs if log.scores)
    last = log.unquantised_score or log.scores[-1]
    is_last = matches(figure, last.val_bpb, 10.0**-last.decimals)
    text = f"claims {figure.written}, the" if is_last else f"claims {figure.written}, which no log holds; the"
    text += f" last score, {last.val_bpb}, was taken before quantisation, and none after"
    return (defect if log.sizes else doubt)("score-pre-quantisation", text, at, at_score(log, last))


def readme_claim(folder: Folder) -> Iterable[Finding]:
    """A README that leads with a score of training where the artifact's differs."""
    if folder.readme is None:
        return
    name, text = folder.readme
    finals = [score.val_bpb for score in final_scores(entry_runs(folder))]
    for number, line in enumerate(text.split("\n")[:40], 1):
        match = _README_BPB.search(line)
        if not match:
            continue
        claimed, decimals = float(match.group(1)), len(match.group(1)) - 2
        known = [*finals, mean(finals)] if finals else []
        if any(abs(claimed - value) <= 10.0**-decimals for value in known):
            return
        for log in entry_runs(folder):
            for score in log.scores:
                if score.stage != "final" and abs(score.val_bpb - claimed) < 0.6 * 10.0**-decimals:
                    said = Evidence(name, number, line.strip()[:160])
                    message = f"the README leads with {match.group(1)}, a score before quantisation"
                    yield defect("score-pre-quantisation", message, said, at_score(log, score))
                    return
        return


def val_loss_unit(folder: Folder) -> Iterable[Finding]:
    """val_loss is nats per token; public files also hold nats per byte and bits per byte under that name."""
    submission = folder.submission
    loss = submission.figures.get("val_loss") if submission else None
    if submission is None or loss is None or loss.value <= 0:
        return
    at = submission.evidence(loss.key)
    bpb = submission.figures.get("val_bpb")
    scored = [score for log in entry_runs(folder) if (score := log.final_score) and score.val_loss]
    if bpb is None:
        values = [score.val_bpb for score in scored]
        if values and matches(loss, mean(values), 1e-5):
            text = f"{loss.key} {loss.written} is bits per byte: the logs' val_bpb, whose val_loss is "
            yield defect("val-loss-unit", text + f"{mean([s.val_loss or 0.0 for s in scored]):.5f}", at)
        return
    if bpb.value <= 0:
        return
    ratio = bytes_per_token(loss.value, bpb.value)
    expected = [bytes_per_token(score.val_loss, score.val_bpb) for score in scored if score.val_loss]
    if any(abs(ratio / value - 1) < 0.002 for value in expected) or (not expected and find_export(ratio)):
        return
    if abs(loss.value - bpb.value) < 1e-6:
        yield defect("val-loss-unit", f"{loss.key} equals val_bpb: it is bits per byte", at)
    elif abs(ratio - 1) < 0.002:
        yield doubt("val-loss-unit", f"{loss.key} is nats per byte (val_bpb x ln 2), not per token", at)
    else:
        known = f"the logs' is {expected[0]:.4f}" if expected else "no public export has that"
        text = f"{loss.key} and {bpb.key} imply {ratio:.4f} bytes per token; {known}: of one run and stage?"
        yield doubt("val-loss-unit", text, at, submission.evidence(bpb.key))


def delta_unit(folder: Folder) -> Iterable[Finding]:
    """A difference stated in nats and in bits per byte tells whether its nats are per token or per byte."""
    submission = folder.submission
    scored = [score for score in final_scores(entry_runs(folder)) if score.val_loss and score.val_bpb > 0]
    if submission is None or not scored:
        return
    per_token = bytes_per_token(scored[0].val_loss or 0.0, scored[0].val_bpb)
    for key, value in submission.raw.items():
        in_bpb = submission.raw.get(key.replace("nats", "bpb"))
        if "nats" not in key or not _is_number(value) or not _is_number(in_bpb) or not in_bpb:
            continue
        ratio = bytes_per_token(float(value), float(in_bpb))
        at = (submission.evidence(key), submission.evidence(key.replace("nats", "bpb")))
        if abs(ratio / per_token - 1) < 0.03:
            yield note("nats-unit", f"{key} is nats per token", *at)
        elif abs(ratio - 1) < 0.03:
            yield note("nats-unit", f"{key} is nats per byte; most entries mean nats per token", *at)
        elif abs(float(value) / float(in_bpb) - 1) < 0.03:
            yield defect("nats-unit", f"{key} is in bits per byte under the name of nats", *at)
        else:
            yield doubt("nats-unit", f"{key} is {ratio:.3f} nats a bit: neither per token nor per byte", *at)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def gain_plausible(folder: Folder) -> Iterable[Finding]:
    """A last stage far below the plain pass over the same artifact, or an n-gram cache, needs a person."""
    for log in entry_runs(folder):
        finals = [score for score in log.scores if score.stage == "final"]
        counts = log.final_score
        if counts and finals and max(s.val_bpb for s in finals) - counts.val_bpb > LARGE_GAIN_BPB:
            plain = max(finals, key=lambda score: score.val_bpb)
            text = (
                f"the last stage gains {plain.val_bpb - counts.val_bpb:.4f} bpb over {plain.label!r}; "
                "windows and score-first adaptation gave 0.02 to 0.04: do targets reach their own score?"
            )
            yield doubt("gain-too-large", text, at_score(log, plain), at_score(log, counts))
            break
    for log in entry_runs(folder):
        for line in log.marks.get("cache", [])[:1]:
            text = (
                "an n-gram cache: legal with a hint from the prefix and a softmax renormalised over the "
                "whole vocabulary (#1514), closed as a class otherwise (#677, #779)"
            )
            yield doubt("ngram-cache", text, Evidence(log.file, line.number, line.text[:160]))
            return


def stale_label(folder: Folder) -> Iterable[Finding]:
    """A label that names another codec or stage than the model was packed and scored with."""
    for log in entry_runs(folder):
        packed = [size for size in log.sizes if size.kind == "model"]
        score = log.final_score
        if not packed or not score:
            continue
        for other in [score, *log.scores]:
            named = re.search(r"int(\d)", other.label)
            used = re.search(r"int(\d)", packed[-1].label)
            if other.stage == "final" and named and used and named.group(1) != used.group(1):
                text = f"the label {other.label!r} is stale: the model was packed as {packed[-1].label!r}"
                yield note("stale-label", text, at_score(log, other))
                return


RULES = (
    final_score_present,
    claim_supported,
    readme_claim,
    val_loss_unit,
    delta_unit,
    gain_plausible,
    stale_label,
)


def claims(submission: Submission) -> dict[str, float]:
    """The figures of a submission by meaning, for a report."""
    return {meaning: figure.value for meaning, figure in submission.figures.items()}
