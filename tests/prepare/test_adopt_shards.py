import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_samples import sample_text

from golf.data.manifest import open_dataset
from golf.data.shards import DataError, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.shards import TextOrigin, adopt_shards
from golf.system.clock import StageClock
from golf.system.log import RunLog

ORIGIN = TextOrigin("found", "somewhere", "none", "as found")
QUIET = RunLog(quiet=True)


@pytest.fixture
def folder(tmp_path: Path, tiny_model_path: Path) -> Path:
    """Shards as they lie on many disks: no manifest, no tokenizer."""
    vocabulary = Vocabulary.load(tiny_model_path)
    folder = tmp_path / "fineweb10B_sp1024"
    folder.mkdir()
    for name, seeds in (("val_000000", range(5)), ("train_000000", range(5, 9)), ("train_000001", [9, 5, 2])):
        tokens = [token for seed in seeds for token in (1, *vocabulary.encode_text(sample_text(seed)))]
        write_shard(folder / f"fineweb_{name}.bin", np.array(tokens))
    return folder


def test_a_folder_of_shards_gets_its_manifest_and_tokenizer(folder: Path, tiny_model_path: Path):
    adopt_shards(folder, tiny_model_path, ORIGIN, QUIET)
    dataset = open_dataset(folder)
    assert [file.num_documents for file in dataset.manifest.files] == [5, 4, 3]
    assert dataset.manifest.repeated_documents == 2
    assert dataset.manifest.notes[0].startswith(
        "1 training documents are exact repeats of validation documents"
    )
    assert len(dataset.train_shards()) == 2
    assert len(dataset.validation_tokens(StageClock())) == dataset.manifest.num_tokens("val")
    assert (folder / "tiny.model").read_bytes() == tiny_model_path.read_bytes()
    assert not list(folder.glob("*.part"))


def test_the_only_model_in_the_folder_is_taken(folder: Path, tiny_model_path: Path):
    with pytest.raises(DataError, match=r"expected one \.model file, found none; name it with --tokenizer"):
        adopt_shards(folder, None, ORIGIN, QUIET)
    shutil.copy(tiny_model_path, folder)
    adopt_shards(folder, None, ORIGIN, QUIET)
    assert open_dataset(folder).manifest.tokenizer == "tiny.model"


def test_the_tokenizer_is_found_where_the_challenge_lays_it_out(folder: Path, tiny_model_path: Path):
    datasets, tokenizers = folder.parent / "data" / "datasets", folder.parent / "data" / "tokenizers"
    datasets.mkdir(parents=True)
    tokenizers.mkdir()
    folder = folder.rename(datasets / folder.name)
    shutil.copy(tiny_model_path, tokenizers / "fineweb_1024_bpe.model")
    shutil.copy(tiny_model_path, tokenizers / "fineweb_8192_bpe.model")
    adopt_shards(folder, None, ORIGIN, QUIET)
    assert open_dataset(folder).manifest.tokenizer == "fineweb_1024_bpe.model"


def test_validation_alone_can_be_adopted(folder: Path, tiny_model_path: Path):
    for path in folder.glob("fineweb_train_*"):
        path.unlink()
    adopt_shards(folder, tiny_model_path, ORIGIN, QUIET)
    assert open_dataset(folder).validation_tokens(StageClock())[0] == 1


def test_a_manifest_that_is_there_is_not_overwritten(folder: Path, tiny_model_path: Path):
    (folder / "manifest.json").write_text(json.dumps({"datasets": []}))
    with pytest.raises(DataError, match=r"manifest\.json: is there already; move it away"):
        adopt_shards(folder, tiny_model_path, ORIGIN, QUIET)


@pytest.mark.parametrize("case", ["damaged shard", "no tokenizer", "same range", "no shards"])
def test_what_cannot_be_adopted_gets_no_manifest(folder: Path, tiny_model_path: Path, case: str):
    errors = {"damaged shard": DataError, "no tokenizer": DataError}
    train = folder / "fineweb_train_000000.bin"
    if case == "damaged shard":
        train.write_bytes(train.read_bytes()[:-1])
    elif case == "no tokenizer":
        tiny_model_path = folder / "absent.model"
    elif case == "same range":
        shutil.copy(folder / "fineweb_val_000000.bin", train)
    else:
        folder = folder.parent
    with pytest.raises(errors.get(case, DataError)):
        adopt_shards(folder, tiny_model_path, ORIGIN, QUIET)
    assert not (folder / "manifest.json").exists()
    assert not list(folder.glob("*.part"))


def test_a_pipe_in_place_of_a_shard_is_named(tmp_path: Path, tiny_model_path: Path):
    os.mkfifo(tmp_path / "fineweb_train_000000.bin")
    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin: is a pipe or a device; expected a file"):
        adopt_shards(tmp_path, tiny_model_path, TextOrigin("a", "b", "c", "d"), RunLog(quiet=True))
