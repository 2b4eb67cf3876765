"""A prepared dataset goes to the hub with the licence of its manifest, and is scored from there."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from eval_bpb import main as score
from golf.data.manifest import Manifest
from golf.hub.card import hub_dataset, licence_fields
from golf.hub.push import main as push
from golf.prepare.challenge import EXPORTS


def test_a_dataset_is_sent_whole_and_its_validation_text_is_read_back(
    desk, dataset_folder, artifact_path, tmp_path
):
    assert push(["--data", str(dataset_folder), "--repo", "owner/text"]) == 0
    sent = desk.hub.files("owner/text", "dataset")
    manifest = Manifest.load(dataset_folder)
    names = {"manifest.json", manifest.tokenizer, *(file.name for file in manifest.files)}
    assert set(sent) == names | {"README.md"}
    for name in names:
        assert sent[name] == (dataset_folder / name).read_bytes()
    found = []
    for data in (str(dataset_folder), "hf://datasets/owner/text"):
        assert score([str(artifact_path), "--data", data, "--json", str(tmp_path / "out.json")]) == 0
        found.append(json.loads((tmp_path / "out.json").read_text())["stages"][-1]["tally"])
    assert found[0] == found[1]
    assert not any("fineweb_train" in path for method, path in desk.hub.requests if method == "GET")


def test_the_card_of_a_dataset_is_its_manifest(desk, dataset_folder, tmp_path):
    folder = shutil.copytree(dataset_folder, tmp_path / "text")
    stored = json.loads((folder / "manifest.json").read_text())
    stored.pop("checksum", None)
    stored |= {"licence": "ODC-By 1.0", "source": "a | b", "notes": ["one note"]}
    (folder / "manifest.json").write_text(json.dumps(stored))
    assert push(["--data", str(folder), "--repo", "owner/text"]) == 0
    card = DatasetCard(desk.hub.files("owner/text", "dataset")["README.md"].decode())
    assert (card.data.license, card.data.viewer) == ("odc-by", False)
    assert "| licence | ODC-By 1.0 |" in card.text and "| source | a \\| b |" in card.text
    assert "- one note" in card.text and "hf://datasets/owner/text" in card.text


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", {"license": "mit"}),
        ("odc-by 1.0", {"license": "odc-by"}),
        ("not stated", {}),
        ("", {}),
    ],
)
def test_a_licence_is_the_manifests_or_none(licence, expected):
    assert licence_fields(licence) == expected


def test_a_licence_without_a_name_on_the_hub_is_another_one():
    found = licence_fields("python: PSF-2.0; numpy: BSD-3-Clause")
    assert found["license"] == "other" and found["license_link"] == "README.md"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"FineWeb: dataset {EXPORTS[1024]} on the Hugging Face hub", EXPORTS[1024]),
        ("dataset HuggingFaceFW/fineweb sample-10BT", "HuggingFaceFW/fineweb"),
        ("dataset some/folder", None),
        ("files a.txt", None),
    ],
)
def test_only_a_dataset_that_is_on_the_hub_for_certain_is_named(dataset_folder, source, expected):
    from dataclasses import replace

    assert hub_dataset(replace(Manifest.load(dataset_folder), source=source)) == expected


def test_a_dataset_that_is_not_its_manifests_is_not_sent(desk, dataset_folder, tmp_path, capsys):
    cases = {
        "fineweb_train_000000.bin": lambda path: path.unlink(),
        "fineweb_val_000000.bin": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\5\0"),
        "manifest.json": lambda path: path.unlink(),
    }
    for number, (name, spoil) in enumerate(cases.items()):
        folder: Path = shutil.copytree(dataset_folder, tmp_path / str(number))
        spoil(folder / name)
        assert push(["--data", str(folder), "--repo", "owner/text"]) == 2
        assert name in capsys.readouterr().err
    assert push(["--data", str(dataset_folder), "--repo", "owner/text", "--licence", "mit"]) == 2
    assert "a dataset's is in its manifest.json" in capsys.readouterr().err
    assert not desk.hub.requests
