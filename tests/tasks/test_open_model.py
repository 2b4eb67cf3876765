"""A model opens from whatever holds it, and what is missing is said."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from tiny_samples import tiny_tokenizer

from golf.prepare.find_tokenizer import TokenizerError
from golf.tasks.models import ModelError, open_model
from golf.train.checkpoint import save_checkpoint, save_weights


def run_folder(opened, folder):
    """What a run leaves before it packs."""
    header = {
        "model": asdict(opened.model.config),
        "compute_dtype": "float32",
        "tokenizer_sha256": opened.vocabulary.sha256,
    }
    (folder / "config.json").write_text(json.dumps({"header": header, "options": {"data": None}}))
    save_weights(folder / "weights.safetensors", dict(opened.model.state_dict()))
    save_checkpoint(folder / "checkpoint.pt", {"model": opened.model.state_dict()})
    shutil.copy(opened.tokenizer, folder / "its.model")


def test_every_form_of_a_model_gives_the_same_logits(opened, model_folder, tmp_path):
    run_folder(opened, tmp_path)
    tokens_BT = torch.tensor([[1, 30, 40, 50]])
    with torch.no_grad():
        wanted = opened.model(tokens_BT)
        for path, kind in (
            (model_folder / "artifact.bin", "artifact"),
            (tmp_path, "weights"),
            (tmp_path / "weights.safetensors", "weights"),
            (tmp_path / "checkpoint.pt", "checkpoint"),
        ):
            found = open_model(path)
            assert found.kind == kind and found.context == 32
            assert torch.equal(found.model(tokens_BT), wanted)


def test_a_folder_stands_for_its_artifact_once_it_has_one(opened, model_folder, tmp_path):
    run_folder(opened, tmp_path)
    shutil.copy(model_folder / "artifact.bin", tmp_path)
    assert open_model(tmp_path).kind == "artifact"


def test_an_entry_brings_its_tokenizer_in_its_data_folder(model_folder, tmp_path):
    shutil.copy(model_folder / "artifact.bin", tmp_path / "artifact_seed42.bin")
    (tmp_path / "data").mkdir()
    shutil.copy(model_folder / "tiny.model", tmp_path / "data" / "tiny.model")
    assert open_model(tmp_path).tokenizer == tmp_path / "data" / "tiny.model"


def test_a_missing_or_wrong_tokenizer_is_said(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_folder / "artifact.bin", tmp_path)
    with pytest.raises(TokenizerError, match=r"the tokenizer of .* is missing.*give --tokenizer FILE"):
        open_model(tmp_path)
    other = tmp_path / "other.model"
    other.write_bytes(tiny_tokenizer(seed=5))
    with pytest.raises(TokenizerError, match="is missing"):
        open_model(tmp_path)
    with pytest.raises(TokenizerError, match="the model was trained with the tokenizer"):
        open_model(tmp_path, other)
    assert open_model(tmp_path, model_folder / "tiny.model").vocabulary.size


def test_what_holds_no_model_is_said(tmp_path):
    with pytest.raises(ModelError, match="no such file or folder"):
        open_model(tmp_path / "none")
    with pytest.raises(ModelError, match="holds no artifact"):
        open_model(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="has no config"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="does not describe a network"):
        open_model(tmp_path)


def test_weights_of_another_network_are_refused(opened, tmp_path):
    run_folder(opened, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["header"]["model"]["width"] = 32
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="weights of another network"):
        open_model(tmp_path)
