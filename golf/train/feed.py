"""Batches on their way to the device: this process's part, drawn while the device works on the one before.

Shapes: B batch, T time.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from golf.data.batches import TrainBatches
from golf.system.distributed import World

Batch = tuple[Tensor, Tensor]
"""inputs_BT and targets_BT."""


class _DrawnAhead(NamedTuple):
    """A batch that nobody has asked for yet."""

    sizes: tuple[int, int]
    state_before: dict[str, int | float]
    epoch_before: float
    batch: Future[Batch]


class BatchFeed:
    """Serves each process its part of every draw: of `world.size` batches in a row the one of its rank.

    With `ahead` a thread draws the next batch, into pinned memory for a GPU, as soon as one is taken. A
    change of sizes drops it and rewinds, so that what is served does not depend on `ahead`.
    """

    def __init__(self, batches: TrainBatches, world: World, device: torch.device, ahead: bool):
        self.batches, self.world, self.device = batches, world, device
        self._thread = ThreadPoolExecutor(1) if ahead else None
        self._drawn: _DrawnAhead | None = None

    @property
    def epoch(self) -> float:
        """How often the text has been read by what was served."""
        return self.batches.epoch if self._drawn is None else self._drawn.epoch_before

    def next(self, num_sequences: int, context: int) -> Batch:
        """This process's next inputs_BT and targets_BT, on the device."""
        sizes = (num_sequences, context)
        if self._drawn is not None and self._drawn.sizes != sizes:
            self.settle()
        batch = self._draw(*sizes) if self._drawn is None else self._drawn.batch.result()
        if self._thread is not None:
            before, epoch = self.batches.state_dict(), self.batches.epoch
            self._drawn = _DrawnAhead(sizes, before, epoch, self._thread.submit(self._draw, *sizes))
        inputs_BT, targets_BT = (tokens_BT.to(self.device, non_blocking=True) for tokens_BT in batch)
        return inputs_BT, targets_BT

    def settle(self) -> None:
        """Puts back what was drawn ahead."""
        if self._drawn is not None:
            self._drawn.batch.result()
            self.batches.load_state_dict(self._drawn.state_before)
            self._drawn = None

    def state_dict(self) -> dict[str, int | float]:
        """Where the order stands for the next batch to serve; the same in every process."""
        return self.batches.state_dict() if self._drawn is None else self._drawn.state_before

    def load_state_dict(self, state: dict[str, int | float]) -> None:
        """Continues from a `state_dict`, in a world of any size."""
        self.settle()
        self.batches.load_state_dict(state)

    def _draw(self, num_sequences: int, context: int) -> Batch:
        self._pass_over(self.world.rank, num_sequences, context)
        batch = self.batches.next(num_sequences, context)
        self._pass_over(self.world.size - 1 - self.world.rank, num_sequences, context)
        if self.device.type != "cuda":
            return batch
        inputs_BT, targets_BT = (tokens_BT.pin_memory() for tokens_BT in batch)
        return inputs_BT, targets_BT

    def _pass_over(self, num_batches: int, num_sequences: int, context: int) -> None:
        for _ in range(num_batches):
            self.batches.skip(num_sequences, context)
