"""Rules on scores, seeds and the validation text: figures are supported, units agree, all bytes count."""

import math
import re
import statistics
from collections.abc import Iterable
from statistics import fmean

from golf.check.findings import Finding, Quote, error, info, warning
from golf.check.logs import UNQUANTIZED, LoggedScore, ParsedLog, bytes_per_token
from golf.check.record import (
    Record,
    fingerprint,
    implied_bytes,
    is_stated,
    matches,
    named_seed,
    seed_of,
    stated_steps,
)
from golf.check.rules.limits import stated_times
from golf.check.submission import Figure
from golf.data.reference import (
    CANONICAL_BYTES,
    EXPORTS,
    describe_bytes,
    find_cause,
    find_export,
    is_canonical,
)

FAR_BPB = 0.002
"""A claim further than this from every score of the logs is not explained by rounding."""
LARGE_GAIN_BPB = 0.08
"""More than windows and legal adaptation gained over the plain pass in any accepted record."""
RECORD_SEEDS = 3
MAX_SETTINGS_SHOWN = 6

_README_BPB = re.compile(r"val_bpb\W{0,12}(\d\.\d{3,8})")
_README_NUMBER = re.compile(r"(?<![\w.])\d\.\d{3,8}(?!\w|\.\d)")
_README_OTHER = re.compile(
    r"before (?:quant|pack|compress|export)|baseline|previous|prior|\bstep\b|during training|not (?:our|the) "
    r"|last (?:step|weights)|checkpoint|full precision|\bfloat|unpacked|in training|\btrain",
    re.I,
)
"""A line, or the heading above it, with such a word states another score than the one claimed."""
_README_LINES = 40
README_NEAR = 2
"""Lines above and below a score whose words say what it is."""
_ITEM = re.compile(r"[^\s{},()]+")
_NUMBERS = re.compile(r"\d+")
_INTEGER_CODEC = re.compile(r"int\d")


def final_score(record: Record) -> Iterable[Finding]:
    """Each run has to score what it packed; a log that ends before that has no score that counts."""
    for log in record.runs:
        if log.final_score is None and log.scores and log.last_line:
            if unread := next((at for at in log.unread if "bpb" in at.text.lower()), None):
                text = "no score of the packed model was understood"
                yield info("no-final-score", text, unread)
            elif log.sizes:
                text = "packs a model and holds no score of it; the log ends here"
                yield error("no-final-score", text, log.last_line)
            else:
                yield warning("no-final-score", "ends in training, or in an unknown form", log.last_line)
        odd = [score for score in log.scores if not math.isfinite(score.val_bpb)]
        for score in sorted(odd, key=lambda score: score is not log.final_score)[:1]:
            level = error if score is log.final_score else warning
            yield level("score-not-finite", f"a score is {score.val_bpb}", score.at)
    scored = {seed_of(log) for log in record.runs}
    left = set(record.submission.seeds if record.submission else ()) - scored
    for log in record.others:
        seed = seed_of(log)
        if seed in left and log.final_score is None and log.last_line:
            text = f"seed {seed}, which the JSON names, has no score of the packed model"
            yield warning("no-final-score", text, log.last_line)


