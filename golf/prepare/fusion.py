"""Fused marks: a space and the mark behind it as one piece, made in the tokenizer file itself.

Most marks of CaseOps start a word, so that most of them follow a space: fused, the text has some 9% fewer
tokens. Source: openai/parameter-golf #2109, which replaces pairs of tokens after encoding; as pieces of the
tokenizer they need no second step, and the tokenizer's hash says whether they are there.
"""

import struct
from collections.abc import Iterator

from golf.data.caseops import ALLCAPS_MARK, CAPNEXT_MARK, TITLE_MARK
from golf.data.manifest import DataError
from golf.data.vocabulary import SPACE_MARK, Vocabulary

FUSED_MARKS = tuple(SPACE_MARK + mark for mark in (TITLE_MARK, ALLCAPS_MARK, CAPNEXT_MARK))

_PIECES_FIELD, _TEXT_FIELD, _SCORE_FIELD, _TYPE_FIELD = 1, 1, 2, 3
_USER_DEFINED = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fuse_marks(model: bytes, name: str) -> bytes:
    """The same SentencePiece model with FUSED_MARKS in place of three pieces of one ASCII character each.

    Such a character costs no token more: it falls back to its byte. The last ones are taken, which training
    puts in order of frequency. Raises DataError for a model without marks or with too few such pieces.
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
    fused = dict(zip(single[-len(FUSED_MARKS) :], FUSED_MARKS, strict=True))
    parts, token = [], 0
    for field, whole in _message_fields(model):
        if field == _PIECES_FIELD:
            whole = _piece_field(fused[token]) if token in fused else whole
            token += 1
        parts.append(whole)
    return b"".join(parts)


def _piece_field(piece: str) -> bytes:
    """A user-defined piece as a field of the model's message."""
    text = piece.encode()
    message = bytes([_TEXT_FIELD << 3 | _BYTES, len(text)]) + text
    message += bytes([_SCORE_FIELD << 3 | _FIXED32]) + struct.pack("<f", 0.0)
    message += bytes([_TYPE_FIELD << 3 | _VARINT, _USER_DEFINED])
    return bytes([_PIECES_FIELD << 3 | _BYTES, len(message)]) + message


def _message_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol buffer message: number and whole encoding."""
    position = 0
    while position < len(data):
        start = position
        key, position = _read_varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            _, end = _read_varint(data, position)
        elif kind == _BYTES:
            length, position = _read_varint(data, position)
            end = position + length
        else:
            end = position + {_FIXED64: 8, _FIXED32: 4}[kind]
        yield key >> 3, data[start:end]
        position = end


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
