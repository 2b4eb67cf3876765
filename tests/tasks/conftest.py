"""A tiny model that can be opened, and evaluation files to measure it on."""

from pathlib import Path

import pytest
from tiny_samples import tiny_tokenizer, write_evals, write_tiny_artifact

from golf.data.vocabulary import Vocabulary
from golf.tasks.models import OpenedModel, open_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with its tokenizer beside it; do not change it."""
    folder = tmp_path_factory.mktemp("tiny_model")
    (folder / "tiny.model").write_bytes(tiny_tokenizer())
    write_tiny_artifact(folder / "artifact.bin", Vocabulary.load(folder / "tiny.model"))
    return folder


@pytest.fixture(scope="session")
def opened(model_folder: Path) -> OpenedModel:
    """The tiny model, allowed to read more than it was trained on."""
    return open_model(model_folder, context=96)


@pytest.fixture(scope="session")
def evals_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny files of all four tasks; do not change it."""
    folder = tmp_path_factory.mktemp("evals")
    write_evals(folder)
    return folder
