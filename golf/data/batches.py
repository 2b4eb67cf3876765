"""Training batches: sequences from all shards in a seeded random order.

Shape suffixes: B sequences, T tokens, D documents.
"""

import numpy as np
import torch

from golf.data.shards import check_token_ids


class TrainBatches:
    """Serves every target of the training shards once per epoch, except the held-out documents at the end.

    A sequence is `context` + 1 consecutive tokens of a shard; the last target of one sequence is the first
    input of the next. The remainder of a shard, less than `context` targets at a place that differs between
    epochs, is not served. The order is a function of shards and seed, so each rank can build it and take
    every n-th sequence. With `shuffle_documents` the documents of all shards are concatenated in a new random
    order each epoch, and sequences are cut from that; finding the documents reads all shards once.

    `shards` are uint16 arrays of which the first starts with BOS; memory maps stay on disk. The held-out
    documents have at least `held_out_tokens` tokens, but at most a tenth of all; ValueError if no document
    starts in the last tenth. A batch with a token id of at least `vocab_size` raises ShardError.
    """

    def __init__(
        self,
        shards: list[np.ndarray],
        seed: int,
        held_out_tokens: int,
        vocab_size: int = 2**16,
        shuffle_documents: bool = False,
    ):
        self._names = [
            str(shard.filename) if isinstance(shard, np.memmap) else f"training shard {index}"
            for index, shard in enumerate(shards)
        ]
        self._seed = seed
        self._vocab_size = vocab_size
        kept, self.held_out = _split_held_out(shards, held_out_tokens)
        self._shards = [np.asarray(shard) for shard in kept]
        """Plain views: slicing an np.memmap takes ten times as long."""
        self._num_tokens = sum(len(shard) for shard in self._shards)
        self._documents = _ShuffledDocuments(self._shards) if shuffle_documents else None
        self._context = 0
        self._pass = -1
        self._position = 0
        self._epochs_before = 0.0
        self._order = np.zeros(0, dtype=np.int64)

    @property
    def epoch(self) -> float:
        """Epochs served so far; 0.5 is half of the training text."""
        return self._epochs_before + (self._position / len(self._order) if len(self._order) else 0.0)

    def next(self, num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch, B = `num_sequences` and T = `context`: inputs_BT and targets_BT, int64 on the CPU.

        A batch may cross the end of an epoch. If `context` differs from that of the last call, the rest of
        the epoch is dropped and a new one starts.
        """
        windows = np.empty((num_sequences, context + 1), dtype=np.uint16)
        for row in range(num_sequences):
            self._read(self._next_sequence(context), windows[row])
        return (
            torch.from_numpy(windows[:, :-1].astype(np.int64)),
            torch.from_numpy(windows[:, 1:].astype(np.int64)),
        )

    def skip(self, num_sequences: int, context: int) -> None:
        """Skips the sequences that `next` would return, without reading them."""
        for _ in range(num_sequences):
            self._next_sequence(context)

    def state_dict(self) -> dict[str, int | float]:
        """The position in the order; with the same shards, `load_state_dict` continues exactly there."""
        return {
            "seed": self._seed,
            "num_tokens": self._num_tokens,
            "context": self._context,
            "pass": self._pass,
            "position": self._position,
            "epochs_before": self._epochs_before,
        }

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Continues from a `state_dict`; ValueError if its seed or number of tokens differs."""
        for key, own in (("seed", self._seed), ("num_tokens", self._num_tokens)):
            if state[key] != own:
                raise ValueError(f"the batches' {key} is {own}; the state to continue from has {state[key]}")
        self._context, self._pass = int(state["context"]), int(state["pass"])
        if self._context:
            self._build_order()
        self._position = int(state["position"])
        self._epochs_before = float(state["epochs_before"])

    def _next_sequence(self, context: int) -> int:
        """The number of the next sequence in the order; starts a new order if needed."""
        if context != self._context or self._position == len(self._order):
            self._epochs_before = self.epoch
            self._context = context
            self._pass += 1
            self._position = 0
            self._build_order()
        self._position += 1
        return int(self._order[self._position - 1])

    def _build_order(self) -> None:
        draw = np.random.default_rng([self._seed, self._pass])
        streams = [self._num_tokens] if self._documents else [len(shard) for shard in self._shards]
        num_targets = np.array(streams) - 1
        counts = np.maximum(num_targets, 0) // self._context
        if not counts.sum():
            held = f"the training shards hold {self._num_tokens} tokens"
            raise ValueError(f"{held}; none holds the {self._context + 1} of a sequence")
        self._phases = draw.integers(0, num_targets - counts * self._context, endpoint=True)
        self._first = np.cumsum(counts) - counts
        self._order = draw.permutation(int(counts.sum()))
        if self._documents:
            self._documents.shuffle(draw)

    def _read(self, sequence: int, window: np.ndarray) -> None:
        """Fills `window` (T + 1) with a sequence; ShardError for a token outside the vocabulary."""
        stream = int(np.searchsorted(self._first, sequence, side="right")) - 1
        offset = int(self._phases[stream]) + (sequence - int(self._first[stream])) * self._context
        if self._documents is None:
            parts = [(stream, offset, len(window))]
        else:
            parts = self._documents.parts(offset, len(window))
        filled = 0
        for shard, start, length in parts:
            part = window[filled : filled + length]
            part[:] = self._shards[shard][start : start + length]
            if part.max() >= self._vocab_size:
                check_token_ids(part, self._vocab_size, self._names[shard], start)
            filled += length


class _ShuffledDocuments:
    """The documents of all shards concatenated in random order; the first of a shard may lack its BOS."""

    def __init__(self, shards: list[np.ndarray]):
        """The first token of the first shard is BOS."""
        bos_id = shards[0][0]
        starts = [np.union1d([0], np.flatnonzero(shard == bos_id)) for shard in shards]
        self._shards_D = np.repeat(np.arange(len(shards)), [len(starts_D) for starts_D in starts])
        self._starts_D = np.concatenate(starts)
        ends = [np.append(starts_D[1:], len(shard)) for starts_D, shard in zip(starts, shards, strict=True)]
        self._lengths_D = np.concatenate(ends) - self._starts_D
        self._order_D = np.arange(len(self._starts_D))
        self._ends_D = np.cumsum(self._lengths_D)

    def shuffle(self, draw: np.random.Generator) -> None:
        """Draws a new order."""
        self._order_D = draw.permutation(len(self._starts_D))
        self._ends_D = np.cumsum(self._lengths_D[self._order_D])

    def parts(self, position: int, length: int) -> list[tuple[int, int, int]]:
        """Shard, start and length of each document part in the `length` tokens from `position` on."""
        parts = []
        place = int(np.searchsorted(self._ends_D, position, side="right"))
        while length:
            document = self._order_D[place]
            left = int(self._ends_D[place]) - position
            taken = min(left, length)
            start = int(self._starts_D[document] + self._lengths_D[document]) - left
            parts.append((int(self._shards_D[document]), start, taken))
            position, length, place = position + taken, length - taken, place + 1
        return parts


def _split_held_out(shards: list[np.ndarray], held_out_tokens: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The shards up to the BOS of the first held-out document, and the tokens from there on."""
    if held_out_tokens == 0:
        return shards, np.zeros(0, dtype=np.uint16)
    total, bos_id = sum(len(shard) for shard in shards), shards[0][0]
    limit = total // 10
    cut = 0
    """Number of held-out tokens; 0 until a document is found."""
    end = 0
    for shard in reversed(shards):
        if end >= limit or cut >= held_out_tokens:
            break
        tail = shard[max(0, len(shard) - (limit - end)) :]
        distances = end + len(tail) - np.flatnonzero(tail == bos_id)[::-1]
        if len(distances):
            far_enough = np.searchsorted(distances, held_out_tokens)
            cut = int(distances[min(far_enough, len(distances) - 1)])
        end += len(shard)
    if not cut:
        raise ValueError(
            f"no document starts in the last tenth of the {total} training tokens, so none can be held out"
        )
    kept, held = [], []
    remaining = total - cut
    for shard in shards:
        take = min(len(shard), remaining)
        remaining -= take
        if take:
            kept.append(shard[:take])
        if take < len(shard):
            held.append(np.array(shard[take:], dtype=np.uint16))
    return kept, np.concatenate(held)
