import json
import os
from pathlib import Path

import numpy as np
import pytest
from data_samples import sample_text

from golf.data.manifest import Manifest, open_dataset
from golf.data.shards import DataError, read_shard, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare import build, tokenizer
from golf.prepare.build import build_dataset
from golf.prepare.encode import text_digest
from golf.prepare.shards import TextOrigin, iterate_documents
from golf.prepare.split import GivenValidation, SplitConfig
from golf.prepare.staging import claimed
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice
from golf.system.clock import StageClock
from golf.system.log import RunLog

TEXTS = [sample_text(seed) for seed in range(200)]
ORIGIN = TextOrigin("sample", "made up", "none", "1", ("a note",))
QUIET = RunLog(quiet=True)


def stream(texts: list[str]) -> TextStream:
    return TextStream(((text, place) for place, text in enumerate(texts, 1)), len(texts), "documents")


def make(folder: Path, tokenizer: Path | int | TokenizerChoice, texts: list[str] = TEXTS, **more) -> Manifest:
    split = more.pop("split", SplitConfig(val_fraction=0.2))
    if isinstance(tokenizer, int):
        tokenizer = TokenizerChoice(vocab_size=tokenizer)
    elif isinstance(tokenizer, Path):
        tokenizer = TokenizerChoice(tokenizer)
    return build_dataset(folder, ORIGIN, stream(texts), tokenizer, split, QUIET, **more)


