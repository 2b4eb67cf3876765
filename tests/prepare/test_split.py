from pathlib import Path

import numpy as np
import pytest
from data_samples import SHARED, sample_text

from golf.data.manifest import Manifest, open_dataset
from golf.data.shards import DataError, read_shard, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.build import build_dataset
from golf.prepare.encode import text_digest
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


@pytest.mark.parametrize("number", [2, 3, 12])
@pytest.mark.parametrize("trains_tokenizer", [False, True])
def test_a_text_too_small_for_its_share_is_validated_on_one_document_unseen_by_all(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model_path: Path,
    number: int,
    trains_tokenizer: bool,
):
    split, texts = SplitConfig(val_fraction=1e-9), sorted(TEXTS[:number], key=text_digest)
    seen: list[str] = []

    def spy(texts: list[str], *rest: object) -> bytes:
        seen.extend(texts)
        return tiny_model_path.read_bytes()

    monkeypatch.setattr("golf.prepare.build.train_tokenizer", spy)
    choice = TokenizerChoice(vocab_size=400) if trains_tokenizer else TokenizerChoice(tiny_model_path)
    stream = TextStream(((text, 0) for text in reversed(texts)), number, "documents")
    build_dataset(tmp_path / "a", ORIGIN, stream, choice, split, RunLog(quiet=True))
    assert documents_of(tmp_path / "a", "val") == texts[:1]
    assert documents_of(tmp_path / "a", "train") == texts[1:]
    assert sorted(seen) == (sorted(texts[1:]) if trains_tokenizer else [])


def test_one_document_is_too_few(tmp_path: Path, tiny_model_path: Path):
    with pytest.raises(
        DataError, match="the text has 1 documents, none of them left to train a tokenizer on"
    ):
        make(tmp_path / "a", TokenizerChoice(vocab_size=400), TEXTS[:1], GivenValidation())
    with pytest.raises(DataError, match=r"of 1 different documents the validation share of 0\.05 gets none"):
        make(tmp_path / "a", TokenizerChoice(tiny_model_path), TEXTS[:1], GivenValidation())


@pytest.mark.parametrize(
    "split",
    [
        SplitConfig(val_fraction=0.0),
        SplitConfig(val_fraction=float("nan")),
        SplitConfig(val_max_bytes=0),
        SplitConfig(shard_tokens=0),
        SplitConfig(shard_tokens=10**12),
    ],
)
def test_a_division_out_of_range_is_refused_before_anything_is_made(
    tmp_path: Path, tiny_model_path: Path, split: SplitConfig
):
    stream = TextStream(((text, 0) for text in TEXTS), len(TEXTS), "documents")
    with pytest.raises(DataError, match="expected"):
        build_dataset(
            tmp_path / "a", ORIGIN, stream, TokenizerChoice(tiny_model_path), split, RunLog(quiet=True)
        )
    assert not list(tmp_path.glob("a*"))
