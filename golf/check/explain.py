"""How each figure of a folder was read: its value, its file and line, and the rule that read it."""

from collections.abc import Iterator
from dataclasses import dataclass

from golf.check.logs import FACT_PATTERNS, LoggedScore, ParsedLog, charged_total
from golf.check.record import Record

STAGES = {
    "final": "its words name no stage before packing",
    "unquantized": "its words name a stage before packing",
    "training": "it stands on the line of a step",
}


@dataclass(frozen=True)
class Reading:
    """One figure as it was read."""

    file: str
    line: int
    figure: str
    value: str
    rule: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.figure} = {self.value}  [{self.rule}]"


def readings(record: Record) -> tuple[Reading, ...]:
    """Every figure of the JSON and of the logs, in the order of lines; of training, the last score."""
    found = list(_of_json(record))
    for log in record.distinct_logs:
        found += sorted(_of_log(record, log), key=lambda reading: reading.line)
    return tuple(found)


def _of_json(record: Record) -> Iterator[Reading]:
    submission = record.submission
    if submission is None:
        return
    for meaning, figure in submission.figures.items():
        unit = f"; unit assumed: {figure.assumed}" if figure.assumed else ""
        yield Reading(
            submission.file, figure.at.line, meaning, f"{figure.value:.10g}", f"key {figure.key}{unit}"
        )
    for meaning, written in submission.odd.items():
        yield Reading(submission.file, 0, meaning, "none", f"no measurement: {written}")


def _of_log(record: Record, log: ParsedLog) -> Iterator[Reading]:
    is_run = "a run of the claim" if log in record.runs else "not a run of the claim"
    yield Reading(log.file, 0, "log", is_run, "chosen by seed, score and name")
    training = [score for score in log.scores if score.stage == "training"]
    for score in [*training[-1:], *(score for score in log.scores if score.stage != "training")]:
        yield _of_score(log, score)
    counted = charged_total(log.sizes)
    for size in log.sizes:
        rule = f"size labelled {size.label!r}" + ("; the one that counts" if size is counted else "")
        yield Reading(log.file, size.at.line, f"bytes, {size.kind}", f"{size.num_bytes:,}", rule)
    if counted and counted not in log.sizes:
        rule = f"sum of {counted.label}; the one that counts"
        yield Reading(log.file, counted.at.line, "bytes, total", f"{counted.num_bytes:,}", rule)
    for name, fact in log.facts.items():
        pattern = FACT_PATTERNS.get(name, "a/b at the beginning or after `step`")
        yield Reading(log.file, fact.at.line, name, f"{fact.value:.10g}", f"last match of {pattern}")
    for mark, lines in log.marks.items():
        yield Reading(log.file, lines[0].line, f"mark {mark}", f"{len(lines)} lines", lines[0].text[:80])


def _of_score(log: ParsedLog, score: LoggedScore) -> Reading:
    loss = f" (val_loss {score.val_loss:.8g})" if score.val_loss else ""
    rule = f"bpb labelled {score.label!r}: {STAGES[score.stage]}"
    if score is log.final_score:
        rule += "; the last such line, the one that counts"
    return Reading(log.file, score.at.line, f"val_bpb, {score.stage}", f"{score.val_bpb:.10g}{loss}", rule)
