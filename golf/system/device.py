"""What this machine has, and what the run therefore uses: chosen once, said aloud, recorded."""

import ctypes
import gc
import os
import platform
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from golf.system.distributed import World

MIN_TORCH = (2, 10)
TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
"""What torchrun tells each process of its place, and what holds without it."""


class DeviceError(ValueError):
    """A device, dtype or library was asked for that this machine lacks."""


@dataclass(frozen=True)
class Runtime:
    """The device of this process and the dtype it computes in; weights stay fp32, sums float64."""

    device: torch.device
    compute_dtype: torch.dtype
    compiled: bool
    """Whether the model goes through torch.compile: on CUDA it does; on a CPU it costs more than it saves."""
    world: World = field(default_factory=World)
    """The processes that work together, of which this is one."""

    def describe(self) -> str:
        """One line for the head of a run."""
        mode = "torch.compile" if self.compiled else "eager"
        dtype = dtype_name(self.compute_dtype)
        return f"{hardware_name(self.device, self.world)}, {dtype}, {mode}, torch {torch.__version__}"


def dtype_name(dtype: torch.dtype) -> str:
    """'float32', 'bfloat16': the name that configs and artifacts store."""
    return str(dtype).removeprefix("torch.")


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (avx512_bf16, AMX); elsewhere fp32 is faster."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))


def scoring_dtype(device: torch.device, trained: torch.dtype) -> torch.dtype:
    """The dtype that scores, audits and adapts: on a CPU float32 whatever training computed in.

    Processors round bfloat16 products differently: AMX and AVX-512 were 2.8e-4 bits per byte apart on two
    documents.
    """
    return torch.float32 if device.type == "cpu" else trained


def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16 natively, as all do since Ampere; others cannot compile it."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def read_world() -> World:
    """This process's place among those that torchrun started; alone without torchrun."""
    values = [int(os.environ.get(name, other)) for name, other in TORCHRUN]
    return World(*values)


def device_kind(device: str) -> str:
    """cpu, cuda or mps, of a device's name or of `auto`."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device.split(":")[0]


def env_without_torchrun() -> dict[str, str]:
    """The environment for a process that is no part of this one's world."""
    torchrun = {name for name, _ in TORCHRUN}
    strangers = ("TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in torchrun and not name.startswith(strangers)
    }


