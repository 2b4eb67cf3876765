"""Rules on limits: 16,000,000 bytes, and in the 10-minute track 600 s of training and 600 s of evaluation."""

import re
from collections.abc import Iterable, Sequence
from statistics import fmean

from golf.check.findings import Finding, Quote, error, info, warning
from golf.check.logs import UNCOMPRESSED_FROM, ParsedLog, is_uncompressed
from golf.check.record import Record, is_side_run, matches, packed_alone
from golf.check.submission import Figure
from golf.data.reference import LIMIT_BYTES

MIN_ARTIFACT_BYTES = 100_000
"""A smaller file is not the packed weights."""
BUDGET_SECONDS = 600.0
CUSTOMARY_SECONDS = 0.5
"""A run that stops after the step in which time ran out is this late at most; half the public ones are."""
CLEAR_SECONDS = 1.0
"""From here on it is over: a seed of 601.15 s was run again for that reason (#1908, #1956)."""
RECORD_GPUS = 8
NEAR_SIZE = 0.005
"""A claimed total this near to a logged one is of another packing of the code, or rounded."""


def within_limit(record: Record) -> Iterable[Finding]:
    """No run's code and weights may exceed the limit; where two sums exist, the shipped one counts."""
    over = [total for total in record.totals if total.is_over]
    if over:
        largest = max(over, key=lambda total: total.shipped_bytes)
        differs = largest.shipped_bytes != largest.logged.num_bytes
        text = (
            f"{largest.shipped_bytes:,} bytes of code and weights, {largest.shipped_bytes - LIMIT_BYTES:,} "
            f"over the limit of {LIMIT_BYTES:,} ({len(over)} of {len(record.totals)} runs; "
            f"{'packed script as shipped' if differs else 'as the log charges it'})"
        )
        evidence = [total.logged.at for total in over]
        if is_uncompressed(largest.logged):
            yield warning("size-over-limit", text + ": is that uncompressed?", *evidence)
        else:
            yield error("size-over-limit", text, *evidence)
    yield from _weights_alone(record)
    yield from _other_runs(record)
    for total in record.totals:
        if total.logged.says_fits and total.logged.num_bytes > LIMIT_BYTES * 1.005:
            text = f"calls {total.logged.num_bytes:,} bytes within the limit"
            yield error("size-says-fits", text, total.logged.at)


def _weights_alone(record: Record) -> Iterable[Finding]:
    """Runs whose log states the weights without the code, or says in words that it does not fit."""
    script = record.script
    for log in record.runs:
        weights, says_over = packed_alone(log), log.marks.get("over", [])
        if weights and weights.num_bytes - weights.half_step > LIMIT_BYTES:
            text = f"{weights.num_bytes:,} bytes of weights alone, over the limit of {LIMIT_BYTES:,}"
            unsure = weights.kind == "raw_model" or is_uncompressed(weights)
            yield (warning if unsure else error)("size-over-limit", text, weights.at)
            return
        if weights and script and weights.num_bytes - weights.half_step + script.num_bytes > LIMIT_BYTES:
            text = f"{weights.num_bytes:,} bytes and {script.num_bytes:,} of {script.file} are over the "
            text += f"limit of {LIMIT_BYTES:,}: does the log's figure hold the code?"
            # "Artifact" is the weights in some scripts and the whole in others.
            level = info if re.search(r"artifact|submission", weights.label, re.I) else warning
            yield level("size-over-limit", text, weights.at, Quote(script.file))
            return
        if says_over and not any(size.at.line >= says_over[-1].line for size in log.sizes_of("total")):
            if record.total(log) is None:
                yield error("size-over-limit", "the log says that it does not fit", says_over[-1])
                return


def _other_runs(record: Record) -> Iterable[Finding]:
    """Runs that are not of the claim: a person has to decide, unless the log's name says what it is."""
    over: list[tuple[int, Quote, bool]] = []
    for log in [*record.others, *record.summaries]:
        total, weights = record.total(log), packed_alone(log)
        size = total.logged if total and total.is_over else weights
        if size and LIMIT_BYTES < size.num_bytes - size.half_step <= UNCOMPRESSED_FROM:
            over.append((size.num_bytes, size.at, is_side_run(log)))
    for is_side, level in ((False, warning), (True, info)):
        sizes = [size for size in over if size[2] == is_side]
        if sizes:
            most = max(size[0] for size in sizes)
            text = f"{len(sizes)} logs that are not of the claim: up to {most:,} bytes, over the limit"
            yield level("size-over-limit", text, *(at for _, at, _ in sizes))


def both_sums(record: Record) -> Iterable[Finding]:
    """Both sums, where the script is packed or the log charges packed code."""
    differing = [total for total in record.totals if total.shipped_bytes != total.logged.num_bytes]
    for total in differing[:1]:
        text = f"the log charges {total.logged.num_bytes:,} bytes with readable code; with the packed script "
        text += f"as shipped it is {total.shipped_bytes:,}, and that counts"
        yield info("size-two-sums", text, total.logged.at)
    for total in record.totals[:1]:
        raw = next((size for size in total.log.sizes_of("code", "raw_code") if size.kind == "raw_code"), None)
        if raw and total.code_bytes and raw.num_bytes > total.code_bytes:
            readable = total.logged.num_bytes - total.code_bytes + raw.num_bytes
            text = f"the log charges {total.logged.num_bytes:,} bytes with {total.code_bytes:,} of packed "
            text += f"code; with readable code it is {readable:,} (both conventions were accepted)"
            yield info("size-two-sums", text, raw.at)