def claim_supported(record: Record) -> Iterable[Finding]:
    """The JSON's score has to be what the logs end on: their mean, or the one run's."""
    figure, finals = record.figure("val_bpb"), record.final_scores
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
    shown = [log.final_score.at for log in record.runs if log.final_score]
    claims = f"claims {figure.written}"
    if any(matches(figure, value, resolution) for value in values):
        which = "the best" if figure.value <= min(values) + resolution else "one"
        text = f"{claims}, {which} of {len(values)} seeds; their mean is {average:.6f}"
        return warning("score-one-seed", text, figure.at, *shown)
    scores = [score for log in record.runs for score in log.scores if is_stated(figure, [score.stated])]
    if scores and scores[0].stage != "final":
        text = f"{claims}, a score before quantisation; the artifact's: {average:.6f}"
        return error("score-pre-quantisation", text, figure.at, scores[0].at, *shown)
    if scores:
        text = f"{claims}, the score of {scores[0].label!r}; the last is {average:.6f}"
        level = info if figure.value >= average else warning
        return level("score-earlier-stage", text, figure.at, scores[0].at, *shown)
    if found := _claimed_elsewhere(figure, record, resolution):
        where, mean, score = found
        text = f"{claims}, {where}; the artifact's: {average:.6f}"
        if score.stage != "final":
            return error("score-pre-quantisation", text, figure.at, score.at, *shown)
        level = info if mean >= average - resolution else warning
        return level("score-earlier-stage", text, figure.at, score.at, *shown)
    off = min(abs(figure.value - value) for value in [*values, average])
    listed = ", ".join(f"{value:.6f}" for value in values)
    text = f"{claims}; the logs end on {listed} (mean {average:.6f}), {off:.5f} away"
    return (error if off > FAR_BPB else info)("score-unsupported", text, figure.at, *shown)


def _claimed_elsewhere(
    figure: Figure, record: Record, resolution: float
) -> tuple[str, float, LoggedScore] | None:
    """A claim as the runs' mean under another label, or as the result of a run that is not of the claim."""
    by_label: dict[str, list[LoggedScore]] = {}
    for log in record.runs:
        last = {_NUMBERS.sub("#", score.label): score for score in log.scores if score.stage != "training"}
        training = [score for score in log.scores if score.stage == "training"]
        last |= {"the end of training": training[-1]} if training else {}
        for label, score in last.items():
            by_label.setdefault(label, []).append(score)
    for label, scores in by_label.items():
        mean = fmean(score.val_bpb for score in scores)
        if len(scores) > 1 and matches(figure, mean, resolution):
            return f"the mean of {label!r} over {len(scores)} runs", mean, scores[0]
    for log in record.others:
        for score in log.scores:
            if score.stage == "final" and is_stated(figure, [score.stated]):
                return (
                    f"the score of {log.file}, which is none of the runs taken for the claim",
                    math.inf,
                    score,
                )
    return None


def _without_final(figure: Figure, record: Record) -> Finding:
    log = next(log for log in record.runs if log.scores)
    last = log.unquantized_score or log.scores[-1]
    which = "the" if is_stated(figure, [last.stated]) else "which no log holds; the"
    text = f"claims {figure.written}, {which} last score, {last.val_bpb}, was taken before quantisation"
    level = error if log.sizes else warning
    return level("score-pre-quantisation", f"{text}, and none after", figure.at, last.at)


def readme_claim(record: Record) -> Iterable[Finding]:
    """The first score of the README may not be one of training, if the artifact's differs."""
    name, text = record.readme or ("", "")
    lines = (Quote(name, number, line) for number, line in enumerate(text.split("\n")[:_README_LINES], 1))
    section, found, said = "", [], set()
    lines = list(lines)
    for index, at in enumerate(lines):
        section = at.text if at.text.startswith("#") else section
        around = " ".join(near.text for near in lines[max(0, index - README_NEAR) : index + README_NEAR + 1])
        is_other = UNQUANTIZED.search(f"{section} {around}") or _README_OTHER.search(f"{section} {at.text}")
        for match in _README_BPB.finditer(at.text):
            if is_other:
                said.add(match.group(1))
            else:
                found.append((at, match.group(1)))
    # What one line calls a score before quantisation needs no second label.
    unlabelled = text[:100_000].split("\n")
    said |= {n for line in unlabelled if UNQUANTIZED.search(line) for n in _README_NUMBER.findall(line)}
    found = [(at, number) for at, number in found if not any(_is_cut(number, other) for other in said)]
    finals = [score.val_bpb for score in record.final_scores]
    finals += [fmean(finals)] if finals else []
    stated = {float(number): 10.0 ** (2 - len(number)) for number in _README_NUMBER.findall(text[:100_000])}
    # Where the artifact's score stands beside it, the reader has both.
    if not found or any(abs(value - final) <= step for value, step in stated.items() for final in finals):
        return
    at, written = found[0]
    claimed, step = float(written), 10.0 ** -(len(written) - 2)
    scores = [score for log in record.runs for score in log.scores if score.stage != "final"]
    for score in [score for score in scores if abs(score.val_bpb - claimed) < 0.6 * step][:1]:
        message = f"the README leads with {written}, a score before quantisation"
        yield error("score-pre-quantisation", message, at, score.at)


