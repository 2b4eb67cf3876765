from pathlib import Path

import numpy as np
import pytest
from data_samples import sample_text

from golf.data.shards import read_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.encode import encode_documents, text_digest
from golf.prepare.shards import iterate_documents
from golf.prepare.split import ShardWriter


@pytest.fixture(scope="module")
def vocabulary(tiny_model_path: Path) -> Vocabulary:
    return Vocabulary.load(tiny_model_path)


@pytest.mark.parametrize("num_threads", [1, 2, 7])
def test_documents_come_out_in_order_for_any_number_of_threads(
    vocabulary: Vocabulary, num_threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("golf.prepare.encode._BATCH_CHARACTERS", 2000)
    texts = [sample_text(seed) for seed in range(100)]
    encoded = list(encode_documents(texts, vocabulary, num_threads))
    for text, document in zip(texts, encoded, strict=True):
        assert document.tokens.tolist() == [vocabulary.bos_id, *vocabulary.encode_text(text)]
        assert document.text_bytes == len(text.encode())
        assert document.digest == text_digest(text)


def test_a_stream_is_read_only_a_little_ahead(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("golf.prepare.encode._BATCH_CHARACTERS", 1)
    taken = []
    stream = (taken.append(seed) or sample_text(seed) for seed in range(1000))
    next(encode_documents(stream, vocabulary, 2))
    assert len(taken) < 10


def test_empty_documents_are_left_out_and_outer_space_is_dropped(vocabulary: Vocabulary):
    encoded = list(encode_documents(["", " \n", "  the word \n"], vocabulary))
    assert [document.tokens.tolist() for document in encoded] == [[1, *vocabulary.encode_text("the word")]]


def test_a_failing_source_stops_the_encoding(vocabulary: Vocabulary):
    def broken():
        yield sample_text(0)
        raise ValueError("line 2 is broken")

    with pytest.raises(ValueError, match="line 2 is broken"):
        list(encode_documents(broken(), vocabulary))


def test_digests_see_through_space_case_and_compatible_characters():
    assert text_digest("The  ﬁrst\n line ") == text_digest("the first LINE")
    assert text_digest("the first line") != text_digest("the first line.")
    assert len(text_digest("\ud800")) == 16


def test_shards_hold_whole_documents_in_the_order_of_their_digests(vocabulary: Vocabulary, tmp_path: Path):
    writer = ShardWriter(tmp_path, "train", shard_tokens=500)
    encoded = list(encode_documents([sample_text(seed) for seed in range(20)], vocabulary))
    for document in encoded:
        writer.add(document)
    writer.close()
    assert [path.name for path in writer.paths] == [
        f"fineweb_train_{i:06d}.bin" for i in range(len(writer.paths))
    ]
    written = []
    for path in writer.paths:
        shard = [document.tolist() for document in iterate_documents(read_shard(path), 1)]
        digests = [text_digest(vocabulary.decode_tokens(document[1:])) for document in shard]
        assert digests == sorted(digests)
        written += shard
        assert len(np.concatenate(shard)) >= 500 or path == writer.paths[-1]
    assert sorted(written) == sorted(document.tokens.tolist() for document in encoded)
    assert len(writer.paths) > 3


def test_a_writer_without_documents_writes_nothing(tmp_path: Path):
    writer = ShardWriter(tmp_path, "val", 10)
    writer.close()
    assert writer.paths == [] and not list(tmp_path.iterdir())
