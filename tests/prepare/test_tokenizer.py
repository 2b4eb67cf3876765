import pytest
from data_samples import SHARED, sample_text

from golf.data.manifest import DataError
from golf.data.vocabulary import Vocabulary
from golf.prepare.tokenizer import check_tokenizer, train_tokenizer

TEXTS = [sample_text(seed) + " Überfluß 12345 😀" for seed in range(150)]


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
    assert len(vocabulary.encode(TEXTS[0])) < 0.8 * len(TEXTS[0])


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