def keep_compiled_code() -> None:
    """Has torch.compile keep its results in the user's cache, where the next run finds them.

    Its own choice is the folder for temporary files, which rented machines empty.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "parameter-golf"))


def tag_compiled_code(attention: tuple[str, ...]) -> None:
    """Keeps compiled code of different attention kernels apart in the cache.

    AOTAutograd's key leaves the kernels out (pytorch #185449), so that a run with others would silently run
    those of the run before it.
    """
    torch.compiler.config.cache_key_tag = "+".join(attention)


def end_with_parent() -> Callable[[], None] | None:
    """What a new process calls before its program starts, so that Linux ends it when its parent is gone.

    None on other systems, which have no such call.
    """
    if sys.platform != "linux":
        return None
    # Loaded here: between fork and exec no lock may be waited for.
    prctl, pr_set_pdeathsig = ctypes.CDLL(None).prctl, 1
    return partial(prctl, pr_set_pdeathsig, signal.SIGTERM)


def c_compiler() -> str | None:
    """The C compiler that torch.compile finds on a GPU machine; None if there is none."""
    return next((name for name in ("gcc", "clang") if shutil.which(name)), None)


def driver_version() -> str | None:
    """The version of the NVIDIA driver that the kernel has loaded; None without one."""
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"(\d+\.\d+(\.\d+)?)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else None


def require_usable_gpu() -> None:
    """DeviceError where the machine has an NVIDIA GPU that this torch cannot use."""
    driver = None if torch.cuda.is_available() else driver_version()
    if driver is not None:
        built = torch.version.cuda
        reason = "it is a CPU build" if built is None else f"it is built for CUDA {built}"
        raise DeviceError(
            f"this machine has an NVIDIA GPU (driver {driver}), which torch {torch.__version__} cannot use: "
            f"{reason}; install a torch whose CUDA the driver supports, or train on the CPU by --device cpu"
        )


def choose_runtime(
    device: str = "auto", compute_dtype: str = "auto", world: World | None = None, eager: bool = False
) -> Runtime:
    """Picks device and dtype by what the machine says it has; `eager` leaves torch.compile out.

    `device` is auto, cpu, cuda, cuda:N or mps; `compute_dtype` is auto, float32 or bfloat16. In a `world` of
    several each process takes the GPU of its number on its machine. Raises DeviceError for what is not there,
    for a GPU that torch cannot use unless another device is named, for a missing C compiler, and for a torch
    older than MIN_TORCH.
    """
    world = World() if world is None else world
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < MIN_TORCH:
        oldest = ".".join(map(str, MIN_TORCH))
        raise DeviceError(f"torch is {torch.__version__}; at least {oldest} is needed")
    if device == "auto":
        require_usable_gpu()
    kind = device_kind(device)
    name = kind if device == "auto" else device
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in present:
        raise DeviceError(f"device is {device!r}; expected auto, cpu, cuda or mps")
    if not present[kind]:
        found_devices = ", ".join(name for name in present if present[name])
        raise DeviceError(f"device {device!r} was asked for; this machine has {found_devices}")
    if compute_dtype not in ("auto", "float32", "bfloat16"):
        raise DeviceError(f"compute dtype is {compute_dtype!r}; expected auto, float32 or bfloat16")
    if kind == "cuda" and world.size > 1:
        if world.local_rank >= torch.cuda.device_count():
            raise DeviceError(
                f"process {world.local_rank} of this machine has no GPU of its own; there are "
                f"{torch.cuda.device_count()}: torchrun --nproc_per_node={torch.cuda.device_count()}"
            )
        name = f"cuda:{world.local_rank}"
    chosen = torch.device(name)
    if kind == "cuda" and not eager and c_compiler() is None:
        raise DeviceError(
            "torch.compile needs a C compiler on a GPU machine, and there is neither gcc nor clang: install "
            "one (apt-get install gcc python3-dev), or go without compilation by --eager, far slower"
        )
    if kind == "cuda":
        if chosen.index is not None:
            # What asks for the current GPU (the choice of kernels, Triton) must find the one that is used.
            torch.cuda.set_device(chosen)
        keep_compiled_code()
        # Under a mask cuDNN's attention has given wrong numbers (pytorch #196678, #193893), and it builds a
        # graph anew for each of the many shapes of scoring; training turns it on by name.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if compute_dtype == "auto":
        half = gpu_has_bfloat16(chosen) if kind == "cuda" else kind == "cpu" and cpu_has_bfloat16()
        compute_dtype = "bfloat16" if half else "float32"
    return Runtime(chosen, getattr(torch, compute_dtype), kind == "cuda" and not eager, world)


def seed_everything(seed: int) -> None:
    """Seeds Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Waits for the device's queued work, so that a clock read after it is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def repeatable_kernels(device: torch.device) -> Iterator[None]:
    """Within the block a GPU's kernels add up in the same order each time, as far as torch has such ones."""
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory
    # Nothing here reads what it has not written; filling every new tensor is a launch for each.
    torch.utils.deterministic.fill_uninitialized_memory = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled


def release_memory(device: torch.device) -> None:
    """Gives memory that nothing needs any more back to the device, for other processes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def hardware_name(device: torch.device, world: World | None = None) -> str:
    """The accelerator's name, or the processor's with the threads torch uses; and how many of them."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{processor_name()} ({threads} thread{'s' * (threads != 1)})"
    return name if world is None or world.size == 1 else f"{world.size} x {name}"


def processor_name() -> str:
    """The processor's model name as the system gives it."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment(device: torch.device, world: World | None = None) -> dict[str, object]:
    """Hardware and versions, for the log and the entry."""
    packages = ("torch", "numpy", "zstandard", "sentencepiece")
    return {
        "hardware": hardware_name(device, world),
        "device": device.type,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
