"""What general compressors make of the same validation text, for scale."""

import lzma

import numpy as np
import zstandard

from golf.data.vocabulary import Vocabulary

MAX_TEXT_BYTES = 32_000_000
"""Longer texts take zstd-22 many minutes; they are not compressed."""


def decoded_text(tokens: np.ndarray, vocabulary: Vocabulary) -> bytes:
    """The text of a token stream, document by document, without separators."""
    starts = np.flatnonzero(tokens == vocabulary.bos_id)
    documents = np.split(tokens, starts)
    return b"".join(vocabulary.decode(document.tolist()).encode() for document in documents if len(document))


def compressor_bits_per_byte(tokens: np.ndarray, vocabulary: Vocabulary) -> dict[str, float | None]:
    """Bits per byte of xz -9 and zstd -22 --long=27 on the decoded text; None for a text that is too long."""
    size = int(vocabulary.count_bytes(tokens[:-1], tokens[1:]).sum())
    if size > MAX_TEXT_BYTES:
        return {"xz_bits_per_byte": None, "zstd22_bits_per_byte": None}
    text = decoded_text(tokens, vocabulary)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    zstd = zstandard.ZstdCompressor(compression_params=parameters).compress(text)
    return {
        "xz_bits_per_byte": 8 * len(lzma.compress(text, preset=9)) / len(text),
        "zstd22_bits_per_byte": 8 * len(zstd) / len(text),
    }
