"""Shorter forms of definitions of the project, which an entry's script has in their place.

An entry needs no progress bars, no JSON log and no advice for machines that cannot run it.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from golf.pack.calibrate import Calibration
from golf.system.cli import silence
from golf.system.device import (
    DeviceError,
    Runtime,
    cpu_has_bfloat16,
    gpu_has_bfloat16,
    keep_compiled_code,
    unusable_gpu,
)
from golf.system.distributed import World


def choose_runtime(
    device: str = "auto", compute_dtype: str = "auto", world: World | None = None, eager: bool = False
) -> Runtime:
    """Chooses the device, auto, cpu, cuda or cuda:N, and its dtype; `eager` turns torch.compile off.

    With several processes, each takes the GPU of its local rank. DeviceError for a device that is absent or
    that torch cannot use.
    """
    world = World() if world is None else world
    if device != "cpu" and (reason := unusable_gpu()):
        raise DeviceError(reason)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if device.startswith("cuda") and not on_gpu:
        raise DeviceError(f"device {device!r} was asked for; torch {torch.__version__} sees no GPU")
    chosen = torch.device(("cuda" if on_gpu else "cpu") if device == "auto" else device)
    if on_gpu:
        chosen = torch.device("cuda", world.local_rank if chosen.index is None else chosen.index)
        # Triton and the choice of kernels use the current GPU.
        torch.cuda.set_device(chosen)
        keep_compiled_code()
        # cuDNN's attention gives wrong numbers under a mask (pytorch #196678, #193893), and builds a graph
        # for each of the many shapes of scoring; training enables it explicitly.
        torch.backends.cuda.enable_cudnn_sdp(False)
    half = gpu_has_bfloat16(chosen) if on_gpu else cpu_has_bfloat16()
    return Runtime(chosen, torch.bfloat16 if half else torch.float32, on_gpu and not eager, world)


def format_value(value: object) -> str:
    """The text of a value: floats with 8 digits, sequences joined by commas."""
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else str(value)
    return ",".join(map(format_value, value)) if isinstance(value, (list, tuple)) else str(value)


BatchSource = Any
"""TrainBatches: an entry's training batches are of no other kind."""


def log_forecast(*_: object) -> None:
    """Logs nothing."""


def flat_calibration(*_: object) -> Calibration:
    """ValueError: an entry's weights are packed by a measured calibration alone."""
    raise ValueError("packing needs a calibration")


class ProgressBar:
    """Says every 20 seconds how far a score is."""

    def __init__(self, say: Callable[[str], None], total: float):
        self._say, self._total, self._done, self._said = say, total, 0.0, time.monotonic()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """Adds `amount` to what is done."""
        self._done += amount
        if time.monotonic() - self._said > 20 and self._done < self._total:
            self._said = time.monotonic()
            self._say(f"score: {100 * self._done / self._total:.0f}% {note or ''}")

    def move_to(self, completed: float, note: str = "") -> None:
        """Says nothing: training logs its steps."""


class RunLog:
    """Prints each event as one line, `kind key:value key:value`, and appends it to the file `path`."""

    def __init__(self, path: Path | None = None, quiet: bool = False):
        self._file = open(path, "a", encoding="utf-8") if path else None
        self._quiet = quiet

    def event(self, kind: str, **fields: object) -> None:
        """Logs an event; if a field has the name `kind`, the line starts with that field."""
        parts = [f"{key}:{format_value(value)}" for key, value in fields.items()]
        self.info(" ".join(parts if kind in fields else [kind, *parts]))

    def record(self, kind: str, **fields: object) -> None:
        """Logs an event, too."""
        self.event(kind, **fields)

    def show(self, text: str) -> None:
        """Prints a line, which the file does not get."""
        if not self._quiet:
            try:
                print(text, flush=True)
            except BrokenPipeError:
                silence(sys.stdout)

    def info(self, text: str) -> None:
        """Logs one line of prose."""
        self.show(text)
        if self._file:
            print(text, file=self._file, flush=True)

    @contextmanager
    def progress(
        self, description: str, total: float, unit: str, lines: bool = True
    ) -> Iterator[ProgressBar]:
        """Lines that say how far a score is."""
        yield ProgressBar(self.show, total)
