"""A record folder: its files, what its JSON claims, and what the logs of the runs behind the claim state."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from statistics import fmean
from typing import Literal

from golf.check.findings import Finding, error
from golf.check.logs import Fact, LoggedScore, LoggedSize, ParsedLog, Stated, charged_total, packed_model
from golf.check.scripts import Script
from golf.check.submission import Figure, Submission
from golf.data.reference import LIMIT_BYTES

Track = Literal["10min", "non-record", "unknown"]

MIN_FOREIGN_FIGURES = 3
"""With fewer, wrong figures may be slips."""

_WEIGHT_SUFFIXES = {".ptz", ".pt", ".bin", ".safetensors", ".npz", ".pth", ".xz", ".zst"}
_SIDE_RUN = re.compile(
    r"(?:^|[/_. -])(?:ablat\w*|baselines?|smoke\w*|prox(?:y|ies)|debug|partial|stopped|first_try"
    r"|compar\w*|sweeps?|old"
    r"|quick\w*|control|test|trial|exp(?:eriment)?s?|explor\w*|reference|ref|pretrain\w*|warmup|supplement\w*"
    r"|archive|negative\w*|failed|prior|previous|prev|parent|base|repro\w*|scal\w*|1x\w*|unquantized|local)"
    r"(?=[/_. -]|\d|$)",
    re.I,
)
_SEED_NAME = re.compile(r"(?<![A-Za-z])seed[_-]?(\d{1,6})(?!\d)|(?:^|[/_])s(\d{1,6})(?=[._])", re.I)


@dataclass(frozen=True)
class Entry:
    """A regular file of the folder; its name is the path inside the folder, with forward slashes."""

    name: str
    num_bytes: int

    @property
    def suffix(self) -> str:
        """The ending in lower case."""
        return PurePosixPath(self.name).suffix.lower()


def is_readme(entry: Entry) -> bool:
    """Whether a file is a README, whatever its kind of text."""
    return entry.suffix in ("", ".md", ".txt", ".rst") and PurePosixPath(entry.name).stem.lower() == "readme"


@dataclass(frozen=True)
class Total:
    """Bytes of code and weights of one run: charged by its log, and shipped in the folder."""

    log: ParsedLog
    logged: LoggedSize
    code_bytes: int | None
    """Charged by the log."""
    shipped_bytes: int
    """With the shipped script instead of the code that the log charges, if the script is packed."""

    @property
    def is_over(self) -> bool:
        """Whether the shipped total is above the limit by more than the rounding of one printed in MB."""
        return self.shipped_bytes - self.logged.half_step > LIMIT_BYTES


@dataclass(eq=False)
class Record:
    """A record folder as rules see it; `read_record` fills the fields, the properties follow from them."""

    path: Path
    track: Track = "unknown"
    files: list[Entry] = field(default_factory=list)
    submission: Submission | None = None
    logs: list[ParsedLog] = field(default_factory=list)
    summaries: list[ParsedLog] = field(default_factory=list)
    """JSON files beside submission.json, of which the sizes are read."""
    scripts: list[Script] = field(default_factory=list)
    readme: tuple[str, str] | None = None
    """Name and text."""
    requirements: dict[str, str] = field(default_factory=dict)
    """Text of each requirements file by name."""
    problems: list[Finding] = field(default_factory=list)
    """What went wrong in reading."""
    log_part_bytes: int = 0
    """Of the beginning of a log, and of its end, that are read."""
    counted_bytes: int = 0
    """Of logs whose middle was read to count its lines."""
    log_bytes: int = 0
    """Read so far."""
    script_bytes: int = 0
    """Parsed so far."""

    @property
    def script(self) -> Script | None:
        """The script that trains: train_gpt.py, else the only one; the folder's own before others.

        None if several may be it, and none is called train_gpt.py or train_*.py.
        """
        able = [script for script in self.scripts if script.trains] or self.scripts
        own = [script for script in able if "/" not in script.file] or able
        names = {script.file: PurePosixPath(script.file).name for script in own}
        for pattern in (r"train_gpt\.py", r"train_gpt\w*\.py", r"train\w*\.py", r".*"):
            named = [script for script in own if re.fullmatch(pattern, names[script.file])]
            if named and (pattern == r"train_gpt\.py" or len(named) == 1):
                return named[0]
        return None

    @property
    def artifacts(self) -> list[Entry]:
        """Files that look like packed weights."""
        return [entry for entry in self.files if entry.suffix in _WEIGHT_SUFFIXES]

    @cached_property
    def runs(self) -> list[ParsedLog]:
        """The runs of the seeds the JSON names, else of all seeds: whatever else there is.

        Of several logs of one seed, the one that the JSON means: see `_chosen`.
        """
        claimed = self.submission.seeds if self.submission else ()
        main = [log for log in self.distinct_logs if not is_side_run(log)] or self.distinct_logs
        if len(claimed) > 1:
            left = set(claimed) - {seed_of(log) for log in main}
            main = [log for log in self.distinct_logs if log in main or seed_of(log) in left]
        complete = [log for log in main if log.final_score] or main
        by_seed: dict[int | None, list[ParsedLog]] = {}
        for log in complete:
            by_seed.setdefault(seed_of(log), []).append(log)
        if len(claimed) > 1 and by_seed.keys() & claimed:
            by_seed = {seed: logs for seed, logs in by_seed.items() if seed in claimed}
        elif None in by_seed or len(by_seed) < len(complete):
            # One score over a study: its run is the one with that score.
            meant = self._chosen(None, complete)
            seeds = {seed_of(log) for log in meant}
            by_seed = {seed: [log for log in meant if seed_of(log) == seed] for seed in seeds}
        chosen = {log.file for seed, logs in by_seed.items() for log in self._chosen(seed, logs)}
        runs = [log for log in complete if log.file in chosen]
        return (
            runs if len(runs) == len(complete) and len(by_seed) == len(runs) else self._series(complete, runs)
        )

    def _series(self, complete: list[ParsedLog], runs: list[ParsedLog]) -> list[ParsedLog]:
        """`runs`, unless their mean is not the claim's and that of the logs of one name, seeds apart, is."""
        figure = self.figure("val_bpb")
        if figure is None or _has_mean(runs, figure):
            return runs
        series: dict[str, list[ParsedLog]] = {}
        for log in complete:
            seed = re.compile(rf"(?<!\d){seed_of(log)}(?!\d)")
            series.setdefault(seed.sub("#", log.file), []).append(log)
        return next((logs for logs in series.values() if len(logs) > 1 and _has_mean(logs, figure)), runs)

    @cached_property
    def others(self) -> list[ParsedLog]:
        """The logs of runs that are not of the claim: ablations, further tries, other seeds."""
        files = {log.file for log in self.runs}
        return [log for log in self.distinct_logs if log.file not in files]

    def _chosen(self, seed: int | None, logs: list[ParsedLog]) -> list[ParsedLog]:
        """Of logs of one seed: named after it, of the JSON's score, of no study, in the folder itself."""
        claims = self.submission.seed_results.get(seed, {}) if self.submission and seed is not None else {}
        figure = claims.get("val_bpb") or self.figure("val_bpb")
        tests: list[Callable[[ParsedLog], bool]] = [
            lambda log: seed is not None and named_seed(log) == seed,
            lambda log: bool(figure and log.final_score and matches(figure, log.final_score.val_bpb, 1e-4)),
            lambda log: not is_side_run(log),
            lambda log: "/" not in log.file,
        ]
        for test in tests:
            logs = [log for log in logs if test(log)] or logs if len(logs) > 1 else logs
        return logs

    @cached_property
    def distinct_logs(self) -> list[ParsedLog]:
        """The logs that hold a run, without copies; of copies, the one named after its seed is kept."""
        found: dict[object, ParsedLog] = {}
        for log in sorted(self.logs, key=lambda log: named_seed(log) is None):
            if log.has_content:
                found.setdefault((fingerprint(log), seed_of(log)) if log.scores else log.file, log)
        return sorted(found.values(), key=lambda log: log.file)

    @cached_property
    def final_scores(self) -> list[LoggedScore]:
        """The score that counts of each run that has a finite one."""
        return [s for log in self.runs if (s := log.final_score) and math.isfinite(s.val_bpb)]

    @cached_property
    def totals(self) -> list[Total]:
        """The total of each run that states one."""
        return [total for log in self.runs if (total := self.total(log))]

    @cached_property
    def stated(self) -> dict[str, list[Stated]]:
        """By meaning of a figure, the values of the runs' logs and, at the end, their mean over runs."""
        return self._stated(self.runs)

    def _stated(self, runs: list[ParsedLog]) -> dict[str, list[Stated]]:
        scores = [score.stated for log in runs for score in log.scores]
        finals = [score.stated for log in runs if (score := log.final_score) and math.isfinite(score.val_bpb)]
        before = [score.stated for log in runs if (score := log.unquantized_score)]
        code = [size for log in runs for size in log.sizes_of("code", "raw_code")]
        models = [size for log in runs for size in log.sizes_of("model")]
        totals = [total for log in runs if (total := self.total(log))]
        return {
            "val_bpb": _with_mean(scores, finals),
            "bytes_total": _with_mean([(float(total.logged.num_bytes), 1.0) for total in totals]),
            "bytes_model": _with_mean([(float(size.num_bytes), 1.0) for size in models]),
            "bytes_code": [(float(size.num_bytes), 1.0) for size in code],
            "steps": _with_mean(stated_steps(self.facts("steps", runs))),
            "train_seconds": _with_mean([(fact.value, 2.0) for fact in self.facts("train_seconds", runs)]),
            "pre_quant_val_bpb": _with_mean(scores, before),
        }

    @cached_property
    def foreign(self) -> Finding | None:
        """That the JSON is of another run: of MIN_FOREIGN_FIGURES or more figures, no log states any."""
        differences: list[str] = []
        evidence = [fact.at for fact in self.facts("steps", self.runs[:1])]
        anywhere = self._stated(self.distinct_logs)
        for meaning, values in self.stated.items():
            figure = self.figure(meaning)
            if figure is None or not values:
                continue
            if is_stated(figure, values + anywhere[meaning]):
                return None
            differences.append(f"{figure} against {nearest(figure, values):,.10g}")
            evidence.append(figure.at)
        if len(differences) < MIN_FOREIGN_FIGURES:
            return None
        text = f"the JSON is of another run than the log: {'; '.join(differences)}"
        return error("json-of-another-run", text, *evidence)

    def figure(self, meaning: str) -> Figure | None:
        """The JSON's figure of a meaning (a key of ALIASES), or None."""
        return self.submission.figures.get(meaning) if self.submission else None

    def own_figure(self, meaning: str) -> Figure | None:
        """The same, but None if the JSON is of another run: its figures then cannot agree with the logs."""
        return None if self.foreign else self.figure(meaning)

    def facts(self, name: str, runs: Sequence[ParsedLog] | None = None) -> list[Fact]:
        """A fact of each run that states it."""
        return [log.facts[name] for log in (self.runs if runs is None else runs) if name in log.facts]

    def total(self, log: ParsedLog) -> Total | None:
        """The total of a run, or None if its log states none."""
        logged = charged_total(log.sizes)
        if logged is None:
            return None
        code = next((size.num_bytes for size in reversed(log.sizes_of("code"))), None)
        shipped, script = logged.num_bytes, self.script
        if script and script.codecs and code is not None:
            if abs(code - script.unpacked_bytes) <= 0.02 * max(code, script.unpacked_bytes):
                shipped += script.num_bytes - code
        return Total(log, logged, code, shipped)


