"""Training batches: sequences from all shards in a seeded random order.

Shape suffixes: B sequences, T tokens, D documents.
"""

import os
from typing import Any

import numpy as np
import torch

from golf.data.shards import SHARD_HEADER_BYTES, DataError, check_token_ids


class TrainBatches:
    """Serves every target of the training shards once per epoch, except the held-out documents at the end.

    A sequence is `context` + 1 tokens of a shard; its last target is the next one's first input. The rest
    of a shard, at a place that differs between epochs, is not served. The order is a function of shards and
    seed, so each rank can build it and take every n-th sequence.

    `shards` are uint16 arrays, or memory maps that stay on disk; the first starts with BOS. `fingerprint`
    names their contents. At least `held_out_tokens` tokens are held out, but at most a tenth of all;
    ValueError if no document starts in the last tenth. A batch with a token id of at least `vocab_size`
    raises DataError, as does a shard that was cut since it was opened.
    """

    def __init__(
        self,
        shards: list[np.ndarray],
        seed: int,
        held_out_tokens: int,
        vocab_size: int = 2**16,
        fingerprint: str = "",
    ):
        self._vocab_size, self._fingerprint = vocab_size, fingerprint
        # Read by number: a file that is cut under a memory map kills the process without a word.
        self._files = [open(str(s.filename), "rb", 0) if isinstance(s, np.memmap) else None for s in shards]
        kept, self.held_out = _split_held_out(shards, held_out_tokens)
        # Plain views: slicing an np.memmap takes ten times as long.
        self._shards = [np.asarray(shard) for shard in kept]
        self._streams = [len(shard) for shard in kept]
        self._order, num_tokens = np.zeros(0, dtype=np.int64), sum(self._streams)
        self._state = {"seed": seed, "num_tokens": num_tokens, "context": 0, "pass": -1, "position": 0}
        self._epochs_before = 0.0

    @property
    def epoch(self) -> float:
        """Epochs served so far; 0.5 is half of the training text."""
        return self._epochs_before + self._state["position"] / max(1, len(self._order))

    def next(self, num_sequences: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The next inputs_BT and targets_BT, int64 on the CPU; another `context` starts a new epoch."""
        windows = np.empty((num_sequences, context + 1), dtype=np.uint16)
        for window in windows:
            sequence = self._next_sequence(context)
            stream = int(np.searchsorted(self._first, sequence, side="right")) - 1
            self._read(stream, int(self._phases[stream] + (sequence - self._first[stream]) * context), window)
        inputs, targets = windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def skip(self, num_sequences: int, context: int) -> None:
        """Skips the sequences that `next` would return, without reading them."""
        for _ in range(num_sequences):
            self._next_sequence(context)

    def state_dict(self) -> dict[str, Any]:
        """The position in the order; with the same shards, `load_state_dict` continues exactly there."""
        return self._state | {"epochs_before": self._epochs_before, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict`; ValueError if its seed or its text differs."""
        for key, own in {**self._state, "fingerprint": self._fingerprint}.items():
            if key in ("seed", "num_tokens", "fingerprint") and state[key] != own:
                raise ValueError(f"the batches' {key} is {own}; the state to continue from has {state[key]}")
        self._state = {key: int(state[key]) for key in self._state}
        self._epochs_before = float(state["epochs_before"])
        if self._state["context"]:
            self._build_order()

    def _next_sequence(self, context: int) -> int:
        """The number of the next sequence in the order; starts a new order if needed."""
        if context != self._state["context"] or self._state["position"] == len(self._order):
            self._epochs_before = self.epoch
            self._state |= {"context": context, "pass": self._state["pass"] + 1, "position": 0}
            self._build_order()
        self._state["position"] += 1
        return int(self._order[self._state["position"] - 1])

    def _build_order(self) -> np.random.Generator:
        """Draws the order of an epoch; returns the generator for what else is to be drawn."""
        seed, num_tokens, context, epoch, _ = self._state.values()
        draw = np.random.default_rng([seed, epoch])
        num_targets = np.array(self._streams) - 1
        counts = np.maximum(num_targets, 0) // context
        if not counts.sum():
            found = f"the training shards hold {num_tokens} tokens"
            raise ValueError(f"{found}; none holds the {context + 1} of a sequence")
        self._phases = draw.integers(0, num_targets - counts * context, endpoint=True)
        self._first = np.cumsum(counts) - counts
        self._order = draw.permutation(int(counts.sum()))
        return draw

    def _read(self, shard: int, start: int, part: np.ndarray) -> None:
        """Fills `part` with the tokens of a shard from `start` on; DataError outside the vocabulary."""
        file = self._files[shard]
        name = f"training shard {shard}" if file is None else file.name
        if file is None:
            part[:] = self._shards[shard][start : start + len(part)]
        elif os.preadv(file.fileno(), [part.data], SHARD_HEADER_BYTES + 2 * start) < part.nbytes:
            raise DataError(f"{name}: was cut while training read it")
        if part.max() >= self._vocab_size:
            check_token_ids(part, self._vocab_size, name, start)


class ShuffledDocuments(TrainBatches):
    """The same from the documents of all shards, concatenated in a new random order each epoch.

    Finding the documents reads all shards once. The first document of a shard may lack its BOS.
    """

    def __init__(
        self,
        shards: list[np.ndarray],
        seed: int,
        held_out_tokens: int,
        vocab_size: int = 2**16,
        fingerprint: str = "",
    ):
        super().__init__(shards, seed, held_out_tokens, vocab_size, fingerprint)
        self._streams = [self._state["num_tokens"]]
        starts = [np.union1d([0], np.flatnonzero(shard == shards[0][0])) for shard in self._shards]
        self._shards_D = np.repeat(np.arange(len(starts)), [len(starts_D) for starts_D in starts])
        self._starts_D = np.concatenate(starts)
        ends = [[*starts_D[1:], len(shard)] for starts_D, shard in zip(starts, self._shards, strict=True)]
        self._lengths_D = np.concatenate(ends) - self._starts_D

    def _build_order(self) -> np.random.Generator:
        draw = super()._build_order()
        self._order_D = draw.permutation(len(self._starts_D))
        self._ends_D = np.cumsum(self._lengths_D[self._order_D])
        return draw

    def _read(self, shard: int, start: int, part: np.ndarray) -> None:
        """Fills `part` from the documents that hold the tokens from `start` on, in the epoch's order."""
        place = int(np.searchsorted(self._ends_D, start, side="right"))
        while len(part):
            document = self._order_D[place]
            left = int(self._ends_D[place]) - start
            taken = min(left, len(part))
            end = int(self._starts_D[document] + self._lengths_D[document])
            super()._read(int(self._shards_D[document]), end - left, part[:taken])
            part, start, place = part[taken:], start + taken, place + 1


def _split_held_out(shards: list[np.ndarray], held_out_tokens: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The shards up to the BOS of the first held-out document, and the tokens from there on."""
    ends = np.cumsum([len(shard) for shard in shards])
    total, bos_id = int(ends[-1]), shards[0][0]
    limit, num_held, num_seen = total // 10, 0, 0
    for shard in reversed(shards):
        if num_seen >= limit or num_held >= held_out_tokens:
            break
        tail = shard[max(0, len(shard) - (limit - num_seen)) :]
        # Distances from the starts of documents to the end of the text, the shortest first.
        distances = num_seen + len(tail) - np.flatnonzero(tail == bos_id)[::-1]
        if len(distances):
            num_held = int(distances[min(np.searchsorted(distances, held_out_tokens), len(distances) - 1)])
        num_seen += len(shard)
    if held_out_tokens and not num_held:
        found = f"no document starts in the last tenth of the {total} training tokens"
        raise ValueError(f"{found}, so none can be held out")
    cuts = np.clip(total - num_held - np.array([0, *ends[:-1]]), 0, None)
    kept = [shard[:cut] for shard, cut in zip(shards, cuts, strict=True) if cut]
    held = [shard[cut:] for shard, cut in zip(shards, cuts, strict=True)]
    return kept, np.concatenate(held, dtype=np.uint16)
