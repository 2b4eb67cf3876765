"""Range coder (Martin 1979): a sequence of symbols, each under a distribution of its own, as one number.

The encoder narrows an interval of integers, [low, low + range), to the share of each symbol, and writes the
bytes that all numbers of the interval have in common. The decoder finds the symbol in whose share the number
lies. Probabilities are integers out of 2^32, at least 1, so that every symbol can be coded. With a range of
at least 2^56, rounding costs less than 2^-24 of a symbol's bits.

Shapes: B distributions, V symbols.
"""

import numpy as np

TOTAL_BITS = 32
_STATE_BITS = 64
_LEAST_RANGE = 1 << (_STATE_BITS - 8)
_MASK = (1 << _STATE_BITS) - 1


def cumulative_counts(logits_BV: np.ndarray) -> np.ndarray:
    """Cumulative counts (B, V + 1) of softmax(logits) in float64: uint64, 0 to 2^32, each step at least 1.

    Logits of a row that are not all finite count as equal.
    """
    logits_BV = logits_BV.astype(np.float64)
    logits_BV[~np.isfinite(logits_BV).all(1)] = 0.0
    num_symbols = logits_BV.shape[1]
    shares_BV = np.cumsum(np.exp(logits_BV - logits_BV.max(1, keepdims=True)), axis=1)
    shares_BV *= ((1 << TOTAL_BITS) - num_symbols) / shares_BV[:, -1:]
    counts = np.zeros((len(logits_BV), num_symbols + 1), dtype=np.uint64)
    # The last share could be rounded below its whole number.
    counts[:, 1:-1] = shares_BV[:, :-1]
    counts[:, -1] = (1 << TOTAL_BITS) - num_symbols
    return counts + np.arange(num_symbols + 1, dtype=np.uint64)


class RangeEncoder:
    """Writes symbols; `finish` returns the bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._low, self._range = 0, _MASK

    def code(self, counts_V1: np.ndarray, symbol: int) -> int:
        """Writes `symbol` under cumulative counts from 0 to 2^32; returns it."""
        start, end = int(counts_V1[symbol]), int(counts_V1[symbol + 1])
        unit = self._range >> TOTAL_BITS
        self._low += unit * start
        self._range = unit * (end - start)
        self._carry()
        while self._range < _LEAST_RANGE:
            self._bytes.append(self._low >> (_STATE_BITS - 8))
            self._low = self._low << 8 & _MASK
            self._range <<= 8
        return symbol

    def _carry(self) -> None:
        if self._low > _MASK:
            self._low &= _MASK
            place = len(self._bytes) - 1
            while self._bytes[place] == 0xFF:
                self._bytes[place] = 0
                place -= 1
            self._bytes[place] += 1

    def finish(self) -> bytes:
        """The bytes written, with as few more as name a number of the interval; zeros follow in thought."""
        end = self._low + self._range
        for num_bytes in range(_STATE_BITS // 8 + 1):
            step = 1 << (_STATE_BITS - 8 * num_bytes)
            number = -(-self._low // step) * step
            if number < end:
                break
        self._low = number
        self._carry()
        self._bytes += self._low.to_bytes(_STATE_BITS // 8, "big")[:num_bytes]
        return bytes(self._bytes)


class RangeDecoder:
    """Reads the symbols of a `RangeEncoder` under the same counts, in the same order.

    Other bytes, or other counts, give other symbols: nothing here can tell.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, _STATE_BITS // 8
        first = data[: self._next].ljust(self._next, b"\0")
        self._value, self._range = int.from_bytes(first, "big"), _MASK

    def code(self, counts_V1: np.ndarray, symbol: int | None = None) -> int:
        """Reads a symbol; what the caller believes it to be is not looked at."""
        unit = self._range >> TOTAL_BITS
        place = min(self._value // unit, (1 << TOTAL_BITS) - 1)
        found = int(np.searchsorted(counts_V1, np.uint64(place), side="right")) - 1
        start, end = int(counts_V1[found]), int(counts_V1[found + 1])
        self._value -= unit * start
        self._range = unit * (end - start)
        while self._range < _LEAST_RANGE:
            byte = self._data[self._next] if self._next < len(self._data) else 0
            self._value = (self._value << 8 | byte) & _MASK
            self._next += 1
            self._range <<= 8
        return found


def code_integers(coder: RangeEncoder | RangeDecoder, values: np.ndarray) -> None:
    """Writes integers from 0 to 2^32 - 1, or reads them into `values` (N), int64.

    Each is its number of bits, under the counts so far of those numbers, and then these bits but the first.
    """
    counts = np.ones(TOTAL_BITS + 1)
    for place, value in enumerate(values):
        width = coder.code(cumulative_counts(np.log(counts)[None])[0], int(value).bit_length())
        counts[width] += 1
        found = min(1, width)
        for bit in range(width - 2, -1, -1):
            found = found << 1 | coder.code(_HALVES, int(value) >> bit & 1)
        values[place] = found


_HALVES = np.array([0, 1 << (TOTAL_BITS - 1), 1 << TOTAL_BITS], dtype=np.uint64)
