"""Batches of fine-tuning, in the form that the trainer takes: inputs and targets, some of them ungraded.

Shapes: S sequences, B batch rows, P pairs, T time.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from golf.finetune.examples import UNGRADED, Example, ExamplePair, fill_sequences, pack_examples


class ShuffledOrder:
    """The numbers 0 to count - 1 in a seeded order, another one each epoch."""

    def __init__(self, count: int, seed: int):
        if count < 1:
            raise ValueError("there is nothing to train on: no example was left")
        self.count, self.seed = count, seed
        self._pass = self._position = 0

    @property
    def epoch(self) -> float:
        """How often all were served so far."""
        return self._pass + self._position / self.count

    def take(self, number: int) -> list[int]:
        """The next `number` of them, over the ends of epochs."""
        taken: list[int] = []
        while len(taken) < number:
            order = np.random.default_rng([self.seed, self._pass]).permutation(self.count)
            found = order[self._position : self._position + number - len(taken)]
            taken += found.tolist()
            self._position += len(found)
            if self._position == self.count:
                self._pass, self._position = self._pass + 1, 0
        return taken

    def state_dict(self) -> dict[str, int | float]:
        """Where the order stands."""
        return {"seed": self.seed, "count": self.count, "pass": self._pass, "position": self._position}

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Goes on from a `state_dict`; ValueError if it is of another seed or other data."""
        for key, own in (("seed", self.seed), ("count", self.count)):
            if state[key] != own:
                raise ValueError(f"the batches' {key} is {own}; the state to continue from has {state[key]}")
        self._pass, self._position = int(state["pass"]), int(state["position"])


class FinetuneBatches:
    """What both kinds of batches share: the order, its state, and skipping."""

    def __init__(self, count: int, rows_of_one: int, seed: int):
        self._order = ShuffledOrder(count, seed)
        self._rows_of_one = rows_of_one

    @property
    def epoch(self) -> float:
        """How often the data were served so far."""
        return self._order.epoch

    def take(self, num_sequences: int) -> list[int]:
        """The next items that fill so many rows; ValueError unless they fill them whole."""
        if num_sequences % self._rows_of_one:
            raise ValueError(f"{num_sequences} rows a pass; expected a multiple of {self._rows_of_one}")
        return self._order.take(num_sequences // self._rows_of_one)

    def skip(self, num_sequences: int, context: int) -> None:
        """Passes over what `next` would give."""
        self.take(num_sequences)

    def state_dict(self) -> dict[str, int | float]:
        """Where the order stands; with the same data, `load_state_dict` continues it exactly."""
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Continues from a `state_dict`; ValueError if it is of another seed or other data."""
        self._order.load_state_dict(state)


class ResponseBatches(FinetuneBatches):
    """Packed conversations, of which the answers count.

    `mean_graded` is the mean number of graded tokens of a sequence: a loss divided by it, and by the rows,
    weighs each graded token the same in whichever batch it comes.
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
    """Pairs: in a batch of B rows the chosen of B / 2 pairs come first, then the rejected in their order.

    Column 0 of the targets is the pair's number, by which the loss finds its reference; `whole` fills every
    row to the context, which compiled code needs, else rows end with the longest of the batch.
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
