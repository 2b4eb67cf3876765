"""The processes that work on one run together, one a GPU, and what they agree on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others before it gives up."""

Shared = TypeVar("Shared")


class WorldError(ValueError):
    """The processes of a run disagree, or one of them is gone."""


@dataclass(frozen=True)
class World:
    """A process's place among those that train or score together; alone by default.

    Its methods are collective: every process calls them, in the same order. Alone they cost nothing. All but
    `sum` and `gather_rows` exchange host values, and wait for no device.
    """

    rank: int = 0
    """Number of this process; 0 alone says, saves, packs and records."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1
    """How many there are on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextmanager
    def joined(self, device_type: str) -> Iterator[None]:
        """Within the block the processes can talk; WorldError if they cannot find each other."""
        if self.size == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
        with _others_alive():
            dist.init_process_group(backend, timeout=TIMEOUT)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def sum(self, tensor: Tensor) -> Callable[[], None]:
        """Starts adding up `tensor` in place over all processes; call the result before reading it."""
        if self.size == 1:
            return noop
        with _others_alive():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with _others_alive():
                work.wait()

        return wait

    def gather_rows(self, own: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Starts to gather each process's rows, in the order of ranks; equal shapes everywhere."""
        gathered = own.new_empty((self.size * own.size(0), *own.shape[1:]))
        with _others_alive():
            work = dist.all_gather(list(gathered.chunk(self.size)), own.contiguous(), async_op=True)

        def wait() -> None:
            with _others_alive():
                work.wait()

        return gathered, wait

    def all_reduce_any(self, seconds: float, flag: bool) -> tuple[float, bool]:
        """The first process's seconds, and whether any process raised the flag."""
        if self.size == 1:
            return seconds, flag
        values = torch.tensor([seconds if self.is_first else 0.0, float(flag)], dtype=torch.float64)
        self.sum(values)()
        return float(values[0]), bool(values[1])

    def all_reduce_min(self, value: int) -> int:
        """The smallest of the processes' values."""
        if self.size == 1:
            return value
        found = torch.tensor([value])
        with _others_alive():
            dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def broadcast(self, make: Callable[[], Shared]) -> Shared:
        """What `make` gives in the first process, everywhere."""
        if self.size == 1:
            return make()
        values = [make() if self.is_first else None]
        with _others_alive():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def local_rank0_first(self, make: Callable[[], Shared]) -> Shared:
        """What `make` gives in each process, once that of number 0 on its machine has made it."""
        if self.local_rank == 0:
            made = make()
            self.all_reduce_any(0.0, False)
            return made
        self.all_reduce_any(0.0, False)
        return make()

    def require_same(self, values: dict[str, Any]) -> None:
        """Raises WorldError, naming field, process and both values, unless all have the same `values`."""
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        with _others_alive():
            dist.all_gather_object(found, values)
        for rank, theirs in enumerate(found):
            for name in sorted(found[0].keys() | theirs.keys()):
                first, other = (each.get(name, "nothing") for each in (found[0], theirs))
                if first != other:
                    raise WorldError(f"process {rank} has {name} {other!r}; process 0 has {first!r}")


@contextmanager
def _others_alive() -> Iterator[None]:
    """Says what a failed exchange means; the backends' own messages name sockets."""
    try:
        yield
    except RuntimeError as error:
        raise WorldError(
            f"another process of this run is gone, so this one ends, too ({str(error).splitlines()[0]}); "
            "the run can be resumed"
        ) from error


def noop() -> None:
    """For a process alone."""


def flat_fields(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its keys dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flat_fields(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
