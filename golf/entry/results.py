"""Reads results.json of runs and entries, and the scores that an entry's script writes, of all versions."""

import math
import os
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from golf.results import NATS_ARRAYS, RESULTS_VERSION, STAGE_TITLES, Results, Scores
from golf.system.files import without_seal
from golf.system.foreign import ForeignError, read_object

ENTRY_FORMAT = "golf-entry-1"
"""Of an entry's results.json: the results of each seed."""

MAX_COUNT = 1 << 53
"""Of tokens and bytes; exact in float64."""
_SEED = re.compile(r"-?[0-9]{1,18}")

Read = TypeVar("Read", Results, Scores)


class EntryError(ValueError):
    """A run folder that does not make an honest entry; the message says which file and what is wrong."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; EntryError for a file that is missing or holds something else."""
    if not os.path.lexists(path):
        raise EntryError(f"{path.parent} has no {path.name}")
    try:
        return without_seal(read_object(path))
    except ForeignError as error:
        raise EntryError(str(error)) from error
    except ValueError as error:
        raise EntryError(f"{path} is damaged ({error})") from error


def read_results(path: Path) -> Results:
    """A run's results.json; EntryError names the key that is missing, of the wrong type or implausible."""
    return _convert(read_json(path), Results, str(path))


def read_entry_results(path: Path) -> dict[int, Results]:
    """An entry's results.json: the results by seed, the first one first."""
    raw = read_json(path)
    if raw.get("format") != ENTRY_FORMAT:
        raise EntryError(f"{path}: format is {raw.get('format')!r}; expected {ENTRY_FORMAT!r}")
    seeds = raw.get("seeds")
    if not isinstance(seeds, dict) or not seeds or not all(map(_SEED.fullmatch, seeds)):
        raise EntryError(f"{path}: seeds is {seeds!r:.60}; expected results by seed")
    return {int(seed): _convert(value, Results, f"{path}: seed {seed}") for seed, value in seeds.items()}


def read_scores(path: Path) -> Scores:
    """What a script's `--score --json` wrote."""
    return _convert(read_json(path), Scores, str(path))


def _convert(value: Any, kind: type[Read], where: str) -> Read:
    try:
        if "version" not in value:
            value = (_upgrade_results if kind is Results else _upgrade_scores)(value)
        found = msgspec.convert(value, kind)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise EntryError(f"{where}: {error!s:.300}") from error
    if found.version != RESULTS_VERSION:
        raise EntryError(f"{where}: version is {found.version}; this toolkit reads {RESULTS_VERSION}")
    parts = found.config if isinstance(found, Results) else {}
    if not all(isinstance(parts.get(name, {}), dict) for name in ("model", "ttt")):
        raise EntryError(f"{where}: config is {parts!r:.200}; expected objects in it")
    names = [stage.name for stage in found.stages]
    if names != [name for name in STAGE_TITLES if name in names]:
        raise EntryError(f"{where}: stages are {names!r:.200}; expected each once, in their order")
    if kind is Results and "quantized" not in names:
        raise EntryError(f"{where}: has no score of the packed weights")
    for stage in found.stages:
        tally = stage.tally
        if not (0 < tally.num_tokens < MAX_COUNT and 0 < tally.num_bytes < MAX_COUNT and 0 <= tally.nats):
            raise EntryError(f"{where}: {stage.name} has {tally!r:.200}; nothing scores that")
        if not math.isfinite(tally.bits_per_byte):
            raise EntryError(f"{where}: {stage.name} scores {tally.bits_per_byte} bits per byte")
    return found


def _upgrade_results(old: dict[str, Any]) -> dict[str, Any]:
    """Version 1, which kept bits per byte and nats per token of a stage, not its sums, as version 2."""
    size, names = old["bytes"], [name for name in STAGE_TITLES if name in old["stages"]]
    scores = {
        "stages": [_upgrade_stage(name, old["stages"][name], old.get("partial", False)) for name in names],
        "artifact_bytes": size["artifact"],
        "artifact_sha256": old["scored_artifact_sha256"],
        "validation_sha256": old["data"]["validation_sha256"],
        "compute_dtype": old.get("score_compute_dtype"),
        "environment": old["environment"],
        "load_seconds": old.get("load_seconds", 0.0),
    }
    packing = {f"{name}_bytes": size[name] for name in ("code", "artifact", "limit")} | {
        "code_sha256": old["code_sha256"],
        "artifact_sha256": old["artifact_sha256"],
        "report": old.get("pack", {}),
        "parts": size.get("parts", {}),
    }
    training = {"final_progress": 1.0, "epochs": 0.0, "micro_batch_tokens": 0, "attention": []}
    return {
        **old,
        "training": training | old | {"seconds": old["seconds"]},
        "averaging": {"output": "last", "held_out_bpb": {}} | old.get("averaging", {}),
        "packing": packing,
        "scores": scores,
        "version": RESULTS_VERSION,
    }


def _upgrade_scores(old: dict[str, Any]) -> dict[str, Any]:
    """Version 1, whose figures of test-time training had `ttt_` before their names, as version 2."""
    stages = []
    for name, array in NATS_ARRAYS.items():
        prefix = array.removesuffix("nats")
        if f"{prefix}val_bpb" in old:
            # Scripts of entries made before each method had counts of its own state those of the last.
            counts = {key: old.get(prefix + key, old.get(key)) for key in ("tokens_scored", "bytes_scored")}
            stage = counts | {"val_loss": old[f"{prefix}val_loss_nats_per_token"], "windows": "sliding"}
            stages.append(_upgrade_stage(name, stage, old["partial"]))
    return {**old, "stages": stages, "version": RESULTS_VERSION}


def _upgrade_stage(name: str, old: dict[str, Any], partial: bool) -> dict[str, Any]:
    notes = {key: old[key] for key in ("adaptation_stopped_after_tokens",) if old.get(key) is not None}
    nats = old["val_loss"] * old["tokens_scored"]
    tally = {"nats": nats, "num_tokens": old["tokens_scored"], "num_bytes": old["bytes_scored"]}
    return {**old, "name": name, "tally": tally, "partial": partial, "notes": notes}
