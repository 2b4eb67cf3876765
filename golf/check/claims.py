"""Which logs of a folder are the runs its claim rests on, and what the shipped files make of their totals."""

import functools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from golf.check.claims_json import Figure
from golf.check.findings import Evidence
from golf.check.folder import Folder
from golf.check.logs.read import Fact, LoggedScore, ParsedLog
from golf.check.logs.sizes import LoggedSize, charged_total
from golf.pack.fit import LIMIT_BYTES

_SIDE = re.compile(
    r"ablat|baseline|smoke|proxy|debug|partial|stopped|first_try|compare|sweep|(^|[/_])old", re.I
)
_SEED_NAME = re.compile(r"seed[_-]?(\d{1,6})(?!\d)|(?:^|[/_])s(\d{1,6})(?=[._])", re.I)


@dataclass(frozen=True)
class Total:
    """Code and weights of one run, as its log charges them and as the folder ships them."""

    log: ParsedLog
    logged: LoggedSize
    code_bytes: int | None
    """Charged by the log."""
    shipped_bytes: int
    """With the code of the shipped script in place of what the log charged, where the script is packed."""

    @property
    def differs(self) -> bool:
        """Whether the shipped files sum to another total than the log's."""
        return self.shipped_bytes != self.logged.num_bytes


def fingerprint(log: ParsedLog) -> tuple[tuple[float, ...], float | None]:
    """Equal for copies of one run: its scores and its training time."""
    return tuple(score.val_bpb for score in log.scores), log.fact("train_seconds")


def named_seed(log: ParsedLog) -> int | None:
    """The seed in a log's file name."""
    match = _SEED_NAME.search(log.file)
    return int(match.group(1) or match.group(2)) if match else None


def seed_of(log: ParsedLog) -> int | None:
    """The seed a log states, else the one in its name."""
    stated = log.fact("seed")
    return int(stated) if stated is not None else named_seed(log)


def distinct_logs(folder: Folder) -> list[ParsedLog]:
    """The logs that hold a run, copies dropped; of copies, the one named after its seed stays."""
    found: dict[object, ParsedLog] = {}
    for log in sorted(
        (log for log in folder.logs if log.has_content), key=lambda log: named_seed(log) is None
    ):
        found.setdefault((fingerprint(log), seed_of(log)) if log.scores else log.file, log)
    return sorted(found.values(), key=lambda log: log.file)


@functools.lru_cache(maxsize=2)
def entry_runs(folder: Folder) -> list[ParsedLog]:
    """The runs the claim rests on: of the seeds the JSON names, else those that carry its score, else all.

    Logs of other configurations, as studies have them, are left out where the JSON tells which one it means.
    """
    logs = distinct_logs(folder)
    main = [log for log in logs if not _SIDE.search(log.file)] or logs
    complete = [log for log in main if log.final_score] or main
    seeds = [seed_of(log) for log in complete]
    claimed = folder.submission.seeds if folder.submission else ()
    named = [log for log in complete if seed_of(log) in claimed]
    if len(claimed) > 1 and len({seed_of(log) for log in named}) == len(named) > 0:
        return named
    if None not in seeds and len(set(seeds)) == len(seeds):
        return complete
    figure = folder.submission.figures.get("val_bpb") if folder.submission else None
    if figure:
        carrying = [
            log for log in complete if log.final_score and matches(figure, log.final_score.val_bpb, 1e-4)
        ]
        if carrying:
            return carrying
    return complete


def matches(figure: Figure, value: float, resolution: float = 0.0) -> bool:
    """Whether a claim is `value` rounded or cut to the digits written; `resolution` is that of `value`."""
    return abs(figure.value - value) <= 2 * figure.half_step + resolution / 2 + 1e-9


def is_exactly(figure: Figure, value: float) -> bool:
    """Whether a claim is `value` but for rounding: for counts, which nobody cuts."""
    return abs(figure.value - value) <= figure.half_step


def totals(folder: Folder, logs: Sequence[ParsedLog]) -> list[Total]:
    """The total of each run that states one."""
    found = []
    for log in logs:
        logged = charged_total(log.sizes)
        if logged is None:
            continue
        code = next((size for size in reversed(log.sizes) if size.kind == "code"), None)
        shipped = logged.num_bytes
        script = folder.script
        if script and script.codecs and code and _close(code.num_bytes, script.unpacked_bytes):
            shipped += script.num_bytes - code.num_bytes
        found.append(Total(log, logged, code.num_bytes if code else None, shipped))
    return found


def is_over(total: Total) -> bool:
    """Whether the shipped total is above the limit; a total printed in MB has to be half a percent above."""
    margin = 1.0 if total.logged.exact else 1.005
    return total.shipped_bytes > LIMIT_BYTES * margin


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return statistics.fmean(values)


def final_scores(logs: Sequence[ParsedLog]) -> list[LoggedScore]:
    """The score that counts of each run that has a finite one."""
    return [score for log in logs if (score := log.final_score) and math.isfinite(score.val_bpb)]


def at_score(log: ParsedLog, score: LoggedScore) -> Evidence:
    """The line of a score."""
    return Evidence(log.file, score.line, score.text.strip()[:160])


def at_size(log: ParsedLog, size: LoggedSize) -> Evidence:
    """The line of a size."""
    return Evidence(log.file, size.line, size.text.strip()[:160])


def at_fact(log: ParsedLog, fact: Fact) -> Evidence:
    """The line of a fact."""
    return Evidence(log.file, fact.line, fact.text.strip()[:160])


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 0.02 * max(a, b)