def _is_cut(number: str, other: str) -> bool:
    """Whether two written numbers are one, to the digits of the shorter."""
    digits = min(len(number), len(other)) - 2
    return abs(float(number) - float(other)) <= 10.0**-digits


def val_loss_unit(record: Record) -> Iterable[Finding]:
    """val_loss is nats per token; public files also hold nats per byte and bits per byte under that name."""
    loss, bpb = record.figure("val_loss"), record.figure("val_bpb")
    scored = [score for log in record.runs if (score := log.final_score) and score.val_loss]
    if loss is None or loss.value <= 0 or (bpb is not None and bpb.value <= 0):
        return
    if bpb is None:
        if scored and matches(loss, fmean(score.val_bpb for score in scored), 1e-5):
            losses = fmean(score.val_loss or 0.0 for score in scored)
            text = f"{loss} is bits per byte: the logs' val_bpb, whose val_loss is {losses:.5f}"
            yield error("val-loss-unit", text, loss.at)
        return
    ratio = bytes_per_token(loss.value, bpb.value)
    expected = [value for score in scored if (value := score.bytes_per_token)]
    if any(abs(ratio / value - 1) < 0.002 for value in expected) or (not expected and is_known_ratio(ratio)):
        return
    if abs(loss.value - bpb.value) < 1e-6:
        yield error("val-loss-unit", f"{loss.key} equals val_bpb: it is bits per byte", loss.at)
    elif abs(ratio - 1) < 0.002:
        text = f"{loss.key} is nats per byte (val_bpb x ln 2), not per token"
        yield info("val-loss-unit", text, loss.at)
    elif expected:
        known = f"the logs' is {expected[0]:.4f}"
        text = f"{loss.key} and {bpb.key} imply {ratio:.4f} bytes per token; {known}: of one run and stage?"
        yield info("val-loss-unit", text, loss.at, bpb.at)
    else:
        text = f"{loss.key} and {bpb.key} imply {describe_ratio(ratio)}"
        yield warning("bytes-per-token", text, loss.at, bpb.at)


def delta_unit(record: Record) -> Iterable[Finding]:
    """A difference stated in nats and in bits per byte shows whether its nats are per token or per byte."""
    submission = record.submission
    per_token = next((ratio for s in record.final_scores if (ratio := s.bytes_per_token)), None)
    if submission is None or per_token is None:
        return
    for key, value in submission.raw.items():
        bpb_key = key.replace("nats", "bpb")
        in_nats, in_bpb = _finite(value), _finite(submission.raw.get(bpb_key))
        if "nats" not in key or in_nats is None or not in_bpb:
            continue
        ratio = bytes_per_token(in_nats, in_bpb)
        level, text = info, f"{ratio:.3f} nats a bit: neither per token nor per byte"
        if abs(ratio / per_token - 1) < 0.03:
            level, text = info, "nats per token"
        elif abs(ratio - 1) < 0.03:
            level, text = info, "nats per byte; most entries mean nats per token"
        elif abs(in_nats / in_bpb - 1) < 0.03:
            level, text = error, "in bits per byte under the name of nats"
        yield level("nats-unit", f"{key} is {text}", submission.quote(key), submission.quote(bpb_key))


