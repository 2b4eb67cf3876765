"""The vocabulary of an export: text to tokens and back, as in the project's datasets."""

from collections.abc import Sequence
from pathlib import Path

from golf.data.vocabulary import Vocabulary

__all__ = ["decode", "encode", "read_pieces", "read_vocabulary"]


def read_vocabulary(file: str) -> Vocabulary:
    """The vocabulary of a SentencePiece model's file."""
    return Vocabulary(Path(file).read_bytes(), file)


def read_pieces(vocabulary: Vocabulary) -> list[str]:
    """All pieces by their ids."""
    return [vocabulary.piece(token) for token in range(vocabulary.size)]


def encode(vocabulary: Vocabulary, text: str) -> list[int]:
    """Tokens of a text, without BOS."""
    return vocabulary.encode_text(text)


def decode(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The text of tokens; control tokens have none."""
    return vocabulary.decode_tokens(ids)
