"""Entropy coder for integer codes: rANS (arXiv:1311.2540), each code under the table of its context.

A code's context, 0 to 127, is known before the code: a bin of its expected width, log2(sigma / step) in steps
of 1/8. Contexts with few codes share a table of symbol frequencies. A symbol is a byte.

rANS keeps a state x in [2^16, 2^32). A symbol of frequency f out of 2^12, with slots from c on, changes x to
    x' = (x // f) * 2^12 + c + x % f
which adds log2(2^12 / f) bits, the symbol's information. Before a step that would pass 2^32, the lowest 16
bits of x go to the stream. The slot x' % 2^12 identifies the symbol, so the decoder can undo the steps, last
to first; the encoder therefore starts with the last symbol. All arithmetic is on integers.
L states (lanes) run side by side so that numpy does the work: symbol i belongs to lane i % L; all lanes share
one stream of 16-bit words. The format of a model's codes:

    table by context u8[128] | tables | num_escapes u32 | escapes i32 | low bits | states u32, words u16

Shapes: R rows, C columns, N codes, L lanes, K tables, A the 256 symbols.
"""

import numpy as np

from golf.pack.container import ArtifactError, PayloadReader, encode_count

NUM_CONTEXTS = 128
PRECISION_BITS = 12
ALPHABET = 256
ESCAPE = -128
"""Symbol of a code beyond +-127: the code itself is in the list of escapes."""
ESCAPE_BITS = 32
MOST_CODE = 2**30 - 1
"""Twice as much still fits into 32 bits."""
FINEST_CODED_CONTEXT = 47
"""Codes of finer contexts give up their lowest bits, one per octave: these are uniform and stored raw."""
RAW_BITS = np.maximum(0, -((FINEST_CODED_CONTEXT - np.arange(NUM_CONTEXTS)) // 8)).astype(np.uint8)
"""Number of low bits stored raw, by context."""
CODES_PER_TABLE = 8192
"""Contexts with fewer codes share a table with their neighbors: a table costs more than it saves them."""
MAX_LANES = 1024
MIN_LANES = 8
_SYMBOLS_PER_LANE = 1 << 13
_COUNT_CHUNK = 1 << 20
"""Codes counted at a time; numpy's bincount takes eight bytes for each."""
_MIN_STATE = np.uint32(1 << 16)
_WORD_BITS = np.uint32(16)
_WORD_MASK = np.uint32(0xFFFF)
_PRECISION, _SLOT_MASK = np.uint32(PRECISION_BITS), np.uint32((1 << PRECISION_BITS) - 1)


def smallest_int(codes: np.ndarray) -> np.ndarray:
    """Integers as int8, int16 or int32, whichever is the smallest that holds them."""
    largest = np.max(np.abs(codes), initial=0)
    return codes.astype(next(kind for kind in (np.int8, np.int16, np.int32) if largest <= np.iinfo(kind).max))


def encode_codes(codes: list[np.ndarray], contexts: list[np.ndarray]) -> bytes:
    """The codes of all tensors, each (R, C) with uint8 contexts of the same shape."""
    table_of_context = share_tables(_count_contexts(contexts))
    symbols, escapes, low = zip(*map(split_codes, codes, contexts), strict=True)
    listed = np.concatenate(escapes)
    tables_N = _tables_of_codes(table_of_context, contexts)
    tables, stream = encode_symbols(np.concatenate(symbols), tables_N, int(table_of_context.max()) + 1)
    sections = [table_of_context.tobytes(), tables, encode_count(len(listed)), listed.tobytes(), *low, stream]
    return b"".join(sections)


def decode_codes(reader: PayloadReader, contexts: list[np.ndarray]) -> list[np.ndarray]:
    """The codes by tensor; raises ArtifactError unless the rest of the payload is exactly theirs."""
    table_of_context = reader.take_array("u1", NUM_CONTEXTS)
    frequencies_KA = decode_tables(reader)
    escapes = reader.take_array("<i4", reader.take_count())
    low = [take_low_bits(reader, contexts_RC) for contexts_RC in contexts]
    symbols_N = decode_rans(reader.rest, _tables_of_codes(table_of_context, contexts), frequencies_KA)
    sizes = [contexts_RC.size for contexts_RC in contexts]
    symbols = np.split(symbols_N, np.cumsum(sizes)[:-1])
    num_escaped = [int(np.count_nonzero(own_N.view(np.int8) == ESCAPE)) for own_N in symbols]
    if sum(num_escaped) != len(escapes):
        raise ArtifactError(f"{sum(num_escaped)} codes are marked as escaped; {len(escapes)} are listed")
    listed = np.split(escapes, np.cumsum(num_escaped)[:-1])
    return [join_codes(*tensor) for tensor in zip(symbols, contexts, listed, low, strict=True)]


def encode_symbols(symbols_N: np.ndarray, tables_N: np.ndarray, num_tables: int) -> tuple[bytes, bytes]:
    """Tables made for these symbols, and the rANS stream under them; symbols and tables are uint8."""
    frequencies_KA = normalize_counts(count_symbols(symbols_N, tables_N, num_tables))
    return encode_tables(frequencies_KA), encode_rans(symbols_N, tables_N, frequencies_KA)


def measure_codes(codes: list[np.ndarray], contexts: list[np.ndarray]) -> list[tuple[float, float, int]]:
    """By tensor: bits under the tables of `encode_codes`, share of the codes' entropy in bits, escaped codes.

    The entropy is that of order 0 within each table; low bits count as they are in both.
    """
    table_of_context = share_tables(_count_contexts(contexts))
    num_tables = int(table_of_context.max()) + 1
    counts = [
        count_symbols(split_codes(*tensor)[0], table_of_context[tensor[1].reshape(-1)], num_tables)
        for tensor in zip(codes, contexts, strict=True)
    ]
    total_KA = sum(counts, start=np.zeros((num_tables, ALPHABET), dtype=np.int64))
    coded_KA, entropy_KA = code_lengths(total_KA)
    measured = []
    for counts_KA, contexts_RC in zip(counts, contexts, strict=True):
        raw = int(RAW_BITS[contexts_RC].sum())
        bits, entropy = (raw + float(np.sum(counts_KA * cost_KA)) for cost_KA in (coded_KA, entropy_KA))
        measured.append((bits, entropy, int(counts_KA[:, ESCAPE].sum())))
    return measured


def code_lengths(counts_KA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each symbol under tables made of these counts, and its information, float64 (K, A)."""
    coded_KA = PRECISION_BITS - np.log2(np.maximum(normalize_counts(counts_KA), 1))
    coded_KA[:, ESCAPE] += ESCAPE_BITS
    return coded_KA, np.log2(np.maximum(counts_KA.sum(1, keepdims=True), 1) / np.maximum(counts_KA, 1))


def split_codes(codes_RC: np.ndarray, contexts_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Symbols uint8 (N,), escapes int32, and raw low bits: of codes that give up one first, then two."""
    raw_RC = RAW_BITS[contexts_RC]
    upper_RC = codes_RC >> raw_RC
    escaped_RC = np.abs(upper_RC) > 127
    symbols_N = np.where(escaped_RC, ESCAPE, upper_RC).astype(np.int8).view(np.uint8).reshape(-1)
    low = []
    for count in range(1, RAW_BITS.max() + 1):
        # Of each code its lowest bits, least significant first, one code after the other.
        bits = codes_RC[raw_RC == count, None] >> np.arange(count, dtype=codes_RC.dtype) & 1
        low.append(np.packbits(bits.astype(np.uint8)).tobytes())
    return symbols_N, upper_RC[escaped_RC].astype("<i4"), b"".join(low)


def take_low_bits(reader: PayloadReader, contexts_RC: np.ndarray) -> list[np.ndarray]:
    """Values of the raw low bits: of codes that give up one, of those that give up two, and so on."""
    counts = np.bincount(RAW_BITS, _count_contexts([contexts_RC])).astype(int).tolist()
    low = []
    for count, length in enumerate(counts[1:], start=1):
        data = reader.take_array("u1", (count * length + 7) // 8)
        low.append(np.unpackbits(data, count=count * length).reshape(length, count) @ (1 << np.arange(count)))
    return low


def join_codes(
    symbols_N: np.ndarray, contexts_RC: np.ndarray, escapes: np.ndarray, low: list[np.ndarray]
) -> np.ndarray:
    """The inverse of `split_codes`, as the smallest integer type; ArtifactError beyond MOST_CODE."""
    codes_RC = symbols_N.view(np.int8).reshape(contexts_RC.shape)
    if not len(escapes) and not any(map(len, low)):
        return codes_RC
    raw_RC = RAW_BITS[contexts_RC]
    codes_RC = codes_RC.astype(np.int64)
    codes_RC[codes_RC == ESCAPE] = escapes
    codes_RC <<= raw_RC
    if np.abs(codes_RC).max() > MOST_CODE:
        raise ArtifactError(f"an escaped code is beyond {MOST_CODE:,}")
    for count, values in enumerate(low, start=1):
        codes_RC[raw_RC == count] |= values
    return smallest_int(codes_RC)


def share_tables(codes_by_context: np.ndarray) -> np.ndarray:
    """Table by context, uint8: neighboring contexts share one until it has CODES_PER_TABLE codes."""
    tables = np.zeros(NUM_CONTEXTS, dtype=np.uint8)
    table, codes = 0, 0
    remaining = int(codes_by_context.sum())
    for index, count in enumerate(codes_by_context.tolist()):
        tables[index] = table
        codes += count
        remaining -= count
        if codes >= CODES_PER_TABLE and remaining >= CODES_PER_TABLE:
            table, codes = table + 1, 0
    return tables


def count_symbols(symbols_N: np.ndarray, tables_N: np.ndarray, num_tables: int) -> np.ndarray:
    """Count of each symbol under each table, int64 (K, A)."""
    counts = np.zeros(num_tables * ALPHABET, dtype=np.int64)
    for begin in range(0, len(symbols_N), _COUNT_CHUNK):
        piece = slice(begin, begin + _COUNT_CHUNK)
        joint = tables_N[piece].astype(np.uint16) << np.uint16(8) | symbols_N[piece]
        counts += np.bincount(joint, minlength=len(counts))
    return counts.reshape(num_tables, ALPHABET)


def _count_contexts(contexts: list[np.ndarray]) -> np.ndarray:
    return np.sum([np.bincount(each.reshape(-1), minlength=NUM_CONTEXTS) for each in contexts], axis=0)


def _tables_of_codes(table_of_context: np.ndarray, contexts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([table_of_context[contexts_RC.reshape(-1)] for contexts_RC in contexts])


def choose_lanes(num_symbols: int) -> int:
    """A power of two: many lanes are fast, but each costs the 4 bytes of its state."""
    lanes = 1 << max(0, (num_symbols // _SYMBOLS_PER_LANE).bit_length() - 1)
    return min(MAX_LANES, max(MIN_LANES, lanes))


def normalize_counts(counts_KA: np.ndarray) -> np.ndarray:
    """Frequencies near the counts' shares that sum to 4,096 in each table, at least 1 for symbols that occur.

    Starts from the rounded shares and moves single slots where that costs the fewest bits.
    """
    total = 1 << PRECISION_BITS
    frequencies_KA = np.zeros(counts_KA.shape, dtype=np.int64)
    for table, counts_A in enumerate(counts_KA):
        used = np.flatnonzero(counts_A)
        used = used if len(used) else np.array([0])
        counts = np.maximum(counts_A[used], 1)
        share = counts * (total / counts.sum())
        frequencies = np.maximum(1, np.rint(share)).astype(np.int64)
        while (excess := int(frequencies.sum()) - total) != 0:
            moved = frequencies - np.sign(excess)
            # n symbols cost n log2(total / f) bits, so going from f to f' costs n log2(f / f').
            cost = np.where(moved > 0, counts * np.log2(frequencies / np.maximum(moved, 0.5)), np.inf)
            cheapest = np.argsort(cost, kind="stable")[: abs(excess)]
            cheapest = cheapest[moved[cheapest] > 0]
            frequencies[cheapest] -= np.sign(excess)
        frequencies_KA[table, used] = frequencies
    return frequencies_KA


def encode_rans(
    symbols_N: np.ndarray, tables_N: np.ndarray, frequencies_KA: np.ndarray, lanes: int | None = None
) -> bytes:
    """States of the lanes, then the words, little-endian.

    Symbols and tables are uint8; every symbol must have a frequency above 0 in its table.
    """
    lanes = lanes or choose_lanes(len(symbols_N))
    starts_KA = np.cumsum(frequencies_KA, axis=1) - frequencies_KA
    # One uint32 per table and symbol: first slot << 16 | frequency.
    packed = (starts_KA.astype(np.uint32) << _WORD_BITS | frequencies_KA.astype(np.uint32)).reshape(-1)
    states_L = np.full(lanes, _MIN_STATE, dtype=np.uint32)
    # Filled from its end, because the decoder reads what was written last first. A symbol writes one word at
    # most; pages of the buffer that are never written take no memory.
    words = np.empty(len(symbols_N), dtype="<u2")
    position = len(words)
    last = (len(symbols_N) - 1) // lanes * lanes
    for begin in range(last, -1, -lanes):
        end = begin + lanes
        entry = packed[tables_N[begin:end].astype(np.uint16) << np.uint16(8) | symbols_N[begin:end]]
        frequency = entry & _WORD_MASK
        # The last group may be shorter than the lanes; this is a view, so that states_L changes too.
        states = states_L[: len(entry)]
        # x // f * 2^12 would pass 2^32 where x >= f * 2^20.
        full = states >> np.uint32(32 - PRECISION_BITS) >= frequency
        sent = states[full]
        words[position - len(sent) : position] = sent & _WORD_MASK
        position -= len(sent)
        states[full] = sent >> _WORD_BITS
        # x' = (x // f) * 2^12 + x % f + first slot.
        quotient = states // frequency
        remainder = states - quotient * frequency
        states[:] = (quotient << np.uint32(PRECISION_BITS)) + remainder + (entry >> _WORD_BITS)
    return b"".join([states_L.astype("<u4").data, words[position:].data])


def decode_rans(
    data: bytes | memoryview, tables_N: np.ndarray, frequencies_KA: np.ndarray, lanes: int | None = None
) -> np.ndarray:
    """The symbols, uint8; raises ArtifactError unless the data is what `encode_rans` returned for them."""
    lanes = lanes or choose_lanes(len(tables_N))
    decoder = RansDecoder(data, lanes, frequencies_KA)
    if tables_N.max(initial=0) >= len(frequencies_KA):
        raise ArtifactError(f"codes are under coding table {tables_N.max()} of {len(frequencies_KA)}")
    symbols_N = np.empty(len(tables_N), dtype=np.uint8)
    for begin in range(0, len(tables_N), lanes):
        symbols_N[begin : begin + lanes] = decoder.take(tables_N[begin : begin + lanes])
    decoder.close()
    return symbols_N


class RansDecoder:
    """Reads a stream of `encode_rans`, as many symbols at a time as it has lanes; fewer only at its end."""

    def __init__(self, data: bytes | memoryview, lanes: int, frequencies_KA: np.ndarray):
        if len(data) < 4 * lanes or len(data) % 2:
            raise ArtifactError(f"coded stream of {len(data):,} bytes cannot have {lanes} lanes")
        self._slots = _slot_table(frequencies_KA)
        self._states_L = np.frombuffer(data, dtype="<u4", count=lanes).astype(np.uint32)
        self._words, self._position = np.frombuffer(data, dtype="<u2", offset=4 * lanes), 0

    def take(self, tables_L: np.ndarray) -> np.ndarray:
        """The next symbols, uint8, each under the table given for it; ArtifactError where the stream ends."""
        states = self._states_L[: len(tables_L)]
        # Entry of the slot x' % 2^12: symbol, frequency - 1, and the slot's place within the symbol.
        entry = self._slots[tables_L.astype(np.uint32) << _PRECISION | (states & _SLOT_MASK)]
        # x = f * (x' // 2^12) + slot - first slot.
        states >>= _PRECISION
        states *= ((entry >> _PRECISION) & _SLOT_MASK) + np.uint32(1)
        states += entry & _SLOT_MASK
        low = (states < _MIN_STATE).nonzero()[0]
        read = self._words[self._position : self._position + len(low)]
        if len(read) != len(low):
            raise ArtifactError("coded stream ends before its last symbol")
        states[low] = states[low] << _WORD_BITS | read
        self._position += len(low)
        return (entry >> np.uint32(24)).astype(np.uint8)

    def close(self) -> None:
        """Raises ArtifactError unless the stream ends where its last symbol does."""
        # The encoder started from this state in every lane, and no word may be left over.
        if self._position != len(self._words) or np.any(self._states_L != _MIN_STATE):
            raise ArtifactError("coded stream does not end where its last symbol does")


def _slot_table(frequencies_KA: np.ndarray) -> np.ndarray:
    # By table and slot: symbol << 24 | (frequency - 1) << 12 | place of the slot within its symbol.
    flat = frequencies_KA.reshape(-1)
    first = (np.cumsum(frequencies_KA, axis=1) - frequencies_KA).reshape(-1)
    symbols = np.tile(np.arange(ALPHABET), len(frequencies_KA))
    fixed = symbols << 24 | np.maximum(flat - 1, 0) << PRECISION_BITS
    slots = np.tile(np.arange(1 << PRECISION_BITS), len(frequencies_KA))
    return (np.repeat(fixed - first, flat) + slots).astype(np.uint32)


def encode_tables(frequencies_KA: np.ndarray) -> bytes:
    """K, then by table the first and last used symbol (signed) and the frequencies, 7 bits per byte."""
    parts = [bytes([len(frequencies_KA)])]
    for frequencies_A in frequencies_KA:
        # Symbols are bytes of signed codes: rolled so that index 128 is code 0.
        signed = np.roll(frequencies_A, ALPHABET // 2)
        used = np.flatnonzero(signed)
        parts.append(bytes([used[0], used[-1]]))
        for frequency in signed[used[0] : used[-1] + 1].tolist():
            is_long = frequency > 0x7F
            parts.append(bytes([frequency & 0x7F | 0x80, frequency >> 7] if is_long else [frequency]))
    return b"".join(parts)


def decode_tables(reader: PayloadReader) -> np.ndarray:
    """The frequencies, int64 (K, A); raises ArtifactError unless each table sums to 4,096."""
    frequencies_KA = np.zeros((reader.take(1)[0], ALPHABET), dtype=np.int64)
    for frequencies_A in frequencies_KA:
        first, last = reader.take(2)
        for symbol in range(first, last + 1):
            frequency = reader.take(1)[0]
            if frequency > 0x7F:
                frequency = frequency & 0x7F | reader.take(1)[0] << 7
            frequencies_A[symbol - ALPHABET // 2] = frequency
        if frequencies_A.sum() != 1 << PRECISION_BITS:
            raise ArtifactError(f"a coding table has {frequencies_A.sum()} slots; expected 4,096")
    return frequencies_KA
