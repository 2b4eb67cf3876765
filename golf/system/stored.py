"""Configurations as JSON values and back, those that earlier versions stored among them."""

import dataclasses
from typing import Any, get_args


class ConfigError(ValueError):
    """Options that contradict each other, or a stored configuration that is not one."""


RENAMED = {
    "ModelConfig": {
        "query_gain": "qk_gain",
        "query_key_norm": "qk_norm",
        "exclusive_attention": "xsa",
        "documents_apart": "document_mask",
        "experts_unlike": "heterogeneous_experts",
        "lane_blocks": "parallel_residual_blocks",
        "loop_first": "recurrence_first",
        "loop_last": "recurrence_last",
        "loop_visits": "recurrence",
    },
    "TrainConfig": {"held_out_looks": "num_evals"},
    "ScheduleConfig": {"loop_start": "recurrence_start", "rewarm": "lr_rewarmup"},
}
"""Fields of stored configurations, by class, that have another name now."""


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config and its parts as plain JSON values."""
    return dataclasses.asdict(config)


def config_from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `config_to_dict` for a config class; ConfigError names a field that is unknown.

    A field that came after the values were stored has its default, by rule what went before it.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{kind.__name__} is stored as a {type(values).__name__}; expected an object")
    renamed = RENAMED.get(kind.__name__, {})
    values = {renamed.get(name, name): value for name, value in values.items()}
    fields = {item.name: item for item in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - set(fields)):
        raise ConfigError(f"{kind.__name__} has no field {unknown[0]!r}")
    parts = {name: _value_from_json(fields[name].type, value) for name, value in values.items()}
    return kind(**parts)


def _value_from_json(kind: Any, value: Any) -> Any:
    """A field's value of type `kind`: a part of the config, several in a tuple, or a plain value."""
    if dataclasses.is_dataclass(kind):
        return config_from_dict(kind, value)
    if isinstance(value, list):
        item = (*get_args(kind), Any)[0]
        return tuple(_value_from_json(item, one) for one in value)
    return value
