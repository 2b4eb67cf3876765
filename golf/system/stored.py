"""Configurations as JSON values and back, those that earlier versions stored among them."""

import dataclasses
from collections.abc import Callable
from typing import Any


class ConfigError(ValueError):
    """Options that contradict each other, or a stored configuration that is not one."""


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
    "TrainConfig": {"held_out_looks": "num_evals", "kernels": lambda name: {}},
    "ScheduleConfig": {"loop_start": "recurrence_start", "rewarm": "lr_rewarmup"},
}
"""Earlier fields of stored configurations, by class: the name now, or a function from value to fields."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config and its parts as plain JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `config_to_dict` for a config class; ConfigError names a field that is unknown.

    A field that came after the values were stored has its default, by rule what went before it.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} is stored as a {type(values).__name__}; expected an object")
    values = _rename(RENAMED.get(kind.__name__, {}), values)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{kind.__name__} has no field {unknown[0]!r}")
    parts = {name: _value_from_json(fields[name].type, value) for name, value in values.items()}
    return kind(**parts)


def _rename(renamed: dict[str, Renamed], values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        now = renamed.get(name, name)
        found |= {now: value} if isinstance(now, str) else now(value)
    return found


def _value_from_json(kind: Any, value: Any) -> Any:
    """A field's value of type `kind`: a part of the config, or a plain value, tuples having become lists."""
    if dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value)
    return tuple(value) if isinstance(value, list) else value