def is_known_ratio(ratio: float) -> bool:
    """Whether a public export has these bytes per token, sp2048 included, which few scores are on."""
    return find_export(ratio) is not None or abs(ratio / SP2048_BYTES_PER_TOKEN - 1) < 0.003


def describe_ratio(ratio: float) -> str:
    """Bytes per token that no public export has, with the nearest one's where that explains it."""
    text = f"{ratio:.4f} bytes per token, which no public export has"
    twice = [export for export in EXPORTS if 1.14 < ratio / export.bytes_per_token < 1.21]
    if twice:
        text += (
            f": {ratio / twice[0].bytes_per_token:.3f} times {twice[0].name}'s; the byte of a leading space "
        )
        text += "counted twice makes 1.17 to 1.18"
    return text


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def large_gain(record: Record) -> Iterable[Finding]:
    """A last stage far below the plain pass over the same artifact, or an n-gram cache, needs a person."""
    for log in record.runs:
        finals = [score for score in log.scores if score.stage == "final"]
        final = log.final_score
        plain = max(finals, key=lambda score: score.val_bpb, default=None)
        value = implied_bytes(log)
        if value is not None and not is_canonical(value):
            continue  # What accepted records gained, they gained on the challenge's text.
        if final and plain and plain.val_bpb - final.val_bpb > LARGE_GAIN_BPB:
            text = (
                f"the last stage gains {plain.val_bpb - final.val_bpb:.4f} bpb over {plain.label!r}; "
                "windows and score-first adaptation gave 0.02 to 0.04: do targets reach their own score?"
            )
            yield warning("gain-too-large", text, plain.at, final.at)
            break
    for at in [at for log in record.runs for at in log.marks.get("cache", [])][:1]:
        text = (
            "an n-gram cache: legal with a hint from the prefix and a softmax renormalised over the "
            "whole vocabulary (#1514), closed as a class otherwise (#677, #779)"
        )
        yield warning("ngram-cache", text, at)


def stale_label(record: Record) -> Iterable[Finding]:
    """A label that names another codec or stage than the model was packed and scored with."""
    for log in record.runs:
        packed = ([size.label for size in log.sizes_of("model")] or [""])[-1]
        used = _INTEGER_CODEC.search(packed)
        for score in [log.final_score, *log.scores] if log.final_score else []:
            named = _INTEGER_CODEC.search(score.label)
            if score.stage == "final" and named and used and named.group() != used.group():
                text = f"the label {score.label!r} is stale: the model was packed as {packed!r}"
                yield info("stale-label", text, score.at)
                return


def same_code(record: Record) -> Iterable[Finding]:
    """All seeds have to be runs of the same code (#1594, #2124); sizes of one kind are compared as sets."""
    first: dict[tuple[int, ...], tuple[ParsedLog, list[set[int]]]] = {}
    for log in record.runs:
        sizes = [{size.num_bytes for size in log.sizes_of(kind)} for kind in ("raw_code", "code")]
        same = [
            not any(one and two and not one & two for one, two in zip(sizes, other, strict=True))
            for _, other in first.values()
        ]
        if any(sizes) and not any(same):
            stated = dict.fromkeys(size.num_bytes for size in log.sizes_of("code", "raw_code"))
            first[tuple(stated)] = log, sizes
    if len(first) > 1:
        logs = {key: log for key, (log, _) in first.items()}
        stated = ", ".join(f"{'/'.join(f'{n:,}' for n in key)} ({log.file})" for key, log in logs.items())
        evidence = [log.sizes_of("code", "raw_code")[0].at for log in logs.values()]
        yield error("seeds-differ-code", f"the seeds ran different code: {stated} bytes", *evidence)


