"""The processes that work on one run, one per GPU, and what they exchange (torch.distributed)."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others before it fails."""

SAY_EVERY_SECONDS = 60.0
"""How long it waits before it says so, and again each time."""
_exchange: dict[str, float] = {}
"""When the exchange that runs began, under `since`."""

Shared = TypeVar("Shared")


class WorldError(ValueError):
    """The processes of a run disagree, or one of them has died."""


@dataclass(frozen=True)
class World:
    """Ranks and sizes of this process, as torchrun numbers them; the default is a single process.

    The methods are collective: every process calls them in the same order. With one process they do nothing.
    `sum` and `gather_rows` exchange tensors on their device; all others exchange host values over gloo.
    """

    rank: int = 0
    """0 to size - 1; rank 0 alone prints, saves, packs and writes entries."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Rank among the processes of this machine; also the index of this process's GPU."""
    local_size: int = 1
    """Number of processes on this machine."""

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    @contextmanager
    def joined(self, device_type: str) -> Iterator[None]:
        """Keeps the process group open during the block; WorldError if the processes cannot connect."""
        if self.size == 1:
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
        with _named_failure():
            dist.init_process_group(backend, timeout=TIMEOUT)
        ended = threading.Event()
        threading.Thread(target=_say_waiting, args=(self.rank, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            dist.destroy_process_group()

    def sum(self, tensor: Tensor) -> Callable[[], None]:
        """Starts an all-reduce (sum) of `tensor` in place; returns a function that waits for it."""
        if self.size == 1:
            return noop
        with _named_failure():
            return _waiter(dist.all_reduce(tensor, async_op=True))

    def gather_rows(self, own: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Starts an all-gather of `own` (N, ...), equal shapes everywhere.

        Returns the result (size * N, ...), in order of rank, and a function that waits for it.
        """
        gathered = own.new_empty((self.size * own.size(0), *own.shape[1:]))
        with _named_failure():
            work = dist.all_gather(list(gathered.chunk(self.size)), own.contiguous(), async_op=True)
        return gathered, _waiter(work)

    def all_reduce_any(self, seconds: float, flag: bool) -> tuple[float, bool]:
        """Rank 0's `seconds`, and whether `flag` is true in any process."""
        if self.size == 1:
            return seconds, flag
        values = torch.tensor([seconds if self.is_first else 0.0, float(flag)], dtype=torch.float64)
        self.sum(values)()
        return float(values[0]), bool(values[1])

    def all_reduce_min(self, value: int) -> int:
        """The smallest `value` of all processes."""
        if self.size == 1:
            return value
        found = torch.tensor([value])
        with _named_failure():
            dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def broadcast(self, make: Callable[[], Shared]) -> Shared:
        """Calls `make` in rank 0 and returns its picklable result in every process."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_first else None]
        with _named_failure():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def local_rank0_first(self, make: Callable[[], Shared]) -> Shared:
        """Calls `make` in local rank 0 of each machine, then in the other processes; returns its result."""
        if self.local_rank == 0:
            made = make()
            self.all_reduce_any(0.0, False)
            return made
        self.all_reduce_any(0.0, False)
        return make()

    def require_same(self, values: dict[str, Any]) -> None:
        """Raises WorldError, naming field, rank and both values, unless `values` are equal everywhere."""
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        with _named_failure():
            dist.all_gather_object(found, values)
        for rank, theirs in enumerate(found):
            for name in sorted(found[0].keys() | theirs.keys()):
                first, other = (each.get(name, "nothing") for each in (found[0], theirs))
                if first != other:
                    raise WorldError(f"process {rank} has {name} {other!r}; process 0 has {first!r}")


@contextmanager
def _named_failure() -> Iterator[None]:
    """Turns the RuntimeError of a failed exchange, which names sockets, into a WorldError."""
    _exchange["since"] = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        raise WorldError(
            f"another process of this run is gone, so this one ends, too ({str(error).splitlines()[0]}); "
            "the run can be resumed"
        ) from error
    finally:
        _exchange.clear()


def _say_waiting(rank: int, ended: threading.Event) -> None:
    """Says when an exchange takes long: a process that is stopped, but not dead, is silent."""
    while not ended.wait(SAY_EVERY_SECONDS):
        since = _exchange.get("since")
        if since is not None and (seconds := time.monotonic() - since) > SAY_EVERY_SECONDS:
            limit = TIMEOUT.total_seconds() / 60
            print(
                f"process {rank} has waited {seconds:.0f} s for the others, which are at work, or one is "
                f"stopped; after {limit:.0f} minutes this one ends",
                file=sys.stderr,
                flush=True,
            )


def _waiter(work: Any) -> Callable[[], None]:
    def wait() -> None:
        with _named_failure():
            work.wait()

    return wait


def noop() -> None:
    """Waits for nothing: the function that a single process's exchange returns."""