def claimed_sizes(record: Record) -> Iterable[Finding]:
    """The JSON's total has to be the largest seed's, its code size one that a log states or a file has."""
    figure = record.figure("bytes_total")
    claimed = record.submission.totals if record.submission else []
    over = [total for total in claimed if total.value - total.half_step > LIMIT_BYTES]
    if over:
        most = max(over, key=lambda total: total.value)
        text = f"claims {most.value:,.0f} bytes, over the limit of {LIMIT_BYTES:,}"
        yield error("size-claimed-over-limit", text, *dict.fromkeys(total.at for total in over))
    if figure:
        if figure.assumed:
            text = f"{figure.key}: {figure.written} names no unit; read as {figure.assumed}"
            yield info("size-unit", text, figure.at)
        if record.totals and not record.foreign:
            yield from _explain_total(figure, record)
    figure, script = record.own_figure("bytes_code"), record.script
    known = {size.num_bytes for log in record.runs for size in log.sizes_of("code", "raw_code")}
    stated = known | ({script.num_bytes, script.unpacked_bytes} if script else set())
    if figure and known and not any(abs(figure.value - value) <= figure.half_step for value in stated):
        listed = ", ".join(f"{value:,}" for value in sorted(stated))
        text = f"{figure.key} {figure.value:,.0f} is stated by no log; they state {listed}"
        yield info("code-size-unsupported", text, figure.at)


def _explain_total(figure: Figure, record: Record) -> Iterable[Finding]:
    """What the claimed total is, if not the largest seed's."""
    logged = [total.logged.num_bytes for total in record.totals]
    shipped = [total.shipped_bytes for total in record.totals]
    models = [size.num_bytes for total in record.totals for size in total.log.sizes_of("model")]
    if matches(figure, max(shipped)) or matches(figure, max(logged)):
        return
    if len(logged) > 1 and matches(figure, fmean(logged), 1.0):
        text = f"{figure.key} is the mean of the seeds; the largest counts, {max(shipped):,}"
        yield info("size-is-mean", text, figure.at)
    elif any(matches(figure, value) for value in logged + shipped):
        text = f"{figure.key} is one seed's; the largest has {max(shipped):,}"
        yield info("size-not-largest", text, figure.at)
    elif any(matches(figure, value) for value in models):
        yield info("size-weights-only", f"{figure.key} is the weights alone, without code", figure.at)
    else:
        stated = ", ".join(f"{value:,}" for value in logged)
        text = f"{figure.key} {figure.value:,.0f} is stated by no log; they state {stated}"
        hides = figure.value <= LIMIT_BYTES and any(total.is_over for total in record.totals)
        is_near = any(abs(figure.value / value - 1) < NEAR_SIZE for value in logged + shipped)
        level = error if hides else info if is_near else warning
        yield level("size-unsupported", text, figure.at, *(total.logged.at for total in record.totals))


def shipped_artifacts(record: Record) -> Iterable[Finding]:
    """Packed weights in the folder are measured themselves, with the script."""
    script = record.script
    if script is None:
        return
    for entry in record.artifacts:
        total = entry.num_bytes + script.num_bytes
        if entry.num_bytes > MIN_ARTIFACT_BYTES and LIMIT_BYTES < total < 2 * LIMIT_BYTES:
            text = f"{entry.name} and {script.file} have {total:,} bytes, over the limit of {LIMIT_BYTES:,}"
            yield error("size-measured-over-limit", text, Quote(entry.name), Quote(script.file))


def within_budget(record: Record) -> Iterable[Finding]:
    """The limits of the 10-minute track alone."""
    if record.track == "10min":
        for rule in (_training, _calibration, _evaluation, _hardware):
            yield from rule(record)


def _training(record: Record) -> Iterable[Finding]:
    """Training has to end within 600 s."""
    late = [fact for fact in record.facts("train_seconds") if fact.value > BUDGET_SECONDS]
    if not late:
        return
    worst = max(fact.value for fact in late)
    over = worst - BUDGET_SECONDS - max(fact.resolution for fact in late) / 2
    evidence = [fact.at for fact in late]
    if over > CLEAR_SECONDS:
        yield error("train-over-budget", f"{worst:,.1f} s of training; the track allows 600", *evidence)
    elif over > CUSTOMARY_SECONDS:
        text = f"{worst:.2f} s of training, {over:.2f} over: more than the step in which time ran out?"
        yield warning("train-over-budget", text, *evidence)
    elif over > 0:
        text = f"{worst:.3f} s of training: the last step ended {1000 * over:.0f} ms late, as is customary"
        yield info("train-overshoot", text, *evidence)