def same_configuration(record: Record) -> Iterable[Finding]:
    """All seeds have to be runs of the same configuration (#2124)."""
    logs = [log for log in record.runs if log.settings]
    if len({seed_of(log) for log in logs}) < len(logs):
        return
    for other in logs[1:]:
        first = logs[0]
        values = {
            name: [log.settings.get(name, ("absent", 0))[0] for log in (first, other)]
            for name in sorted(first.settings.keys() | other.settings.keys())
        }
        differing = [name for name, (one, two) in values.items() if not _same_value(one, two)]
        if differing:
            shown = differing[:MAX_SETTINGS_SHOWN]
            listed = ", ".join(f"{name} {' / '.join(values[name])}" for name in shown)
            evidence = [
                Quote(log.file, log.settings[name][1], f"{name}: {log.settings[name][0]}")
                for log in (first, other)
                for name in shown
                if name in log.settings
            ]
            text = f"{first.file} and {other.file} ran different configurations: {listed}"
            yield error("seeds-differ-config", text, *evidence)
            return


def _same_value(one: str, two: str) -> bool:
    """Whether two printed settings are one value: sets and dicts print in any order, numbers in any form."""
    if one == two:
        return True
    if one[:1] == two[:1] == "{" or "set(" in one[:10]:
        return sorted(_ITEM.findall(one)) == sorted(_ITEM.findall(two))
    try:
        return float(one) == float(two)
    except ValueError:
        return one.strip("\"'").casefold() == two.strip("\"'").casefold()


def claimed_seeds_logged(record: Record) -> Iterable[Finding]:
    """Each seed the JSON names has to have its log, and each log the seed that its name says."""
    submission = record.submission
    logs = [log for log in record.logs if log.has_content]
    for log in logs:
        stated, named = log.facts.get("seed"), named_seed(log)
        if stated and named is not None and int(stated.value) != named:
            text = f"is named after seed {named} and states seed {int(stated.value)}"
            # train_seed1.log to train_seed3.log may count the runs: an error where 1 is a seed of the claim.
            claimed = submission.seeds if submission else ()
            counts = named <= len(logs)
            level = error if named in claimed and not counts else info if counts else warning
            yield level("seed-name", text, stated.at)
    if submission and logs:
        present = {seed_of(log) for log in logs}
        missing = [str(seed) for seed in submission.seeds if seed not in present]
        text = ""
        if missing and None not in present:
            text = f"no log of seed {', '.join(missing)}, which the JSON names"
        elif missing and len(logs) < len(submission.seeds):
            text = f"the JSON names {len(submission.seeds)} seeds, the folder holds {len(logs)} logs"
        if text:
            yield error("seed-missing", text, submission.quote("seeds"))
    by_run: dict[object, ParsedLog] = {}
    for log in logs:
        twin = by_run.setdefault(fingerprint(log), log) if len(log.scores) >= 3 else log
        if seed_of(twin) != seed_of(log):
            text = f"{twin.file} and {log.file} hold the same run under two seeds"
            yield error("seed-twice", text, Quote(twin.file), Quote(log.file))


def enough_seeds(record: Record) -> Iterable[Finding]:
    """A record of the 10-minute track is usually shown on three seeds."""
    runs = record.runs
    if record.track == "10min" and 0 < len(runs) < RECORD_SEEDS:
        plural = "s" if len(runs) > 1 else ""
        yield info("few-seeds", f"{len(runs)} run{plural}; a record is usually shown on {RECORD_SEEDS} seeds")
    files, copies = {run.file for run in runs}, {fingerprint(run) for run in runs}
    others = [log for log in record.logs if log.has_content and log.file not in files]
    others = [log.file for log in others if fingerprint(log) not in copies]
    if others:
        runs_left = f"{len(others)} further run{'s' if len(others) > 1 else ''}"
        yield info("other-runs", f"{runs_left}, not part of the claim: {', '.join(others[:4])}")


