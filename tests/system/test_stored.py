"""Stored configurations: every value has the type and the bounds of its field."""

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from golf.config import RunConfig
from golf.data.manifest import Manifest, ShardFile
from golf.data.shards import DataError
from golf.evaluate import EvaluateConfig, read_settings
from golf.pack.container import ArtifactError, read_artifact
from golf.pack.layout import implied_layout
from golf.presets import PRESETS
from golf.system.stored import ConfigError, config_from_dict, config_to_dict, parse_json, read_bounded
from golf.ttt.sgd import TTTConfig

ODD_VALUES = (
    *(None, True, False, -1, 0, 1, 3, 7, 1 << 20, 1 << 31, 10**18, 10**40, -0.5, 0.0, 2.5, 1e9, 1e300),
    *("", "x", "auto", "\ud800", "\x1b[2J", "1", [], [1], ["a", 2], [[]], {}, {"a": 1}, {"": None}),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def mutate(value: Any, rng: random.Random) -> Any:
    """A copy with one to three values replaced, left out, renamed or added."""
    changed = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        found = list(places(changed))
        if not found:
            break
        holder, key = rng.choice(found)
        how = rng.choice(("replace", "replace", "replace", "drop", "rename", "nest"))
        if how == "replace":
            holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        elif how == "nest":
            holder[key] = [holder[key]]
        elif how == "rename" and isinstance(holder, dict):
            holder[rng.choice(("", "x", "\udcff"))] = holder.pop(key)
        else:
            del holder[key]
    return changed


def small_config() -> dict[str, Any]:
    return json.loads(json.dumps(config_to_dict(PRESETS["cpu"].config)))


def manifest() -> dict[str, Any]:
    files = (
        ShardFile("fineweb_val_000000.bin", "val", "0" * 64, 10, 2, 0, 1),
        ShardFile("fineweb_train_000000.bin", "train", "0" * 64, 10, 2, 2, 3),
    )
    whose = ("toy", "made here", "CC0", "1", "t.model", "0" * 64, 64)
    return json.loads(json.dumps(config_to_dict(Manifest(*whose, files, 20, 20, 0, ()))))


def test_every_edit_of_a_stored_configuration_is_a_config_or_one_config_error():
    stored, refused = small_config(), 0
    for seed in range(400):
        try:
            config = config_from_dict(RunConfig, mutate(stored, random.Random(seed)))
        except ConfigError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            refused += 1
        else:
            back = json.loads(json.dumps(config_to_dict(config)))
            assert config_from_dict(RunConfig, back) == config
    assert 250 < refused < 400


def test_every_edit_of_a_header_is_a_network_and_settings_or_one_artifact_error():
    config = small_config()
    header = {name: config[name] for name in ("model", "score", "ttt")}
    refused = 0
    for seed in range(250):
        changed = mutate(header, random.Random(seed))
        try:
            implied_layout(changed.get("model"))
            read_settings(changed, EvaluateConfig())
        except ArtifactError as error:
            assert len(str(error)) < 400
            refused += 1
    assert 150 < refused < 250


def test_every_edit_of_a_manifest_is_a_manifest_or_one_data_error(tmp_path: Path):
    stored, path, refused = manifest(), tmp_path / "manifest.json", 0
    for seed in range(300):
        path.write_text(json.dumps(mutate(stored, random.Random(seed))))
        try:
            Manifest.load(tmp_path)
        except DataError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert 200 < refused < 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 10**9}, "ttt.epochs is 1000000000; expected at most 100"),
        ({"epochs": True}, "TTTConfig.epochs is True; expected int"),
        ({"epochs": 2.0}, "TTTConfig.epochs is 2.0; expected int"),
        ({"momentum": "0.9"}, "TTTConfig.momentum is '0.9'; expected float"),
        ({"momentum": float("nan")}, "TTTConfig.momentum is nan; expected float"),
        ({"max_seconds": [1]}, r"TTTConfig.max_seconds is \[1\]; expected float \| None"),
        ({"method": "adam"}, "TTTConfig.method is 'adam'; expected 'sgd' or 'lora'"),
        ({"phases": [1, "2"]}, "TTTConfig.phases is '2'; expected int"),
        ({"lora": {"rank": 10**6}}, "ttt.lora.rank is 1000000; expected at most 1024"),
        ({"tilt": 3}, "TiltConfig is stored as a int; expected an object"),
    ],
)
def test_a_value_of_another_type_or_without_bound_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"^{message}"):
        config_from_dict(TTTConfig, changes)


def test_a_whole_number_stands_for_a_float():
    assert config_from_dict(TTTConfig, {"momentum": 0, "max_seconds": 3}).max_seconds == 3


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "[NaN]", "[Infinity]", "[1e999]"),
        *("[" * 200_000, '{"a":' * 200_000, "9" * 10_000, b"\xff\xfe\x00", b'"\xff"'),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_json_for_this_project_is_one_error(text: str | bytes):
    with pytest.raises(ConfigError, match=r"^not readable as JSON: ") as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_an_old_and_a_new_name_of_one_field_are_refused_together():
    model = {"query_gain": 1.0, "qk_gain": 2.0}
    with pytest.raises(ConfigError, match="the key 'qk_gain' is given twice"):
        config_from_dict(RunConfig, {"model": model})


def test_pipes_devices_and_files_out_of_bounds_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 32)
    for path, message in (
        (tmp_path / "pipe", "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "sparse", "has 4,294,967,296 bytes; expected at most"),
    ):
        for reader in (lambda path: read_bounded(path, 100), read_artifact):
            with pytest.raises(ConfigError, match=message):
                reader(path)
