import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_samples import sample_text
from fake_hub import COMMIT, REPOSITORY, FakeHub

from golf.data.manifest import open_dataset
from golf.data.shards import DataError, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare import challenge as hub_module
from golf.prepare.challenge import ChallengeConfig, fetch_challenge
from golf.prepare.staging import claimed
from golf.system.clock import StageClock
from golf.system.files import read_sealed_json, write_sealed_json
from golf.system.log import RunLog

QUIET = RunLog(quiet=True)


@pytest.fixture(scope="module")
def export(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An export like the published one, with three training shards and two of validation."""
    vocabulary = Vocabulary.load(tiny_model_path)
    folder = tmp_path_factory.mktemp("export")
    files: dict[str, bytes] = {}
    stats = {"files_val": 2, "files_train": 3, "tokens_val": 0, "tokens_train": 0}
    seed = 0
    for split, number in (("val", 2), ("train", 3)):
        for index in range(number):
            texts = [sample_text(seed + n) for n in range(6)]
            seed += 6
            tokens = np.array([token for text in texts for token in (1, *vocabulary.encode_text(text))])
            stats[f"tokens_{split}"] += len(tokens)
            write_shard(folder / "s.bin", tokens)
            name = f"datasets/datasets/fineweb10B_sp1024/fineweb_{split}_{index:06d}.bin"
            files[name] = (folder / "s.bin").read_bytes()
    files["datasets/tokenizers/tiny.model"] = tiny_model_path.read_bytes()
    files["datasets/docs_selected.jsonl"] = b'{"text": "small"}\n'
    manifest = {
        "datasets": [{"name": "fineweb10B_sp1024", "tokenizer_name": "sp", "stats": stats}],
        "tokenizers": [{"name": "sp", "model_path": "tokenizers/tiny.model"}],
    }
    files["datasets/manifest.json"] = json.dumps(manifest).encode()
    return files


@pytest.fixture
def hub(export: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub = FakeHub(export)
    yield hub
    hub.close()


def config(hub: FakeHub, train_shards: int = 2, **fields) -> ChallengeConfig:
    return ChallengeConfig(train_shards, repository=REPOSITORY, endpoint=hub.endpoint, **fields)


TRAIN_0 = "datasets/datasets/fineweb10B_sp1024/fineweb_train_000000.bin"
VAL_1 = "datasets/datasets/fineweb10B_sp1024/fineweb_val_000001.bin"


def test_all_of_validation_and_the_first_training_shards_are_fetched(hub: FakeHub, tmp_path: Path):
    folder = tmp_path / "data"
    fetch_challenge(folder, config(hub), QUIET)
    for path in folder.iterdir():
        published = [data for name, data in hub.files.items() if name.endswith("/" + path.name)]
        assert path.name == "manifest.json" or path.read_bytes() == published[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "fineweb_train_000000.bin",
        "fineweb_train_000001.bin",
        "fineweb_val_000000.bin",
        "fineweb_val_000001.bin",
        "manifest.json",
        "tiny.model",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    dataset = open_dataset(folder)
    assert dataset.manifest.revision == COMMIT
    assert dataset.manifest.licence == "ODC-By 1.0"
    assert [(f.first_document, f.last_document) for f in dataset.manifest.files] == [
        (0, 5),
        (6, 11),
        (12, 17),
        (18, 23),
    ]
    assert len(dataset.validation_tokens(StageClock())) == dataset.manifest.num_tokens("val")


def test_the_documents_come_on_request(hub: FakeHub, tmp_path: Path):
    fetch_challenge(tmp_path / "data", config(hub, 1, with_documents=True), QUIET)
    assert (tmp_path / "data" / "docs_selected.jsonl").read_bytes() == b'{"text": "small"}\n'


def test_a_transfer_that_breaks_off_resumes_where_it_stopped(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    hub.cut_once[TRAIN_0] = 1700
    fetch_challenge(tmp_path / "data", config(hub), QUIET)
    assert [wanted for path, wanted in hub.requests if path == TRAIN_0] == [None, "bytes=1500-"]
    assert (tmp_path / "data" / "fineweb_train_000000.bin").read_bytes() == hub.files[TRAIN_0]


def test_a_killed_download_resumes_in_the_next_run(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = hub_module.http_get

    def killed(url: str, file, **keywords):
        whole(url, file, **keywords)
        if "train_000000" in url:
            file.truncate(1234)
            raise KeyboardInterrupt

    monkeypatch.setattr(hub_module, "http_get", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)
    assert not (tmp_path / "data" / "manifest.json").exists()
    monkeypatch.setattr(hub_module, "http_get", whole)
    hub.requests.clear()
    fetch_challenge(tmp_path / "data", config(hub), QUIET)
    assert (TRAIN_0, "bytes=1234-") in hub.requests
    assert VAL_1 not in [path for path, _ in hub.requests]
    assert open_dataset(tmp_path / "data").train_shards()


def test_a_corrupted_file_is_refused_and_thrown_away(hub: FakeHub, tmp_path: Path):
    good = hub.files[VAL_1]
    hub.served[VAL_1] = good[:2000] + bytes([good[2000] ^ 1]) + good[2001:]
    with pytest.raises(
        DataError, match=r"fineweb_val_000001\.bin: sha256 \w+; the hub says \w+; the download was"
    ):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)
    assert not (tmp_path / "data" / "manifest.json").exists()
    hub.served[VAL_1] = good
    fetch_challenge(tmp_path / "data", config(hub), QUIET)
    assert (tmp_path / "data" / "fineweb_val_000001.bin").read_bytes() == good


def test_a_corrupted_small_file_is_refused_by_its_git_hash(hub: FakeHub, tmp_path: Path):
    hub.served["datasets/docs_selected.jsonl"] = b'{"text": "swall"}\n'
    with pytest.raises(DataError, match=r"docs_selected\.jsonl: git object \w+; the hub says"):
        fetch_challenge(tmp_path / "data", config(hub, with_documents=True), QUIET)


def test_more_training_shards_are_added_to_what_is_there(hub: FakeHub, tmp_path: Path):
    fetch_challenge(tmp_path / "data", config(hub, 1), QUIET)
    hub.requests.clear()
    fetch_challenge(tmp_path / "data", config(hub, 3), QUIET)
    fetched = {path.split("/")[-1] for path, _ in hub.requests}
    assert fetched == {"manifest.json", "fineweb_train_000001.bin", "fineweb_train_000002.bin"}
    assert len(open_dataset(tmp_path / "data").train_shards()) == 3
    hub.requests.clear()
    assert len(fetch_challenge(tmp_path / "data", config(hub, 2), QUIET).files) == 5
    assert [path for path, _ in hub.requests] == ["datasets/manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_shards_that_somebody_fetched_before_are_checked_and_kept(hub: FakeHub, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "fineweb_train_000000.bin").write_bytes(hub.files[TRAIN_0])
    fetch_challenge(folder, config(hub), QUIET)
    assert TRAIN_0 not in [path for path, _ in hub.requests]
    assert len(open_dataset(folder).train_shards()) == 2


def test_another_file_of_the_same_name_is_left_alone(hub: FakeHub, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "fineweb_train_000000.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"fineweb_train_000000\.bin: 4 bytes; the hub says \d+; remove it"):
        fetch_challenge(folder, config(hub), QUIET)
    assert (folder / "fineweb_train_000000.bin").read_bytes() == b"mine"


def test_a_folder_with_another_dataset_is_left_alone(hub: FakeHub, tmp_path: Path):
    fetch_challenge(tmp_path / "data", config(hub), QUIET)
    path = tmp_path / "data" / "manifest.json"
    write_sealed_json(path, {**read_sealed_json(path), "name": "docs"})
    with pytest.raises(DataError, match="holds the dataset docs; name another folder for fineweb10B_sp1024"):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)


def test_more_shards_than_there_are_and_none_cannot_be_had(hub: FakeHub, tmp_path: Path):
    with pytest.raises(DataError, match="4 training shards were asked for; fineweb10B_sp1024 has 3"):
        fetch_challenge(tmp_path / "data", config(hub, 4), QUIET)
    hub.requests.clear()
    with pytest.raises(DataError, match="--train-shards is 0; expected at least 1"):
        fetch_challenge(tmp_path / "data", config(hub, 0), QUIET)
    assert not hub.requests


def test_a_download_goes_to_a_folder_on_another_disk_or_behind_a_link(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As between file systems, nothing can be renamed into the folder from outside it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    replace = os.replace

    def on_one_disk(source, target):
        if not str(source).startswith(f"{tmp_path / 'disk'}/"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr("os.replace", on_one_disk)
    monkeypatch.setattr("os.rename", on_one_disk)
    fetch_challenge(tmp_path / "link", config(hub), QUIET)
    assert (tmp_path / "link").is_symlink() and open_dataset(tmp_path / "disk").train_shards()
    assert not (tmp_path / "disk" / ".download").exists()


def test_two_downloads_into_one_folder_do_not_mix(hub: FakeHub, tmp_path: Path):
    (tmp_path / "data" / ".download").mkdir(parents=True)
    with (
        claimed(tmp_path / "data" / ".download", tmp_path / "data"),
        pytest.raises(DataError, match="another process is preparing it"),
    ):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)
    fetch_challenge(tmp_path / "data", config(hub), QUIET)


@pytest.mark.parametrize("stats", [{"files_val": "x"}, {"files_val": 10**9}, {"files_val": -1}, []])
def test_an_export_whose_manifest_is_wrong_is_refused(hub: FakeHub, tmp_path: Path, stats: dict | list):
    listed = json.loads(hub.files["datasets/manifest.json"])
    own = listed["datasets"][0]
    own["stats"] = {**own["stats"], **stats} if isinstance(stats, dict) else stats
    data = json.dumps(listed).encode()
    hub.files["datasets/manifest.json"] = hub.served["datasets/manifest.json"] = data
    with pytest.raises(DataError, match=r"not as expected|expected 1 or more"):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)


def test_an_unknown_variant_names_those_there_are(hub: FakeHub, tmp_path: Path):
    with pytest.raises(DataError, match="has no fineweb10B_sp9; it has fineweb10B_sp1024"):
        fetch_challenge(tmp_path / "data", config(hub, variant="sp9"), QUIET)


def test_a_missing_shard_is_named(hub: FakeHub, tmp_path: Path):
    del hub.files[VAL_1]
    with pytest.raises(
        DataError, match=r"has no datasets/datasets/fineweb10B_sp1024/fineweb_val_000001\.bin"
    ):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)


def test_other_counts_than_the_export_states_are_refused(hub: FakeHub, tmp_path: Path):
    listed = json.loads(hub.files["datasets/manifest.json"])
    listed["datasets"][0]["stats"]["tokens_val"] += 1
    hub.files["datasets/manifest.json"] = hub.served["datasets/manifest.json"] = json.dumps(listed).encode()
    with pytest.raises(DataError, match="tokens of validation; the export's manifest says"):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)


@pytest.mark.parametrize("broken", [b"{", b"{}", b'{"datasets": [{}]}'])
def test_an_export_manifest_of_another_kind_is_refused(hub: FakeHub, tmp_path: Path, broken: bytes):
    hub.files["datasets/manifest.json"] = hub.served["datasets/manifest.json"] = broken
    with pytest.raises(
        DataError, match=r"datasets/manifest\.json of somebody/parameter-golf: not as expected"
    ):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)


def test_no_network_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
        DataError, match=r"dataset somebody/parameter-golf: the hub does not answer.*refused"
    ) as caught:
        fetch_challenge(tmp_path / "data", ChallengeConfig(repository=REPOSITORY, endpoint=endpoint), QUIET)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_line_and_leaves_no_dataset(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_module, "http_get", full)
    with pytest.raises(DataError, match="no space left on the disk"):
        fetch_challenge(tmp_path / "data", config(hub), QUIET)
    assert not (tmp_path / "data" / "manifest.json").exists()
