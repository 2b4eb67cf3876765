"""Configurations as JSON values and back, including those stored by earlier versions."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args


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


def config_to_dict(config: Any) -> dict[str, Any]:
    """The fields of a config and its nested configs as JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(kind: type, values: dict[str, Any]) -> Any:
    """A config of class `kind` from what `config_to_dict` returned; ConfigError names an unknown field.

    A field that is absent, because the values are older than it, has its default.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} is stored as a {type(values).__name__}; expected an object")
    values = _rename(RENAMED.get(kind.__name__, {}), values)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{kind.__name__} has no field {unknown[0]!r}")
    parts = {name: _value_from_json(fields[name].type, value) for name, value in values.items()}
    return kind(**parts)


def flat_fields(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one flat one, whose keys are dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flat_fields(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _rename(renamed: dict[str, Renamed], values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        now = renamed.get(name, name)
        found |= {now: value} if isinstance(now, str) else now(value)
    return found


def _value_from_json(kind: Any, value: Any) -> Any:
    """The value of a field of type `kind`: a nested config, a tuple (JSON has lists), or the value itself."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value)
    if isinstance(value, list):
        item = (*get_args(kind), Any)[0]
        return tuple(_value_from_json(item, one) for one in value)
    return value
