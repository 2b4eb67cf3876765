"""Reads what a training log says, in every dialect the public records use: numbers with their lines.

The dialects: the baseline's `step:a/b val_loss:x val_bpb:y train_time:Tms`, its later labels
(`final_int6_sliding_window_exact`, `legal_ttt_exact`, `DIAGNOSTIC post_ema`), the one with a
`Hyperparameters:` block and `a/b val_loss: x` (openai/parameter-golf PR #1218 onwards), phased test-time
training (PR #1610 onwards), `kind key:value` of this project, and hand-made mixtures of them.
"""

import functools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from golf.check.findings import Line
from golf.check.logs.sizes import LoggedSize, read_sizes
from golf.score.tally import Tally

MAX_LINE_CHARACTERS = 2000
"""Longer lines are cut: no known log line needs more, and the patterns then take bounded time."""
MILLISECONDS_FROM = 50_000
"""A time without a unit above this is in milliseconds: 50,000 s would be 14 hours."""

# Source that a script printed into its own log.
_SOURCE_START = re.compile(
    r"(import \w|from [\w.]+ import |def \w+\(|class \w+[(:]|@\w+|#!/|if __name__\b|async def |\"\"\"|''')"
)
_SOURCE_START_CHARACTERS = frozenset("ifdca@#\"'")
_SOURCE_END = re.compile(r"={40,}\s*$|Running Python \d")
_LOG_LINE = re.compile(
    r"step:\d+/\d+ |\d+/\d+ (?:train|val)_loss: \d|Serialized model|Total submission size|Code size"
    r"|(?:final|legal|quantized|ttt|DIAGNOSTIC)\w*[ :].*val_loss[:=]\d"
    r"|stopping_early:|val_(?:loader|tokens):|train_(?:loader|shards):|model_params:\d"
    r"|world_size:\d|tie_embeddings:|train_batch_tokens:\d|peak memory"
)
_CODE = re.compile(r"\{[^{}]*\}|\blog0?\(|\bprint\(|\.format\(|^\s*(#(?!\s*\d)|return\b|assert\b|raise\b)")

# Scores.
_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)\b)"
_BPB = re.compile(
    r"(?:val_bpb|val_bits_per_byte|mix_bpb|(?<![\w.])bpb)\s*(?:\(([^()]{1,40})\)\s*)?"
    rf"(?:[:=]\s*|(?=\d\.\d{{3}})){_NUMBER}",
    re.I,
)
_LOSS = re.compile(rf"val_loss\s*[:=]\s*{_NUMBER}", re.I)
_STEP = re.compile(r"(?:^\s*|\bstep\s*[:=]?\s*)(\d+)\s*/\s*(\d+)\b")
_PLAIN_STEP = re.compile(r"\bstep\s*[:=]\s*(\d+)\b")
_PROGRESS = re.compile(
    r"running_|held_out|chunk\s*\[|\bbatch \d+/\d+|\[\d+/\d+\]|^\s*\d+%|^\s*ttp\b|\bpartial\b|\bprogress\b",
    re.I,
)
_UNQUANTIZED = re.compile(
    r"pre[-_ ]?quant|post[-_ ]?(?:ema|swa)|\braw\b|unquanti[sz]ed|\bbf16\b|\bfp32\b|name:(?:last|averaged)\b",
    re.I,
)
_DIAGNOSTIC = re.compile(r"\bdiagnostic\b", re.I)
_SCORED = re.compile(r"\b(tokens|bytes)_scored\s*[:=]\s*(\d+)")
_TIME = r"\s*[:=]\s*([\d.]+)\s*(ms|s|m|min)?\b"
_EVAL_TIME = re.compile(r"(?<![\w.])(?:eval_time|eval_seconds|seconds)" + _TIME)

# Settings.
_SETTING = re.compile(r"^  ([a-z]\w*): (.*)$")
_CONFIG = re.compile(r"(?:^config |\s)([a-z]\w*):(\{.*?\}(?=\s\w+:|$)|\S+)")
"""A part of this project's `config` line: a name and a value, which may be a JSON object."""
_PAIR = re.compile(r"(?:^|\s)([a-z]\w*):(\S+)")
_SHARED_SETTINGS = frozenset(
    "model_params world_size grad_accum_steps num_heads num_kv_heads tie_embeddings embed_lr head_lr "
    "matrix_lr scalar_lr train_batch_tokens train_seq_len iterations warmup_steps max_wallclock_seconds "
    "attention_mode num_layers model_dim vocab_size tokens_per_step mtp_num_heads train_shards outer_layers "
    "main_layers".split()
)
"""Settings printed as `key:value` that runs of one configuration share."""
_RUN_SETTINGS = re.compile(
    r"seed$|run_id|logfile|_path$|_dir$|_files$|^rank$|local_rank|is_main_process|distributed|output"
    r"|^val_loss_every$"
)
"""Settings that may differ between runs of one configuration: names and places. `data_dir` and its like are
paths on somebody's machine."""