def deviations(record: Record) -> Iterable[Finding]:
    """The JSON's standard deviation has to follow from the logs."""
    figure = record.figure("val_bpb_std")
    values = [score.val_bpb for score in record.final_scores]
    if figure is None or len(values) < 2 or matches(figure, statistics.stdev(values), 1e-6):
        return
    sample, population = statistics.stdev(values), statistics.pstdev(values)
    if matches(figure, population, 1e-6):
        text = f"{figure.written} divides by n; the sample deviation of the seeds is {sample:.6f}"
        yield info("std-population", text, figure.at)
    else:
        text = f"{figure}; the logs give {sample:.6f} (n - 1) or {population:.6f} (n)"
        yield info("std-unsupported", text, figure.at)


def seed_results(record: Record) -> Iterable[Finding]:
    """Each seed's figures in the JSON have to be its log's."""
    submission = record.submission
    runs = {seed_of(log): log for log in record.runs}
    for seed, figures in submission.seed_results.items() if submission else ():
        log = runs.get(seed)
        if submission is None or log is None:
            continue
        score, total = log.final_score, record.total(log)
        totals = [total.logged.num_bytes, total.shipped_bytes] if total else []
        totals += [size.num_bytes for size in log.sizes_of("model")]
        stated = {
            "val_bpb": [score.stated, *(s.stated for s in log.scores)] if score else [],
            "val_loss": [(s.val_loss, 1e-4) for s in log.scores if s.val_loss] if score else [],
            "bytes_total": [(float(value), 1.0) for value in totals],
            "steps": stated_steps(record.facts("steps", [log])),
            "train_seconds": [(value, 2.0) for value in stated_times([log], "train_seconds")],
        }
        off = {
            meaning: f"{figure} against {values[0][0]:,.10g}"
            for meaning, values in stated.items()
            if (figure := figures.get(meaning)) and values and not is_stated(figure, values)
        }
        if off:
            text = f"seed {seed}: {'; '.join(off.values())} in its log"
            elsewhere = [s.stated for log in record.distinct_logs for s in log.scores]
            is_far = score and "val_bpb" in off and abs(figures["val_bpb"].value - score.val_bpb) > FAR_BPB
            level = error if is_far and not is_stated(figures["val_bpb"], elsewhere) else info
            yield level("seed-result-unsupported", text, submission.quote(str(seed)), Quote(log.file))


SEED_TOLERANCE = 1e-4
"""Relative difference that the implied bytes of one folder's seeds may have."""
RATIO_TOLERANCE = 5e-4
"""Relative difference that val_loss / val_bpb may have within a log, besides rounding: stages cut the end of
the text differently."""
MAX_RATIO_OFF = 0.01
"""Relative difference from the bytes per token of the export that a log names, its cut end included."""
LEAKING_TRAIN_SHARDS = 1499
"""Training shards of the CaseOps export that trains on validation documents."""

SP2048_BYTES_PER_TOKEN = 2.961
TWICE_SPACE = 1.1746
"""Bytes counted for one byte where the leading space counts twice: sp8192, first million tokens (#1734)."""
_SPACE_IN_TABLE = re.compile(
    r"len\(\s*\w+(?:\[1:\]|\.lstrip\([^)\n]{0,12}\)|\.replace\([^)\n]{0,24}\))?"
    r"\.encode\([^)\n]{0,12}\)\s*\)\s*\+\s*(?:1\b|int\(|has_)"
)
_SPACE_ADDED = re.compile(r"has_?(?:leading_?)?space\w*\[[^\]\n]{1,40}\]\s*&\s*~")
_CONSTANT_RATIO = re.compile(
    r"(?:log\(2(?:\.0*)?\)|LN2|LOG2)\s*\*\s*[1-9]\.\d+\s*\)|/\s*[1-9]\.\d+\s*/\s*math\.log\(2"
)
_README_NATS = re.compile(r"(\d\.\d{3,8})\**\s*nats\b|val_loss\W{0,12}(\d\.\d{3,8})")
_COUNT = re.compile(r"\b(?:N_|num_)?bytes\s*[:=]\s*(\d[\d,]*)", re.I)


