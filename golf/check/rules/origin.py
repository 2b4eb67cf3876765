"""Rule on where the JSON's figures come from: the logs beside it, or another run."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from golf.check.claims import at_fact, entry_runs, final_scores, matches, mean, totals
from golf.check.claims_json import Figure
from golf.check.findings import Evidence, Finding, defect, doubt
from golf.check.folder import Folder
from golf.check.logs.read import LoggedScore

MIN_FIGURES = 3
"""So many figures that no log states, and none that one does, are not slips."""


@dataclass(frozen=True)
class Foreign:
    """The figures of a JSON that is of another run than the logs."""

    described: str
    evidence: tuple[Evidence, ...]


def stated_figures(folder: Folder) -> dict[str, list[tuple[float, float]]]:
    """What the logs state of each figure a JSON may hold, means over runs included: (value, resolution)."""
    logs = entry_runs(folder)
    sizes = [size for log in logs for size in log.sizes]
    before = [score for log in logs if (score := log.unquantised_score)]
    scores = [score for log in logs for score in log.scores]
    steps = [fact.value for log in logs if (fact := log.facts.get("steps"))]
    seconds = [fact.value for log in logs if (fact := log.facts.get("train_seconds"))]
    stated: dict[str, list[tuple[float, float]]] = {
        "val_bpb": [_pair(score) for score in scores] + _mean_of(map(_pair, final_scores(logs))),
        "bytes_total": _with_mean([(total.logged.num_bytes, 1.0) for total in totals(folder, logs)]),
        "bytes_model": _with_mean([(size.num_bytes, 1.0) for size in sizes if size.kind == "model"]),
        "bytes_code": [(size.num_bytes, 1.0) for size in sizes if size.kind in ("code", "raw_code")],
        "steps": _with_mean([(value, 1.0) for value in steps]),
        "train_seconds": _with_mean([(value, 2.0) for value in seconds]),
        "pre_quant_val_bpb": [_pair(score) for score in scores] + _mean_of(map(_pair, before)),
    }
    return stated


def _pair(score: LoggedScore) -> tuple[float, float]:
    return score.val_bpb, 10.0**-score.decimals


def _with_mean(values: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return values + _mean_of(values)


def _mean_of(values: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    listed = list(values)
    return [(mean([value for value, _ in listed]), listed[0][1])] if listed else []


def is_stated(figure: Figure, values: Sequence[tuple[float, float]]) -> bool:
    """Whether a figure is one of the values."""
    return any(matches(figure, value, resolution) for value, resolution in values)


@functools.lru_cache(maxsize=2)
def find_foreign(folder: Folder) -> Foreign | None:
    """The JSON's figures, if at least MIN_FIGURES can be compared and every one differs from every log."""
    submission, logs = folder.submission, entry_runs(folder)
    if submission is None or not logs:
        return None
    off: list[str] = []
    evidence: list[Evidence] = []
    for meaning, values in stated_figures(folder).items():
        figure = submission.figures.get(meaning)
        if figure is None or not values:
            continue
        if is_stated(figure, values):
            return None
        nearest = min((value for value, _ in values), key=lambda value: abs(value - figure.value))
        off.append(f"{figure.key} {figure.written} against {nearest:,.10g}")
        evidence.append(submission.evidence(figure.key))
    if len(off) < MIN_FIGURES:
        return None
    if "steps" in logs[0].facts:
        evidence.insert(0, at_fact(logs[0], logs[0].facts["steps"]))
    return Foreign("; ".join(off), tuple(evidence))


def another_run(folder: Folder) -> Iterable[Finding]:
    """Three figures or more of the JSON that no log states, and none that one does: it is another run's."""
    foreign = find_foreign(folder)
    if foreign:
        text = f"the JSON is of another run than the log: {foreign.described}"
        yield defect("json-of-another-run", text, *foreign.evidence)


def further_figures(folder: Folder) -> Iterable[Finding]:
    """Steps, weights and the score before quantisation have to be the logs', as the main figures have to."""
    submission = folder.submission
    if submission is None or find_foreign(folder):
        return
    stated = stated_figures(folder)
    for meaning in ("steps", "bytes_model", "pre_quant_val_bpb"):
        figure, values = submission.figures.get(meaning), stated[meaning]
        if figure and values and not is_stated(figure, values):
            nearest = min((value for value, _ in values), key=lambda value: abs(value - figure.value))
            text = f"{figure.key} {figure.written} is stated by no log; the nearest is {nearest:,.10g}"
            yield doubt("figure-unsupported", text, submission.evidence(figure.key))


RULES = (another_run, further_figures)
