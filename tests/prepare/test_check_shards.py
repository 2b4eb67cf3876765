import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from data_samples import SHARED, sample_text

from golf.data.manifest import Manifest, sha256_of_file
from golf.data.shards import DataError, write_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.shards import (
    TextOrigin,
    check_encoded_with,
    check_shards,
    iterate_documents,
    require_as_stated,
)
from golf.prepare.tokenizer import train_tokenizer, unknown_id
from golf.system.log import RunLog


@pytest.fixture(scope="module")
def vocabulary(tiny_model_path: Path) -> Vocabulary:
    return Vocabulary.load(tiny_model_path)


def checked(val: list[Path], train: list[Path], vocabulary: Vocabulary) -> tuple[Manifest, list[str]]:
    origin = TextOrigin("sample", "made up", "none", "1")
    return check_shards(val, train, vocabulary, "t.model", origin, RunLog(quiet=True))


@pytest.fixture
def make(tmp_path: Path, vocabulary: Vocabulary):
    """Writes shards of numbered documents and checks them; a tuple cuts its documents at the given token."""

    def tokens(documents: list[int]) -> np.ndarray:
        return np.array([token for n in documents for token in (1, *vocabulary.encode_text(sample_text(n)))])

    def check(
        val: list[list[int]], train: list[list[int]], cut: int | None = None
    ) -> tuple[Manifest, list[str]]:
        paths: dict[str, list[Path]] = {"val": [], "train": []}
        for split, shards in (("val", val), ("train", train)):
            arrays = [tokens(documents) for documents in shards]
            if cut and split == "train":
                arrays = np.split(np.concatenate(arrays), [cut])
            for index, array in enumerate(arrays):
                paths[split].append(tmp_path / f"fineweb_{split}_{index:06d}.bin")
                write_shard(paths[split][-1], array)
        return checked(paths["val"], paths["train"], vocabulary)

    return check


def test_counts_ranges_and_bytes_are_those_of_the_documents(make, vocabulary: Vocabulary, tmp_path: Path):
    found, shared = make([[0, 1]], [[2, 3, 4], [5]])
    assert [(f.num_documents, f.first_document, f.last_document) for f in found.files] == [
        (2, 0, 1),
        (3, 2, 4),
        (1, 5, 5),
    ]
    assert [f.split for f in found.files] == ["val", "train", "train"]
    assert found.val_text_bytes == sum(len(sample_text(n).encode()) for n in (0, 1))
    assert found.train_text_bytes == sum(len(sample_text(n).encode()) for n in (2, 3, 4, 5))
    assert found.files[0].sha256 == sha256_of_file(tmp_path / found.files[0].name)
    assert (found.repeated_documents, shared) == (0, [])


@pytest.mark.parametrize("chunk", [7, 100, 10**6])
def test_a_document_cut_by_the_end_of_a_shard_is_one_document(
    make, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    monkeypatch.setattr("golf.prepare.shards._CHUNK_TOKENS", chunk)
    found, _ = make([[0]], [[1, 2, 3, 2]], cut=150)
    first, second = found.files[1:]
    assert first.first_document == 1 and first.last_document == second.first_document == 2
    assert second.last_document == 4
    assert first.num_documents + second.num_documents == 4
    assert found.repeated_documents == 1
    assert found.train_text_bytes == sum(len(sample_text(n).encode()) for n in (1, 2, 3, 2))


def test_repeats_and_shared_documents_are_counted_and_named(make):
    found, shared = make([[0, 1, 2, 3, 4, 5]], [[6, 7, 6, 2, 8, 4]])
    assert found.repeated_documents == 3
    assert [line[:32] for line in shared] == [
        "document 9 is document 2 of vali",
        "document 11 is document 4 of val",
    ]


def test_a_range_of_validation_documents_in_training_is_refused(make):
    make([[0, 1, 2, 3, 4, 5]], [[6, 1, 2, 3, 7, 4]])
    with pytest.raises(
        DataError, match="training documents 7 to 10 are validation documents 1 to 4: the document"
    ):
        make([[0, 1, 2, 3, 4, 5]], [[6, 1, 2, 3, 4, 7]])


def test_one_validation_document_in_training_is_the_whole_range(make):
    with pytest.raises(DataError, match="training documents 2 to 2 are validation documents 0 to 0"):
        make([[0]], [[1, 0]])


def test_the_same_file_twice_is_refused(make):
    with pytest.raises(
        DataError, match=r"fineweb_train_000001\.bin and fineweb_train_000000\.bin are the same file"
    ):
        make([[0]], [[1, 2], [1, 2]])


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, vocabulary: Vocabulary):
    documents = [[1, *vocabulary.encode_text(sample_text(n, num_words=1000))] for n in range(3)]
    write_shard(tmp_path / "s.bin", np.concatenate(documents))
    check_encoded_with(tmp_path / "s.bin", vocabulary)
    other = Vocabulary(train_tokenizer([sample_text(n)[::-1] for n in range(300)], 400), "other")
    with pytest.raises(
        DataError, match=r"s\.bin: 3 of its first 3 documents decode to text that encodes to other"
    ):
        check_encoded_with(tmp_path / "s.bin", other)


