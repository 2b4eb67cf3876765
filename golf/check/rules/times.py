"""Rules on time: 600 s of training and a further 600 s of evaluation in the 10-minute track."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from golf.check.claims import Record, matches
from golf.check.findings import Evidence, Finding, error, info, warning
from golf.check.logs.read import ParsedLog

BUDGET_SECONDS = 600.0
CUSTOMARY_SECONDS = 0.5
"""A run that stops after the step in which time ran out is this late at most; half the public ones are."""
CLEAR_SECONDS = 1.0
"""From here on it is over: a seed of 601.15 s was run again for that reason (#1908, #1956)."""
RECORD_GPUS = 8


def within_budget(record: Record) -> Iterable[Finding]:
    """The limits of the 10-minute track alone."""
    if record.folder.track == "10min":
        for rule in (_training, _calibration, _evaluation, _hardware):
            yield from rule(record)


def _training(record: Record) -> Iterable[Finding]:
    """Training has to end within 600 s."""
    late = [fact for fact in record.facts("train_seconds") if fact.value > BUDGET_SECONDS]
    if not late:
        return
    worst = max(fact.value for fact in late)
    over = worst - BUDGET_SECONDS - max(fact.resolution for fact in late) / 2
    evidence = [fact.line.evidence for fact in late]
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
    both = [
        (train, hessians)
        for log in record.runs
        if (train := log.facts.get("train_seconds")) and (hessians := log.facts.get("hessian_seconds"))
    ]
    if not both:
        return
    train, hessians = max(both, key=lambda facts: facts[0].value + facts[1].value)
    total = train.value + hessians.value
    if total > BUDGET_SECONDS and train.value and hessians.value:
        text = (
            f"training {train.value:.1f} s and Hessians {hessians.value:.1f} s make {total:.1f}: calibration "
            "reads training text; what did the 600 s hold?"
        )
        yield warning("calibration-over-budget", text, train.line.evidence, hessians.line.evidence)


def _evaluation(record: Record) -> Iterable[Finding]:
    """Evaluation has to end within a further 600 s, of the machine and not of each GPU."""
    for log in record.runs:
        stages = [(s.eval_seconds, s) for s in log.scores if s.stage == "final" and s.eval_seconds]
        total, final = log.facts.get("total_eval_seconds"), log.final_score
        seconds, longest = max(stages, key=lambda stage: stage[0], default=(0.0, final))
        together = sum(seconds for seconds, _ in stages)
        if total and total.value > BUDGET_SECONDS:
            text = f"{total.value:,.1f} s of evaluation; the track allows 600"
            yield error("eval-over-budget", text, total.line.evidence)
            return
        if longest and seconds > BUDGET_SECONDS:
            level = error if final and abs(longest.val_bpb - final.val_bpb) < 1e-4 else warning
            text = f"{seconds:,.1f} s for one stage of evaluation; the track allows 600"
            yield level("eval-over-budget", text, longest.line.evidence)
            return
        if total is None and together > BUDGET_SECONDS:
            text = f"the stages of evaluation take {together:,.1f} s together: is each needed for the score?"
            yield warning("eval-over-budget", text, *(score.line.evidence for _, score in stages))
            return
    for log in record.runs:
        warmup, total = log.facts.get("warmup_seconds"), log.facts.get("total_eval_seconds")
        if warmup and total and warmup.value + total.value > BUDGET_SECONDS:
            text = (
                f"evaluation {total.value:.1f} s and {warmup.value:.1f} s of compile warm-up before its "
                f"clock make {warmup.value + total.value:.1f}; warm-up without validation tokens is customary"
            )
            yield info("eval-warmup-outside", text, warmup.line.evidence, total.line.evidence)
            return


def _hardware(record: Record) -> Iterable[Finding]:
    """The 10-minute track runs on eight H100."""
    for log in record.runs:
        world = log.facts.get("world_size")
        if world and world.value != RECORD_GPUS:
            text = f"ran on {world.value:.0f} GPU; the track's machine has {RECORD_GPUS}"
            yield warning("hardware", text, world.line.evidence)
            return
        if log.gpus and not all("H100" in name for name in log.gpus):
            text = f"ran on {log.gpus[0]}; the track's machine has H100"
            yield warning("hardware", text, Evidence(log.file))
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
        if not is_budget and not is_wall_clock:
            stated = ", ".join(f"{value:,.1f}" for value in dict.fromkeys(values))
            yield warning("time-unsupported", f"{figure}; the logs state {stated} s", figure.evidence)


def stated_times(logs: Sequence[ParsedLog], meaning: str) -> list[float]:
    """Seconds of training, without and with calibration, or of evaluation (`eval_seconds`), by run."""
    if meaning == "train_seconds":
        known = [(fact.value, log) for log in logs if (fact := log.facts.get(meaning))]
        whole = [train + (log.fact("hessian_seconds") or 0.0) for train, log in known]
        return [train for train, _ in known] + whole
    totals = [fact.value for log in logs if (fact := log.facts.get("total_eval_seconds"))]
    return totals or [s.eval_seconds for log in logs if (s := log.final_score) and s.eval_seconds]


RULES = (within_budget, claimed_times)
