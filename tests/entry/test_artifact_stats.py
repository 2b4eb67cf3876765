import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_samples import tiny_tokenizer, write_tiny_artifact, write_tiny_dataset

from golf.data.manifest import Dataset, open_dataset
from golf.entry.artifact_stats import loss_by_position, portrait
from golf.evaluate import load_model
from golf.pack.artifact import PackConfig, decode_artifact, pack
from golf.run_folder import RunFolder
from golf.score.scorer import Scoring, score
from golf.score.windows import WindowConfig
from golf.system.clock import StageClock
from golf.train.checkpoint import save_weights


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("text")
    write_tiny_dataset(folder, tiny_tokenizer())
    return open_dataset(folder)


@pytest.fixture(params=["entropy", "int5"])
def run(request: pytest.FixtureRequest, dataset: Dataset, tmp_path: Path) -> Path:
    write_tiny_artifact(tmp_path / "seed.bin", dataset.vocabulary)
    header, weights = decode_artifact((tmp_path / "seed.bin").read_bytes())
    header.pop("scheme")
    packed = pack(weights, header, PackConfig(request.param), 1_000_000)
    (tmp_path / "artifact.bin").write_bytes(packed.artifact)
    save_weights(tmp_path / "weights.safetensors", weights)
    return tmp_path


def test_parts_and_codes_account_for_every_weight(run: Path, dataset: Dataset) -> None:
    parts, rest = portrait(RunFolder(run), dataset, "cpu")
    artifact = (run / "artifact.bin").read_bytes()
    header, weights = decode_artifact(artifact)
    if header["scheme"] == "int5":
        assert parts == {} and rest["codes"] == {}
        return
    assert 0 < sum(parts.values()) < len(artifact) and set(parts) == set(rest["codes"])
    counted = sum(sum(codes["counts"]) for codes in rest["codes"].values())
    assert counted == sum(weight.numel() for weight in weights.values())
    assert all(codes["counts"][0] and codes["counts"][-1] for codes in rest["codes"].values())
    assert json.loads(json.dumps(rest)) == rest


def test_the_losses_by_position_average_to_the_score(run: Path, dataset: Dataset) -> None:
    artifact = (run / "artifact.bin").read_bytes()
    found = loss_by_position(artifact, dataset, "cpu")
    model, _ = load_model(artifact, torch.device("cpu"))
    tokens = dataset.validation_tokens(StageClock())
    stride = WindowConfig(stride=found["context"])
    expected = score(Scoring(model, tokens, dataset.vocabulary, stride, max_tokens=found["tokens_scored"]))
    widths = np.diff([0, *found["up_to_position"]])
    assert widths.sum() == found["context"]
    mean = np.average(found["nats"], weights=widths)
    assert mean == pytest.approx(expected.tally.nats_per_token, rel=1e-6)
