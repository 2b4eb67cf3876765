"""Rules on time: 600 s of training and a further 600 s of evaluation in the 10-minute track."""

from collections.abc import Iterable

from golf.check.claims import at_fact, at_score, entry_runs, matches, mean
from golf.check.findings import Evidence, Finding, defect, doubt, note
from golf.check.folder import Folder
from golf.check.logs.read import ParsedLog
from golf.check.rules.origin import find_foreign

BUDGET_SECONDS = 600.0
CUSTOMARY_SECONDS = 0.5
"""A run that stops after the step in which time ran out is this late at most; half the public ones are."""
CLEAR_SECONDS = 1.0
"""From here on it is over: a seed of 601.15 s was run again for that reason (#1908, #1956)."""
RECORD_GPUS = 8


def training_time(folder: Folder) -> Iterable[Finding]:
    """Training has to end within 600 s."""
    if folder.track != "10min":
        return
    late = [(log, fact) for log in entry_runs(folder) if (fact := log.facts.get("train_seconds"))]
    late = [(log, fact) for log, fact in late if fact.value > BUDGET_SECONDS]
    if not late:
        return
    worst = max(fact.value for _, fact in late)
    over = worst - BUDGET_SECONDS - max(fact.resolution for _, fact in late) / 2
    evidence = [at_fact(log, fact) for log, fact in late]
    if over > CLEAR_SECONDS:
        yield defect("train-over-budget", f"{worst:,.1f} s of training; the track allows 600", *evidence)
    elif over > CUSTOMARY_SECONDS:
        text = f"{worst:.2f} s of training, {over:.2f} over: more than the step in which time ran out?"
        yield doubt("train-over-budget", text, *evidence)
    elif over > 0:
        text = f"{worst:.3f} s of training: the last step ended {1000 * over:.0f} ms late, as is customary"
        yield note("train-overshoot", text, *evidence)


def calibration_time(folder: Folder) -> Iterable[Finding]:
    """Calibration reads training text, so it belongs to the training time (#593, #609, #1868, #1950)."""
    if folder.track != "10min":
        return
    worst: tuple[float, ParsedLog] | None = None
    for log in entry_runs(folder):
        train, hessians = log.fact("train_seconds"), log.fact("hessian_seconds")
        if train and hessians and (worst is None or train + hessians > worst[0]):
            worst = (train + hessians, log)
    if worst and worst[0] > BUDGET_SECONDS:
        total, log = worst
        train, hessians = log.facts["train_seconds"], log.facts["hessian_seconds"]
        text = (
            f"training {train.value:.1f} s and Hessians {hessians.value:.1f} s make {total:.1f}: calibration "
            "reads training text; what did the 600 s hold?"
        )
        yield doubt("calibration-over-budget", text, at_fact(log, train), at_fact(log, hessians))


def evaluation_time(folder: Folder) -> Iterable[Finding]:
    """Evaluation has to end within a further 600 s, of the machine and not of each GPU."""
    if folder.track != "10min":
        return
    for log in entry_runs(folder):
        stages = [s for s in log.scores if s.stage == "final" and s.eval_seconds]
        total = log.facts.get("total_eval_seconds")
        longest = max(stages, key=lambda score: score.eval_seconds or 0.0, default=None)
        if total and total.value > BUDGET_SECONDS:
            text = f"{total.value:,.1f} s of evaluation; the track allows 600"
            yield defect("eval-over-budget", text, at_fact(log, total))
            return
        if longest and (longest.eval_seconds or 0.0) > BUDGET_SECONDS:
            counts = log.final_score
            needed = counts is not None and abs(longest.val_bpb - counts.val_bpb) < 1e-4
            text = f"{longest.eval_seconds:,.1f} s for one stage of evaluation; the track allows 600"
            yield (defect if needed else doubt)("eval-over-budget", text, at_score(log, longest))
            return
        together = sum(score.eval_seconds or 0.0 for score in stages)
        if total is None and together > BUDGET_SECONDS:
            text = f"the stages of evaluation take {together:,.1f} s together: is each needed for the score?"
            yield doubt("eval-over-budget", text, *(at_score(log, score) for score in stages))
            return
    yield from _warmup(folder)


def _warmup(folder: Folder) -> Iterable[Finding]:
    for log in entry_runs(folder):
        warmup, total = log.facts.get("warmup_seconds"), log.facts.get("total_eval_seconds")
        if warmup and total and warmup.value + total.value > BUDGET_SECONDS:
            text = (
                f"evaluation {total.value:.1f} s and {warmup.value:.1f} s of compile warm-up before its "
                f"clock make {warmup.value + total.value:.1f}; warm-up without validation tokens is customary"
            )
            yield note("eval-warmup-outside", text, at_fact(log, warmup), at_fact(log, total))
            return


def hardware(folder: Folder) -> Iterable[Finding]:
    """The 10-minute track runs on eight H100."""
    if folder.track != "10min":
        return
    for log in entry_runs(folder):
        world = log.facts.get("world_size")
        if world and world.value != RECORD_GPUS:
            text = f"ran on {world.value:.0f} GPU; the track's machine has {RECORD_GPUS}"
            yield doubt("hardware", text, at_fact(log, world))
            return
        if log.gpus and not all("H100" in name for name in log.gpus):
            yield doubt("hardware", f"ran on {log.gpus[0]}; the track's machine has H100", Evidence(log.file))
            return


def claimed_times(folder: Folder) -> Iterable[Finding]:
    """The JSON's times have to be the logs'."""
    submission, logs = folder.submission, entry_runs(folder)
    if submission is None or find_foreign(folder):
        return
    for meaning in ("train_seconds", "eval_seconds"):
        figure = submission.figures.get(meaning)
        values = stated_times(logs, meaning)
        if figure is None or not values:
            continue
        near = [*values, mean(values), max(values)]
        if any(
            matches(figure, value, 2.0) or abs(figure.value / value - 1) < 0.005 for value in near if value
        ):
            continue
        if figure.value in (600.0, 4800.0) and figure.value >= max(values) - 20:
            continue
        stated = ", ".join(f"{value:,.1f}" for value in dict.fromkeys(values))
        if meaning == "train_seconds" and "wall" in figure.key and figure.value > max(values):
            continue
        text = f"{figure.key} {figure.written}; the logs state {stated} s"
        yield doubt("time-unsupported", text, submission.evidence(figure.key))


def stated_times(logs: list[ParsedLog], meaning: str) -> list[float]:
    """Seconds of training, without and with calibration, or of evaluation (`eval_seconds`), by run."""
    if meaning == "train_seconds":
        known = [(fact.value, log) for log in logs if (fact := log.facts.get(meaning))]
        whole = [train + (log.fact("hessian_seconds") or 0.0) for train, log in known]
        return [train for train, _ in known] + whole
    totals = [fact.value for log in logs if (fact := log.facts.get("total_eval_seconds"))]
    return totals or [s.eval_seconds for log in logs if (s := log.final_score) and s.eval_seconds]


RULES = (training_time, calibration_time, evaluation_time, hardware, claimed_times)
