"""What a run measured, as results.json holds it: the schema, and the reader that insists on it.

A run writes plain JSON with the keys below, nested as the classes are; keys that are not listed may stand
beside them and are kept. An entry's results.json holds one such object a seed: see `read_entry_results`.
"""

import json
import math
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

ENTRY_FORMAT = "golf-entry-1"
RESULTS_NAME = "results.json"


class EntryError(ValueError):
    """A run folder that does not make an honest entry; the message says which file and what is wrong."""


@dataclass(frozen=True)
class StageScore:
    """One score on the validation text."""

    val_bpb: float
    """Bits per byte."""
    val_loss: float
    """Nats per token."""
    windows: str
    """disjoint (each window starts where the last one ended) or sliding."""
    tokens_scored: int
    bytes_scored: int
    context: int | None = None
    """Tokens of a window."""
    stride: int | None = None
    """Tokens that a window grades, after the first."""
    seconds: float | None = None
    """Wall clock of this scoring, loading aside."""
    adaptation_stopped_after_tokens: int | None = None
    """Of test-time training that a time limit ended: how many tokens were graded before; the rest was scored
    without it."""
    output: str | None = None
    """Which weights these are: last, ema, swa, ema+swa."""


@dataclass(frozen=True)
class Stages:
    """The scores of a run in the order in which they arose; `quantized` and later ones are the artifact's."""

    quantized: StageScore
    last: StageScore | None = None
    averaged: StageScore | None = None
    test_time_trained: StageScore | None = None

    @property
    def final(self) -> StageScore:
        """The score that counts: the artifact's last."""
        return self.test_time_trained or self.quantized

    @property
    def before_quantisation(self) -> StageScore | None:
        """The score of the weights that were packed."""
        return self.averaged or self.last

    def named(self) -> list[tuple[str, StageScore]]:
        """Title and score of each stage there is, in order."""
        pairs = [
            ("last weights", self.last),
            ("averaged weights", self.averaged),
            ("quantised", self.quantized),
            ("test-time-trained", self.test_time_trained),
        ]
        return [(title, score) for title, score in pairs if score is not None]


@dataclass(frozen=True)
class ByteCounts:
    """Sizes of the files on disk, in bytes."""

    code: int
    artifact: int
    total: int
    """code + artifact."""
    limit: int
    """What total was held against."""
    parts: dict[str, int] = field(default_factory=dict)
    """What the artifact is made of; the rest of it is framing."""


@dataclass(frozen=True)
class DataFacts:
    """The text: whose it is and how much of it was scored against what."""

    name: str
    source: str
    licence: str
    tokenizer_sha256: str
    validation_sha256: str
    """Of the validation tokens as little-endian uint16."""
    validation_tokens: int
    validation_bytes: int
    """Of the decoded text."""
    manifest_sha256: str | None = None
    """Of the dataset's manifest.json, which pins the training text too."""
    xz_bits_per_byte: float | None = None
    """What xz -9 makes of the same validation text."""
    zstd22_bits_per_byte: float | None = None
    notes: tuple[str, ...] = ()
    """What else a reader of the score must know about the text."""


@dataclass(frozen=True)
class Results:
    """Everything a run measured."""

    name: str
    preset: str
    seed: int
    config: dict[str, Any]
    """The resolved RunConfig, nested."""
    model_parameters: int
    steps: int
    train_tokens: int
    tokens_per_second: float
    """Of the training phase."""
    stages: Stages
    bytes: ByteCounts
    seconds: dict[str, float]
    """By phase of the run."""
    environment: dict[str, Any]
    """Hardware and versions, as `golf.system.device.environment` gives them."""
    data: DataFacts
    artifact_sha256: str
    """Of the artifact file that is charged."""
    scored_artifact_sha256: str
    """Of the bytes that the fresh process read and scored."""
    code_sha256: str
    """Of the script that was charged."""
    toolkit_commit: str
    load_seconds: float = 0.0
    """Wall clock of reading data and decoding the artifact, in the process that scored it."""
    dollars: float | None = None
    partial: bool = False
    """Whether less than the whole validation text was scored."""
    command: str | None = None
    """The command line that made the run."""
    score_compute_dtype: str | None = None
    """The dtype in which the artifact was scored; earlier entries do not say, and have that of training."""

    @property
    def train_seconds(self) -> float:
        """Wall clock that counts as training: the calibration reads training text, so it belongs to it."""
        return self.seconds.get("train", 0.0) + self.seconds.get("calibrate", 0.0)

    @property
    def eval_seconds(self) -> float:
        """Wall clock of loading and the scoring that counts; of the whole phase where only that is known."""
        own = self.stages.final.seconds
        return self.seconds.get("score", 0.0) if own is None else self.load_seconds + own


def results_from_dict(value: object, where: str = RESULTS_NAME) -> Results:
    """Results from parsed JSON; EntryError names the key that is missing or of the wrong type."""
    return _build(Results, value, where, ())


def read_results(folder: Path) -> tuple[Results, dict[str, Any]]:
    """The results.json of a run folder, checked, and as it stands."""
    raw = read_json(folder / RESULTS_NAME)
    return results_from_dict(raw, str(folder / RESULTS_NAME)), raw


def read_entry_results(folder: Path) -> dict[int, Results]:
    """The results of an entry folder by seed, the first one first."""
    path = folder / RESULTS_NAME
    raw = read_json(path)
    if raw.get("format") != ENTRY_FORMAT:
        raise EntryError(f"{path}: format is {raw.get('format')!r}; expected {ENTRY_FORMAT!r}")
    return {
        int(seed): results_from_dict(value, f"{path}: seed {seed}") for seed, value in raw["seeds"].items()
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; EntryError for a file that is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EntryError(f"{path.parent} has no {path.name}") from error
    except ValueError as error:
        raise EntryError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise EntryError(f"{path}: holds a {type(value).__name__}; expected an object")
    return value


def _build(kind: type, value: object, where: str, trail: tuple[str, ...]) -> Any:
    if not isinstance(value, dict):
        raise _wrong_type(value, "an object", where, trail)
    hints = typing.get_type_hints(kind)
    values = {}
    for item in fields(kind):
        if item.name in value:
            values[item.name] = _convert(hints[item.name], value[item.name], where, (*trail, item.name))
        elif item.default is MISSING and item.default_factory is MISSING:
            raise EntryError(f"{where}: lacks {'.'.join((*trail, item.name))}")
    return kind(**values)


def _convert(hint: Any, value: object, where: str, trail: tuple[str, ...]) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(kind for kind in hint.__args__ if kind is not types.NoneType)
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where, trail)
    kind = typing.get_origin(hint) or hint
    if kind is dict and isinstance(value, dict):
        inner = typing.get_args(hint)[1]
        return {k: v if inner is Any else _convert(inner, v, where, (*trail, k)) for k, v in value.items()}
    if kind is tuple and isinstance(value, list):
        return tuple(_convert(typing.get_args(hint)[0], item, where, trail) for item in value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _wrong_type(value, "a finite number", where, trail)
        return float(value)
    if isinstance(value, kind) and (kind is not int or not isinstance(value, bool)):
        return value
    raise _wrong_type(value, kind.__name__, where, trail)


def _wrong_type(value: object, expected: str, where: str, trail: tuple[str, ...]) -> EntryError:
    return EntryError(f"{where}: {'.'.join(trail) or 'the file'} is {value!r:.60}; expected {expected}")
