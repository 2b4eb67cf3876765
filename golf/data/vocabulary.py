"""A SentencePiece vocabulary, and the bytes of text of each token.

Shape suffix: V pieces.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from golf.data.caseops import CASE_MARK_BYTES, CASE_MARKS, ESCAPE_MARK, escape_marks, mark_case, unmark_case

SPACE_MARK = "\u2581"
"""The character that SentencePiece writes for a space."""


class VocabularyError(ValueError):
    """A tokenizer file cannot serve as a vocabulary here."""


class Vocabulary:
    """The pieces of a SentencePiece model, given as the bytes of its file; `name` is for error messages.

    If the model has the four marks of CaseOps as pieces, `case_ops` is true: `encode` marks and `decode`
    unmarks the text, and bytes are those of the unmarked text. Raises VocabularyError unless the model loads,
    has a BOS piece and at most 65,536 pieces, so that tokens fit 16 bits.
    """

    def __init__(self, model: bytes, name: str):
        if not model:
            raise VocabularyError(f"{name}: is empty; expected a SentencePiece model")
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise VocabularyError(f"{name}: not a SentencePiece model ({len(model)} bytes)") from error
        self._pieces = pieces
        self.size: int = pieces.vocab_size()
        self.bos_id: int = pieces.bos_id()
        self.sha256: str = hashlib.sha256(model).hexdigest()
        if self.bos_id < 0:
            raise VocabularyError(f"{name}: has no BOS piece; documents are separated by it")
        if self.size > 2**16:
            raise VocabularyError(f"{name}: {self.size} pieces; tokens are stored in 16 bits")
        ids = range(self.size)
        self._is_textless_V = np.array(
            [pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i) for i in ids]
        )
        self._has_space_V = np.array([pieces.id_to_piece(i).startswith(SPACE_MARK) for i in ids])
        self._has_space_V &= ~self._is_textless_V
        self._rest_bytes_V = np.array(
            [
                1 if pieces.is_byte(i) else len(pieces.id_to_piece(i).removeprefix(SPACE_MARK).encode())
                for i in ids
            ]
        )
        self._rest_bytes_V[self._is_textless_V] = 0
        marks = [pieces.piece_to_id(mark) for mark in CASE_MARKS]
        self.case_ops: bool = pieces.unk_id() not in marks
        self._escape_id = -1
        if self.case_ops:
            self._escape_id = marks[CASE_MARKS.index(ESCAPE_MARK)]
            num_marks_V = [sum(map(pieces.id_to_piece(i).count, CASE_MARKS)) for i in ids]
            self._rest_bytes_V -= CASE_MARK_BYTES * np.array(num_marks_V)
            self._rest_bytes_V[self._escape_id] = CASE_MARK_BYTES

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a .model file; VocabularyError if it cannot be read or used."""
        try:
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise VocabularyError(f"{path}: cannot be read ({error.strerror})") from error

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Bytes of text of each target by the challenge's rule: int64, the shape of `targets` and `previous`.

        A piece counts the UTF-8 bytes after its leading U+2581 (a byte piece 1; control, unknown and unused
        pieces 0), plus 1 for that U+2581 unless the `previous` token is control, unknown or unused. Marks of
        CaseOps count 0, except the escape, which counts the bytes of the mark that its digit names.
        """
        spaces = self._has_space_V[targets] & ~self._is_textless_V[previous]
        counts = self._rest_bytes_V[targets] + spaces
        if not self.case_ops:
            return counts
        return counts - ((previous == self._escape_id) & (self._rest_bytes_V[targets] > 0))

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without BOS; a lone surrogate, which has no UTF-8 form, becomes "?".

        The tokens always decode to the normalized text: where marking does not survive the normalization of
        the model ("NASA" before a ligature, which it expands), the text keeps its capitals.
        """
        text = text.encode("utf-8", "replace").decode()
        if not self.case_ops:
            return self._pieces.encode(text)
        tokens = self._pieces.encode(mark_case(text))
        return (
            tokens if self.decode(tokens) == self.normalize(text) else self._pieces.encode(escape_marks(text))
        )

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids` (N); control tokens have none."""
        text = self._pieces.decode([int(token) for token in ids])
        return unmark_case(text) if self.case_ops else text

    def normalize(self, text: str) -> str:
        """The text after the normalization of the model; its UTF-8 bytes are the ones that are counted."""
        return self._pieces.normalize(text).replace(SPACE_MARK, " ")

    def piece(self, token: int) -> str:
        """The piece of a token id, with U+2581 for a space."""
        return self._pieces.id_to_piece(token)