def is_side_run(log: ParsedLog) -> bool:
    """Whether a log's name says that it is of another run than the one claimed."""
    return bool(_SIDE_RUN.search(log.file))


def packed_alone(log: ParsedLog) -> LoggedSize | None:
    """The size of the packed weights in a log that states neither a total nor the code's size, or None."""
    return packed_model(log.sizes) if charged_total(log.sizes) is None else None


def _has_mean(logs: list[ParsedLog], figure: Figure) -> bool:
    """Whether a claim is the mean of the logs' final scores."""
    finals = [log.final_score for log in logs if log.final_score]
    if not finals:
        return False
    resolution = max(score.resolution for score in finals)
    return matches(figure, fmean(score.val_bpb for score in finals), resolution)


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


def stated_steps(facts: Sequence[Fact]) -> list[Stated]:
    """Steps of each run: the last one printed, or one up to the next that would have been."""
    return [(fact.value + fact.resolution / 2, 1.0 + fact.resolution) for fact in facts]


def matches(figure: Figure, value: float, resolution: float = 0.0) -> bool:
    """Whether a claim is `value` rounded or cut to the digits written; `resolution` is that of `value`."""
    return abs(figure.value - value) <= 2 * figure.half_step + resolution / 2 + 1e-9


def is_stated(figure: Figure, values: Sequence[Stated]) -> bool:
    """Whether a figure is one of the values."""
    return any(matches(figure, value, resolution) for value, resolution in values)


def nearest(figure: Figure, values: Sequence[Stated]) -> float:
    """The value nearest to a figure."""
    return min((value for value, _ in values), key=lambda value: abs(value - figure.value))


def implied_bytes(log: ParsedLog) -> float | None:
    """The bytes that a log's final score (or its last one) implies with the tokens it states, or None."""
    score = log.final_score or log.unquantized_score
    tokens = score.num_tokens or log.fact("val_tokens") if score else None
    return score.bytes_per_token * tokens if score and score.bytes_per_token and tokens else None


def _with_mean(values: list[Stated], averaged: Sequence[Stated] | None = None) -> list[Stated]:
    """`values` and the mean of `averaged`, by default of themselves."""
    averaged = values if averaged is None else averaged
    mean = [(fmean(value for value, _ in averaged), averaged[0][1])] if averaged else []
    return values + mean
