"""`--doctor`: what this machine has, and what a run will use of it."""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from golf.audit.isolate import find_mechanism
from golf.command import default_preset
from golf.data.manifest import MANIFEST_NAME
from golf.presets import PRESETS
from golf.system.device import (
    MIN_TORCH,
    c_compiler,
    cpu_has_bfloat16,
    gpu_has_bfloat16,
    processor_name,
    unusable_gpu,
)
from golf.system.log import RunLog

Row = tuple[str, str, str]
"""What was checked, what was found, what follows from it."""

REQUIRED = (
    "numpy zstandard sentencepiece protobuf safetensors tyro rich matplotlib scipy jinja2 msgspec".split()
)
OPTIONAL = {
    "huggingface_hub": "fetches the challenge's data",
    "datasets": "streams any dataset by name (--source text)",
    "python_minifier": "packs the entry's script",
    "triton": "needed by torch.compile on CUDA",
}


def diagnose(data: Path) -> Iterator[Row]:
    """Yields the rows; `data` is the folder of the datasets, whose disk is checked."""
    found = torch.__version__
    oldest = ".".join(map(str, MIN_TORCH))
    recent = tuple(int(part) for part in found.split("+")[0].split(".")[:2]) >= MIN_TORCH
    yield "python", sys.version.split()[0], "ok" if sys.version_info >= (3, 11) else "3.11 or later is needed"
    yield "torch", found, "ok" if recent else f"{oldest} or later is needed"
    yield (
        "processor",
        f"{processor_name()}, {os.cpu_count()} cores",
        f"torch threads: {torch.get_num_threads()}",
    )
    half = cpu_has_bfloat16()
    yield "bfloat16 on the CPU", "yes" if half else "no", "bfloat16 compute" if half else "float32 compute"
    yield from _gpus()
    for name in REQUIRED:
        try:
            yield name, version(name), "ok"
        except PackageNotFoundError:
            yield name, "missing", "needed: pip install -r requirements.txt"
    for name, purpose in OPTIONAL.items():
        yield name, "yes" if find_spec(name) else "no", purpose
    isolation = find_mechanism()
    install = "apt-get install bubblewrap, or allow user namespaces; else --verify needs --trust"
    yield "isolation", isolation or "none", "entries' scripts run in it" if isolation else install
    existing = next(path for path in (data, *data.resolve().parents) if path.exists())
    free = f"{shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    yield "disk", free, "the seed preset's data take 2 to 20 GB"
    manifests = sorted(data.glob(f"*/{MANIFEST_NAME}"))
    for manifest in manifests:
        yield "dataset", str(manifest.parent), "ready"
    if not manifests:
        yield "dataset", f"none under {data}", "made or fetched on the first run"
    if unusable_gpu():
        yield "default preset", "none", "a run stops; with --device cpu it is cpu"
    else:
        preset = default_preset()
        yield "default preset", preset, PRESETS[preset].purpose


def _gpus() -> Iterator[Row]:
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            dtype = "bfloat16" if gpu_has_bfloat16(torch.device("cuda", index)) else "float32"
            memory = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
            yield f"cuda:{index}", memory, f"{dtype}, torch.compile"
        yield "C compiler", c_compiler() or "none", "needed by torch.compile on CUDA"
    elif reason := unusable_gpu():
        yield "CUDA", "unusable", reason
    else:
        yield "CUDA", "none", "runs on the CPU, eager"
    if torch.backends.mps.is_available():
        yield "MPS", "yes", "only by --device mps; untested"


def print_diagnosis(log: RunLog, data: Path) -> None:
    """Prints the table of `python train_gpt.py --doctor`."""
    log.table("this machine", ("what", "found", "therefore"), list(diagnose(data)))
