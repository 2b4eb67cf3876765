"""Triton's fused kernels in place of torch's own operations: in training alone, chosen once for a run.

Experimental: no gain measured yet, so torch's operations are the default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from golf.model.kernels import KernelError
from golf.model.up_activation import define_up_activation
from golf.system.device import triton_is_interpreted

MIN_TRITON_CAPABILITY = (8, 0)
"""Ampere: the first whose tensor cores have bf16."""


class FusedRoute:
    """Whether fused kernels stand in for torch's operations, while a block says so."""

    is_open: bool = False


FUSED = FusedRoute()


def training_kernel_names(
    capability: tuple[int, int] | None, has_triton: bool, interpreted: bool
) -> list[str]:
    """The kernels of a GPU of that capability, or of a CPU (None), which has Triton's in its interpreter."""
    able = interpreted if capability is None else capability >= MIN_TRITON_CAPABILITY
    return ["torch"] + ["triton"] * (has_triton and able)


def present_training_kernels(device: torch.device) -> list[str]:
    """The kernels that this machine has for training."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    interpreted = device.type == "cpu" and triton_is_interpreted()
    return training_kernel_names(capability, find_spec("triton") is not None, interpreted)


def choose_training_kernels(asked: str, present: list[str]) -> str:
    """What was asked for; KernelError, with what is there, if it is not."""
    if asked not in present:
        raise KernelError(f"training kernels {asked!r} were asked for; this machine has {', '.join(present)}")
    return asked


@contextmanager
def training_kernels(name: str) -> Iterator[None]:
    """Within the block relu2 feed-forwards go through the kernels of that name.

    Whatever has no fused kernel stays as it is; so does all that runs outside, scores above all.
    """
    before, FUSED.is_open = FUSED.is_open, name == "triton"
    try:
        if FUSED.is_open:
            define_up_activation()
        yield
    finally:
        FUSED.is_open = before
