"""Configurations as JSON values and back, including those stored by earlier versions."""

import dataclasses
import json
import math
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

INT_BOUND = 1 << 63
"""Stored integers are smaller."""


class ConfigError(ValueError):
    """Options that contradict each other, or stored values that are no configuration."""


Renamed = str | Callable[[Any], dict[str, Any]]

RENAMED: dict[str, dict[str, Renamed]] = {
    "ModelConfig": {
        "query_gain": "qk_gain",
        "query_key_norm": "qk_norm",
        "exclusive_attention": "xsa",
        "modulated_attention": lambda is_on: {"attention": "co4"} if is_on else {},
        "documents_apart": "document_mask",
        "experts_unlike": "heterogeneous_experts",
        "lane_blocks": "parallel_residual_blocks",
        "loop_first": "recurrence_first",
        "loop_last": "recurrence_last",
        "loop_visits": "recurrence",
    },
    "OptimConfig": {"matrix_optimizer": "matrix"},
    "TrainConfig": {"held_out_looks": "num_evals", "kernels": lambda name: {}},
    "ScheduleConfig": {"loop_start": "recurrence_start", "rewarm": "lr_rewarmup"},
}
"""Earlier fields of stored configurations, by class: the name now, or a function from value to fields."""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A file's bytes; ConfigError for more than `max_bytes` and for a pipe or device, which may never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file")
    if status.st_size > max_bytes:
        raise ConfigError(f"{path} has {status.st_size:,} bytes; expected at most {max_bytes:,}")
    with open(path, "rb") as file:
        return file.read(max_bytes)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ConfigError for anything else, a number not finite, or a key given twice."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not readable as JSON: {error}") from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """The fields of a config and its nested configs as JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(kind: type, values: Any) -> Any:
    """A config of class `kind` from what `config_to_dict` returned.

    ConfigError names a field that is unknown or missing, whose value is not of its type, or that is refused.
    A field that is absent, because the values are older than it, has its default.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} is stored as a {type(values).__name__}; expected an object")
    values = rename(RENAMED.get(kind.__name__, {}), values)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for name in values.keys() - fields.keys():
        raise ConfigError(f"{kind.__name__} has no field {name!r:.60}")
    where = f"{kind.__name__}."
    parts = {name: _value_from_json(fields[name].type, value, where + name) for name, value in values.items()}
    for name, item in fields.items():
        if name not in values and item.default is item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{kind.__name__} lacks its field {name!r}")
    try:
        return kind(**parts)
    except (ValueError, ArithmeticError) as error:
        raise ConfigError(str(error)) from error


def flat_fields(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one flat one, whose keys are dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flat_fields(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def rename(renamed: dict[str, Renamed], values: dict[str, Any]) -> dict[str, Any]:
    """Stored values by the names of now; ConfigError for one that comes under two names."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        now = renamed.get(name, name)
        pairs += [(now, value)] if isinstance(now, str) else now(value).items()
    try:
        return _without_twins(pairs)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is no number of JSON")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r:.60} is given twice")
        found[name] = value
    return found


def _value_from_json(kind: Any, value: Any, name: str) -> Any:
    """`value` as one of type `kind`: a nested config, a tuple (JSON has lists), or the value itself."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value_from_json(inner[0], one, name) for one in value)
    if origin is dict and isinstance(value, dict):
        return {key: _value_from_json(inner[1], one, f"{name}.{key}") for key, one in value.items()}
    if origin is UnionType:
        for one in inner:
            with suppress(ConfigError):
                return _value_from_json(one, value, name)
    if kind is int or kind is float:
        # type, not isinstance: bool is a kind of int in Python.
        fits = type(value) in (int, kind) and abs(value) < (INT_BOUND if type(value) is int else math.inf)
    else:
        fits = kind is Any or type(value) is kind or (origin is Literal and value in list(inner))
    if not fits:
        expected = (
            " or ".join(map(repr, inner))
            if origin is Literal
            else (kind.__name__ if isinstance(kind, type) else kind)
        )
        raise ConfigError(f"{name} is {value!r:.60}; expected {expected}")
    return value
