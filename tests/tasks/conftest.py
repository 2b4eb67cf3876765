"""A tiny model that can be opened, and evaluation files to measure it on."""

import json
from pathlib import Path

import pytest
from tiny_samples import WORDS, tiny_text, tiny_tokenizer, write_tiny_artifact

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
    for task in ("hellaswag", "wikitext2", "sst2", "gsm8k"):
        (folder / task).mkdir()
    hellaswag = [
        {
            "activity_label": "Words",
            "ctx_a": f"the {WORDS[number]} [title] is",
            "ctx_b": "for  it",
            "ctx": "",
            "label": number % 4,
            "endings": [
                f"{word} [step] and {' '.join(WORDS[:count])}." for count, word in enumerate(WORDS[:4])
            ],
        }
        for number in range(6)
    ]
    (folder / "hellaswag" / "hellaswag_val_6.jsonl").write_text(
        "".join(json.dumps(item) + "\n" for item in hellaswag)
    )
    articles = [
        f' = Article {number} = \n \n {tiny_text(number)} \'s ( the 1 @,@ 2 ) " of " , N . \n = = Part = = \n'
        for number in range(3)
    ]
    (folder / "wikitext2" / "wiki.test.tokens").write_text(" \n" + "".join(articles) + "the end \n")
    for name, count in (("train", 120), ("dev", 5)):
        lines = [f"{WORDS[n % 20]} as {WORDS[n % 7]}\t{n % 2}" for n in range(count)]
        (folder / "sst2" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    for name, count in (("train", 8), ("test", 3)):
        lines = [
            {"question": f"the {n}?", "answer": f"it <<1+1=2>>is\n#### {n % 3},000"} for n in range(count)
        ]
        (folder / "gsm8k" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
