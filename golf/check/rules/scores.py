"""Rules on the score: the one that counts is the last on the artifact, and the JSON has to be it."""

import math
import re
from collections.abc import Iterable
from statistics import fmean

from golf.check.claims import Record, is_stated, matches
from golf.check.claims_json import Figure
from golf.check.findings import Finding, Line, error, info, warning
from golf.check.logs.read import bytes_per_token
from golf.data.reference import find_export

FAR_BPB = 0.002
"""A claim further than this from every score of the logs is not explained by rounding."""
LARGE_GAIN_BPB = 0.08
"""More than windows and legal adaptation gained over the plain pass in any accepted record."""

_README_BPB = re.compile(r"val_bpb\W{0,12}(\d\.\d{3,8})")
_README_LINES = 40
_INTEGER_CODEC = re.compile(r"int\d")


def final_score(record: Record) -> Iterable[Finding]:
    """Each run has to score what it packed; a log that ends before that has no score that counts."""
    for log in record.runs:
        if log.final_score is None and log.scores and log.last_line:
            last = log.last_line.evidence
            if log.sizes:
                text = "packs a model and holds no score of it; the log ends here"
                yield error("no-final-score", text, last)
            else:
                yield warning("no-final-score", "ends in training, or in an unknown form", last)
        for score in [score for score in log.scores if not math.isfinite(score.val_bpb)][:1]:
            yield error("score-not-finite", f"a score is {score.val_bpb}", score.line.evidence)


def claim_supported(record: Record) -> Iterable[Finding]:
    """The JSON's score has to be what the logs end on: their mean, or the one run's."""
    figure = record.figure("val_bpb")
    finals = record.final_scores
    if figure is None or not any(log.scores for log in record.runs):
        return
    if not finals:
        yield _without_final(figure, record)
        return
    average = fmean(score.val_bpb for score in finals)
    resolution = max(score.resolution for score in finals)
    if not matches(figure, average, resolution) and not record.foreign:
        yield _explain(figure, record, average, resolution)


def _explain(figure: Figure, record: Record, average: float, resolution: float) -> Finding:
    """What the claimed score is, if not the mean of the final ones."""
    values = [score.val_bpb for score in record.final_scores]
    shown = [log.final_score.line.evidence for log in record.runs if log.final_score]
    claims = f"claims {figure.written}"
    if any(matches(figure, value, resolution) for value in values):
        which = "the best" if figure.value <= min(values) + resolution else "one"
        text = f"{claims}, {which} of {len(values)} seeds; their mean is {average:.6f}"
        return warning("score-one-seed", text, figure.evidence, *shown)
    scores = [score for log in record.runs for score in log.scores if is_stated(figure, [score.stated])]
    for score in scores[:1]:
        evidence = (figure.evidence, score.line.evidence, *shown)
        if score.stage != "final":
            text = f"{claims}, a score before quantisation; the artifact's: {average:.6f}"
            return error("score-pre-quantisation", text, *evidence)
        text = f"{claims}, the score of {score.label!r}; the last is {average:.6f}"
        return (info if figure.value >= average else warning)("score-earlier-stage", text, *evidence)
    off = min(abs(figure.value - value) for value in [*values, average])
    listed = ", ".join(f"{value:.6f}" for value in values)
    text = f"{claims}; the logs end on {listed} (mean {average:.6f}), {off:.5f} away"
    return (error if off > FAR_BPB else warning)("score-unsupported", text, figure.evidence, *shown)


def _without_final(figure: Figure, record: Record) -> Finding:
    log = next(log for log in record.runs if log.scores)
    last = log.unquantized_score or log.scores[-1]
    which = "the" if is_stated(figure, [last.stated]) else "which no log holds; the"
    text = f"claims {figure.written}, {which} last score, {last.val_bpb}, was taken before quantisation"
    evidence = (figure.evidence, last.line.evidence)
    return (error if log.sizes else warning)("score-pre-quantisation", f"{text}, and none after", *evidence)


def readme_claim(record: Record) -> Iterable[Finding]:
    """The first score of the README may not be one of training if the artifact's differs."""
    name, text = record.folder.readme or ("", "")
    lines = (Line(name, number, line) for number, line in enumerate(text.split("\n")[:_README_LINES], 1))
    found = ((line, match.group(1)) for line in lines if (match := _README_BPB.search(line.text)))
    line, written = next(found, (None, ""))
    if line is None:
        return
    claimed, step = float(written), 10.0 ** -(len(written) - 2)
    finals = [score.val_bpb for score in record.final_scores]
    if any(abs(claimed - value) <= step for value in (*finals, *([fmean(finals)] if finals else []))):
        return
    scores = [score for log in record.runs for score in log.scores if score.stage != "final"]
    for score in [score for score in scores if abs(score.val_bpb - claimed) < 0.6 * step][:1]:
        message = f"the README leads with {written}, a score before quantisation"
        yield error("score-pre-quantisation", message, line.evidence, score.line.evidence)


