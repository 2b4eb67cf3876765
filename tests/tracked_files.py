"""What trackers have written on this machine, read back."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

BLOCK_BYTES = 32768
HEADER = struct.Struct("<IHB")
"""Checksum, bytes and kind of a piece of a record in a LevelDB log."""
LAST_PIECES = (1, 4)


@dataclass
class Tracked:
    """A run as a tracker has it."""

    names: list[str]
    config: dict[str, Any]
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Every figure's points (step, value) in the order in which they came."""
    summary: dict[str, Any] = field(default_factory=dict)
    system: set[str] = field(default_factory=set)
    exit_codes: list[int] = field(default_factory=list)

    def add(self, step: int, figures: dict[str, Any]) -> None:
        """Adds a row of curves."""
        for name, value in figures.items():
            self.curves.setdefault(name, []).append((step, value))


def read_trackio(folder: Path) -> Tracked:
    """The one run in trackio's folder."""
    with sqlite3.connect(folder / "parameter-golf.db") as database:
        runs = [name for (name,) in database.execute("SELECT DISTINCT run_id || run_name FROM metrics")]
        (config,) = database.execute("SELECT config FROM configs ORDER BY id DESC LIMIT 1").fetchone()
        found = Tracked(runs, json.loads(config))
        for step, metrics in database.execute("SELECT step, metrics FROM metrics ORDER BY id"):
            found.add(step, json.loads(metrics))
        for (metrics,) in database.execute("SELECT metrics FROM system_metrics"):
            found.system |= json.loads(metrics).keys()
    database.close()
    found.summary = {name: points[-1][1] for name, points in found.curves.items()}
    return found


def read_wandb(trackers: Path) -> Tracked:
    """The run in wandb's offline folders, of all sessions in their order."""
    found = Tracked([], {})
    for path in sorted(trackers.glob("wandb/offline-run-*/run-*.wandb")):
        for record in wandb_records(path.read_bytes()):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found.names.append(f"{record.run.run_id} {record.run.display_name}")
                found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "history":
                row = items(record.history.item)
                found.add(row.pop("_step"), {key: value for key, value in row.items() if key[0] != "_"})
            elif kind == "summary":
                found.summary |= items(record.summary.update)
            elif kind == "stats":
                found.system |= {item.key for item in record.stats.item}
            elif kind == "exit":
                found.exit_codes.append(record.exit.exit_code)
    return found


def items(pairs: Any) -> dict[str, Any]:
    """Repeated keys and JSON values as a dictionary."""
    return {pair.key or "/".join(pair.nested_key): json.loads(pair.value_json) for pair in pairs}


def wandb_records(data: bytes) -> Iterator[Record]:
    """The records of a .wandb file, a LevelDB log behind seven bytes of wandb's own."""
    assert data.startswith(b":W&B")
    at, whole = 7, b""
    while at + HEADER.size <= len(data):
        if (room := BLOCK_BYTES - at % BLOCK_BYTES) < HEADER.size:
            at += room
            continue
        _, size, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        whole, at = whole + data[at : at + size], at + size
        if kind in LAST_PIECES:
            yield Record.FromString(whole)
            whole = b""


def read_tensorboard(trackers: Path) -> Tracked:
    """The run in TensorBoard's event files."""
    read = EventAccumulator(str(trackers / "tensorboard"))
    read.Reload()
    hparams = read.PluginTagToContent("hparams")
    started = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert set(hparams) == {"_hparams_/experiment", "_hparams_/session_start_info"}
    found = Tracked([], session_hparams(started))
    for name in read.Tags()["scalars"]:
        found.curves[name] = [(point.step, point.value) for point in read.Scalars(name)]
        found.summary[name] = found.curves[name][-1][1]
    for name in read.Tags()["tensors"]:
        if name not in hparams:
            found.summary[name] = read.Tensors(name)[-1].tensor_proto.string_val[0].decode()
    return found


def session_hparams(content: bytes) -> dict[str, Any]:
    """The hyperparameters in the content of a session's start."""
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

    values = parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, str(value.WhichOneof("kind"))) for name, value in values.items()}
