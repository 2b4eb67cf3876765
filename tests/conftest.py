"""Fixtures of several rooms; one thread a process, for the suite shares its cores with itself."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from data_samples import sample_text
from score_toys import ToyModel, ToyVocabulary, toy_documents, toy_model
from tiny_samples import tiny_tokenizer, write_tiny_artifact, write_tiny_dataset

from golf.data.vocabulary import Vocabulary

torch.set_num_threads(1)

LONGEST = (
    "test_end_to_end.py",
    "test_entry_script.py",
    "test_golden.py",
    "test_extending.py",
    "test_gpu.py",
)
"""Files that take the longest. They come first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests: those of LONGEST first, the others as they were."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def tiny_model_bytes() -> bytes:
    """A SentencePiece BPE of 400 pieces with byte fallback, trained on sample text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample_text(seed) for seed in range(200)),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        add_dummy_prefix=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="session")
def tiny_model_path(tiny_model_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tiny.model"
    path.write_bytes(tiny_model_bytes)
    return path


@pytest.fixture
def model() -> ToyModel:
    return toy_model()


@pytest.fixture
def vocabulary() -> ToyVocabulary:
    return ToyVocabulary()


@pytest.fixture
def tokens() -> np.ndarray:
    return toy_documents([40, 3, 150, 61, 2, 90])


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset folder; do not change it."""
    folder = tmp_path_factory.mktemp("tiny_dataset")
    write_tiny_dataset(folder, tiny_tokenizer())
    return folder


@pytest.fixture(scope="session")
def artifact_path(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny artifact for that dataset; do not change it."""
    path = tmp_path_factory.mktemp("tiny_artifact") / "artifact.bin"
    write_tiny_artifact(path, Vocabulary.load(dataset_folder / "tiny.model"))
    return path