_PYTHON = re.compile(r"Running Python (\d+\.\d+)")
_GPU = re.compile(r"\|\s+\d+\s+(NVIDIA [A-Z][\w .-]*?)\s{2,}")
_HESSIANS = re.compile(r"(?:collected \d+ Hessians|calibrated \d+ layers) in ([\d.]+)s")
_FACTS = (
    ("train_seconds", "train", re.compile(r"(?:train_time|training_time|train_seconds)" + _TIME)),
    ("total_eval_seconds", "total_eval", re.compile(r"\btotal_eval_time" + _TIME)),
    ("hessian_seconds", "Hessians", _HESSIANS),
    ("hessian_seconds", "calibrated", _HESSIANS),
    ("hessian_seconds", "calibrate |", re.compile(r"^calibrate \| ([\d.]+)$")),
    ("warmup_seconds", "warmup", re.compile(r"compile warmup done \(([\d.]+)s\)")),
    ("seed", "seed", re.compile(r"(?:^|\s)seed\s*[:=]\s*(\d{1,10})\b")),
    ("val_tokens", "tokens", re.compile(r"(?:^\s*val_tokens\s*[:=]\s*|^val_loader:.*\btokens:)(\d+)")),
    ("train_shards", "shards", re.compile(r"\btrain_shards\s*[:=]\s*(\d+)")),
    ("world_size", "world", re.compile(r"\bworld_size\s*[:=]\s*(\d+)")),
)
"""Facts of one number: name, a word the line must hold, the pattern. A second group is the unit of a time."""

_FALLBACK = re.compile(
    r"fall(?:ing|s)?[ -]?back to zlib|zlib fallback|(?:zstandard|zstd|brotli|lrzip)\b.{0,40}"
    r"(?:not (?:found|installed|available)|missing|unavailable)",
    re.I,
)
_FRACTION = re.compile(
    r"\bval_doc_fraction\s*[:=]\s*0?\.\d+|\b(?:val|eval)_(?:max_)?tokens?_(?:limit|cap)\s*[:=]\s*[1-9]\d*",
    re.I,
)
_MARKS = (
    ("fallback", ("zlib", "zst", "brotli", "lrzip"), _FALLBACK),
    ("cache", ("gram",), re.compile(r"\bn-?gram(?:_cache|\d*\b)|\bngram\w*:", re.I)),
    ("partial", ("val_", "eval_"), _FRACTION),
    ("partial", ("ppm", "mix_bpb", "n_bytes"), re.compile(r"\b(?:N_|num_)?bytes\s*[:=]\s*\d", re.I)),
)
"""Lines that rules look at: the mark, words of which the line must hold one in lower case, the pattern."""

Stated = tuple[float, float]
"""A stated value, and its resolution: the value of one unit in its last digit."""
Stage = Literal["training", "unquantized", "final"]
"""Where a score was taken: during training, after averaging but before quantisation, or on the artifact."""


@dataclass(frozen=True)
class Fact:
    """A number a log states."""

    value: float
    line: Line
    resolution: float = 0.0
    """The value of one unit in its last digit; 0 for a count."""


@dataclass(frozen=True)
class LoggedScore:
    """A score a log states, val_loss in nats per token and val_bpb in bits per byte; None if not stated."""

    label: str
    stage: Stage
    val_loss: float | None
    val_bpb: float
    resolution: float
    """The value of one unit in the last printed digit of val_bpb."""
    eval_seconds: float | None
    num_tokens: int | None
    """Scored tokens and bytes, if the line states them."""
    num_bytes: int | None
    line: Line

    @property
    def stated(self) -> Stated:
        """val_bpb and its resolution."""
        return self.val_bpb, self.resolution

    @property
    def bytes_per_token(self) -> float | None:
        """Mean bytes a token stands for; None if a unit is missing or not of a plausible size."""
        if self.val_loss is None or not (0 < self.val_loss < 1e3 and 0 < self.val_bpb < 1e3):
            return None
        return bytes_per_token(self.val_loss, self.val_bpb)