def _calibration(record: Record) -> Iterable[Finding]:
    """Calibration reads training text, so it belongs to the training time (#593, #609, #1868, #1950)."""
    names = {"train_seconds", "hessian_seconds"}
    both = [log.facts for log in record.runs if log.facts.keys() >= names]
    sums = [sum(facts[name].value for name in names) for facts in both]
    if not both:
        return
    facts = both[sums.index(max(sums))]
    train, hessians = facts["train_seconds"], facts["hessian_seconds"]
    total = train.value + hessians.value
    if total > BUDGET_SECONDS and train.value and hessians.value:
        text = (
            f"training {train.value:.1f} s and Hessians {hessians.value:.1f} s make {total:.1f}: calibration "
            "reads training text; what did the 600 s hold?"
        )
        level = warning if total > BUDGET_SECONDS + CLEAR_SECONDS else info
        yield level("calibration-over-budget", text, train.at, hessians.at)


def _evaluation(record: Record) -> Iterable[Finding]:
    """Evaluation has to end within a further 600 s, of the machine and not of each GPU."""
    for log in record.runs:
        stages = [(s.eval_seconds, s) for s in log.scores if s.stage == "final" and s.eval_seconds]
        total, final = log.facts.get("total_eval_seconds"), log.final_score
        seconds, longest = max(stages, key=lambda stage: stage[0], default=(0.0, final))
        together = sum(seconds for seconds, _ in stages)
        if total and total.value > BUDGET_SECONDS:
            text = f"{total.value:,.1f} s of evaluation; the track allows 600"
            yield error("eval-over-budget", text, total.at)
            return
        if longest and seconds > BUDGET_SECONDS:
            level = error if final and abs(longest.val_bpb - final.val_bpb) < 1e-4 else info
            text = f"{seconds:,.1f} s for one stage of evaluation; the track allows 600"
            yield level("eval-over-budget", text, longest.at)
            return
        if total is None and together > BUDGET_SECONDS:
            text = f"the stages of evaluation take {together:,.1f} s together: is each needed for the score?"
            yield info("eval-over-budget", text, *(score.at for _, score in stages))
            return
    for log in record.runs:
        warmup, total = log.facts.get("warmup_seconds"), log.facts.get("total_eval_seconds")
        if warmup and total and warmup.value + total.value > BUDGET_SECONDS:
            text = (
                f"evaluation {total.value:.1f} s and {warmup.value:.1f} s of compile warm-up before its "
                f"clock make {warmup.value + total.value:.1f}; warm-up without validation tokens is customary"
            )
            yield info("eval-warmup-outside", text, warmup.at, total.at)
            return


def _hardware(record: Record) -> Iterable[Finding]:
    """The 10-minute track runs on eight H100."""
    for log in record.runs:
        world = log.facts.get("world_size")
        if world and world.value != RECORD_GPUS:
            text = f"ran on {world.value:.0f} GPU; the track's machine has {RECORD_GPUS}"
            yield warning("hardware", text, world.at)
            return
        if log.gpus and not all("H100" in name for name in log.gpus):
            text = f"ran on {log.gpus[0]}; the track's machine has H100"
            yield warning("hardware", text, Quote(log.file))
            return


def claimed_times(record: Record) -> Iterable[Finding]:
    """The JSON's times have to be the logs'."""
    for meaning in ("train_seconds", "eval_seconds"):
        figure = record.own_figure(meaning)
        values = stated_times(record.runs, meaning)
        if figure is None or not values:
            continue
        near = [value for value in (*values, fmean(values)) if value]
        if any(matches(figure, value, 2.0) or abs(figure.value / value - 1) < 0.005 for value in near):
            continue
        # The budget itself, or a clock around training, is not a measurement of the training time.
        is_budget = figure.value in (600.0, 4800.0) and figure.value >= max(values) - 20
        is_wall_clock = meaning == "train_seconds" and "wall" in figure.key and figure.value > max(values)
        # A clock around evaluation holds loading too, which a log without a total does not count.
        totals = [log for log in record.runs if "total_eval_seconds" in log.facts]
        is_wall_clock |= meaning == "eval_seconds" and not totals and figure.value > max(values)
        if not is_budget and not is_wall_clock:
            stated = ", ".join(f"{value:,.1f}" for value in dict.fromkeys(values))
            yield info("time-unsupported", f"{figure}; the logs state {stated} s", figure.at)


def stated_times(logs: Sequence[ParsedLog], meaning: str) -> list[float]:
    """Seconds of training, without and with calibration, or of evaluation (`eval_seconds`), by run."""
    if meaning == "train_seconds":
        known = [(fact.value, log) for log in logs if (fact := log.facts.get(meaning))]
        whole = [train + (log.fact("hessian_seconds") or 0.0) for train, log in known]
        return [train for train, _ in known] + whole
    totals = [fact.value for log in logs if (fact := log.facts.get("total_eval_seconds"))]
    return totals or [s.eval_seconds for log in logs if (s := log.final_score) and s.eval_seconds]


RULES = (within_limit, both_sums, claimed_sizes, shipped_artifacts, within_budget, claimed_times)
