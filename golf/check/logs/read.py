"""Reads what a training log says, in every dialect the public records use: numbers with their lines.

The dialects: the baseline's `step:a/b val_loss:x val_bpb:y train_time:Tms`, its later labels
(`final_int6_sliding_window_exact`, `legal_ttt_exact`, `DIAGNOSTIC post_ema`), the one with a
`Hyperparameters:` block and `a/b val_loss: x` (openai/parameter-golf PR #1218 onwards), phased test-time
training (PR #1610 onwards), `kind key:value` of this project, and hand-made mixtures of them.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from golf.check.logs.lines import LogLine, is_template, log_lines
from golf.check.logs.patterns import (
    BPB,
    CONFIG,
    DIAGNOSTIC,
    EVAL_TIME,
    FRACTION,
    GPU,
    LOSS,
    MARKS,
    MILLISECONDS_FROM,
    NUMBER_FACTS,
    PAIR,
    PLAIN_STEP,
    PROGRESS,
    PYTHON,
    RUN_SETTINGS,
    SCORED,
    SETTING,
    SHARED_SETTINGS,
    SIZE_WORDS,
    STEP,
    TIME_FACTS,
    UNQUANTISED,
)
from golf.check.logs.sizes import LoggedSize, read_sizes

Stage = Literal["training", "unquantised", "final"]
"""Where a score was taken: during training, after averaging but before quantisation, or on the artifact."""


@dataclass(frozen=True)
class Fact:
    """A number a log states and the line that states it."""

    value: float
    line: int
    text: str
    resolution: float = 0.0
    """What a one in its last digit is worth; 0 for a count."""


@dataclass(frozen=True)
class LoggedScore:
    """A score a log states, val_loss in nats per token and val_bpb in bits per byte; None if not stated."""

    label: str
    stage: Stage
    val_loss: float | None
    val_bpb: float
    decimals: int
    """Digits behind the point of val_bpb as printed."""
    diagnostic: bool
    """Its own line calls it one: it is not the score of the run."""
    eval_seconds: float | None
    num_tokens: int | None
    num_bytes: int | None
    """What was scored, where the line says it."""
    line: int
    text: str


@dataclass
class ParsedLog:
    """What one log says. Empty where it says nothing."""

    file: str
    scores: list[LoggedScore] = field(default_factory=list)
    sizes: list[LoggedSize] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    """By name, the last one stated: train_seconds, hessian_seconds (calibration), warmup_seconds,
    total_eval_seconds, steps, planned_steps, step_avg_ms, val_tokens, train_shards, seed, world_size,
    model_params."""
    settings: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Configuration: value as printed, and line."""
    marks: dict[str, list[LogLine]] = field(default_factory=dict)
    """Telling lines: traceback, fallback, cache, partial, adapting."""
    python: str | None = None
    gpus: tuple[str, ...] = ()
    num_lines: int = 0
    num_source_lines: int = 0
    last_line: LogLine | None = None

    @functools.cached_property
    def final_score(self) -> LoggedScore | None:
        """The score that counts: the last one on the artifact, diagnostics aside, with all its digits."""
        return self._last("final")

    @functools.cached_property
    def unquantised_score(self) -> LoggedScore | None:
        """The last score before quantisation, taken after averaging or else in training."""
        return self._last("unquantised") or self._last("training")

    @property
    def has_content(self) -> bool:
        """Whether anything of a training run was recognised."""
        return bool(self.scores or self.sizes or "steps" in self.facts)

    def fact(self, name: str) -> float | None:
        """The value of a fact, or None."""
        found = self.facts.get(name)
        return found.value if found else None

    def _last(self, stage: Stage) -> LoggedScore | None:
        scores = [score for score in self.scores if score.stage == stage]
        scores = [score for score in scores if not score.diagnostic] or scores
        if not scores:
            return None
        last = scores[-1]
        same = [s for s in scores if abs(s.val_bpb - last.val_bpb) <= 0.6 * 10.0**-last.decimals]
        return max(same, key=lambda score: (score.decimals, score.line), default=last)


def parse_log(file: str, numbered: Iterable[tuple[int, str]]) -> ParsedLog:
    """Reads a log given as (line number, text) pairs; echoed source and templates are not log lines."""
    read = log_lines(numbered)
    lines = [line for line in read.lines if line.text]
    log = ParsedLog(file, num_source_lines=read.num_source_lines, num_lines=len(read.lines))
    log.last_line = lines[-1] if lines else None
    gpus: list[str] = []
    in_settings = False
    for line in _without_progress(lines):
        text = line.text
        in_settings = text.startswith("Hyperparameters:") or (in_settings and text.startswith("  "))
        if in_settings:
            _read_setting(log, line)
        elif text.startswith("config "):
            _read_config(log, line)
        elif text.startswith("|"):
            gpus += GPU.findall(text)
        elif text.startswith("Traceback (most recent call last)"):
            log.marks.setdefault("traceback", []).append(line)
        elif not ("{" in text or "(" in text or "#" in text) or not is_template(text):
            _read_line(log, line)
    log.gpus = tuple(gpus)
    return log


