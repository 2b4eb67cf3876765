import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from golf.data.batches import TrainBatches
from golf.data.manifest import Manifest, ShardFile, open_dataset, open_shards
from golf.data.shards import DataError, read_shard, write_shard
from golf.data.vocabulary import Vocabulary
from golf.system.clock import PhaseError, StageClock
from golf.system.files import read_sealed_json, sha256_of_file, write_sealed_json


@pytest.fixture
def folder(tmp_path: Path, tiny_model_path: Path) -> Path:
    """A dataset of two training shards and two validation shards, made by hand."""
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copy(tiny_model_path, folder / "tiny.model")
    vocabulary = Vocabulary.load(tiny_model_path)
    files = []
    for index, name in enumerate(["val_000000", "val_000001", "train_000000", "train_000001"]):
        path = folder / f"fineweb_{name}.bin"
        write_shard(path, np.array([1, 10 + index, 1, 20 + index]))
        files.append(
            ShardFile(path.name, name.split("_")[0], sha256_of_file(path), 4, 2, 2 * index, 2 * index + 1)
        )
    manifest = Manifest(
        "hand",
        "a test",
        "none",
        "1",
        "tiny.model",
        vocabulary.sha256,
        vocabulary.size,
        tuple(files),
        4,
        4,
        0,
        ("n",),
    )
    manifest.save(folder)
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    write_sealed_json(path, {**read_sealed_json(path), **changes})


def test_a_manifest_loads_as_it_was_saved(folder: Path):
    manifest = Manifest.load(folder)
    manifest.save(folder)
    assert Manifest.load(folder) == manifest
    assert manifest.num_tokens("train") == 8
    assert sorted(path.name for path in folder.glob("*.part")) == []


def test_an_opened_dataset_gives_its_shards_in_order(folder: Path):
    dataset = open_dataset(folder)
    assert [shard.tolist() for shard in dataset.train_shards()] == [[1, 12, 1, 22], [1, 13, 1, 23]]
    validation = dataset.validation_tokens(StageClock())
    assert validation.tolist() == [1, 10, 1, 20, 1, 11, 1, 21]
    assert validation.dtype == np.uint16


@pytest.mark.parametrize("phase", ["warm-up", "train", "calibrate", "pack"])
def test_validation_tokens_stay_closed_outside_prepare_and_score(folder: Path, phase: str):
    dataset, clock = open_dataset(folder), StageClock()
    with clock.stage(phase), pytest.raises(PhaseError, match=f"not allowed in phase '{phase}'"):
        dataset.validation_tokens(clock)
    with clock.stage("score"):
        assert len(dataset.validation_tokens(clock)) == 8


def test_a_tokenizer_that_does_not_belong_to_the_shards_is_refused(folder: Path):
    rewrite(folder, tokenizer_sha256="0" * 64)
    with pytest.raises(DataError, match="tokenizer and shards do not belong together"):
        open_dataset(folder)


def test_a_wrong_vocabulary_size_is_refused(folder: Path):
    rewrite(folder, vocab_size=1024)
    with pytest.raises(DataError, match=r"size and use of CaseOps are .*, 1024, False\) in the manifest"):
        open_dataset(folder)


def test_without_training_shards_a_dataset_can_be_scored_and_not_trained_on(folder: Path):
    for path in folder.glob("fineweb_train_*.bin"):
        path.unlink()
    dataset = open_dataset(folder)
    assert len(dataset.validation_tokens(StageClock())) == 8
    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin"):
        dataset.train_shards()


def test_a_missing_shard_and_a_missing_tokenizer_are_named(folder: Path):
    (folder / "fineweb_val_000001.bin").rename(folder / "kept")
    with pytest.raises(DataError, match=r"fineweb_val_000001\.bin: cannot be read"):
        open_dataset(folder)
    (folder / "kept").rename(folder / "fineweb_val_000001.bin")
    (folder / "tiny.model").unlink()
    with pytest.raises(DataError, match=r"tiny\.model: cannot be read"):
        open_dataset(folder)


def test_a_shard_of_another_length_than_the_manifest_says_is_refused(folder: Path):
    write_shard(folder / "fineweb_train_000000.bin", np.array([1, 2, 3]))
    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin: 3 tokens; the manifest says 4"):
        open_dataset(folder)


def test_changed_validation_is_refused_by_its_sha256(folder: Path):
    write_shard(folder / "fineweb_val_000001.bin", np.array([1, 11, 1, 22]))
    with pytest.raises(DataError, match=r"fineweb_val_000001\.bin: has changed .*the manifest says"):
        open_dataset(folder).validation_tokens(StageClock())