def documents_of(folder: Path, split: str) -> list[str]:
    dataset = open_dataset(folder)
    paths = sorted(folder.glob(f"fineweb_{split}_*.bin"))
    return [
        dataset.vocabulary.decode_tokens(document[1:])
        for path in paths
        for document in iterate_documents(read_shard(path), dataset.vocabulary.bos_id)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_document_is_in_exactly_one_split(tmp_path: Path, tiny_model_path: Path):
    make(tmp_path / "a", tiny_model_path)
    train, val = documents_of(tmp_path / "a", "train"), documents_of(tmp_path / "a", "val")
    assert sorted(train + val) == sorted(TEXTS)
    assert 20 <= len(val) <= 60


def test_the_same_text_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("golf.prepare.encode._BATCH_CHARACTERS", 1000)
    for name, threads in (("a", 1), ("b", 1), ("c", 3)):
        make(tmp_path / name, 400, num_threads=threads)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_the_split_does_not_depend_on_order_tokenizer_or_other_documents(
    tmp_path: Path, tiny_model_path: Path
):
    make(tmp_path / "a", tiny_model_path)
    make(tmp_path / "b", 380, TEXTS[::-1])
    make(tmp_path / "c", tiny_model_path, TEXTS[:150])
    val = documents_of(tmp_path / "a", "val")
    assert sorted(documents_of(tmp_path / "b", "val")) == sorted(val)
    assert sorted(documents_of(tmp_path / "c", "val")) == sorted(text for text in val if text in TEXTS[:150])


def test_counts_in_the_manifest_are_those_of_the_shards(tmp_path: Path, tiny_model_path: Path):
    make(tmp_path / "a", tiny_model_path, split=SplitConfig(val_fraction=0.2, shard_tokens=4000))
    dataset = open_dataset(tmp_path / "a")
    manifest = dataset.manifest
    tokens = dataset.validation_tokens(StageClock())
    assert manifest.val_text_bytes == dataset.vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum()
    assert manifest.val_text_bytes == sum(len(text.encode()) for text in documents_of(tmp_path / "a", "val"))
    assert manifest.train_text_bytes == sum(
        len(text.encode()) for text in documents_of(tmp_path / "a", "train")
    )
    assert sum(file.num_documents for file in manifest.files) == 200
    assert manifest.files[-1].last_document == 199
    assert len(dataset.train_shards()) > 2
    assert (manifest.name, manifest.source, manifest.licence, manifest.notes[0]) == (
        "sample",
        "made up",
        "none",
        "a note",
    )


def test_repeats_are_dropped_before_the_split(tmp_path: Path, tiny_model_path: Path):
    again = [*TEXTS, *(text.upper() for text in TEXTS[:30]), *(f" {text}\n" for text in TEXTS[:10])]
    manifest = make(tmp_path / "a", tiny_model_path, again)
    make(tmp_path / "b", tiny_model_path)
    assert manifest.repeated_documents == 40
    for split in ("train", "val"):
        assert documents_of(tmp_path / "a", split) == documents_of(tmp_path / "b", split)


def test_validation_is_the_smallest_hashes_up_to_a_limit(tmp_path: Path, tiny_model_path: Path):
    split = SplitConfig(val_fraction=0.5, val_max_bytes=2000)
    manifest = make(tmp_path / "a", tiny_model_path, split=split)
    val, train = documents_of(tmp_path / "a", "val"), documents_of(tmp_path / "a", "train")
    in_order = sorted(TEXTS, key=text_digest)
    assert val == in_order[: len(val)]
    assert sum(len(text) for text in val) <= 2000 < sum(len(text) for text in in_order[: len(val) + 1])
    unused = set(TEXTS) - set(val) - set(train)
    assert unused and max(map(text_digest, unused)) < min(map(text_digest, train))
    assert f"{len(unused)} more documents of the validation share of 0.5 are unused" in manifest.notes[-1]


def test_a_document_longer_than_the_limit_can_still_be_validation(tmp_path: Path, tiny_model_path: Path):
    make(tmp_path / "a", tiny_model_path, split=SplitConfig(val_fraction=0.2, val_max_bytes=1))
    assert documents_of(tmp_path / "a", "val") == [min(TEXTS, key=text_digest)]


def test_a_document_in_both_parts_is_an_error_that_names_it(tmp_path: Path, tiny_model_path: Path):
    """A control character makes another text of it, but the tokenizer drops it: the tokens are the same."""
    vocabulary = Vocabulary.load(tiny_model_path)
    split = SplitConfig(val_fraction=0.5)
    for seed in range(1000, 1100):
        pair = [sample_text(seed), sample_text(seed) + "\x01"]
        assert vocabulary.encode_text(pair[0]) == vocabulary.encode_text(pair[1])
        in_val = [text_digest(text)[0] < 128 for text in pair]
        if in_val[0] != in_val[1]:
            break
    words = pair[0][:20]
    with pytest.raises(
        DataError, match=rf"one document in training and validation: document \d+ is .*{words}"
    ):
        make(tmp_path / "a", tiny_model_path, [*TEXTS, *pair], split=split)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def official(tmp_path: Path, tiny_model_path: Path) -> Path:
    """A validation shard somebody published: the first 30 sample texts."""
    vocabulary = Vocabulary.load(tiny_model_path)
    path = tmp_path / "published" / "val.bin"
    path.parent.mkdir()
    write_shard(
        path, np.array([token for text in TEXTS[:30] for token in (1, *vocabulary.encode_text(text))])
    )
    return path


def test_a_given_validation_shard_stays_as_it_is_and_out_of_training(
    tmp_path: Path, tiny_model_path: Path, official: Path
):
    manifest = make(tmp_path / "a", tiny_model_path, TEXTS[20:], given=GivenValidation((official,)))
    assert (tmp_path / "a" / "fineweb_val_000000.bin").read_bytes() == official.read_bytes()
    assert sorted(documents_of(tmp_path / "a", "train")) == sorted(TEXTS[30:])
    assert manifest.notes[-1].startswith("validation is given as shards; 10 documents with the text of a")


def test_a_validation_shard_of_another_tokenizer_is_refused(tmp_path: Path, official: Path):
    with pytest.raises(ValueError, match=r"val\.bin: token \d+ is 3[89]\d; the vocabulary has ids 0 to 379"):
        make(tmp_path / "a", 380, given=GivenValidation((official,)))


@pytest.mark.parametrize(
    ("texts", "fraction", "message"),
    [
        (TEXTS[:1], 1e-9, "of 1 different documents the validation share of 1e-09 gets none"),
        (TEXTS[:1], 0.999999, "of 1 different documents none is left for training"),
        ([], 0.5, "of 0 different documents none is left for training"),
        (TEXTS, 1.5, "validation share is 1.5; expected a number between 0 and 1"),
    ],
)
def test_a_split_without_documents_is_refused(
    tmp_path: Path, tiny_model_path: Path, texts: list[str], fraction: float, message: str
):
    with pytest.raises(DataError, match=message):
        make(tmp_path / "a", tiny_model_path, texts, split=SplitConfig(fraction))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, tiny_model_path: Path):
    make(tmp_path / "a", tiny_model_path)
    before = contents(tmp_path / "a")
    with pytest.raises(DataError, match="already holds a dataset"):
        make(tmp_path / "a", tiny_model_path, TEXTS[:100])
    assert contents(tmp_path / "a") == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(DataError, match="is not an empty folder"):
        make(tmp_path / "b", tiny_model_path)


