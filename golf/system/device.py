"""Devices, dtypes and the environment of a process: what the machine has, and which of it a run uses."""

import ctypes
import gc
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golf.system.distributed import World

MIN_TORCH = (2, 8)
TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
"""The environment variables that torchrun sets, and their values without it."""


class DeviceError(ValueError):
    """The machine lacks a device, dtype or library that was asked for."""


@dataclass(frozen=True)
class Runtime:
    """The device and compute dtype of this process; master weights are float32, sums float64."""

    device: torch.device
    compute_dtype: torch.dtype
    compiled: bool
    """Whether torch.compile is used: on CUDA only; on a CPU compilation takes longer than it saves."""
    world: World = field(default_factory=World)
    """This process's place among the processes of the run."""

    def describe(self) -> str:
        """Hardware, dtype, mode and torch version in one line."""
        mode = "torch.compile" if self.compiled else "eager"
        dtype = dtype_name(self.compute_dtype)
        return f"{hardware_name(self.device, self.world)}, {dtype}, {mode}, torch {torch.__version__}"


def dtype_name(dtype: torch.dtype) -> str:
    """The name that configs and artifacts store: "float32", "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (avx512_bf16, AMX); if not, float32 is faster."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))


def scoring_dtype(device: torch.device, trained: torch.dtype) -> torch.dtype:
    """The dtype of scoring, audits and test-time training: float32 on a CPU, else that of training.

    Processors round bfloat16 products differently: the scores of two documents with AMX and with AVX-512
    differed by 2.8e-4 bits per byte.
    """
    return torch.float32 if device.type == "cpu" else trained


def gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16 natively (Ampere and later); others cannot compile it."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def read_world() -> World:
    """This process's place among the processes that torchrun started; a single process without it."""
    values = [int(os.environ.get(name, other)) for name, other in TORCHRUN]
    return World(*values)


def is_torchruns() -> bool:
    """Whether torchrun started this process, perhaps alone."""
    return TORCHRUN[0][0] in os.environ


def device_kind(device: str) -> str:
    """The device type, cpu, cuda or mps, that the name `device` or "auto" stands for."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device.split(":")[0]


def env_without_torchrun() -> dict[str, str]:
    """The environment for a child process that is not part of this torchrun group."""
    torchrun = {name for name, _ in TORCHRUN}
    strangers = ("TORCHELASTIC_", "MASTER_", "GROUP_", "ROLE_")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in torchrun and not name.startswith(strangers)
    }


def keep_compiled_code() -> None:
    """Sets the cache of torch.compile to ~/.cache/parameter-golf, unless the environment names another.

    The default is in the folder for temporary files, which rented machines empty.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "parameter-golf"))


def tag_compiled_code(attention: tuple[str, ...]) -> None:
    """Adds the attention kernels to the cache key of torch.compile.

    AOTAutograd's key does not contain them (pytorch #185449): a run would silently use the kernels of an
    earlier run.
    """
    torch.compiler.config.cache_key_tag = "+".join(attention)


def end_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` for subprocess that makes Linux end the child when its parent dies; None elsewhere."""
    if sys.platform != "linux":
        return None
    # libc is loaded here because a child must not wait for a lock between fork and exec.
    prctl, pr_set_pdeathsig = ctypes.CDLL(None).prctl, 1
    return partial(prctl, pr_set_pdeathsig, signal.SIGTERM)


def c_compiler() -> str | None:
    """The name of the C compiler that torch.compile needs on a GPU machine, or None."""
    return next((name for name in ("gcc", "clang") if shutil.which(name)), None)


def query_gpu(*fields: str) -> list[str]:
    """What nvidia-smi says of the first GPU, a text for each of its --query-gpu fields; empty without one."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().split("\n")[0].split(", ")


def driver_version() -> str | None:
    """The version of the NVIDIA driver, from the kernel or else from nvidia-smi; None without a driver."""
    path = Path("/proc/driver/nvidia/version")
    text = path.read_text(encoding="utf-8") if path.is_file() else " ".join(query_gpu("driver_version"))
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else None


def unusable_gpu() -> str | None:
    """Why torch cannot use this machine's NVIDIA GPU, and what to do; None if it can, or there is none."""
    driver = None if torch.cuda.is_available() else driver_version()
    if driver is None:
        return None
    built, hidden = torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES")
    if built is None:
        reason = "it is a CPU build"
    elif hidden is not None and not hidden.split(",")[0].isdecimal():
        reason = f"CUDA_VISIBLE_DEVICES is {hidden!r}"
    else:
        reason = f"it is built for CUDA {built}"
    return (
        f"this machine has an NVIDIA GPU (driver {driver}), which torch {torch.__version__} cannot use: "
        f"{reason}; install a torch whose CUDA the driver supports (CUDA 12 from driver 525 on, 13 from 580 "
        "on), or compute on the CPU by --device cpu"
    )


def choose_runtime(
    device: str = "auto", compute_dtype: str = "auto", world: World | None = None, eager: bool = False
) -> Runtime:
    """Chooses device and dtype; `eager` turns torch.compile off.

    `device` is auto, cpu, cuda, cuda:N or mps; `compute_dtype` is auto, float32 or bfloat16. With several
    processes, each takes the GPU of its local rank. Raises DeviceError for a device that is absent, for a GPU
    that torch cannot use (unless another device was asked for), for a missing C compiler, and for a torch
    older than MIN_TORCH.
    """
    world = World() if world is None else world
    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < MIN_TORCH:
        oldest = ".".join(map(str, MIN_TORCH))
        raise DeviceError(f"torch is {torch.__version__}; at least {oldest} is needed")
    if device.split(":")[0] in ("auto", "cuda") and (reason := unusable_gpu()):
        raise DeviceError(reason)
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
            # Triton and the choice of kernels use the current GPU.
            torch.cuda.set_device(chosen)
        keep_compiled_code()
        # cuDNN's attention gives wrong numbers under a mask (pytorch #196678, #193893), and builds a graph
        # for each of the many shapes of scoring; training enables it explicitly.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if compute_dtype == "auto":
        half = gpu_has_bfloat16(chosen) if kind == "cuda" else kind == "cpu" and cpu_has_bfloat16()
        compute_dtype = "bfloat16" if half else "float32"
    return Runtime(chosen, getattr(torch, compute_dtype), kind == "cuda" and not eager, world)


def seed_everything(seed: int) -> None:
    """Seeds random, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Waits for the queued work of the device, as timing needs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def repeatable_kernels(device: torch.device) -> Iterator[None]:
    """Uses deterministic CUDA kernels alone during the block; RuntimeError for an operation that has none."""
    if device.type != "cuda":
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    # Filling every new tensor costs a kernel launch, and no code here reads uninitialized memory.
    settings.fill_uninitialized_memory = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Strictly: attention only warned stays as it is, and its backward pass adds in any order.
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in the machine's own memory."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def release_memory(device: torch.device) -> None:
    """Returns unused memory to the device, for other processes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def hardware_name(device: torch.device, world: World | None = None) -> str:
    """The name of the GPU, or of the processor with torch's threads; "8 x" before it for 8 processes."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{processor_name()} ({threads} thread{'s' * (threads != 1)})"
    return name if world is None or world.size == 1 else f"{world.size} x {name}"


def processor_name() -> str:
    """The model name of the processor."""
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment(device: torch.device, world: World | None = None) -> dict[str, object]:
    """Hardware and versions as JSON values, for the log and the entry."""
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