@dataclass
class ParsedLog:
    """What one log says. Empty where it says nothing."""

    file: str
    scores: list[LoggedScore] = field(default_factory=list)
    sizes: list[LoggedSize] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)
    """The last one stated, by name: steps and the names of _FACTS."""
    settings: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Configuration: value as printed, and line number."""
    marks: dict[str, list[Line]] = field(default_factory=dict)
    """Lines by mark: traceback and the marks of _MARKS."""
    python: str | None = None
    gpus: tuple[str, ...] = ()
    last_line: Line | None = None

    @functools.cached_property
    def final_score(self) -> LoggedScore | None:
        """The score that counts: the last one on the artifact that is no diagnostic, with all its digits."""
        return self._last("final")

    @functools.cached_property
    def unquantized_score(self) -> LoggedScore | None:
        """The last score before quantisation, taken after averaging or else in training."""
        return self._last("unquantized") or self._last("training")

    @property
    def has_content(self) -> bool:
        """Whether anything of a training run was recognised."""
        return bool(self.scores or self.sizes or "steps" in self.facts)

    @property
    def code_sizes(self) -> list[LoggedSize]:
        """The stated sizes of code, compressed or not."""
        return [size for size in self.sizes if size.kind in ("code", "raw_code")]

    @property
    def model_sizes(self) -> list[LoggedSize]:
        """The stated sizes of compressed weights."""
        return [size for size in self.sizes if size.kind == "model"]

    def fact(self, name: str) -> float | None:
        """The value of a fact, or None."""
        found = self.facts.get(name)
        return found.value if found else None

    def _last(self, stage: Stage) -> LoggedScore | None:
        scores = [score for score in self.scores if score.stage == stage]
        scores = [score for score in scores if not _DIAGNOSTIC.search(score.label)] or scores
        if not scores:
            return None
        last = scores[-1]
        same = [s for s in scores if abs(s.val_bpb - last.val_bpb) <= 0.6 * last.resolution]
        return max(same, key=lambda score: (-score.resolution, score.line.number), default=last)


def bytes_per_token(val_loss: float, val_bpb: float) -> float:
    """Mean bytes of text a token stands for if `val_loss` nats per token are `val_bpb` bits per byte."""
    return Tally(val_loss, num_tokens=1, num_bytes=1).bits_per_byte / val_bpb


def numbered(text: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """The lines of `text` with their numbers; only a newline ends a line, as editors and grep count them."""
    for offset, line in enumerate(text.split("\n")):
        yield first + offset, line.rstrip("\r")


def skip_source(file: str, numbered: Iterable[tuple[int, str]]) -> list[Line]:
    """The lines of a log that are neither empty nor Python source which the script printed into it.

    Source goes from a line that starts Python source to a row of `=` or `Running Python`. Inside it, lines
    of the common kinds are kept (two writers of one file can mix the log into the source); if it has no such
    end, all lines that do not look like source are kept. Lines come in as (number, text) pairs, so that a
    file read in parts keeps its numbers.
    """
    kept: list[Line] = []
    source: list[Line] = []
    for number, text in numbered:
        line = Line(file, number, text[:MAX_LINE_CHARACTERS].rstrip())
        if not line.text:
            continue
        if source and _SOURCE_END.match(line.text):
            kept += [line for line in source if _LOG_LINE.match(line.text) and not _CODE.search(line.text)]
            kept.append(line)
            source = []
        elif source or (line.text[:1] in _SOURCE_START_CHARACTERS and _SOURCE_START.match(line.text)):
            source.append(line)
        else:
            kept.append(line)
    return kept + [
        line
        for line in source
        if not (_SOURCE_START.match(line.text) or _CODE.search(line.text) or "=None" in line.text)
    ]


def parse_log(file: str, numbered: Iterable[tuple[int, str]]) -> ParsedLog:
    """Reads a log given as (line number, text) pairs; printed source and templates are not log lines."""
    lines = skip_source(file, numbered)
    log = ParsedLog(file, last_line=lines[-1] if lines else None)
    gpus: list[str] = []
    in_settings = False
    for line, following in zip(lines, [*lines[1:], None], strict=False):
        if following and _is_loss(line) and _is_loss(following):
            continue  # The following line on the training loss updates what this one states.
        text = line.text
        in_settings = text.startswith("Hyperparameters:") or (in_settings and text.startswith("  "))
        if in_settings:
            if match := _SETTING.match(text):
                _take_setting(log, line, *match.groups())
        elif text.startswith("config "):
            for name, value in _CONFIG.findall(text):
                _take_setting(log, line, name, value)
        elif text.startswith("|"):
            gpus += _GPU.findall(text)
        elif text.startswith("Traceback (most recent call last)"):
            log.marks.setdefault("traceback", []).append(line)
        elif not ("{" in text or "(" in text or "#" in text) or not _CODE.search(text):
            _read_line(log, line)
    log.gpus = tuple(gpus)
    return log


def _is_loss(line: Line) -> bool:
    return "train_loss" in line.text and "bpb" not in line.text


def _take_setting(log: ParsedLog, line: Line, name: str, value: str) -> None:
    if name in ("seed", "world_size") and value.isdigit():
        _take_fact(log, line, name, float(value))
    if name == "val_doc_fraction" and _FRACTION.search(line.text):
        log.marks.setdefault("partial", []).append(line)
    if not _RUN_SETTINGS.search(name):
        log.settings[name] = (value, line.number)


def _read_line(log: ParsedLog, line: Line) -> None:
    lowered = line.text.lower()
    if ("bpb" in lowered or "bits_per_byte" in lowered) and (score := _read_score(line)):
        log.scores.append(score)
    log.sizes += read_sizes(line)
    _read_facts(log, line)
    for mark, words, pattern in _MARKS:
        if any(word in lowered for word in words) and pattern.search(line.text):
            log.marks.setdefault(mark, []).append(line)
    if "steps" not in log.facts:
        for name, value in _PAIR.findall(line.text):
            if name in _SHARED_SETTINGS:
                log.settings[name] = (value, line.number)


def _read_score(line: Line) -> LoggedScore | None:
    match = _BPB.search(line.text)
    if not match or _PROGRESS.search(line.text):
        return None
    loss = _LOSS.search(line.text)
    before = line.text[: min(match.start(), loss.start() if loss else match.start())]
    label = " ".join(part for part in (before.strip(" :=-\t"), match.group(1)) if part)
    if _STEP.search(line.text) or _PLAIN_STEP.search(line.text):
        stage: Stage = "training"
    else:
        stage = "unquantized" if _UNQUANTIZED.search(label) else "final"
    seconds = _EVAL_TIME.search(line.text)
    scored = {name: int(count) for name, count in _SCORED.findall(line.text)}
    digits = match.group(2).partition(".")[2]
    return LoggedScore(
        label=label,
        stage=stage,
        val_loss=float(loss.group(1)) if loss else None,
        val_bpb=float(match.group(2)),
        resolution=10.0 ** -len(digits) if digits.isdigit() else 1.0,
        eval_seconds=_seconds(*seconds.groups()) if seconds else None,
        num_tokens=scored.get("tokens"),
        num_bytes=scored.get("bytes"),
        line=line,
    )


def _read_facts(log: ParsedLog, line: Line) -> None:
    text = line.text
    if "/" in text and ("step" in text or "loss" in text) and (step := _STEP.search(text)):
        _take_fact(log, line, "steps", float(step.group(1)))
    elif "stop" in text and (plain := _PLAIN_STEP.search(text)):
        _take_fact(log, line, "steps", float(plain.group(1)))
    for name, word, pattern in _FACTS:
        if word in text and (found := pattern.search(text)):
            number, *unit = found.groups()
            if unit:
                digit = 10.0 ** -len(number.partition(".")[2]) * (_seconds("1", unit[0]) if unit[0] else 1.0)
                _take_fact(log, line, name, _seconds(number, unit[0]), digit)
            else:
                _take_fact(log, line, name, _to_float(number))
    if "Running Python" in text and (python := _PYTHON.match(text)):
        log.python = python.group(1)


def _take_fact(log: ParsedLog, line: Line, name: str, value: float, resolution: float = 0.0) -> None:
    if math.isfinite(value):
        log.facts[name] = Fact(value, line, resolution)


def _to_float(number: str) -> float:
    """The value of digits and points; nan for several points or a point alone."""
    return float(number) if number.count(".") <= 1 and number != "." else math.nan


def _seconds(number: str, unit: str | None) -> float:
    value = _to_float(number)
    if unit is None:
        unit = "ms" if value > MILLISECONDS_FROM else "s"
    return value * {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}[unit]
