"""What the events of a run.jsonl give a tracker, under names that all trackers share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from golf.system.stored import flat_fields

CONFIG = ("config", "environment")
"""Events whose fields are the tracked run's configuration."""
CURVES = ("step", "held_out")
"""Events whose figures are curves over optimizer steps; those of SYSTEM are curves over time."""
SYSTEM = ("system",)

FIGURES: dict[str, dict[str, str]] = {
    "step": {
        "train_loss": "train/loss",
        "grad_norm": "train/grad_norm",
        "lr_scale": "train/lr_scale",
        "tokens_per_second": "train/tokens_per_second",
        "tokens": "train/tokens",
        "train_seconds": "train/seconds",
    },
    "held_out": {"bpb": "held_out/bpb"},
    "system": {
        "rss_bytes": "system/rss_bytes",
        "cpu_cores": "system/cpu_cores",
        "gpu_memory_bytes": "system/gpu_memory_bytes",
        "gpu_share": "system/gpu_share",
    },
    "model_params": {"model_params": "model/parameters"},
    "attention": {"kernels": "model/attention_kernels"},
    "average": {
        "output": "average/output",
        "held_out_bpb_last": "average/last/bpb",
        "held_out_bpb_ema": "average/ema/bpb",
        "held_out_bpb_swa": "average/swa/bpb",
        "held_out_bpb_ema+swa": "average/ema+swa/bpb",
    },
    "size": {"code_bytes": "size/code_bytes", "artifact_bytes": "size/artifact_bytes"},
    "stage": {
        "val_bpb": "score/{name}/bpb",
        "val_loss": "score/{name}/nats_per_token",
        "tokens_scored": "score/{name}/tokens",
    },
    "totals": {
        "total_bytes": "size/total_bytes",
        "left_bytes": "size/left_bytes",
        "seconds": "seconds",
    },
    "audit": {"passed": "audit/passed"},
}
"""Names by event and field; braces take a field's value. Events and fields that are not here are not sent."""

FINAL = ("score/quantized/bpb", "score/test_time_trained/bpb", "size/total_bytes", "audit/passed")
"""Figures to compare runs by, where a tracker asks for them."""


@dataclass(frozen=True)
class Figures:
    """What one event gives: each is by name, and mostly empty."""

    curves: dict[str, float] = field(default_factory=dict)
    system: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    """Figures of the whole run: numbers and texts."""


def figures_of(event: Mapping[str, Any]) -> Figures:
    """The figures of a line of run.jsonl."""
    kind = str(event.get("event"))
    found = dict(_named(FIGURES.get(kind, {}), event))
    if kind in CURVES:
        return Figures(curves=found)
    return Figures(system=found) if kind in SYSTEM else Figures(summary=found)


def _named(names: Mapping[str, str], event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, name in names.items():
        value = event.get(key)
        if isinstance(value, dict):
            yield from ((f"{name}/{part}", each) for part, each in flat_fields(value).items())
        elif value is not None:
            yield name.format_map(event), ", ".join(map(str, value)) if isinstance(value, list) else value


def step_of(event: Mapping[str, Any]) -> int | None:
    """The optimizer step in an event's `step`, 10 or "10/200"; None without one."""
    first = str(event.get("step", "")).partition("/")[0]
    return int(first) if first.isdecimal() else None
