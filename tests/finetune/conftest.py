"""A tiny model, and tiny files of conversations and pairs."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_samples import WORDS, tiny_tokenizer, write_tiny_artifact

from golf.data.vocabulary import Vocabulary
from golf.finetune.examples import ChatTemplate, template_of
from golf.tasks.models import OpenedModel, open_model


@pytest.fixture(autouse=True, scope="session")
def short_script() -> Iterator[None]:
    """A stand-in for the script that is charged: packing the real one takes seconds and has its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("golf.finetune.stage.charged_script", lambda config, form, log: b"# a script\n")
        yield


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer file; do not change it."""
    path = tmp_path_factory.mktemp("tokenizer") / "tiny.model"
    path.write_bytes(tiny_tokenizer())
    return path


@pytest.fixture(scope="session")
def model_folder(tokenizer_path: Path) -> Path:
    """An untrained artifact beside its tokenizer; do not change it."""
    write_tiny_artifact(tokenizer_path.parent / "artifact.bin", Vocabulary.load(tokenizer_path))
    return tokenizer_path.parent


@pytest.fixture
def opened(model_folder: Path) -> OpenedModel:
    """The tiny model, fresh for each test."""
    return open_model(model_folder)


@pytest.fixture(scope="session")
def vocabulary(tokenizer_path: Path) -> Vocabulary:
    """The tiny vocabulary."""
    return Vocabulary.load(tokenizer_path)


@pytest.fixture(scope="session")
def template(vocabulary: Vocabulary) -> ChatTemplate:
    """Its chat template."""
    return template_of(vocabulary, "tiny")


@pytest.fixture(scope="session")
def conversations_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions that are answered with their own words."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("sft") / "sft.jsonl"
    lines = []
    for _ in range(40):
        words = " ".join(draw.choice(WORDS[:20]) for _ in range(3))
        lines.append(json.dumps({"prompt": words, "response": f"{words} is it"}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def preferences_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions: "is it" is preferred to "was for"."""
    draw = random.Random(1)
    path = tmp_path_factory.mktemp("dpo") / "dpo.json"
    items = []
    for _ in range(40):
        words = " ".join(draw.choice(WORDS[:20]) for _ in range(3))
        items.append(
            {
                "conversations": [{"from": "human", "value": words}],
                "chosen": {"from": "gpt", "value": f"{draw.choice(WORDS[:20])} is it"},
                "rejected": {"from": "gpt", "value": f"{draw.choice(WORDS[:20])} was for"},
            }
        )
    path.write_text(json.dumps(items, indent=1))
    return path
