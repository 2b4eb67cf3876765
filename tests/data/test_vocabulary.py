from pathlib import Path

import numpy as np
import pytest
from data_samples import SHARED, sample_text
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golf.data.shards import DataError, read_shard
from golf.data.vocabulary import Vocabulary
from golf.prepare.tokenizer import train_tokenizer

SCRIPTS = [
    "Ελληνικά и русский, עברית العربية हिन्दी ไทย 日本語 한국어 ქართული አማርኛ",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇩🇪 keycaps 1️⃣",
    "combining e\u0301 a\u030a\u0323, ligatures ﬁ ﬃ, full width ＡＢＣ, half ½, circled ①",
    "spaces\u00a0of\u2003every\u3000kind\u200b\u200d\ufeff\u2060 and\ttabs\r\nlines",
    "\u2581 the mark \u2581\u2581 itself\u2581",
    "\0 nul \x01\x1f control \x7f\x85",
    "\ud800 lone surrogates \udfff",
    "private \ue000 unassigned \U000e0fff last \U0010ffff replacement \ufffd",
    "<s></s><unk><pad><0x41> pieces by name",
    "MARKS \ue001 in\ue002THE \ue003text\ue004 \ue0041 \ue004\ue001The 1\ue0042",
    "NASA\ufb01 \u00c9COLE E\u0301TE H\u0331 J\u030c \u2122Foo\u2122 IPV\u2163 \uff21\uff22c \u212aELVIN",
    "   leading, trailing and    doubled   ",
    "",
]


def counted_bytes(vocabulary: Vocabulary, tokens: list[int]) -> int:
    document = np.array([vocabulary.bos_id, *tokens])
    return int(vocabulary.count_bytes(document[:-1], document[1:]).sum())


@pytest.fixture(scope="module")
def vocabularies(tiny_model_path: Path) -> list[Vocabulary]:
    """The tiny vocabularies, with marks and without, and larger ones where they are at hand."""
    folder = SHARED / "tokenizers"
    names = ("fineweb_1024_bpe", "fineweb_8192_bpe", "fineweb_8192_caseops_bpe")
    paths = [tiny_model_path, *(folder / f"{name}.model" for name in names)]
    marked = [sample_text(seed) for seed in range(100)]
    return [
        *(Vocabulary.load(path) for path in paths if path.exists()),
        Vocabulary(train_tokenizer(marked, 400, "marks"), "marks"),
        Vocabulary(train_tokenizer(marked, 400, "fused"), "fused"),
    ]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(), max_size=80) | st.text("ab \u2581\0é😀\t\n", max_size=30))
def test_counted_bytes_are_the_bytes_of_the_decoded_text(vocabularies: list[Vocabulary], text: str):
    for vocabulary in vocabularies:
        tokens = vocabulary.encode_text(text)
        assert counted_bytes(vocabulary, tokens) == len(vocabulary.decode_tokens(tokens).encode())


@pytest.mark.parametrize("text", SCRIPTS)
def test_adversarial_text_is_counted_like_its_decoded_bytes(vocabularies: list[Vocabulary], text: str):
    for vocabulary in vocabularies:
        tokens = vocabulary.encode_text(text)
        assert counted_bytes(vocabulary, tokens) == len(vocabulary.decode_tokens(tokens).encode())


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(st.characters(), max_size=60) | st.text("aAbB1. \ue001\ue004\u2122\u0301\ufb01", max_size=30)
)
@example(SCRIPTS[-3])
@example(SCRIPTS[-4])
def test_marked_text_decodes_to_the_normalised_text(vocabularies: list[Vocabulary], text: str):
    text = text.encode("utf-8", "replace").decode()
    for vocabulary in filter(lambda vocabulary: vocabulary.case_ops, vocabularies):
        assert vocabulary.decode_tokens(vocabulary.encode_text(text)) == vocabulary.normalize_text(text)


def test_only_a_model_with_all_marks_is_for_marked_text(vocabularies: list[Vocabulary]):
    marked = [vocabulary.case_ops for vocabulary in vocabularies]
    assert marked[0] is False and marked[-2:] == [True, True]


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(st.text(max_size=20), max_size=5))
@example(parts=["", " a", "b "])
def test_documents_in_a_row_count_as_each_alone(vocabularies: list[Vocabulary], parts: list[str]):
    for vocabulary in vocabularies:
        documents = [[vocabulary.bos_id, *vocabulary.encode_text(part)] for part in parts]
        stream = np.array([*(token for document in documents for token in document), vocabulary.bos_id])
        together = int(vocabulary.count_bytes(stream[:-1], stream[1:]).sum())
        assert together == sum(counted_bytes(vocabulary, document[1:]) for document in documents)


def test_a_leading_space_counts_unless_the_previous_token_is_control_or_unknown(
    vocabularies: list[Vocabulary],
):
    vocabulary = vocabularies[0]
    spaced = next(
        i
        for i in range(4, vocabulary.size)
        if len(vocabulary.piece(i)) == 2 and vocabulary.piece(i)[0] == "\u2581"
    )
    byte = next(i for i in range(vocabulary.size) if vocabulary.piece(i) == "<0xE2>")
    previous = np.array([0, 1, 2, 3, byte, spaced])
    assert vocabulary.count_bytes(previous, np.full(6, spaced)).tolist() == [1, 1, 1, 1, 2, 2]
    assert vocabulary.count_bytes(np.full(5, spaced), np.array([0, 1, 2, 3, byte])).tolist() == [
        0,
        0,
        0,
        0,
        1,
    ]


def test_counts_are_int64_in_the_shape_of_the_targets(vocabularies: list[Vocabulary]):
    tokens = np.ones((3, 4), dtype=np.uint16)
    counts = vocabularies[0].count_bytes(tokens, tokens)
    assert counts.shape == (3, 4) and counts.dtype == np.int64


def test_the_challenges_validation_prefix_has_the_official_byte_count():
    if not SHARED.exists():
        pytest.skip("the challenge's data is not at hand")
    vocabulary = Vocabulary.load(SHARED / "tokenizers" / "fineweb_1024_bpe.model")
    assert (vocabulary.size, vocabulary.bos_id) == (1024, 1)
    assert vocabulary.sha256 == "4f5e8adb109c66b4886963bc75a7befd73bda36d27fd7102df8e9e66503b0e2a"
    tokens = read_shard(SHARED / "fineweb_sp1024" / "fineweb_val_000000.bin")
    counts = vocabulary.count_bytes(tokens[:-1], tokens[1:])
    assert (len(counts), int(counts.sum())) == (1_040_297, 2_504_867)
    starts = np.flatnonzero(tokens == vocabulary.bos_id)
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        text = vocabulary.decode_tokens(tokens[start + 1 : end])
        assert counts[start : end - 1].sum() == len(text.encode())


@pytest.mark.parametrize("data", [b"", b"not a model", bytes(100)])
def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path, data: bytes):
    (tmp_path / "bad.model").write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.model: .*SentencePiece model"):
        Vocabulary.load(tmp_path / "bad.model")


def test_a_missing_tokenizer_is_refused_by_name(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.model: cannot be read \(No such file"):
        Vocabulary.load(tmp_path / "none.model")


def test_encoding_and_decoding_round_trip_plain_text(vocabularies: list[Vocabulary]):
    for vocabulary in vocabularies:
        text = sample_text(7)
        assert vocabulary.decode_tokens(vocabulary.encode_text(text)) == text
