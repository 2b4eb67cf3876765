"""Batches of fine-tuning, in the form that the trainer takes: inputs and targets, some of them ungraded.

Shapes: S sequences, B batch rows, P pairs, T time.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from golf.finetune.dialogues import DialogueError
from golf.finetune.examples import UNGRADED, Example, ExamplePair


def pack_examples(examples: Sequence[Example], length: int) -> list[list[int]]:
    """The examples of each sequence of at most `length` tokens, by number: best fit, longest first.

    Every example is whole in exactly one sequence. Examples in a sequence attend to the ones before, like
    documents in pretraining.
    """
    free: list[tuple[int, int]] = []
    sequences: list[list[int]] = []
    order = sorted(range(len(examples)), key=lambda number: (-len(examples[number].tokens), number))
    for number in order:
        size = len(examples[number].tokens)
        if size > length:
            raise DialogueError(f"{examples[number].place}: {size} tokens; a sequence has {length}")
        found = bisect_left(free, (size, -1))
        if found == len(free):
            sequences.append([])
            free.insert(found, (length, len(sequences) - 1))
        room, sequence = free.pop(found)
        sequences[sequence].append(number)
        insort(free, (room - size, sequence))
    return sequences


def fill_sequences(
    examples: Sequence[Example], sequences: Sequence[Sequence[int]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and whether each is graded, both (S, length); padded with zeros."""
    tokens_ST = np.zeros((len(sequences), length), dtype=np.int64)
    graded_ST = np.zeros((len(sequences), length), dtype=bool)
    for row, numbers in enumerate(sequences):
        start = 0
        for number in numbers:
            end = start + len(examples[number].tokens)
            tokens_ST[row, start:end] = examples[number].tokens
            graded_ST[row, start:end] = examples[number].is_graded
            start = end
    return tokens_ST, graded_ST


class FinetuneBatches:
    """Serves the items 0 to count - 1 in a seeded order, another one in each epoch.

    An item fills `item_rows` rows of a batch.
    """

    def __init__(self, count: int, item_rows: int, seed: int):
        if count < 1:
            raise ValueError("there is nothing to train on: no example is left")
        self.count, self.item_rows, self.seed = count, item_rows, seed
        self._epoch = self._position = 0

    @property
    def epoch(self) -> float:
        """Number of epochs served so far."""
        return self._epoch + self._position / self.count

    def take(self, num_sequences: int) -> list[int]:
        """The next items that fill so many rows; ValueError unless they fill them exactly."""
        if num_sequences % self.item_rows:
            raise ValueError(f"{num_sequences} rows a micro-batch; expected a multiple of {self.item_rows}")
        taken: list[int] = []
        while (missing := num_sequences // self.item_rows - len(taken)) > 0:
            order = np.random.default_rng([self.seed, self._epoch]).permutation(self.count)
            found = order[self._position : self._position + missing]
            taken += found.tolist()
            self._position += len(found)
            if self._position == self.count:
                self._epoch, self._position = self._epoch + 1, 0
        return taken

    def skip(self, num_sequences: int, context: int) -> None:
        """Skips what `next` would return."""
        self.take(num_sequences)

    def state_dict(self) -> dict[str, int | float]:
        """The position; with the same data, `load_state_dict` continues exactly."""
        return {"seed": self.seed, "count": self.count, "pass": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Continues from a `state_dict`; ValueError if it is of another seed or other data."""
        for key, own in (("seed", self.seed), ("count", self.count)):
            if state[key] != own:
                raise ValueError(f"the batches' {key} is {own}; the state to continue from has {state[key]}")
        self._epoch, self._position = int(state["pass"]), int(state["position"])


class ResponseBatches(FinetuneBatches):
    """Packed conversations whose answers are graded.

    `mean_graded` is the mean number of graded tokens per sequence: a loss divided by it and by the rows has
    the same weight for each graded token in every batch. `filled` is the share without padding.
    """

    def __init__(self, examples: Sequence[Example], context: int, seed: int):
        sequences = pack_examples(examples, context + 1)
        super().__init__(len(sequences), 1, seed)
        self.tokens_ST, self.graded_ST = fill_sequences(examples, sequences, context + 1)
        self.mean_graded = float(self.graded_ST.sum() / len(sequences))
        self.filled = sum(len(example.tokens) for example in examples) / self.tokens_ST.size

    def next(self, num_sequences: int, context: int) -> tuple[Tensor, Tensor]:
        """inputs_BT and targets_BT, int64 on the CPU; ungraded targets are UNGRADED."""
        rows = self.take(num_sequences)
        tokens_BT, graded_BT = self.tokens_ST[rows], self.graded_ST[rows]
        targets_BT = np.where(graded_BT, tokens_BT, UNGRADED)[:, 1:]
        return torch.from_numpy(tokens_BT[:, :-1].copy()), torch.from_numpy(targets_BT)


class PreferenceBatches(FinetuneBatches):
    """Pairs: a batch of B rows has the chosen answers of B / 2 pairs, then the rejected in the same order.

    Column 0 of the targets is the pair's number, by which the loss finds its reference. `whole` pads every
    row to the context, as compiled code needs; otherwise rows are padded to the longest of the batch.
    """

    def __init__(self, pairs: Sequence[ExamplePair], seed: int, whole: bool):
        super().__init__(len(pairs), 2, seed)
        self.pairs, self.whole = pairs, whole

    def next(self, num_sequences: int, context: int) -> tuple[Tensor, Tensor]:
        """inputs_BT and targets (B, 1 + T), int64 on the CPU."""
        numbers = self.take(num_sequences)
        examples = [self.pairs[number][side] for side in (0, 1) for number in numbers]
        longest = max(len(example.tokens) for example in examples)
        inputs_BT, targets_BT = example_tensors(examples, context + 1 if self.whole else longest)
        numbers_B1 = torch.tensor([*numbers, *numbers])[:, None]
        return inputs_BT, torch.cat((numbers_B1, targets_BT), dim=1)


def example_tensors(examples: Sequence[Example], length: int) -> tuple[Tensor, Tensor]:
    """One example a row of `length` tokens: inputs and targets (B, length - 1)."""
    rows = [[number] for number in range(len(examples))]
    tokens_BT, graded_BT = fill_sequences(examples, rows, length)
    targets_BT = np.where(graded_BT, tokens_BT, UNGRADED)[:, 1:]
    return torch.from_numpy(tokens_BT[:, :-1].copy()), torch.from_numpy(targets_BT)
