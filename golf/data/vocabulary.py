"""A SentencePiece vocabulary, and the bytes of text of each token.

Shape suffix: V pieces.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from golf.data.caseops import CASE_MARKS, escape_marks, mark_case, unmark_case
from golf.data.shards import DataError
from golf.system.stored import read_bounded

SPACE_MARK = "\u2581"
NO_PREFIX = -100
"""In place of a prefix token; as a target, cross-entropy ignores it."""
MAX_VOCABULARY_BYTES = 1 << 26


class Vocabulary:
    """The pieces of a SentencePiece model, given as the bytes of its file; `name` is for error messages.

    If all marks of CaseOps, of three bytes each, are pieces, `case_ops` is true: encoding marks and decoding
    unmarks the text, and bytes are those of the unmarked text. DataError for a model that cannot be used.
    """

    def __init__(self, model: bytes, name: str):
        pieces = sentencepiece.SentencePieceProcessor()
        try:
            pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DataError(f"{name}: not a SentencePiece model ({len(model)} bytes)") from error
        self._pieces = pieces
        self.size: int = pieces.vocab_size()
        self.bos_id: int = pieces.bos_id()
        self.sha256: str = hashlib.sha256(model).hexdigest()
        if self.bos_id < 0 or self.size > 2**16:
            raise DataError(
                f"{name}: BOS is {self.bos_id} of {self.size} pieces; expected one, of up to 65536"
            )
        marks = [pieces.piece_to_id(mark) for mark in CASE_MARKS]
        self.case_ops: bool = pieces.unk_id() not in marks
        self._escape_id = marks[-1] if self.case_ops else -1
        ids = list(range(self.size))
        texts = pieces.id_to_piece(ids)
        sizes = [len(text.removeprefix(SPACE_MARK).encode()) for text in texts]
        if self.case_ops:
            sizes = [n - 3 * sum(map(text.count, CASE_MARKS)) for n, text in zip(sizes, texts, strict=True)]
            sizes[self._escape_id] = 3
        kinds = [pieces.is_control(ids), pieces.is_unknown(ids), pieces.is_unused(ids)]
        self._is_textless_V = np.any(kinds, axis=0)
        self._has_space_V = np.array([text.startswith(SPACE_MARK) for text in texts]) & ~self._is_textless_V
        self._rest_bytes_V = np.where(self._is_textless_V, 0, np.where(pieces.is_byte(ids), 1, sizes))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a .model file; DataError if it cannot be read or used."""
        try:
            return cls(read_bounded(path, MAX_VOCABULARY_BYTES), str(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Bytes of text of each target by the challenge's rule: int64, the shape of `targets` and `previous`.

        A piece counts the UTF-8 bytes after its leading U+2581 (a byte piece 1; control, unknown and unused
        pieces 0), plus 1 for that U+2581 unless the `previous` token is control, unknown or unused. Marks of
        CaseOps count 0, except the escape, which counts the bytes of the mark that its digit names.
        """
        counts = self._rest_bytes_V[targets] + (self._has_space_V[targets] & ~self._is_textless_V[previous])
        if self.case_ops:
            counts -= (previous == self._escape_id) & (self._rest_bytes_V[targets] > 0)
        return counts

    def prefix_tokens(self) -> np.ndarray:
        """The token of each token's longest proper byte prefix that is one, int64 (V); or NO_PREFIX.

        Bytes are those of the piece, U+2581 being a space; control, unknown and unused pieces have none. Of a
        character and a byte piece that mean the same byte, the character is taken, as in text. DataError if
        no token has a prefix.
        """
        ids = list(range(self.size))
        is_byte = self._pieces.is_byte(ids)
        texts = [piece.replace(SPACE_MARK, " ").encode() for piece in self._pieces.id_to_piece(ids)]
        for token in ids:
            if is_byte[token]:
                texts[token] = bytes.fromhex(texts[token].decode()[3:5])
            elif self._is_textless_V[token]:
                texts[token] = b""
        token_of = {texts[token]: token for token in sorted(ids, key=is_byte.__getitem__, reverse=True)}
        found = []
        for text in texts:
            starts = (text[:size] for size in range(len(text) - 1, 0, -1))
            found.append(next((token_of[start] for start in starts if start in token_of), NO_PREFIX))
        if max(found) < 0:
            raise DataError(
                "no token begins with another: train.prefix_weight has no target; use another tokenizer"
            )
        return np.array(found)

    def encode_text(self, text: str) -> list[int]:
        """Tokens of a text, without BOS; a lone surrogate, which has no UTF-8 form, becomes "?".

        The tokens always decode to the normalized text: where marking does not survive the normalization of
        the model ("NASA" before a ligature, which it expands), the text keeps its capitals.
        """
        text = text.encode("utf-8", "replace").decode()
        if not self.case_ops:
            return self._pieces.encode(text)
        tokens = self._pieces.encode(mark_case(text))
        if self.decode_tokens(tokens) == self.normalize_text(text):
            return tokens
        return self._pieces.encode(escape_marks(text))

    def decode_tokens(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids` (N); control tokens have none."""
        text = self._pieces.decode([int(token) for token in ids])
        return unmark_case(text) if self.case_ops else text

    def normalize_text(self, text: str) -> str:
        """The text after the normalization of the model; its UTF-8 bytes are the ones that are counted."""
        return self._pieces.normalize(text).replace(SPACE_MARK, " ")

    def piece(self, token: int) -> str:
        """The piece of a token id, with U+2581 for a space."""
        return self._pieces.id_to_piece(token)
