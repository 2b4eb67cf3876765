"""Range asymmetric numeral systems (arXiv:1311.2540): codes to words and back, in integer arithmetic alone.

Many lanes run side by side so that numpy does the work: symbol i belongs to lane i % lanes, all lanes share
one stream of 16-bit words. A symbol is a byte; each has a class, which picks its table of 4,096 slots.
Shapes: N symbols, L lanes, K tables, A the 256 symbols.
"""

import numpy as np

from golf.pack.container import ArtifactError

PRECISION_BITS = 12
ALPHABET = 256
MAX_LANES = 1024
MIN_LANES = 8
_SYMBOLS_PER_LANE = 1 << 13
_LOWEST_STATE = np.uint32(1 << 16)
_WORD_BITS = np.uint32(16)
_WORD_MASK = np.uint32(0xFFFF)
_MOST_TABLE_BYTES = 1 + 255 * (2 + 2 * ALPHABET)


def choose_lanes(num_symbols: int) -> int:
    """A power of two: enough lanes to be fast, few enough that their states (4 bytes each) cost nothing."""
    lanes = 1 << max(0, (num_symbols // _SYMBOLS_PER_LANE).bit_length() - 1)
    return min(MAX_LANES, max(MIN_LANES, lanes))


def normalize_counts(counts_KA: np.ndarray) -> np.ndarray:
    """Frequencies that sum to 4,096 by table, at least 1 where a symbol occurs, close to the counts.

    Starts from the rounded shares and moves single slots where they cost, or bring, the fewest bits.
    """
    total = 1 << PRECISION_BITS
    frequencies_KA = np.zeros(counts_KA.shape, dtype=np.int64)
    for table, counts_A in enumerate(counts_KA):
        used = np.flatnonzero(counts_A)
        if not len(used):
            used = np.array([0])
        counts = np.maximum(counts_A[used], 1)
        share = counts * (total / counts.sum())
        frequencies = np.maximum(1, np.rint(share)).astype(np.int64)
        while (excess := int(frequencies.sum()) - total) != 0:
            moved = frequencies - np.sign(excess)
            cost = np.where(moved > 0, counts * np.log2(frequencies / np.maximum(moved, 0.5)), np.inf)
            cheapest = np.argsort(cost, kind="stable")[: abs(excess)]
            cheapest = cheapest[moved[cheapest] > 0]
            frequencies[cheapest] -= np.sign(excess)
        frequencies_KA[table, used] = frequencies
    return frequencies_KA


def encode_rans(
    symbols_N: np.ndarray, classes_N: np.ndarray, frequencies_KA: np.ndarray, lanes: int
) -> bytes:
    """States of the lanes, then the words, little-endian; every symbol must have a frequency in its table.

    `symbols_N` and `classes_N` are uint8.
    """
    starts_KA = np.cumsum(frequencies_KA, axis=1) - frequencies_KA
    packed = (starts_KA.astype(np.uint32) << _WORD_BITS | frequencies_KA.astype(np.uint32)).reshape(-1)
    states_L = np.full(lanes, _LOWEST_STATE, dtype=np.uint32)
    # A symbol sends out one word at most; pages of the buffer that no word reaches take no memory.
    words = np.empty(len(symbols_N), dtype="<u2")
    position = len(words)
    last = (len(symbols_N) - 1) // lanes * lanes
    for begin in range(last, -1, -lanes):
        end = begin + lanes
        entry = packed[classes_N[begin:end].astype(np.uint16) << np.uint16(8) | symbols_N[begin:end]]
        frequency = entry & _WORD_MASK
        states = states_L[: len(entry)]
        full = states >> np.uint32(32 - PRECISION_BITS) >= frequency
        sent = states[full]
        words[position - len(sent) : position] = sent & _WORD_MASK
        position -= len(sent)
        states[full] = sent >> _WORD_BITS
        quotient = states // frequency
        remainder = states - quotient * frequency
        states[:] = (quotient << np.uint32(PRECISION_BITS)) + remainder + (entry >> _WORD_BITS)
    return b"".join([states_L.astype("<u4").data, words[position:].data])


def decode_rans(
    data: bytes | memoryview, classes_N: np.ndarray, frequencies_KA: np.ndarray, lanes: int
) -> np.ndarray:
    """The symbols, uint8; ArtifactError unless the data is exactly what `encode_rans` gave for them."""
    if not 1 <= lanes <= MAX_LANES or len(data) < 4 * lanes or len(data) % 2:
        raise ArtifactError(f"coded stream of {len(data):,} bytes cannot have {lanes} lanes")
    slots = _slot_table(frequencies_KA)
    states_L = np.frombuffer(data, dtype="<u4", count=lanes).astype(np.uint32)
    words = np.frombuffer(data, dtype="<u2", offset=4 * lanes)
    bits, mask = np.uint32(PRECISION_BITS), np.uint32((1 << PRECISION_BITS) - 1)
    symbols_N = np.empty(len(classes_N), dtype=np.uint8)
    position = 0
    for begin in range(0, len(classes_N), lanes):
        index = classes_N[begin : begin + lanes].astype(np.uint32) << bits
        states = states_L[: len(index)]
        entry = slots[index | (states & mask)]
        symbols_N[begin : begin + lanes] = entry >> np.uint32(24)
        states >>= bits
        states *= ((entry >> bits) & mask) + np.uint32(1)
        states += entry & mask
        low = (states < _LOWEST_STATE).nonzero()[0]
        read = words[position : position + len(low)]
        if len(read) != len(low):
            raise ArtifactError("coded stream ends before its last symbol")
        states[low] = states[low] << _WORD_BITS | read
        position += len(low)
    if position != len(words) or np.any(states_L != _LOWEST_STATE):
        raise ArtifactError("coded stream does not end where its last symbol does")
    return symbols_N


def _slot_table(frequencies_KA: np.ndarray) -> np.ndarray:
    """By table and slot: symbol << 24 | (frequency - 1) << 12 | place of the slot within its symbol."""
    flat = frequencies_KA.reshape(-1).astype(np.int64)
    starts = (np.cumsum(frequencies_KA, axis=1) - frequencies_KA).reshape(-1)
    symbols = np.tile(np.arange(ALPHABET), len(frequencies_KA))
    fixed = symbols << 24 | np.maximum(flat - 1, 0) << PRECISION_BITS
    slots = np.tile(np.arange(1 << PRECISION_BITS), len(frequencies_KA))
    return (np.repeat(fixed - starts, flat) + slots).astype(np.uint32)


def encode_tables(frequencies_KA: np.ndarray) -> bytes:
    """First and last used symbol of each table (signed), and the frequencies between, 7 bits a byte."""
    parts = [bytes([len(frequencies_KA)])]
    for frequencies_A in frequencies_KA:
        signed = np.roll(frequencies_A, ALPHABET // 2)
        used = np.flatnonzero(signed)
        parts.append(bytes([used[0], used[-1]]))
        for frequency in signed[used[0] : used[-1] + 1].tolist():
            parts.append(
                bytes([frequency & 0x7F | 0x80, frequency >> 7] if frequency > 0x7F else [frequency])
            )
    return b"".join(parts)


def decode_tables(data: memoryview) -> tuple[np.ndarray, int]:
    """The frequencies and how many bytes they took; ArtifactError unless each table sums to 4,096."""
    values = data[:_MOST_TABLE_BYTES].tolist()
    position = 0

    def read_byte() -> int:
        nonlocal position
        if position >= len(values):
            raise ArtifactError("coding tables are cut off")
        position += 1
        return values[position - 1]

    frequencies_KA = np.zeros((read_byte(), ALPHABET), dtype=np.int64)
    for frequencies_A in frequencies_KA:
        first, last = read_byte(), read_byte()
        for symbol in range(first, last + 1):
            frequency = read_byte()
            if frequency > 0x7F:
                frequency = frequency & 0x7F | read_byte() << 7
            frequencies_A[symbol - ALPHABET // 2] = frequency
        if frequencies_A.sum() != 1 << PRECISION_BITS:
            raise ArtifactError(
                f"a coding table has {frequencies_A.sum()} slots; expected {1 << PRECISION_BITS}"
            )
    return frequencies_KA, position
