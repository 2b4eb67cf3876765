from pathlib import Path

import numpy as np
import pytest
from data_samples import SHARED, sample_text

from golf.data.manifest import Manifest, open_dataset
from golf.data.shards import DataError, read_shard, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.build import build_dataset
from golf.prepare.shards import TextOrigin, iterate_documents
from golf.prepare.sources import TextConfig, given_validation
from golf.prepare.split import GivenValidation, SplitConfig
from golf.prepare.text import TextStream
from golf.prepare.tokenizer import TokenizerChoice
from golf.system.log import RunLog

TEXTS = [sample_text(seed) for seed in range(150)]
ORIGIN = TextOrigin("sample", "made up", "none", "1")


def make(folder: Path, choice: TokenizerChoice, texts: list[str], given: GivenValidation) -> Manifest:
    stream = TextStream(((text, 0) for text in texts), len(texts), "documents")
    return build_dataset(folder, ORIGIN, stream, choice, SplitConfig(), RunLog(quiet=True), given)


def documents_of(folder: Path, split: str) -> list[str]:
    vocabulary = open_dataset(folder).vocabulary
    tokens = np.concatenate([read_shard(path) for path in sorted(folder.glob(f"fineweb_{split}_*.bin"))])
    return [
        vocabulary.decode_tokens(document[1:]) for document in iterate_documents(tokens, vocabulary.bos_id)
    ]


@pytest.fixture
def published(tmp_path: Path, tiny_model_path: Path) -> tuple[Path, Path]:
    """Two validation shards of the first 30 texts, the 15th cut by the end of the first one."""
    vocabulary = Vocabulary.load(tiny_model_path)
    stream = np.array([token for text in TEXTS[:30] for token in (1, *vocabulary.encode_text(text))])
    cut = int(np.flatnonzero(stream == 1)[15]) - 20
    paths = tmp_path / "published_0.bin", tmp_path / "published_1.bin"
    for path, part in zip(paths, (stream[:cut], stream[cut:]), strict=True):
        write_shard(path, part)
    return paths


@pytest.mark.parametrize("case_ops", [None, "fused"])
def test_a_given_split_is_decoded_and_encoded_again_for_another_tokenizer(
    tmp_path: Path, tiny_model_path: Path, published: tuple[Path, Path], case_ops: str | None
):
    choice = TokenizerChoice(vocab_size=380, case_ops=case_ops)
    manifest = make(tmp_path / "a", choice, TEXTS[20:], GivenValidation(published, tiny_model_path))
    assert documents_of(tmp_path / "a", "val") == TEXTS[:30]
    assert sorted(documents_of(tmp_path / "a", "train")) == sorted(TEXTS[30:])
    size = sum(len(text.encode()) for text in TEXTS[:30])
    assert manifest.val_text_bytes == size
    told = f"shards of tiny.model, 30 documents, decoded and encoded again: {size} bytes; 10 documents with"
    assert told in manifest.notes[-1]


def test_the_first_documents_can_be_the_split_in_their_order(tmp_path: Path, tiny_model_path: Path):
    texts = [*TEXTS, TEXTS[3].upper(), TEXTS[149]]
    manifest = make(
        tmp_path / "a", TokenizerChoice(tiny_model_path), texts, GivenValidation(first_documents=50)
    )
    assert documents_of(tmp_path / "a", "val") == TEXTS[:50]
    assert sorted(documents_of(tmp_path / "a", "train")) == sorted(TEXTS[50:])
    assert manifest.repeated_documents == 1
    assert manifest.notes[-1].startswith("validation is the first 50 documents of the text; 1 documents with")


def test_a_trained_tokenizer_sees_no_given_validation_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_path: Path
):
    seen: list[str] = []

    def spy(texts, *more) -> bytes:
        seen.extend(texts)
        return tiny_model_path.read_bytes()

    monkeypatch.setattr("golf.prepare.build.train_tokenizer", spy)
    given = GivenValidation(first_documents=30)
    make(tmp_path / "a", TokenizerChoice(vocab_size=400), [*TEXTS, TEXTS[0]], given)
    assert sorted(seen) == sorted(TEXTS[30:])


def test_a_text_shorter_than_its_validation_split_is_refused(tmp_path: Path, tiny_model_path: Path):
    with pytest.raises(DataError, match="151 documents are to be validation; the text has 150"):
        make(tmp_path / "a", TokenizerChoice(tiny_model_path), TEXTS, GivenValidation(first_documents=151))
    assert not list(tmp_path.iterdir())


def test_shards_of_another_tokenizer_than_stated_are_refused(
    tmp_path: Path, tiny_model_path: Path, published: tuple[Path, Path]
):
    if not SHARED.exists():
        pytest.skip("the community's tokenizers are not at hand")
    other = SHARED / "tokenizers" / "fineweb_4096_bpe.model"
    with pytest.raises(DataError, match=r"published_0\.bin: .* it was made with another tokenizer"):
        make(tmp_path / "a", TokenizerChoice(tiny_model_path), TEXTS, GivenValidation(published, other))


DOCUMENTS = (Path("x/docs_selected.jsonl"),)
SHARD, MODEL = (Path("val.bin"),), Path("a.model")


def test_the_challenges_documents_have_their_own_validation_split():
    assert given_validation(TextConfig(files=DOCUMENTS)) == GivenValidation(first_documents=50_000)
    assert given_validation(TextConfig(files=(Path("other.jsonl"),))) == GivenValidation()
    assert given_validation(TextConfig(files=DOCUMENTS, val_shard=SHARD, val_tokenizer=MODEL)) == (
        GivenValidation(SHARD, MODEL)
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextConfig(files=DOCUMENTS, val_docs=10_000), r"--val-docs 10000 would train on the others .*#2127"),
        (TextConfig(val_tokenizer=MODEL), "--val-tokenizer says how --val-shard was encoded; no shard is"),
        (TextConfig(val_docs=5, val_shard=SHARD), "--val-docs is 5; expected at least 1, and no --val-shard"),
        (TextConfig(val_docs=0), "--val-docs is 0; expected at least 1"),
    ],
)
def test_options_that_would_leak_or_contradict_are_refused(config: TextConfig, message: str):
    with pytest.raises(DataError, match=message):
        given_validation(config)
