"""The codes of a whole model as one coded stream, each under the table of its class.

    class-to-table map | tables | escapes i4 | raw low bits | stream

Shapes: R rows, C columns, N codes, K tables, A the 256 symbols.
"""

import struct

import numpy as np

from golf.pack.container import ArtifactError
from golf.pack.grid import NUM_CLASSES, QuantizedTensor, TensorGrid, smallest_int
from golf.pack.rans import (
    ALPHABET,
    choose_lanes,
    decode_rans,
    decode_tables,
    encode_rans,
    encode_tables,
    normalize_counts,
)

ESCAPE = -128
"""The symbol of what is beyond +-127: it stands in a list of its own."""
FINEST_CODED_CLASS = 47
"""Codes of finer classes give up their lowest bits, one an octave: as good as random, these go raw."""
MAX_RAW_BITS = -((FINEST_CODED_CLASS - NUM_CLASSES + 1) // 8)
CODES_PER_TABLE = 8192
"""Classes with fewer codes share a table with their neighbours, or the tables would outweigh their gain."""
_COUNT_CHUNK = 1 << 20
"""Codes counted at a time; numpy's bincount needs eight bytes for each."""
_LENGTH = struct.Struct("<I")


class PayloadReader:
    """Takes pieces from the front of a payload; ArtifactError when it has no more."""

    def __init__(self, data: memoryview):
        self.rest = data

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > len(self.rest):
            raise ArtifactError(f"payload ends early: {size:,} bytes are missing from {len(self.rest):,}")
        piece, self.rest = self.rest[:size], self.rest[size:]
        return piece

    def take_length(self) -> int:
        """What `pack_length` wrote."""
        return _LENGTH.unpack(self.take(_LENGTH.size))[0]

    def take_tables(self) -> np.ndarray:
        """What `encode_tables` wrote."""
        frequencies_KA, size = decode_tables(self.rest)
        self.take(size)
        return frequencies_KA


def pack_length(length: int) -> bytes:
    """A section's length as it stands before it."""
    return _LENGTH.pack(length)


def raw_bits() -> np.ndarray:
    """By class, how many low bits of a code go raw."""
    return np.maximum(0, -((FINEST_CODED_CLASS - np.arange(NUM_CLASSES)) // 8)).astype(np.uint8)


def split_codes(codes_RC: np.ndarray, classes_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Symbols (uint8, one a code), what escaped (int32), low bits: first of codes that give up one."""
    raw_RC = raw_bits()[classes_RC]
    upper_RC = codes_RC >> raw_RC
    escaped_RC = np.abs(upper_RC) > 127
    symbols_N = np.where(escaped_RC, ESCAPE, upper_RC).astype(np.int8).view(np.uint8).reshape(-1)
    low = b"".join(_pack_bits(codes_RC[raw_RC == count], count) for count in range(1, MAX_RAW_BITS + 1))
    return symbols_N, upper_RC[escaped_RC].astype("<i4"), low


def join_codes(
    symbols_RC: np.ndarray, classes_RC: np.ndarray, escapes: np.ndarray, low: bytes | memoryview
) -> np.ndarray:
    """The inverse of `split_codes`, as the smallest_int type."""
    codes_RC = symbols_RC.view(np.int8)
    if not len(escapes) and not len(low):
        return codes_RC
    raw_RC = raw_bits()[classes_RC]
    codes_RC = codes_RC.astype(np.int64)
    codes_RC[codes_RC == ESCAPE] = escapes
    codes_RC <<= raw_RC
    begin = 0
    for count, size in enumerate(_low_sizes(classes_RC), start=1):
        chosen_RC = raw_RC == count
        codes_RC[chosen_RC] |= _unpack_bits(
            low[begin : begin + size], count, int(np.count_nonzero(chosen_RC))
        )
        begin += size
    return smallest_int(codes_RC)


def encode_codes(tensors: list[QuantizedTensor]) -> bytes:
    """Every code of the tensors, in order."""
    class_counts = sum(_count_classes(tensor.grid.classes()) for tensor in tensors)
    table_of_class = share_tables(class_counts)
    num_codes = sum(tensor.codes_RC.size for tensor in tensors)
    symbols_N, tables_N = np.empty(num_codes, np.uint8), np.empty(num_codes, np.uint8)
    escapes, low, begin = [], [], 0
    for tensor in tensors:
        classes_RC = tensor.grid.classes()
        own = slice(begin, begin + tensor.codes_RC.size)
        symbols_N[own], own_escapes, own_low = split_codes(tensor.codes_RC, classes_RC)
        tables_N[own] = table_of_class[classes_RC.reshape(-1)]
        escapes.append(own_escapes)
        low.append(own_low)
        begin = own.stop
    listed = np.concatenate(escapes)
    frequencies_KA = normalize_counts(count_symbols(symbols_N, tables_N, int(table_of_class.max()) + 1))
    sections = [
        table_of_class.tobytes(),
        encode_tables(frequencies_KA),
        pack_length(len(listed)),
        listed.tobytes(),
        *low,
        encode_rans(symbols_N, tables_N, frequencies_KA, choose_lanes(len(symbols_N))),
    ]
    return b"".join(sections)


def decode_codes(reader: PayloadReader, grids: list[TensorGrid]) -> list[np.ndarray]:
    """The codes of tensors on these grids, by tensor; ArtifactError unless the rest is exactly theirs."""
    table_of_class = np.frombuffer(reader.take(NUM_CLASSES), dtype=np.uint8)
    frequencies_KA = reader.take_tables()
    if table_of_class.max() >= len(frequencies_KA):
        raise ArtifactError(f"a class points to coding table {table_of_class.max()} of {len(frequencies_KA)}")
    escapes = np.frombuffer(reader.take(4 * reader.take_length()), dtype="<i4")
    low = [reader.take(sum(_low_sizes(grid.classes()))) for grid in grids]
    tables_N = np.concatenate([table_of_class[grid.classes().reshape(-1)] for grid in grids])
    symbols_N = decode_rans(reader.rest, tables_N, frequencies_KA, choose_lanes(len(tables_N)))
    if (marked := int(np.count_nonzero(symbols_N.view(np.int8) == ESCAPE))) != len(escapes):
        raise ArtifactError(f"{marked} codes are marked as escaped; {len(escapes)} are listed")
    del tables_N
    codes = []
    for grid, own_low in zip(grids, low, strict=True):
        classes_RC = grid.classes()
        symbols_RC = symbols_N[: classes_RC.size].reshape(classes_RC.shape)
        symbols_N = symbols_N[classes_RC.size :]
        own = int(np.count_nonzero(symbols_RC.view(np.int8) == ESCAPE))
        codes.append(join_codes(symbols_RC, classes_RC, escapes[:own], own_low))
        escapes = escapes[own:]
    return codes


def _count_classes(classes_RC: np.ndarray) -> np.ndarray:
    return np.bincount(classes_RC.reshape(-1), minlength=NUM_CLASSES)


def _low_sizes(classes_RC: np.ndarray) -> list[int]:
    """Bytes of the low bits of codes that give up 1, 2, ... of them."""
    counts = np.bincount(raw_bits(), _count_classes(classes_RC), minlength=MAX_RAW_BITS + 1)
    return [(count * int(codes) + 7) // 8 for count, codes in enumerate(counts)][1:]


def _pack_bits(values: np.ndarray, count: int) -> bytes:
    """The lowest `count` bits of each value, one after the other."""
    bits = np.empty((len(values), count), dtype=np.uint8)
    for place in range(count):
        bits[:, place] = values >> place & 1
    return np.packbits(bits).tobytes()


def _unpack_bits(data: memoryview, count: int, length: int) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=count * length).reshape(length, count)
    values = np.zeros(length, dtype=np.int64)
    for place in range(count):
        values |= bits[:, place].astype(np.int64) << place
    return values


def share_tables(codes_by_class: np.ndarray) -> np.ndarray:
    """The table of each class, uint8: neighbouring classes share one until it has CODES_PER_TABLE codes."""
    tables = np.zeros(NUM_CLASSES, dtype=np.uint8)
    table, codes = 0, 0
    remaining = int(codes_by_class.sum())
    for index, count in enumerate(codes_by_class.tolist()):
        tables[index] = table
        codes += count
        remaining -= count
        if codes >= CODES_PER_TABLE and remaining >= CODES_PER_TABLE:
            table, codes = table + 1, 0
    return tables


def count_symbols(symbols_N: np.ndarray, tables_N: np.ndarray, num_tables: int) -> np.ndarray:
    """How often each table codes each symbol, (K, A)."""
    counts = np.zeros(num_tables * ALPHABET, dtype=np.int64)
    for begin in range(0, len(symbols_N), _COUNT_CHUNK):
        piece = slice(begin, begin + _COUNT_CHUNK)
        joint = tables_N[piece].astype(np.uint16) << np.uint16(8) | symbols_N[piece]
        counts += np.bincount(joint, minlength=len(counts))
    return counts.reshape(num_tables, ALPHABET)
