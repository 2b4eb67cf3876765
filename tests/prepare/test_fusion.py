from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_samples import SHARED, sample_text

from golf.data.manifest import DataError
from golf.data.vocabulary import Vocabulary
from golf.prepare.fusion import FUSED_MARKS, fuse_marks
from golf.prepare.tokenizer import check_tokenizer, train_tokenizer

TEXTS = [sample_text(seed) for seed in range(120)]


@pytest.fixture(scope="module")
def marked_model() -> bytes:
    return train_tokenizer(TEXTS, 400, "marks")


def total_tokens(vocabulary: Vocabulary) -> int:
    return sum(len(vocabulary.encode(text)) for text in TEXTS)


def test_a_fused_model_differs_in_three_pieces_alone(marked_model: bytes):
    before = Vocabulary(marked_model, "before")
    after = Vocabulary(fuse_marks(marked_model, "before"), "after")
    assert after.size == before.size and after.case_ops
    changed = [token for token in range(after.size) if after.piece(token) != before.piece(token)]
    assert tuple(after.piece(token) for token in changed) == FUSED_MARKS
    assert all(len(before.piece(token)) == 1 for token in changed)
    check_tokenizer(after, "after")


def test_fusing_saves_a_token_wherever_a_mark_follows_a_space(marked_model: bytes):
    before = Vocabulary(marked_model, "before")
    after = Vocabulary(fuse_marks(marked_model, "before"), "after")
    spaced = sum(
        before.piece(left) == "\u2581" and "\ue001" <= before.piece(right) <= "\ue003"
        for text in TEXTS
        for left, right in zip(before.encode(text), before.encode(text)[1:], strict=False)
    )
    assert spaced > 100
    assert total_tokens(after) == total_tokens(before) - spaced
    pieces = Counter(after.piece(token) for text in TEXTS for token in after.encode(text))
    assert pieces[FUSED_MARKS[1]] > 100


def test_fused_tokens_count_the_same_bytes_and_decode_to_the_same_text(marked_model: bytes):
    after = Vocabulary(fuse_marks(marked_model, "before"), "after")
    for text in [*TEXTS, " The \u2581A\u2581b *%$#@! x", "\ue001The \ue004 \ue002A"]:
        tokens = np.array([after.bos_id, *after.encode(text)])
        normalised = after.normalize(text)
        assert after.decode(tokens[1:].tolist()) == normalised
        assert after.count_bytes(tokens[:-1], tokens[1:]).sum() == len(normalised.encode())


def test_fused_pieces_can_be_trained_too_and_fusing_again_changes_nothing():
    trained = train_tokenizer(TEXTS, 400, "fused")
    assert fuse_marks(trained, "trained") == trained
    vocabulary = Vocabulary(trained, "trained")
    assert [vocabulary.piece(token) for token in (8, 9, 10)] == list(FUSED_MARKS)
    assert total_tokens(vocabulary) < total_tokens(Vocabulary(train_tokenizer(TEXTS, 400, "marks"), "marks"))


def test_a_model_without_marks_is_refused(tiny_model_bytes: bytes):
    with pytest.raises(DataError, match=r"tiny: has no pieces for the marks of CaseOps"):
        fuse_marks(tiny_model_bytes, "tiny")


def test_the_community_model_of_caseops_can_be_fused():
    path: Path = SHARED / "tokenizers" / "fineweb_8192_caseops_bpe.model"
    if not path.exists():
        pytest.skip("the community's tokenizers are not at hand")
    model = path.read_bytes()
    before, after = Vocabulary(model, "before"), Vocabulary(fuse_marks(model, "before"), "after")
    text = "The price of NASA's iPhone: $5 * 7% of GDP. I saw The Times."
    assert len(after.encode(text)) == len(before.encode(text)) - 5
    assert after.decode(after.encode(text)) == text
