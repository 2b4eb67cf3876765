"""Reads any submission.json: the aliases of its keys, the ways to write a number, and its unit."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from golf.check.findings import MAX_QUOTE_CHARACTERS, Quote

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]

ALIASES = {
    "val_bpb": "val_bpb val_bpb_mean mean_val_bpb val_bpb_3seed_mean final_val_bpb post_quant_val_bpb "
    "val_bits_per_byte final_bpb bpb mean_bpb bpb_mean score",
    "val_loss": "val_loss val_loss_mean mean_val_loss final_val_loss val_nll",
    "val_bpb_std": "val_bpb_std std_val_bpb bpb_std val_bpb_stdev val_bpb_sd std",
    "val_loss_std": "val_loss_std std_val_loss",
    "pre_quant_val_bpb": "pre_quant_val_bpb prequant_val_bpb val_bpb_pre_quant",
    "bytes_total": "bytes_total artifact_bytes_max bytes_total_max total_bytes total_submission_bytes "
    "submission_bytes submission_size_bytes artifact_bytes artifact_size_bytes "
    "artifact_bytes_mean artifact_size total_size_bytes artifact_size_mb artifact_mb "
    "submission_size_mb total_size_mb total_mb artifact_size_mib artifact_bytes_total "
    "total_artifact_bytes bytes_total_int8_zlib bytes_total_int6_zstd total_bytes_int8_zlib "
    "submission_bytes_total max_artifact_bytes artifact_bytes_worst artifact_total_bytes "
    "final_artifact_bytes compressed_bytes_total submission_size total_size",
    "bytes_model": "bytes_model bytes_model_compressed model_bytes bytes_model_int8_zlib "
    "bytes_model_int6_zstd compressed_model_bytes bytes_weights",
    "bytes_code": "bytes_code code_bytes code_size_bytes code_size",
    "train_seconds": "train_seconds training_time_seconds train_time_seconds train_time_s train_time_s_mean "
    "train_seconds_mean training_seconds training_time_ms train_time_ms training_time_minutes "
    "training_time_min training_time_hours wallclock_seconds wall_clock_seconds wallclock_s "
    "wallclock_minutes wallclock_hours wallclock_ms",
    "eval_seconds": "eval_seconds eval_time_seconds eval_time_s eval_time_s_mean eval_time_seconds_mean "
    "eval_time_ms eval_time_minutes",
    "steps": "step_stop steps train_steps num_steps train_steps_mean steps_mean",
}
"""By meaning, the keys that carry it in public entries, the one that counts first."""

NAMES = {
    "author": "author authors submitter",
    "github_id": "github_id github github_username github_handle",
    "name": "name run_name title",
    "date": "date submission_date",
    "track": "track category",
}

PLAUSIBLE = {
    **dict.fromkeys(("val_bpb", "pre_quant_val_bpb", "val_bpb_std"), (0.0, 100.0)),
    **dict.fromkeys(("val_loss", "val_loss_std"), (0.0, 1000.0)),
    **dict.fromkeys(("bytes_total", "bytes_model", "bytes_code"), (0.0, 1e13)),
    **dict.fromkeys(("train_seconds", "eval_seconds", "steps"), (0.0, 1e9)),
}
"""Between these a figure is a measurement; 0, -1 and 1e9 stand for one that was not made."""
_SEED_MEANINGS = ("val_bpb", "val_loss", "bytes_total", "steps", "train_seconds")
_PER_SEED = re.compile(r"^(?:per_)?seeds?_|_(?:per|by)_seeds?$|_seeds?$|s_(?:per|by)_seed$")
_INNER = ("results", "metrics", "summary", "scores", "final")
_OTHER_RUN = re.compile(
    r"supersed|previous|prior|old|baseline|supplement|warm|ablat|base_|parent|sota|limit|cap|target|budget|margin",
    re.I,
)
MAX_WALK_DEPTH = 4
MAX_CLAIMED_SEEDS = 200
MAX_BPB_HALF_STEP = 0.002
"""Upper bound of the rounding of a score: 1.1 may stand for 1.098, but 1.0 not for 1.04."""

_KEY = re.compile(r'"((?:[^"\\]|\\.)*+)"\s*:')
_TEXT_NUMBER = re.compile(r"^\s*[~<>=\u2248]*\s*([-+]?\d[\d,_]*\.?\d*(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)")
_SIZE_UNITS = {"mb": 10**6, "mib": 2**20, "kb": 10**3, "kib": 2**10, "bytes": 1, "b": 1}
_TIME_UNITS = {
    "ms": 1e-3, "s": 1, "sec": 1, "seconds": 1, "m": 60, "min": 60, "minutes": 60, "h": 3600, "hours": 3600
}  # fmt: skip


class WrittenFloat(float):
    """A JSON number that keeps its digits: 1.0810 says more than 1.081."""

    written: str

    def __new__(cls, written: str) -> "WrittenFloat":
        number = super().__new__(cls, written)
        number.written = written
        return number


@dataclass(frozen=True)
class Figure:
    """A number of the JSON in this project's unit: nats per token, bits per byte, bytes or seconds."""

    key: str
    value: float
    written: str
    """As it stands in the file."""
    at: Quote
    half_step: float
    """Half of the last digit written, in the same unit: the most that rounding explains."""
    was_text: bool
    assumed: str
    """The unit that was assumed; empty if the file names it."""

    def __str__(self) -> str:
        return f"{self.key} {self.written}"


