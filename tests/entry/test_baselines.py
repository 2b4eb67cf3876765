"""Compressors see the decoded text of the validation tokens."""

import lzma

import numpy as np

from golf.entry import finalize
from golf.entry.finalize import compressor_bits_per_byte, decoded_text


class Letters:
    """A vocabulary of letters: token 1 is BOS, token 2 + i is the i-th letter."""

    bos_id = 1

    def decode_tokens(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token - 2) for token in ids if token != self.bos_id)

    def count_bytes(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return (targets != self.bos_id).astype(np.int64)


def test_documents_are_joined_without_their_separators():
    assert decoded_text(np.array([1, 2, 3, 1, 4]), Letters()) == b"abc"


def test_bits_are_of_the_compressed_text_over_its_bytes():
    tokens = np.array([1, *([2, 3, 4, 5] * 500)])
    figures = compressor_bits_per_byte(tokens, Letters())
    assert figures["xz_bits_per_byte"] == 8 * len(lzma.compress(b"abcd" * 500, preset=9)) / 2000
    assert 0 < figures["zstd22_bits_per_byte"] < 1


def test_a_long_text_is_left_alone(monkeypatch):
    monkeypatch.setattr(finalize, "MAX_TEXT_BYTES", 10)
    figures = compressor_bits_per_byte(np.array([1, *([2] * 20)]), Letters())
    assert figures == {"xz_bits_per_byte": None, "zstd22_bits_per_byte": None}
