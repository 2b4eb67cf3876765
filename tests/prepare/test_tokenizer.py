from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_samples import SHARED, sample_text

from golf.data.shards import DataError
from golf.data.vocabulary import Vocabulary
from golf.prepare.tokenizer import FUSED_MARKS, check_tokenizer, fuse_marks, train_tokenizer

TEXTS = [sample_text(seed) + " Überfluß 12345 😀" for seed in range(150)]
MARKED_TEXTS = [sample_text(seed) for seed in range(120)]


def test_a_trained_tokenizer_is_of_the_challenges_kind():
    vocabulary = Vocabulary(train_tokenizer(TEXTS, 400), "t")
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    assert vocabulary.size == 400
    assert pieces[:4] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert pieces[4:260] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert "\u2581" in pieces
    assert not any(len(piece) > 1 and any(c.isdigit() for c in piece) for piece in pieces[260:])


def test_the_same_text_gives_the_same_tokenizer():
    assert train_tokenizer(TEXTS, 400) == train_tokenizer(iter(TEXTS), 400)
    assert train_tokenizer(TEXTS, 400) != train_tokenizer(TEXTS[1:], 400)


def test_a_document_of_one_long_line_is_trained_on(monkeypatch: pytest.MonkeyPatch):
    vocabulary = Vocabulary(train_tokenizer([" ".join(TEXTS)], 400), "t")
    assert len(vocabulary.encode_text(TEXTS[0])) < 0.8 * len(TEXTS[0])


def test_only_the_first_bytes_of_a_stream_are_read():
    stream = iter(TEXTS * 10)
    train_tokenizer(stream, 350, sample_bytes=20_000)
    assert len(list(stream)) > 1300


@pytest.mark.parametrize(("texts", "size"), [(TEXTS, 200), ([], 400), (["   "], 400)])
def test_what_cannot_be_trained_is_refused(texts: list[str], size: int):
    with pytest.raises(DataError, match=f"no tokenizer of {size} pieces can be trained on this text"):
        train_tokenizer(texts, size)


class FakeVocabulary:
    def __init__(self, *pieces: str):
        self.size = len(pieces)
        self.piece = pieces.__getitem__


def test_tokenizers_that_miscount_spaces_are_refused():
    check_tokenizer(FakeVocabulary("<s>", "\u2581", "\u2581the"), "t")
    with pytest.raises(DataError, match="t: has no piece for a lone space"):
        check_tokenizer(FakeVocabulary("<s>", "\u2581the"), "t")
    with pytest.raises(DataError, match="t: piece 1, 'a\u2581b', has a space inside"):
        check_tokenizer(FakeVocabulary("\u2581", "a\u2581b"), "t")


def test_the_challenges_tokenizers_pass():
    if not SHARED.exists():
        pytest.skip("the challenge's data is not at hand")
    for path in (SHARED / "tokenizers").glob("*.model"):
        check_tokenizer(Vocabulary.load(path), path.name)


@pytest.fixture(scope="module")
def marked_model() -> bytes:
    return train_tokenizer(MARKED_TEXTS, 400, "marks")


def total_tokens(vocabulary: Vocabulary) -> int:
    return sum(len(vocabulary.encode_text(text)) for text in MARKED_TEXTS)


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
        for text in MARKED_TEXTS
        for left, right in zip(before.encode_text(text), before.encode_text(text)[1:], strict=False)
    )
    assert spaced > 100
    assert total_tokens(after) == total_tokens(before) - spaced
    pieces = Counter(after.piece(token) for text in MARKED_TEXTS for token in after.encode_text(text))
    assert pieces[FUSED_MARKS[1]] > 100


def test_fused_tokens_count_the_same_bytes_and_decode_to_the_same_text(marked_model: bytes):
    after = Vocabulary(fuse_marks(marked_model, "before"), "after")
    for text in [*MARKED_TEXTS, " The \u2581A\u2581b *%$#@! x", "\ue001The \ue004 \ue002A"]:
        tokens = np.array([after.bos_id, *after.encode_text(text)])
        normalised = after.normalize_text(text)
        assert after.decode_tokens(tokens[1:].tolist()) == normalised
        assert after.count_bytes(tokens[:-1], tokens[1:]).sum() == len(normalised.encode())


def test_fused_pieces_can_be_trained_too_and_fusing_again_changes_nothing():
    trained = train_tokenizer(MARKED_TEXTS, 400, "fused")
    assert fuse_marks(trained, "trained") == trained
    vocabulary = Vocabulary(trained, "trained")
    assert [vocabulary.piece(token) for token in (8, 9, 10)] == list(FUSED_MARKS)
    assert total_tokens(vocabulary) < total_tokens(
        Vocabulary(train_tokenizer(MARKED_TEXTS, 400, "marks"), "marks")
    )


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
    assert len(after.encode_text(text)) == len(before.encode_text(text)) - 5
    assert after.decode_tokens(after.encode_text(text)) == text