@dataclass
class Submission:
    """What a submission.json claims."""

    file: str
    raw: dict[str, JsonValue]
    lines: tuple[str, ...] = ()
    figures: dict[str, Figure] = field(default_factory=dict)
    """By meaning, a key of ALIASES."""
    names: dict[str, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    """Meanings whose key holds no measurement, with the key and its value: null, NaN, a list, -1."""
    inner: str = ""
    """The key of the object that holds val_bpb, if it is not the JSON's own."""
    seeds: tuple[int, ...] = ()
    seed_results: dict[int, dict[str, Figure]] = field(default_factory=dict)

    @cached_property
    def totals(self) -> list[Figure]:
        """All figures of the JSON that have one of the names of a total."""
        names = set(ALIASES["bytes_total"].split())
        found = []
        for key, value in _walk(self.raw, 0):
            if _PER_SEED.sub("", key) in names:
                figure = to_figure(key, value, self.quote(key))
                if figure and is_plausible("bytes_total", figure.value):
                    found.append(figure)
        return found

    @cached_property
    def _line_of(self) -> dict[str, int]:
        """The first line that holds a key, as the key is written."""
        found: dict[str, int] = {}
        for number, line in enumerate(self.lines, 1):
            for key in _KEY.findall(line):
                found.setdefault(key, number)
        return found

    def quote(self, key: str) -> Quote:
        """The first line of a key."""
        number = self._line_of.get(json.dumps(key)[1:-1]) or self._line_of.get(key, 0)
        text = self.lines[number - 1].lstrip() if number else ""
        return Quote(self.file, number, text[:MAX_QUOTE_CHARACTERS].rstrip())

    def value(self, meaning: str) -> float | None:
        """The number for a meaning, or None."""
        return self.figures[meaning].value if meaning in self.figures else None


class SubmissionError(ValueError):
    """A submission.json that is not a JSON object."""


def read_submission(file: str, text: str) -> Submission:
    """Reads the JSON text; SubmissionError says what is wrong with it and on which line."""
    if text.startswith("\ufeff"):
        raise SubmissionError("starts with a byte order mark, which JSON readers refuse")
    try:
        raw = json.loads(text, parse_float=WrittenFloat)
    except json.JSONDecodeError as error:
        raise SubmissionError(f"line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise SubmissionError(f"cannot be read: {type(error).__name__}") from error
    if not isinstance(raw, dict):
        raise SubmissionError(f"is a JSON {type(raw).__name__}, expected an object")
    submission = Submission(file, raw, tuple(text.split("\n")))
    inner = next(((key, value) for key in _INNER if isinstance(value := raw.get(key), dict)), ("", {}))
    for key_of_values, values in (("", raw), inner):
        for meaning, keys in ALIASES.items():
            for key in keys.split():
                if key in values and meaning not in submission.figures:
                    _take_figure(submission, meaning, key, values)
                    if key_of_values and meaning == "val_bpb":
                        submission.inner = key_of_values
    for meaning, keys in NAMES.items():
        names = (value for key in keys.split() if isinstance(value := raw.get(key), str))
        submission.names[meaning] = next(names, "").strip()
    submission.seed_results = dict(_seed_results(submission))
    seeds = raw.get("seeds", raw.get("seed"))
    seeds = seeds if isinstance(seeds, list | dict) else [seeds]
    found = [int(s) for s in map(str, seeds) if s.isdigit() and len(s) < 10]
    submission.seeds = tuple(dict.fromkeys(found or submission.seed_results))[:MAX_CLAIMED_SEEDS]
    results = raw.get("seed_results")
    claimed = max(len(found), len(results) if isinstance(results, dict | list) else 0)
    if claimed > MAX_CLAIMED_SEEDS:
        submission.odd["seeds"] = f"seeds: {claimed:,}, of which the first {MAX_CLAIMED_SEEDS} were read"
    return submission


def _take_figure(submission: Submission, meaning: str, key: str, values: dict[str, JsonValue]) -> None:
    value = values[key]
    if isinstance(value, dict):
        value = next((value[k] for k in ("mean", "val_bpb", "value", "avg") if k in value), value)
    figure = to_figure(key, value, submission.quote(key))
    if figure is None or not is_plausible(meaning, figure.value):
        submission.odd.setdefault(meaning, f"{key}: {json.dumps(value)[:60]}")
        return
    if meaning == "val_bpb":
        figure = replace(figure, half_step=min(figure.half_step, MAX_BPB_HALF_STEP))
    submission.figures[meaning] = figure
    submission.odd.pop(meaning, None)


def is_plausible(meaning: str, value: float) -> bool:
    """Whether a value can be a measurement of this meaning and is no placeholder."""
    low, high = PLAUSIBLE[meaning]
    return low < value < high


def to_figure(key: str, value: JsonValue, at: Quote) -> Figure | None:
    """A value as a number in bytes, seconds or as it is; None for null, NaN, lists and other text.

    The unit comes from the value's own text, else from the key's ending, else from its size: a total below
    1,000 is in MB.
    """
    was_text = isinstance(value, str)
    unit = ""
    if isinstance(value, str):
        match = _TEXT_NUMBER.match(value)
        if not match:
            return None
        written, unit = match.group(1).replace(",", "").replace("_", ""), match.group(2).lower()
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    else:
        written = value.written if isinstance(value, WrittenFloat) else repr(value)
    if len(written) > 40 or not math.isfinite(float(written)):
        return None
    scale, assumed = _scale(key.lower(), unit, float(written))
    decimals = len(written.partition(".")[2]) if "e" not in written.lower() else 12
    shown = str(value)[:60] if was_text else written
    half_step = 0.5 * 10.0**-decimals * scale
    return Figure(key, float(written) * scale, shown, at, half_step, was_text, assumed)


def _scale(key: str, unit: str, number: float) -> tuple[float, str]:
    """The factor to bytes or seconds, and the unit it assumes if neither key nor value names one."""
    if "byte" in key or "size" in key or re.search(r"_mi?b(_|$)|^total_mb", key):
        if unit in _SIZE_UNITS:
            return _SIZE_UNITS[unit], ""
        if ending := re.search(r"_(mb|mib|kb|kib)(?:_|$)", key):
            return _SIZE_UNITS[ending.group(1)], "" if "i" in ending.group(1) else "decimal"
        return (10**6, "decimal MB") if 0 < number < 1000 and "code" not in key else (1, "")
    if "time" in key or "wall" in key or "seconds" in key:
        ending = re.search(r"_(ms|s|sec|seconds|min|minutes|h|hours)(?:_|$)", key)
        name = unit if unit in _TIME_UNITS else ending.group(1) if ending else "s"
        if name in ("s", "sec", "seconds") and number > 500_000:
            return 1e-3, "milliseconds"
        return _TIME_UNITS[name], ""
    return 1, ""


def _seed_results(submission: Submission) -> Iterator[tuple[int, dict[str, Figure]]]:
    pairs: list[tuple[JsonValue, JsonValue]] = []
    for results in _seed_tables(submission.raw):
        if isinstance(results, dict):
            pairs += results.items()
        elif isinstance(results, list):
            pairs += [(item.get("seed"), item) for item in results if isinstance(item, dict)]
    found: dict[int, dict[str, Figure]] = {}
    for seed, result in pairs[:MAX_CLAIMED_SEEDS]:
        fields = result if isinstance(result, dict) else {"val_bpb": result}
        _take_seed(submission, found, seed, fields)
    # One dict a figure: artifact_bytes_seeds, val_bpb_per_seed, seed_bpbs.
    for key, values in submission.raw.items():
        name = _PER_SEED.sub("", key)
        if name == key or not isinstance(values, dict) or key in ("seed_results", "seeds"):
            continue
        meaning = next((meaning for meaning in _SEED_MEANINGS if name in ALIASES[meaning].split()), None)
        for seed, value in list(values.items())[:MAX_CLAIMED_SEEDS] if meaning else ():
            _take_seed(submission, found, seed, {name: value})
    yield from found.items()


def _seed_tables(raw: dict[str, JsonValue]) -> Iterator[JsonValue]:
    """The values that hold results by seed, as seed_results, seeds, results and results.seeds do."""
    names = ("seed_results", "results_by_seed", "per_seed", "per_seed_results", "seeds")
    yield from (raw[name] for name in names if name in raw)
    for inner in (value for key in _INNER if isinstance(value := raw.get(key), dict)):
        yield from (inner[name] for name in names if name in inner)
        yield {key: value for key, value in inner.items() if re.fullmatch(r"seed_?\d{1,9}|\d{1,9}", key)}


def _walk(value: JsonValue, depth: int, key: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Every number and text with its key, those of earlier and other runs left out."""
    if isinstance(value, dict) and depth < MAX_WALK_DEPTH:
        for name, part in value.items():
            if not _OTHER_RUN.search(name):
                yield from _walk(part, depth + 1, key if re.fullmatch(r"(?:seed_?)?\d+", name) else name)
    elif isinstance(value, list) and depth < MAX_WALK_DEPTH:
        for part in value[:MAX_CLAIMED_SEEDS]:
            yield from _walk(part, depth + 1, key)
    elif not isinstance(value, dict | list):
        yield key, value


def _take_seed(
    submission: Submission,
    found: dict[int, dict[str, Figure]],
    seed: JsonValue,
    fields: Mapping[str, JsonValue],
) -> None:
    """Adds the figures of one seed to `found`."""
    number = re.search(r"\d{1,9}", str(seed)) if isinstance(seed, str | int) else None
    if not number:
        return
    at, figures = submission.quote(str(seed)), found.setdefault(int(number.group()), {})
    for meaning in _SEED_MEANINGS:
        key = next((key for key in ALIASES[meaning].split() if key in fields), "")
        figure = to_figure(key, fields.get(key), at)
        if figure and is_plausible(meaning, figure.value):
            figures.setdefault(meaning, figure)