def leave_staging(folder: Path, *names: str) -> Path:
    left = folder / ".preparing-killed"
    left.mkdir(parents=True)
    for name in names:
        (left / name).write_text("{}")
    return left


def test_an_empty_folder_and_the_rest_of_a_killed_run_are_no_hindrance(tmp_path: Path, tiny_model_path: Path):
    leave_staging(tmp_path / "a", "fineweb_train_000007.bin")
    (tmp_path / "a" / "lost+found").mkdir()
    make(tmp_path / "a", tiny_model_path)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "fineweb_train_000000.bin",
        "fineweb_val_000000.bin",
        "lost+found",
        "manifest.json",
        "tiny.model",
    ]


def test_a_dataset_whose_move_was_cut_is_completed_by_the_next_start(tmp_path: Path, tiny_model_path: Path):
    make(tmp_path / "a", tiny_model_path)
    left = leave_staging(tmp_path / "a")
    for name in ("fineweb_val_000000.bin", "manifest.json"):
        os.rename(tmp_path / "a" / name, left / name)
    with pytest.raises(DataError, match="already holds a dataset"):
        make(tmp_path / "a", tiny_model_path)
    assert not left.exists() and open_dataset(tmp_path / "a").train_shards()


def test_a_folder_that_another_process_prepares_is_left_to_it(tmp_path: Path, tiny_model_path: Path):
    left = leave_staging(tmp_path / "a", "fineweb_train_000000.bin")
    with (
        claimed(left, tmp_path / "a"),
        pytest.raises(DataError, match="a: another process is preparing it; wait until it has ended"),
    ):
        make(tmp_path / "a", tiny_model_path)
    assert [path.name for path in left.iterdir()] == ["fineweb_train_000000.bin"]


@pytest.mark.parametrize("name", ["fineweb_train_000000.bin", "manifest.json"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    replace = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("golf.system.files.os.replace", full)
    with pytest.raises((DataError, OSError), match="no space left on the disk") as caught:
        make(tmp_path / "a", tiny_model_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "check_shards", stopped)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", tiny_model_path)
    assert not list(tmp_path.iterdir())


def test_a_trained_tokenizer_sees_no_validation_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    train = tokenizer.train_tokenizer

    def spy(texts, *more) -> bytes:
        seen.extend(texts)
        return train(seen, *more)

    monkeypatch.setattr("golf.prepare.build.train_tokenizer", spy)
    make(tmp_path / "a", 400)
    assert sorted(seen) == sorted(documents_of(tmp_path / "a", "train"))
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["vocab_size"] == 400


def test_a_link_to_an_empty_folder_may_be_the_dataset_folder(tmp_path: Path, tiny_model_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    make(tmp_path / "link", tiny_model_path)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "manifest.json").is_file()
    assert len(open_dataset(tmp_path / "link").train_shards()) == 1