def test_a_shard_that_does_not_start_with_bos_is_refused(tmp_path: Path, vocabulary: Vocabulary):
    write_shard(tmp_path / "s.bin", np.array([5, 1, 6]))
    with pytest.raises(DataError, match=r"s\.bin: starts with token 5; expected BOS, 1"):
        check_encoded_with(tmp_path / "s.bin", vocabulary)


def test_a_token_outside_the_vocabulary_is_named_wherever_it_stands(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("golf.prepare.shards._CHUNK_TOKENS", 50)
    tokens = np.array([1, *vocabulary.encode_text(sample_text(0))] * 3)
    write_shard(tmp_path / "v.bin", tokens)
    tokens[201] = 400
    write_shard(tmp_path / "t.bin", tokens)
    with pytest.raises(DataError, match=r"t\.bin: token 201 is 400; the vocabulary has ids 0 to 399"):
        checked([tmp_path / "v.bin"], [tmp_path / "t.bin"], vocabulary)


def test_documents_of_a_stream_start_with_bos():
    tokens = np.array([9, 1, 5, 1, 1, 6, 7])
    assert [document.tolist() for document in iterate_documents(tokens, 1)] == [[1, 5], [1], [1, 6, 7]]


def test_the_challenges_validation_prefix_is_counted_exactly():
    if not SHARED.exists():
        pytest.skip("the challenge's data is not at hand")
    vocabulary = Vocabulary.load(SHARED / "tokenizers" / "fineweb_1024_bpe.model")
    path = SHARED / "fineweb_sp1024" / "fineweb_val_000000.bin"
    found, _ = checked([path], [], vocabulary)
    assert found.val_text_bytes == 2_504_867
    assert (found.files[0].num_tokens, found.files[0].num_documents) == (1_040_298, 902)


def test_validation_that_its_tokens_do_not_restore_is_refused(tmp_path: Path):
    texts, model = [sample_text(seed) for seed in range(60)], io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=120,
        byte_fallback=False,
        character_coverage=1.0,
        hard_vocab_limit=False,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    vocabulary = Vocabulary(model.getvalue(), "no bytes")
    assert unknown_id(vocabulary) is not None
    known, unknown = ([vocabulary.bos_id, *vocabulary.encode_text(text)] for text in (texts[0], "a \u4e2d b"))
    val, train = tmp_path / "fineweb_val_000000.bin", tmp_path / "fineweb_train_000000.bin"
    write_shard(val, np.array(known))
    write_shard(train, np.array(unknown))
    assert checked([val], [train], vocabulary)[0].num_tokens("val") == len(known)
    write_shard(val, np.array([*known, *unknown]))
    with pytest.raises(
        DataError, match=r"fineweb_val_000000\.bin: 1 tokens stand for characters .* byte fallback"
    ):
        checked([val], [], vocabulary)


def test_a_tokenizer_with_byte_fallback_knows_every_character(vocabulary: Vocabulary):
    assert unknown_id(vocabulary) is None


def test_a_shard_that_the_manifest_beside_it_does_not_state_is_refused(make, tmp_path: Path):
    manifest, _ = make([[0, 1]], [[2, 3]])
    manifest.save(tmp_path)
    shard = tmp_path / "fineweb_val_000000.bin"
    require_as_stated(shard)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"val_000000\.bin: sha256 \w+; the manifest beside it says"):
        require_as_stated(shard)