def canonical_bytes(record: Record) -> Iterable[Finding]:
    """val_loss / ln 2 x tokens / val_bpb has to be the canonical 151.08 million."""
    for log in record.runs:
        value, score = implied_bytes(log), log.final_score or log.unquantized_score
        if value is None or score is None or is_canonical(value):
            continue
        tokens = log.facts.get("val_tokens")
        at = [score.at, *([tokens.at] if tokens else [])]
        if score.num_bytes:
            yield _stated_bytes(record, value, score.num_bytes, at)
            return
        cause, ratio = find_cause(value), score.bytes_per_token
        if ratio and abs(ratio - 1) < RATIO_TOLERANCE and value < 1e8:
            text = "val_bpb is val_loss / ln 2: bits per token, not per byte"
            yield warning("implied-bytes", text, *at)
            break
        level = error if cause and cause.is_partial else warning
        yield level("implied-bytes", f"val_loss, val_bpb and tokens imply {describe_bytes(value)}", *at)
        break
    for log in record.runs:
        score = log.final_score or log.unquantized_score
        ratio = score.bytes_per_token if score else None
        if score is None or ratio is None or score.num_tokens or "val_tokens" in log.facts:
            continue
        named = next((export for export in EXPORTS if export.name == log.vocabulary), None)
        if named and abs(ratio / named.bytes_per_token - 1) > MAX_RATIO_OFF:
            text = f"val_loss and val_bpb imply {ratio:.4f} bytes per token, "
            text += f"{ratio / named.bytes_per_token:.3f} times those of {named.name}"
            yield warning("bytes-per-token", text, score.at)
            return
        if not is_known_ratio(ratio):
            text = f"val_loss and val_bpb imply {describe_ratio(ratio)}; no token count is stated"
            yield warning("bytes-per-token", text, score.at)
            return


def counting_code(record: Record) -> Iterable[Finding]:
    """Scripts that count the byte of a leading space twice, or take a constant for bytes per token."""
    if any((value := implied_bytes(log)) and is_canonical(value) for log in record.runs):
        return
    for script in record.scripts:
        table, added = _SPACE_IN_TABLE.search(script.source), _SPACE_ADDED.search(script.source)
        if table and added:
            text = "the byte of a leading space is in the table and is added again where bytes are summed"
            yield warning("implied-bytes", text, script.quote(table.start()), script.quote(added.start()))
        if constant := _CONSTANT_RATIO.search(script.source):
            text = "bits per byte from a constant number of bytes per token, whatever the tokens are"
            yield warning("bytes-per-token", text, script.quote(constant.start()))


def readme_nats(record: Record) -> Iterable[Finding]:
    """A README that states nats per token beside bits per byte states bytes per token."""
    if record.readme is None or any(log.final_score and log.final_score.val_loss for log in record.runs):
        return
    name, text = record.readme
    for number, line in enumerate(text.split("\n")[:_README_LINES], 1):
        bpb, nats = _README_BPB.search(line), _README_NATS.search(line)
        if bpb and nats:
            ratio = bytes_per_token(float(nats[1] or nats[2]), float(bpb[1]))
            if (
                ratio > 2
                and find_export(ratio) is None
                and any(abs(ratio / e.bytes_per_token / TWICE_SPACE - 1) < 0.02 for e in EXPORTS)
            ):
                text = f"val_loss and val_bpb imply {describe_ratio(ratio)}"
                yield warning("bytes-per-token", text, Quote(name, number, line))
            return


def _stated_bytes(record: Record, value: float, stated: int, at: list[Quote]) -> Finding:
    if abs(value / stated - 1) > SEED_TOLERANCE:
        text = f"val_loss, val_bpb and tokens imply {value:,.0f} bytes; the same line states {stated:,}"
        return error("implied-bytes", text, *at)
    text = f"scored {stated:,} bytes: not the challenge's text of 151.08 million, so not comparable with it"
    return (warning if record.track == "10min" else info)("other-text", text, *at)


