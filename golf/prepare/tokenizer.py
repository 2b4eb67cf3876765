"""Training a tokenizer of the challenge's kind, and refusing those whose bytes cannot be counted."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from golf.data.caseops import CASE_MARKS, mark_case
from golf.data.manifest import DataError
from golf.data.vocabulary import SPACE_MARK, Vocabulary
from golf.prepare.fusion import FUSED_MARKS, fuse_marks

SAMPLE_BYTES = 8_000_000
"""Text a tokenizer is trained on: more moves no piece of a small vocabulary and takes longer."""

MarkPieces = Literal["marks", "fused"]
"""The marks of CaseOps as pieces, or these and each of them together with the space before it."""

_LONGEST_SENTENCE_BYTES = 4000


@dataclass(frozen=True)
class TokenizerChoice:
    """The tokenizer of a dataset: a .model file, or one to be trained on the text."""

    model: Path | None = None
    """The file, if it is there already."""
    vocab_size: int = 0
    """Pieces of the one to train."""
    case_ops: MarkPieces | None = None
    """Marks of CaseOps to train it with; a file has them already, and "fused" fuses them there."""
    sample_bytes: int = SAMPLE_BYTES
    """Text to train it on."""

    def file_name(self, dataset: str) -> str:
        """What it is called in the dataset's folder."""
        if self.model is None:
            return f"{dataset}_bpe.model"
        return f"{self.model.stem}_fused.model" if self.case_ops == "fused" else self.model.name

    def read(self) -> bytes:
        """The file, checked, with its marks fused if asked for; DataError for one that has none."""
        vocabulary = Vocabulary.load(self.model)
        check_tokenizer(vocabulary, str(self.model))
        if self.case_ops and not vocabulary.case_ops:
            raise DataError(f"{self.model}: has no pieces for the marks of CaseOps")
        data = self.model.read_bytes()
        return fuse_marks(data, str(self.model)) if self.case_ops == "fused" else data

    def train(self, texts: Iterable[str]) -> bytes:
        """A new one."""
        return train_tokenizer(texts, self.vocab_size, self.case_ops, self.sample_bytes)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    case_ops: MarkPieces | None = None,
    sample_bytes: int = SAMPLE_BYTES,
) -> bytes:
    """A SentencePiece BPE model file with the settings of the challenge's own; same text, same bytes.

    Byte fallback, split digits, NFKC, no dummy prefix; pad, BOS, EOS, unknown are 0, 1, 2, 3. Trained on the
    first `sample_bytes` of the text, its case marked if the marks are to be pieces, which then come next.
    DataError if the vocabulary is too small for 256 bytes and the letters.
    """
    model = io.BytesIO()
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
        reason = str(error).splitlines()[-1].split("] ")[-1].strip()
        raise DataError(
            f"no tokenizer of {vocab_size} pieces can be trained on this text: {reason}"
        ) from error
    data = model.getvalue()
    check_tokenizer(
        Vocabulary(data, f"tokenizer of {vocab_size} pieces"), f"tokenizer of {vocab_size} pieces"
    )
    return data


def check_tokenizer(vocabulary: Vocabulary, name: str) -> None:
    """Raises DataError where the challenge's byte rule would miscount this vocabulary's text.

    Without a piece for a lone space, a space falls back to three bytes; a piece with a space inside counts
    three bytes for it: both make a score look better than it is.
    """
    pieces = [vocabulary.piece(token) for token in range(vocabulary.size)]
    if SPACE_MARK not in pieces:
        raise DataError(f"{name}: has no piece for a lone space; each would be counted as 3 bytes")
    for token, piece in enumerate(pieces):
        if SPACE_MARK in piece[1:]:
            raise DataError(
                f"{name}: piece {token}, {piece!r}, has a space inside, which would count as 3 bytes"
            )


def _sentences(texts: Iterable[str], sample_bytes: int) -> Iterator[str]:
    """Lines of at most _LONGEST_SENTENCE_BYTES, as the trainer drops longer ones, up to `sample_bytes`."""
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