def test_a_validation_token_outside_the_vocabulary_is_named(folder: Path):
    path = folder / "fineweb_val_000001.bin"
    write_shard(path, np.array([1, 11, 999, 22]))
    manifest = Manifest.load(folder)
    files = tuple(
        dataclasses.replace(f, sha256=sha256_of_file(path)) if f.name == path.name else f
        for f in manifest.files
    )
    dataclasses.replace(manifest, files=files).save(folder)
    with pytest.raises(
        DataError, match=r"fineweb_val_000001\.bin: token 2 is 999; the vocabulary has ids 0 to"
    ):
        open_dataset(folder).validation_tokens(StageClock())


def test_training_that_does_not_start_with_bos_is_refused(folder: Path):
    write_shard(folder / "fineweb_train_000000.bin", np.array([5, 1, 3, 4]))
    with pytest.raises(DataError, match="training starts with token 5; expected BOS, 1"):
        open_dataset(folder).train_shards()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dataset_without_a_split_says_so_when_it_is_asked_for(folder: Path, split: str):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite(folder, files=[file for file in files if file["split"] != split])
    dataset = open_dataset(folder)
    with pytest.raises(DataError, match=r"has no (training|validation) shards"):
        dataset.train_shards() if split == "train" else dataset.validation_tokens(StageClock())


def test_a_folder_without_data_says_how_to_make_some(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no dataset there; make one with `golf prepare"):
            open_dataset(folder)


def test_shards_without_a_manifest_say_how_to_adopt_them(folder: Path):
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"has shards but no manifest\.json\. `golf prepare --source"):
        open_dataset(folder)


def test_shards_without_a_manifest_open_with_the_manifest_in_memory(folder: Path):
    pinned = open_dataset(folder)
    (folder / "manifest.json").unlink()
    found = open_shards(folder, folder / pinned.manifest.tokenizer)
    assert not (folder / "manifest.json").exists()
    assert {file.name for file in found.manifest.files} == {file.name for file in pinned.manifest.files}
    for split in ("train", "val"):
        assert found.manifest.num_tokens(split) == pinned.manifest.num_tokens(split)
    clock = StageClock()
    assert np.array_equal(found.validation_tokens(clock), pinned.validation_tokens(clock))
    assert all(map(np.array_equal, found.train_shards(), pinned.train_shards()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"manifest\.json is damaged \(not readable as JSON: Expecting property name"),
        ("[]", r"is damaged \(is no JSON object\)"),
        ('{"datasets": []}', r"is not a manifest of a dataset \(Manifest has no field 'datasets'"),
        ('{"format": "golf-dataset-1", "files": [], "notes": []}', "Manifest lacks its field"),
        ('{"format": "golf-dataset-1", "files": [{}], "notes": []}', "ShardFile lacks its field 'name'"),
        ('{"format": "golf-dataset-1", "files": ["a"], "notes": []}', "ShardFile is stored as a str"),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, text: str, message: str):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


def test_a_manifest_of_another_format_is_refused(folder: Path):
    rewrite(folder, format="golf-dataset-2")
    with pytest.raises(DataError, match="format is 'golf-dataset-2'; expected 'golf-dataset-1'"):
        open_dataset(folder)


def test_a_manifest_cannot_point_outside_its_folder(folder: Path):
    rewrite(folder, tokenizer="../tiny.model")
    with pytest.raises(DataError, match="is not a file name inside the folder"):
        open_dataset(folder)


def test_document_ranges_in_both_splits_are_refused(folder: Path):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[2]["first_document"] = 3
    rewrite(folder, files=files)
    with pytest.raises(
        DataError, match=r"documents 3 to 3 are in both fineweb_val_000001\.bin and fineweb_train"
    ):
        open_dataset(folder)


def test_a_training_shard_that_changed_is_refused_by_name_and_looked_at_once(folder: Path, monkeypatch):
    read = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return sha256_of_file(path)

    monkeypatch.setattr("golf.data.manifest.sha256_of_file", counting)
    for _ in range(2):
        open_dataset(folder).train_shards()
    assert sorted(read) == ["fineweb_train_000000.bin", "fineweb_train_000001.bin"], "each once"
    path = folder / "fineweb_train_000000.bin"
    before = path.stat()
    changed = bytearray(path.read_bytes())
    changed[-2] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin: has changed since the dataset was made"):
        open_dataset(folder).train_shards()


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path):
    path = tmp_path / "train.bin"
    write_shard(path, np.tile(np.arange(1, 9), 400))
    batches = TrainBatches([read_shard(path)], 1, 0)
    batches.next(2, 16)
    os.truncate(path, 1100)
    with pytest.raises(DataError, match=r"train\.bin: was cut while training read it"):
        for _ in range(20):
            batches.next(2, 16)