def bytes_agree(record: Record) -> Iterable[Finding]:
    """The seeds of one folder have to imply the same bytes."""
    found = sorted((value, log.file, log) for log in record.runs if (value := implied_bytes(log)))
    if len(found) < 2:
        return
    (low, _, low_log), (high, _, high_log) = found[0], found[-1]
    tokens = {log.fact("val_tokens") for _, _, log in found}
    if high / low - 1 > SEED_TOLERANCE and len(tokens) == 1:
        text = f"the seeds imply {low / 1e6:.3f} to {high / 1e6:.3f} million bytes: not scored alike"
        evidence = [log.final_score.at for log in (low_log, high_log) if log.final_score]
        yield warning("implied-bytes-differ", text, *evidence)
    elif len(tokens) > 1:
        counts = ", ".join(f"{value:,.0f}" for value in sorted(token for token in tokens if token))
        yield warning("val-tokens-differ", f"the seeds' validation sets differ: {counts} tokens")


def ratio_constant(record: Record) -> Iterable[Finding]:
    """val_loss / val_bpb depends on text and tokenizer; if it changes within a log, the counting changed."""
    for log in record.runs:
        usable = [(ratio, score) for score in log.scores if (ratio := score.bytes_per_token)]
        for ratio, score in usable:
            last_ratio, last = usable[-1]
            rounding = sum(
                0.6 * s.resolution * (1 / s.val_bpb + 1 / s.val_loss) for s in (score, last) if s.val_loss
            )
            if abs(ratio / last_ratio - 1) > RATIO_TOLERANCE + rounding:
                text = "val_loss / val_bpb changes within the log: another text, or bytes counted otherwise"
                yield info("ratio-changes", text, score.at, last.at)
                return


def whole_set(record: Record) -> Iterable[Finding]:
    """Lines that show a part of the validation text, and the shard count of the leaking CaseOps export."""
    for log in record.runs:
        for at in log.marks.get("partial", [])[:1]:
            count = _COUNT.search(at.text)
            num_bytes = int(count.group(1).replace(",", "")) if count else 0
            if 0 < num_bytes < 0.98 * CANONICAL_BYTES:
                share = 100 * num_bytes / CANONICAL_BYTES
                text = f"scored {num_bytes:,} bytes, {share:.0f}% of the validation text"
                text += ": is this line's score the one claimed?"
                yield warning("partial-validation", text, at)
            elif count and not is_canonical(num_bytes):
                yield warning("bytes-miscounted", f"counts {describe_bytes(num_bytes)}", at)
            elif not count:
                yield warning("partial-validation", "scores a part of the validation text", at)
        for at in log.marks.get("vocabulary", [])[:1]:
            text = "warns that the model's vocabulary is not the tokenizer's: tokens beyond it are not graded"
            yield warning("vocab-mismatch", text, at)
        shards = log.facts.get("train_shards")
        if shards and shards.value == LEAKING_TRAIN_SHARDS:
            text = "1,499 training shards: the CaseOps export that trains on validation documents (#2127)"
            yield warning("train-val-overlap", text, shards.at)
            return


def known_export(record: Record) -> Iterable[Finding]:
    """Names the export that was scored, if it is a known one."""
    for log in record.runs[:1]:
        score, value = log.final_score, implied_bytes(log)
        if score and score.bytes_per_token and value and is_canonical(value):
            if export := find_export(score.bytes_per_token):
                text = f"{export.name}: implied {value / 1e6:.3f} million bytes, the whole validation text"
                yield info("export", text, score.at)


RULES = (
    *(final_score, claim_supported, readme_claim, val_loss_unit, delta_unit, large_gain, stale_label),
    *(same_code, same_configuration, claimed_seeds_logged, enough_seeds, deviations, seed_results),
    *(canonical_bytes, counting_code, readme_nats, bytes_agree, ratio_constant, whole_set, known_export),
)
