"""Raises the token that most often followed the same long context in what was graded before.

Shapes: B documents, L targets of a chunk, V vocabulary, N targets.
"""

from dataclasses import dataclass

import numpy as np

_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NO_KEY = np.uint64(0)


@dataclass(frozen=True)
class TiltConfig:
    """The n-gram tilt (openai/parameter-golf #1514, #2135): a bounded boost, the softmax renormalised."""

    boost: float = 0.0
    """What is added to the logit of the expected token; 0 leaves the tilt out. #2135 has 2.625."""
    context_tokens: int = 15
    """Tokens that must be the same; the tilt begins that far into each document."""
    least_share: float = 0.8
    """Share of a context's occurrences that the expected token must have followed."""
    table_bits: int = 20
    """The table holds 2^this contexts, 24 bytes each; of two that meet in a place the later one stays."""

    def __post_init__(self) -> None:
        if not 0 <= self.boost <= 20:
            raise ValueError(f"ttt.tilt.boost is {self.boost}; expected 0 to 20")
        if self.context_tokens < 1 or not 0 < self.least_share <= 1 or not 4 <= self.table_bits <= 24:
            raise ValueError(
                f"ttt.tilt.context_tokens is {self.context_tokens}, least_share {self.least_share} and "
                f"table_bits {self.table_bits}; expected at least 1, a share up to 1 and 4 to 24"
            )


class NgramTable:
    """Contexts of graded text, and the token that followed each most often; a place for each hash."""

    def __init__(self, config: TiltConfig):
        self.config = config
        size = 1 << config.table_bits
        self._keys = np.zeros(size, dtype=np.uint64)
        self._tokens, self._hits, self._seen = np.zeros((3, size), dtype=np.int32)

    def expect(self, keys: np.ndarray) -> np.ndarray:
        """The token expected behind each context, -1 where none is."""
        places = self._places(keys)
        known = (self._keys[places] == keys) & (keys != _NO_KEY)
        known &= self._hits[places] >= self.config.least_share * self._seen[places]
        return np.where(known, self._tokens[places], -1)

    def add(self, keys_N: np.ndarray, tokens_N: np.ndarray) -> None:
        """Counts graded targets: `tokens_N` followed the contexts of `keys_N`; key 0 stands for none."""
        present_N = keys_N != _NO_KEY
        keys, key_N, totals = np.unique(keys_N[present_N], return_inverse=True, return_counts=True)
        if not len(keys):
            return
        pairs, counts = np.unique(key_N << 32 | tokens_N[present_N], return_counts=True)
        key_of_pair, tokens = pairs >> 32, pairs & 0xFFFF_FFFF
        places = self._places(keys)
        pair_places = places[key_of_pair]
        again = (self._keys[pair_places] == keys[key_of_pair]) & (self._tokens[pair_places] == tokens)
        self._hits[pair_places[again]] += counts[again]
        # Of each context the token that followed most often, the first one of several.
        ordered = np.lexsort((-tokens, counts, key_of_pair))
        best = ordered[np.append(key_of_pair[1:] != key_of_pair[:-1], True)]
        # Of contexts that meet in a place, which is the first bits of their keys, the last one stays.
        stays = np.append(places[1:] != places[:-1], True)
        places, keys, totals, best = places[stays], keys[stays], totals[stays], best[stays]
        known = self._keys[places] == keys
        self._keys[places] = keys
        self._seen[places] = np.where(known, self._seen[places], 0) + totals
        replaced = ~known | (counts[best] > self._hits[places])
        self._tokens[places[replaced]] = tokens[best][replaced]
        self._hits[places[replaced]] = counts[best][replaced]

    def _places(self, keys: np.ndarray) -> np.ndarray:
        return (keys >> np.uint64(64 - self.config.table_bits)).astype(np.int64)


def context_keys(
    tokens: np.ndarray, starts_B1: np.ndarray, targets_BL: np.ndarray, length: int
) -> np.ndarray:
    """A hash of the `length` tokens before each target (B, L), 0 where its document has fewer.

    Target i is token i + 1 of the stream, so that its context ends with token i; `starts_B1` are the
    documents' first tokens.
    """
    keys = np.zeros(targets_BL.shape, dtype=np.uint64)
    inside = np.minimum(targets_BL, len(tokens) - 1)
    for back in range(length):
        keys = (keys + tokens[np.maximum(inside - back, 0)].astype(np.uint64) + np.uint64(1)) * _HASH_FACTOR
        keys ^= keys >> np.uint64(29)
    return np.where(targets_BL - starts_B1 + 1 >= length, keys | np.uint64(1), _NO_KEY)


class NgramTilt:
    """Expects tokens from what was graded: of the same document up to this chunk, of others up to this batch.

    So how many documents are graded side by side decides no more than which of two colliding contexts stays.
    """

    def __init__(self, config: TiltConfig, tokens: np.ndarray):
        self.config, self._tokens = config, tokens
        self._table = NgramTable(config)
        self._finished: list[tuple[np.ndarray, np.ndarray]] = []
        self.num_tilted = 0

    def expect(self, starts_B1: np.ndarray, targets_BL: np.ndarray) -> np.ndarray:
        """The expected tokens (B, L), -1 where there is none; reads nothing of the targets or behind them."""
        self._shared = context_keys(self._tokens, starts_B1, targets_BL, self.config.context_tokens)
        expected_BL = self._table.expect(_own_keys(self._shared, starts_B1))
        expected_BL = np.where(expected_BL >= 0, expected_BL, self._table.expect(self._shared))
        self._tilts = expected_BL >= 0
        return expected_BL

    def learn(
        self, starts_B1: np.ndarray, targets_BL: np.ndarray, graded_BL: np.ndarray, elsewhere: bool = False
    ) -> None:
        """Counts the targets that `expect` was last asked about, now that they are graded.

        Or those that another process grades (`elsewhere`), so that the table is what it is in one process.
        """
        if elsewhere:
            self._shared = context_keys(self._tokens, starts_B1, targets_BL, self.config.context_tokens)
        else:
            self.num_tilted += int(self._tilts[graded_BL].sum())
        tokens_N = self._tokens[targets_BL[graded_BL] + 1].astype(np.int32)
        self._table.add(_own_keys(self._shared, starts_B1)[graded_BL], tokens_N)
        self._finished.append((self._shared[graded_BL], tokens_N))

    def finish_batch(self) -> None:
        """Makes what was graded since the last call known to other documents."""
        if self._finished:
            keys, tokens = zip(*self._finished, strict=True)
            self._table.add(np.concatenate(keys), np.concatenate(tokens))
            self._finished.clear()


def _own_keys(keys_BL: np.ndarray, starts_B1: np.ndarray) -> np.ndarray:
    """The keys of the same contexts that no other document has."""
    own = (keys_BL ^ ((starts_B1.astype(np.uint64) + np.uint64(1)) * _HASH_FACTOR)) * _HASH_FACTOR
    return np.where(keys_BL == _NO_KEY, _NO_KEY, own | np.uint64(1))