def _without_progress(lines: Sequence[LogLine]) -> Iterator[LogLine]:
    """Of consecutive lines on the training loss the last: the others state what it states again."""
    held: LogLine | None = None
    for line in lines:
        if "train_loss" in line.text and "bpb" not in line.text:
            held = line
            continue
        if held is not None:
            yield held
            held = None
        yield line
    if held is not None:
        yield held


def _read_setting(log: ParsedLog, line: LogLine) -> None:
    match = SETTING.match(line.text)
    if not match:
        return
    name, value = match.groups()
    if name == "seed" and value.isdigit():
        log.facts["seed"] = Fact(int(value), line.number, line.text)
    if name == "world_size" and value.isdigit():
        log.facts["world_size"] = Fact(int(value), line.number, line.text)
    if name == "val_doc_fraction" and FRACTION.search(line.text.replace(" ", "")):
        log.marks.setdefault("partial", []).append(line)
    if not RUN_SETTINGS.search(name):
        log.settings[name] = (value, line.number)


def _read_config(log: ParsedLog, line: LogLine) -> None:
    for name, value in CONFIG.findall(line.text):
        if name == "seed" and value.isdigit():
            log.facts["seed"] = Fact(int(value), line.number, line.text)
        elif not RUN_SETTINGS.search(name):
            log.settings[name] = (value, line.number)


def _read_line(log: ParsedLog, line: LogLine) -> None:
    text = line.text
    lowered = text.lower()
    if "bpb" in lowered or "bits_per_byte" in lowered:
        score = _read_score(line)
        if score:
            log.scores.append(score)
    if SIZE_WORDS.search(lowered):
        log.sizes += read_sizes(line)
    _read_facts(log, line)
    for mark, words, pattern in MARKS:
        if any(word in lowered for word in words) and pattern.search(text):
            log.marks.setdefault(mark, []).append(line)
    if "steps" not in log.facts:
        for name, value in PAIR.findall(text):
            if name in SHARED_SETTINGS:
                log.settings[name] = (value, line.number)


def _read_score(line: LogLine) -> LoggedScore | None:
    match = BPB.search(line.text)
    if not match or PROGRESS.search(line.text):
        return None
    loss = LOSS.search(line.text)
    before = line.text[: min(match.start(), loss.start() if loss else match.start())]
    label = " ".join(part for part in (before.strip(" :=-\t"), match.group(1)) if part)
    if STEP.search(line.text) or PLAIN_STEP.search(line.text):
        stage: Stage = "training"
    else:
        stage = "unquantised" if UNQUANTISED.search(label) else "final"
    seconds = EVAL_TIME.search(line.text)
    scored = {name: int(count) for name, count in SCORED.findall(line.text)}
    digits = match.group(2).partition(".")[2]
    return LoggedScore(
        label=label,
        stage=stage,
        val_loss=float(loss.group(1)) if loss else None,
        val_bpb=float(match.group(2)),
        decimals=len(digits) if digits.isdigit() else 0,
        diagnostic=bool(DIAGNOSTIC.search(label)),
        eval_seconds=_seconds(seconds.group(1), seconds.group(2)) if seconds else None,
        num_tokens=scored.get("tokens"),
        num_bytes=scored.get("bytes"),
        line=line.number,
        text=line.text,
    )


def _read_facts(log: ParsedLog, line: LogLine) -> None:
    text = line.text

    def state(name: str, value: float, resolution: float = 0.0) -> None:
        if math.isfinite(value):
            log.facts[name] = Fact(value, line.number, text, resolution)

    if "/" in text and ("step" in text or "loss" in text) and (step := STEP.search(text)):
        state("steps", int(step.group(1)))
        state("planned_steps", int(step.group(2)))
    elif "stop" in text and (plain := PLAIN_STEP.search(text)):
        state("steps", int(plain.group(1)))
    for name, word, pattern in TIME_FACTS:
        if word in text and (found := pattern.search(text)):
            number, unit = found.groups()
            state(name, _seconds(number, unit), _resolution(number) * (_seconds("1", unit) if unit else 1.0))
    for name, word, pattern in NUMBER_FACTS:
        if word in text and (found := pattern.search(text)):
            state(name, float(found.group(1).replace(",", "")))
    if "Running Python" in text and (python := PYTHON.match(text)):
        log.python = python.group(1)


def _resolution(number: str) -> float:
    return 10.0 ** -len(number.partition(".")[2])


def _seconds(number: str, unit: str | None) -> float:
    value = float(number) if number.count(".") <= 1 and number != "." else math.nan
    if unit is None:
        unit = "ms" if value > MILLISECONDS_FROM else "s"
    return value * {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}[unit]
