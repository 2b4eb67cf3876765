"""Tokenizers: training, fusing the marks of CaseOps, and the check that bytes are counted right."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from golf.data.caseops import ALLCAPS_MARK, CAPNEXT_MARK, CASE_MARKS, TITLE_MARK, mark_case
from golf.data.shards import DataError
from golf.data.vocabulary import SPACE_MARK, Vocabulary
from golf.prepare.rows import require_file

SAMPLE_BYTES = 8_000_000
"""Bytes of text a tokenizer is trained on: more text changes no piece of a small vocabulary."""

FUSED_MARKS = tuple(SPACE_MARK + mark for mark in (TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK))
"""Pieces of a space and the mark after it: most marks start a word, so the text has some 9% fewer tokens.

Source: openai/parameter-golf #2109, which replaces pairs of tokens after encoding. As pieces of the tokenizer
they need no second step, and the hash of the tokenizer says whether they are used.
"""

MarkPieces = Literal["marks", "fused"]
"""The pieces for CaseOps: its marks, or its marks and FUSED_MARKS."""

MAX_TOKENIZER_BYTES = 64 << 20
_LONGEST_SENTENCE_BYTES = 4000
_CHARACTER_OF_NO_TOKENIZER = "\U0010fffe"


@dataclass(frozen=True)
class TokenizerChoice:
    """The tokenizer of a dataset: a .model file, or without one a tokenizer to train on the text."""

    model: Path | None = None
    vocab_size: int = 0
    """Number of pieces of the trained tokenizer."""
    case_ops: MarkPieces | None = None
    """Marks of CaseOps to train with; with a file, "fused" fuses the marks that it has."""
    sample_bytes: int = SAMPLE_BYTES
    """Bytes of text to train on."""

    def file_name(self, dataset: str) -> str:
        """Its file name in the folder of `dataset`."""
        if self.model is None:
            return f"{dataset}_bpe.model"
        return f"{self.model.stem}_fused.model" if self.case_ops == "fused" else self.model.name

    def read(self, path: Path) -> bytes:
        """The checked file at `path`, marks fused if asked for; DataError if it has no marks to fuse."""
        vocabulary = load_tokenizer(path)
        check_tokenizer(vocabulary, str(path))
        if self.case_ops and not vocabulary.case_ops:
            raise DataError(f"{path}: has no pieces for the marks of CaseOps")
        return fuse_marks(path.read_bytes(), str(path)) if self.case_ops == "fused" else path.read_bytes()


def load_tokenizer(file: Path) -> Vocabulary:
    """The vocabulary of a .model file; DataError if it is no regular file of at most MAX_TOKENIZER_BYTES."""
    require_file(file)
    if file.stat().st_size > MAX_TOKENIZER_BYTES:
        raise DataError(f"{file}: {file.stat().st_size:,} bytes; not a SentencePiece model")
    return Vocabulary.load(file)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    case_ops: MarkPieces | None = None,
    sample_bytes: int = SAMPLE_BYTES,
) -> bytes:
    """A SentencePiece BPE .model file with the settings of the challenge's own; a function of the text.

    Byte fallback, split digits, NFKC, no dummy prefix; pad, BOS, EOS, unknown are 0, 1, 2, 3, followed by the
    marks of CaseOps if asked for. Trained on the first `sample_bytes` of the text. Raises DataError if
    `vocab_size` is too small for 256 bytes and the letters of the text.
    """
    model, name = io.BytesIO(), f"tokenizer of {vocab_size} pieces"
    marks = [*CASE_MARKS, *(FUSED_MARKS if case_ops == "fused" else ())] if case_ops else []
    if case_ops:
        texts = map(mark_case, texts)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts, sample_bytes),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=0.999,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="nmt_nfkc",
            add_dummy_prefix=False,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            user_defined_symbols=marks,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].split("] ")[-1].strip() or "it is too small"
        raise DataError(
            f"no {name} can be trained on this text: {reason}. More text, or another --vocab-size, may help"
        ) from error
    check_tokenizer(Vocabulary(model.getvalue(), name), name)
    return model.getvalue()


def fuse_marks(model: bytes, name: str) -> bytes:
    """The .model file with FUSED_MARKS in place of three pieces of one ASCII character each.

    Such a character then falls back to its byte, at no more tokens. The last three are replaced: training
    sorts pieces by frequency. Raises DataError for a model without marks or with fewer such pieces.
    """
    vocabulary = Vocabulary(model, name)
    if not vocabulary.case_ops:
        raise DataError(f"{name}: has no pieces for the marks of CaseOps; none can be fused")
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    if FUSED_MARKS[0] in pieces:
        return model
    single = [token for token, piece in enumerate(pieces) if len(piece) == 1 and piece.isascii()]
    if len(single) < len(FUSED_MARKS):
        raise DataError(f"{name}: has {len(single)} pieces of one ASCII character; fusing replaces 3")
    # Imported here because it needs protobuf, of the version that sentencepiece was built with.
    from sentencepiece.sentencepiece_model_pb2 import (
        ModelProto,  # pyright: ignore[reportAttributeAccessIssue]
    )

    proto, kind = ModelProto.FromString(model), ModelProto.SentencePiece
    for token, piece in zip(single[-len(FUSED_MARKS) :], FUSED_MARKS, strict=True):
        proto.pieces[token].CopyFrom(kind(piece=piece, score=0.0, type=kind.USER_DEFINED))
    return proto.SerializeToString()


def check_tokenizer(vocabulary: Vocabulary, name: str) -> None:
    """Raises DataError if the challenge's byte rule would miscount text, which makes scores look too good.

    Without a piece for a lone space, a space falls back to three bytes; a space inside a piece counts three.
    """
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    if SPACE_MARK not in pieces:
        raise DataError(f"{name}: has no piece for a lone space; each would be counted as 3 bytes")
    for token, piece in enumerate(pieces):
        if SPACE_MARK in piece[1:]:
            has = f"piece {token}, {piece!r}, has a space inside"
            raise DataError(f"{name}: {has}, which would count as 3 bytes")


def unknown_id(vocabulary: Vocabulary) -> int | None:
    """The token of characters that the tokenizer has no piece for; None if they fall back to bytes."""
    *_, token = vocabulary.encode_text(_CHARACTER_OF_NO_TOKENIZER)
    return None if vocabulary.piece(token).startswith("<0x") else token


def _sentences(texts: Iterable[str], sample_bytes: int) -> Iterator[str]:
    """Lines up to `sample_bytes` in all, cut to _LONGEST_SENTENCE_BYTES: the trainer drops longer ones."""
    left = sample_bytes
    for text in texts:
        for line in text.splitlines():
            data = line.encode("utf-8", "replace")
            for start in range(0, len(data), _LONGEST_SENTENCE_BYTES):
                sentence = data[start : start + _LONGEST_SENTENCE_BYTES].decode("utf-8", "ignore").strip()
                if sentence:
                    yield sentence
            left -= len(data)
        if left < 0:
            return
