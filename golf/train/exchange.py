"""Gradients added up over the processes of a run while the backward pass goes on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from golf.system.distributed import World

BUCKET_BYTES = 16_000_000
"""Gradients sent as one message: large enough for the bandwidth, small enough that the first leave early."""


def plan_buckets(parameters: list[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Parameters from the last to the first, the order in which gradients come, in runs of that size."""
    buckets: list[list[nn.Parameter]] = [[]]
    filled_bytes = 0
    for parameter in reversed(parameters):
        if filled_bytes >= bucket_bytes:
            buckets.append([])
            filled_bytes = 0
        buckets[-1].append(parameter)
        filled_bytes += parameter.numel() * parameter.element_size()
    return [bucket for bucket in buckets if bucket]


class GradientAllReduce:
    """Adds up the gradients of a step over all processes, each bucket as soon as its last one has come.

    Between `begin`, before a step's last backward pass, and `finish`, after it. In a compiled graph all
    gradients come at its end; there the buckets overlap with each other alone.
    """

    def __init__(self, model: nn.Module, world: World, bucket_bytes: int = BUCKET_BYTES):
        self.world = world
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buckets = plan_buckets(parameters, bucket_bytes) if world.size > 1 else []
        self._open = False
        self._missing = [0] * len(self._buckets)
        self._under_way: list[tuple[Tensor, Callable[[], None]]] = []
        for index, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(self._hook(index))

    def begin(self) -> None:
        """From now on gradients are final."""
        self._open = True
        self._missing = [len(bucket) for bucket in self._buckets]

    @torch.no_grad()
    def finish(self) -> None:
        """Every gradient is the sum over all processes; a parameter that has none counts as zero."""
        self._open = False
        while len(self._under_way) < len(self._buckets):
            self._send_next()
        for bucket, (flat, wait) in zip(self._buckets, self._under_way, strict=True):
            wait()
            parts = flat.split([parameter.numel() for parameter in bucket])
            sums = [part.view_as(parameter) for part, parameter in zip(parts, bucket, strict=True)]
            torch._foreach_copy_([parameter.grad for parameter in bucket], sums)
        self._under_way.clear()

    def _hook(self, index: int) -> Callable[[Tensor], None]:
        def gradient_came(parameter: Tensor) -> None:
            if not self._open:
                return
            self._missing[index] -= 1
            # One order for all processes, else they would add up different buckets.
            while len(self._under_way) < len(self._buckets) and not self._missing[len(self._under_way)]:
                self._send_next()

        return gradient_came

    @torch.no_grad()
    def _send_next(self) -> None:
        bucket = self._buckets[len(self._under_way)]
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in bucket])
        self._under_way.append((flat, self.world.sum(flat)))