def val_loss_unit(record: Record) -> Iterable[Finding]:
    """val_loss is nats per token; public files also hold nats per byte and bits per byte under that name."""
    loss, bpb = record.figure("val_loss"), record.figure("val_bpb")
    scored = [score for log in record.runs if (score := log.final_score) and score.val_loss]
    if loss is None or loss.value <= 0:
        return
    at = loss.evidence
    if bpb is None:
        if scored and matches(loss, fmean(score.val_bpb for score in scored), 1e-5):
            losses = fmean(score.val_loss or 0.0 for score in scored)
            text = f"{loss} is bits per byte: the logs' val_bpb, whose val_loss is {losses:.5f}"
            yield error("val-loss-unit", text, at)
        return
    if bpb.value <= 0:
        return
    ratio = bytes_per_token(loss.value, bpb.value)
    expected = [value for score in scored if (value := score.bytes_per_token)]
    if any(abs(ratio / value - 1) < 0.002 for value in expected) or (not expected and find_export(ratio)):
        return
    if abs(loss.value - bpb.value) < 1e-6:
        yield error("val-loss-unit", f"{loss.key} equals val_bpb: it is bits per byte", at)
    elif abs(ratio - 1) < 0.002:
        yield warning("val-loss-unit", f"{loss.key} is nats per byte (val_bpb x ln 2), not per token", at)
    else:
        known = f"the logs' is {expected[0]:.4f}" if expected else "no public export has that"
        text = f"{loss.key} and {bpb.key} imply {ratio:.4f} bytes per token; {known}: of one run and stage?"
        yield warning("val-loss-unit", text, at, bpb.evidence)


def delta_unit(record: Record) -> Iterable[Finding]:
    """A difference stated in nats and in bits per byte shows whether its nats are per token or per byte."""
    submission = record.folder.submission
    per_token = next((ratio for s in record.final_scores if (ratio := s.bytes_per_token)), None)
    if submission is None or per_token is None:
        return
    for key, value in submission.raw.items():
        bpb_key = key.replace("nats", "bpb")
        in_nats, in_bpb = _finite(value), _finite(submission.raw.get(bpb_key))
        if "nats" not in key or in_nats is None or not in_bpb:
            continue
        ratio = bytes_per_token(in_nats, in_bpb)
        at = (submission.evidence(key), submission.evidence(bpb_key))
        if abs(ratio / per_token - 1) < 0.03:
            yield info("nats-unit", f"{key} is nats per token", *at)
        elif abs(ratio - 1) < 0.03:
            yield info("nats-unit", f"{key} is nats per byte; most entries mean nats per token", *at)
        elif abs(in_nats / in_bpb - 1) < 0.03:
            yield error("nats-unit", f"{key} is in bits per byte under the name of nats", *at)
        else:
            text = f"{key} is {ratio:.3f} nats a bit: neither per token nor per byte"
            yield warning("nats-unit", text, *at)


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e300 else None


def large_gain(record: Record) -> Iterable[Finding]:
    """A last stage far below the plain pass over the same artifact, or an n-gram cache, needs a person."""
    for log in record.runs:
        finals = [score for score in log.scores if score.stage == "final"]
        final = log.final_score
        plain = max(finals, key=lambda score: score.val_bpb, default=None)
        if final and plain and plain.val_bpb - final.val_bpb > LARGE_GAIN_BPB:
            text = (
                f"the last stage gains {plain.val_bpb - final.val_bpb:.4f} bpb over {plain.label!r}; "
                "windows and score-first adaptation gave 0.02 to 0.04: do targets reach their own score?"
            )
            yield warning("gain-too-large", text, plain.line.evidence, final.line.evidence)
            break
    for line in [line for log in record.runs for line in log.marks.get("cache", [])][:1]:
        text = (
            "an n-gram cache: legal with a hint from the prefix and a softmax renormalised over the "
            "whole vocabulary (#1514), closed as a class otherwise (#677, #779)"
        )
        yield warning("ngram-cache", text, line.evidence)


def stale_label(record: Record) -> Iterable[Finding]:
    """A label that names another codec or stage than the model was packed and scored with."""
    for log in record.runs:
        packed = log.model_sizes[-1].label if log.model_sizes else ""
        used = _INTEGER_CODEC.search(packed)
        for score in [log.final_score, *log.scores] if log.final_score else []:
            named = _INTEGER_CODEC.search(score.label)
            if score.stage == "final" and named and used and named.group() != used.group():
                text = f"the label {score.label!r} is stale: the model was packed as {packed!r}"
                yield info("stale-label", text, score.line.evidence)
                return


RULES = (final_score, claim_supported, readme_claim, val_loss_unit, delta_unit, large_gain, stale_label)
