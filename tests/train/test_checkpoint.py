"""Checkpoints are whole or absent."""

import errno
import random
import re

import pytest
import torch
from safetensors.torch import save_file

from golf.system.files import DiskFullError
from golf.train.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    newest_sound_checkpoint,
    save_checkpoint,
    save_weights,
)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"model": {"w": torch.randn(3)}, "steps": 7, "order": {"seed": 1}}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded["steps"] == 7 and torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_a_failed_write_leaves_the_earlier_checkpoint(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"steps": 1})
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"steps": lambda: None})
    assert load_checkpoint(path) == {"steps": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_a_damaged_file_is_named(tmp_path, keep):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"model": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"c\.pt"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"c\.pt"):
        load_weights(path)


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_every_flipped_bit_is_named(tmp_path, kind):
    path, draw = tmp_path / f"{kind}.file", random.Random(1)
    weights = {
        "a.weight": torch.randn(40, 30),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "c": torch.tensor(2),
    }
    save, load = {"checkpoint": (save_checkpoint, load_checkpoint), "weights": (save_weights, load_weights)}[
        kind
    ]
    save(path, weights)
    whole = path.read_bytes()
    header = range(600 if kind == "weights" else 0)
    for position in [*header, *(draw.randrange(len(whole)) for _ in range(1000))]:
        flipped = whole[position] ^ 1 << draw.randrange(8)
        path.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load(path)
    path.write_bytes(whole)
    assert torch.equal(load(path)["a.weight"], weights["a.weight"])


def test_the_checkpoint_before_a_damaged_one_is_kept_and_said(tmp_path):
    path, said = tmp_path / "checkpoint.pt", []
    for steps in (1, 2, 3):
        save_checkpoint(path, {"steps": steps})
    assert newest_sound_checkpoint(path, said.append) == path and not said
    path.write_bytes(path.read_bytes()[:-50])
    before = newest_sound_checkpoint(path, said.append)
    assert load_checkpoint(before) == {"steps": 2}
    assert said == [
        f"checkpoint {path} is damaged or of an earlier version: its checksum is wrong; "
        "going on from the one before it, checkpoint_before.pt"
    ]
    before.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"checkpoint_before\.pt is damaged"):
        newest_sound_checkpoint(path, said.append)


def test_the_checkpoint_before_goes_where_the_disk_has_no_room_for_three(tmp_path, monkeypatch):
    path, room = tmp_path / "checkpoint.pt", [2]
    save = torch.save

    def save_if_room(state, file):
        if len(list(tmp_path.glob("*.pt"))) >= room[0]:
            raise OSError(errno.ENOSPC, "x")
        save(state, file)

    monkeypatch.setattr(torch, "save", save_if_room)
    for steps in (1, 2, 3):
        save_checkpoint(path, {"steps": steps})
    assert load_checkpoint(path) == {"steps": 3}
    room[0] = 1
    with pytest.raises(DiskFullError, match=r"checkpoint\.pt"):
        save_checkpoint(path, {"steps": 4})
    assert load_checkpoint(path) == {"steps": 3}, "the last good one is kept"


def test_weights_of_other_programs_have_no_checksum(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(load_weights(tmp_path / "w.safetensors")["a"], torch.ones(2))


def test_weights_round_trip(tmp_path):
    weights = {"a": torch.randn(2, 3), "b": torch.tensor(1.5)}
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
