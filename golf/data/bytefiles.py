"""Byte files: the bytes of original text of each token of a CaseOps validation shard."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from golf.data.manifest import DataError, byte_file_of, read_byte_file
from golf.data.shards import read_shard, write_shard
from golf.data.vocabulary import Vocabulary

_REPLACEMENT = "\ufffd"
"""A character that the end of a shard cuts decodes to this."""


def write_byte_files(shards: Sequence[Path], vocabulary: Vocabulary) -> None:
    """Writes the byte file of each shard; DataError if a document's count differs from its decoded size.

    A document decodes to its normalized text, so the bytes counted are those of the original.
    """
    before = vocabulary.bos_id
    for shard in shards:
        tokens = np.array(read_shard(shard))
        counts = vocabulary.count_bytes(np.concatenate([[before], tokens[:-1]]), tokens)
        before = int(tokens[-1])
        edges = [*np.flatnonzero(tokens == vocabulary.bos_id).tolist(), len(tokens)]
        for start, end in pairwise(edges):
            text = vocabulary.decode(tokens[start + 1 : end].tolist())
            counted, size = int(counts[start:end].sum()), len(text.encode())
            is_cut = end == len(tokens) and text.endswith(_REPLACEMENT)
            if counted != size and not is_cut:
                raise DataError(
                    f"{shard}: a document of {size} bytes is counted as {counted} ({text[:60]!r})"
                )
        write_shard(byte_file_of(shard), counts)


def adopt_byte_files(shards: Sequence[Path], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Writes the byte files that published shards lack; returns a note for each export that counts otherwise.

    An export has fineweb_val_bytes_NNNNNN.bin, which is compared with the counts of the vocabulary. Raises
    DataError for a shard without either file.
    """
    notes = []
    for shard in shards:
        published = shard.with_name(shard.name.replace("_val_", "_val_bytes_"))
        if byte_file_of(shard).is_file() or not published.is_file():
            read_byte_file(shard)
            continue
        stated = int(read_shard(published).sum(dtype=np.int64))
        write_byte_files([shard], vocabulary)
        counted = int(read_byte_file(shard).sum(dtype=np.int64))
        if stated != counted:
            notes.append(f"{published.name} says {stated} bytes; the decoded text has {counted}, which count")
    return tuple(notes)
