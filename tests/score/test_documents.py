from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from score_toys import BOS_ID, ToyVocabulary, toy_documents

from golf.audit.rescore import probe_bytes
from golf.data.shards import read_shard
from golf.data.vocabulary import Vocabulary
from golf.score import documents
from golf.score.documents import per_document

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("block", [7, 10**6])
def test_each_document_gets_the_targets_from_its_bos_on(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BLOCK_TOKENS", block)
    lengths = [5, 1, 12, 2, 30]
    tokens = toy_documents(lengths)
    nats = np.random.default_rng(1).random(len(tokens) - 1).astype(np.float32)
    counted = ToyVocabulary().count_bytes(tokens[:-1], tokens[1:])
    result = per_document(nats, tokens, ToyVocabulary())
    starts = np.cumsum([0, *lengths]) - 1
    starts[0] = 0
    for document, (start, end) in enumerate(pairwise(starts)):
        assert result.nats_D[document] == pytest.approx(nats[start:end].sum(dtype=np.float64))
        assert result.tokens_D[document] == end - start
        assert result.bytes_D[document] == counted[start:end].sum()
    assert len(result.nats_D) == len(lengths)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the FineWeb prefix is not at hand")
def test_the_fineweb_prefix_has_its_documents_and_official_bytes() -> None:
    tokens = read_shard(SHARED / "fineweb_sp1024" / "fineweb_val_000000.bin")
    vocabulary = Vocabulary.load(SHARED / "tokenizers" / "fineweb_1024_bpe.model")
    result = per_document(np.ones(len(tokens) - 1, np.float32), tokens, vocabulary)
    assert (len(result.bytes_D), result.tokens_D.sum()) == (902, 1_040_297)
    assert result.bytes_D.sum() == 2_504_867
    whole = probe_bytes(
        vocabulary.count_bytes, vocabulary.decode_tokens, tokens, vocabulary.bos_id, 2_504_867
    )
    assert whole.passed


def test_a_prefix_has_the_documents_it_reaches() -> None:
    tokens = toy_documents([5, 4, 12])
    result = per_document(np.ones(9, np.float32), tokens, ToyVocabulary())
    assert result.tokens_D.tolist() == [4, 4, 1]


def test_a_stream_that_starts_amid_a_document_counts_that_piece_as_a_document() -> None:
    tokens = np.array([5, 6, BOS_ID, 7], np.uint16)
    assert per_document(np.ones(3, np.float32), tokens, ToyVocabulary()).tokens_D.tolist() == [1, 2]
