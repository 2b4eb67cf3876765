"""What a machine is and what it can do: versions, ceilings, gradients of attention kernels, noise of a pass.

A stage of `benchmarks.gpu`, in a process of its own. Shapes: B batch, T time, H query heads, K key/value
heads, E head width.
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from benchmarks.command import run_benchmark
from benchmarks.gpu_jobs import Post
from benchmarks.recipe_arms import Scale, frontier_recipe
from benchmarks.training_rows import mark_time, seconds_between
from golf.model.gpt import GPT
from golf.model.kernels import attention_kernel, attention_kernels, present_kernels, sdpa_kernels
from golf.model.loss import token_nats
from golf.presets import PRESETS
from golf.system.device import (
    Runtime,
    c_compiler,
    choose_runtime,
    environment,
    query_gpu,
    seed_everything,
    synchronize,
)

NEEDED = (
    "numpy",
    "zstandard",
    "sentencepiece",
    "safetensors",
    "tyro",
    "rich",
    "matplotlib",
    "scipy",
    "msgspec",
    "jinja2",
)
"""What the whole of a run imports."""
FRESH = ("numpy", "zstandard", "sentencepiece", "safetensors", "tyro", "rich", "torch")
"""What the process imports that scores an artifact by `python -I`."""
HELPFUL = ("triton", "python_minifier", "pytest", "hypothesis", "flash_attn_interface")
CARD_FIELDS = ("name", "driver_version", "memory.total", "power.limit", "temperature.gpu")
CLOCK_FIELDS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "temperature.gpu")


@dataclass(frozen=True)
class EnvironmentStage:
    """The stage's process."""

    post: Annotated[Post, tyro.conf.arg(name="")]
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True)
class Sizes:
    """How large the probes are."""

    copy_bytes: int
    square: int
    tokens: int
    width: int
    hidden: int
    vocab: int
    batch: int
    context: int
    heads: int
    kv_heads: int
    reference_batch: int
    """Sequences that the fp32 reference takes at a time, for it keeps all weights."""


CARD = Sizes(2**31, 8192, 65_536, 512, 2048, 8192, 32, 2048, 8, 4, 4)
TINY = Sizes(2**22, 128, 256, 64, 128, 256, 2, 64, 4, 2, 1)


def share_processor() -> None:
    """Takes an eighth of the cores: stages run beside each other, and threads that wait for a core spin.

    On an H100 machine of 16 cores, four processes of 16 threads each took 170 s from their start to
    compilation; a run alone took 9.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 8))


def card_state(fields: tuple[str, ...]) -> dict[str, str]:
    """What nvidia-smi says of the first card; empty where there is none."""
    return dict(zip(fields, query_gpu(*fields), strict=False))


def found_version(package: str) -> str | None:
    """The version of an installed package, None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def software(device: torch.device) -> dict[str, Any]:
    """Versions, compiler and headers that torch.compile needs, packages that are missing."""
    compiler = c_compiler()
    versions = {name: found_version(name) for name in (*NEEDED, *HELPFUL)}
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    return {
        **environment(device),
        "cuda": torch.version.cuda,
        "cudnn": cudnn,
        "triton": versions["triton"],
        "compiler": compiler,
        "python_headers": (Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        "versions": versions,
        "missing": [name for name in NEEDED if versions[name] is None],
        "attention": present_kernels(device),
    }


def fresh_process_lacks() -> str:
    """What the process of `python -I`, which sees no PYTHONPATH, cannot import: its last line, or nothing."""
    command = [sys.executable, "-I", "-c", "import " + ", ".join(FRESH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def seconds_of(
    function: Callable[[], Any], device: torch.device, repeats: int = 20, calls: int = 1
) -> tuple[float, float]:
    """Best and median seconds of a call, of `calls` in a row, on a GPU by its own clock; two do not count."""
    durations = []
    for _ in range(repeats + 2):
        synchronize(device)
        started = mark_time(device)
        for _ in range(calls):
            function()
        ended = mark_time(device)
        synchronize(device)
        durations.append(seconds_between(started, ended) / calls)
    counted = sorted(durations[2:])
    return counted[0], counted[len(counted) // 2]


def ceilings(runtime: Runtime, sizes: Sizes) -> dict[str, Any]:
    """Bytes a second of a copy, read and written; operations a second of products, large and the model's."""
    device, dtype = runtime.device, runtime.compute_dtype
    source = torch.empty(sizes.copy_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    best, middle = seconds_of(lambda: target.copy_(source), device)
    figures: dict[str, Any] = {
        "copy_bytes_per_second": 2 * sizes.copy_bytes / best,
        "copy_bytes_per_second_median": 2 * sizes.copy_bytes / middle,
    }
    shapes = {
        "square": (sizes.square,) * 3,
        "attention": (sizes.tokens, sizes.width, sizes.width),
        "up": (sizes.tokens, sizes.width, sizes.hidden),
        "down": (sizes.tokens, sizes.hidden, sizes.width),
        "head": (sizes.tokens, sizes.width, sizes.vocab),
    }
    for name, (rows, inner, columns) in shapes.items():
        a = torch.randn(rows, inner, device=device, dtype=dtype)
        b = torch.randn(inner, columns, device=device, dtype=dtype)
        best, middle = seconds_of(lambda a=a, b=b: torch.mm(a, b), device, calls=10)
        operations = 2.0 * rows * inner * columns
        figures[f"matmul_{name}_shape"] = [rows, inner, columns]
        figures[f"matmul_{name}_flops_per_second"] = operations / best
        figures[f"matmul_{name}_flops_per_second_median"] = operations / middle
    return figures


def attention_gradients(names: tuple[str, ...], heads: tuple[Tensor, ...], y_grad: Tensor) -> list[Tensor]:
    """Output and gradients of q, k and v by the kernels of those names."""
    leaves = [x.detach().requires_grad_() for x in heads]
    with sdpa_kernels(names):
        y = attention_kernel(names)(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, y_grad)]


def exact_gradients(heads: tuple[Tensor, Tensor, Tensor], y_grad: Tensor, at_a_time: int) -> list[Tensor]:
    """The same in fp32 by plain products and a softmax, few sequences at a time."""
    parts = []
    for first in range(0, len(y_grad), at_a_time):
        few = slice(first, first + at_a_time)
        shared = tuple(x[few].float() for x in heads)
        parts.append(attention_gradients(("math",), shared, y_grad[few].float()))
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((found.float() - exact.float()).abs().max() / exact.float().abs().max())


def attention_figures(runtime: Runtime, sizes: Sizes) -> dict[str, Any]:
    """Each present kernel against fp32, the first against flash, and what each reaches, forward and backward.

    Largest error relative to the largest value, of output and gradients; causal operations counted at half.
    """
    device = runtime.device
    seed_everything(0)
    shapes = sizes.heads, sizes.kv_heads, sizes.kv_heads, sizes.heads
    width = sizes.width // sizes.heads
    q, k, v, y_grad = (
        torch.randn(sizes.batch, sizes.context, num, width, device=device, dtype=runtime.compute_dtype)
        for num in shapes
    )
    # As the network has them: time before heads in memory.
    q, k, v, y_grad = (x.transpose(1, 2) for x in (q, k, v, y_grad))
    heads = q, k, v
    exact = exact_gradients(heads, y_grad, sizes.reference_batch)
    names = [name for name in present_kernels(device) if name in ("fa3", "cudnn", "flash")]
    parts = ("output", "query", "key", "value")
    figures: dict[str, Any] = {"shape": [sizes.batch, sizes.context, sizes.heads, sizes.kv_heads, width]}
    found = {}
    for name in names:
        try:
            found[name] = attention_gradients((name,), heads, y_grad)
        except RuntimeError as error:
            figures[f"{name}_fails"] = str(error).splitlines()[0]
            continue
        errors = (relative_error(*pair) for pair in zip(found[name], exact, strict=True))
        figures[f"{name}_error"] = dict(zip(parts, errors, strict=True))
        again = attention_gradients((name,), heads, y_grad)
        noise = (relative_error(*pair) for pair in zip(again, found[name], strict=True))
        figures[f"{name}_noise"] = dict(zip(parts, noise, strict=True))
        best, _ = seconds_of(lambda name=name: attention_gradients((name,), heads, y_grad), device, 5)
        operations = 3.5 * 2 * sizes.batch * sizes.heads * sizes.context**2 * width
        figures[f"{name}_flops_per_second"] = operations / best
    if "flash" in found:
        for name in found:
            if name != "flash":
                errors = (relative_error(*pair) for pair in zip(found[name], found["flash"], strict=True))
                figures[f"{name}_against_flash"] = dict(zip(parts, errors, strict=True))
    return figures


def noise_of_a_pass(loss: Callable[[], Tensor], parameters: list[Tensor]) -> dict[str, float]:
    """How far loss and gradients of the same batch are apart in two passes.

    Of the gradients the largest relative difference of a matrix, by its norm, and the largest of a value, by
    the matrix's largest.
    """
    runs = []
    for _ in range(2):
        value = loss()
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        runs.append((float(value.detach()), [g.float() for g in found if g is not None]))
    (first, gradients), (second, others) = runs
    pairs = [(a, b) for a, b in zip(gradients, others, strict=True) if float(a.norm()) > 0]
    return {
        "loss": first,
        "loss_difference": abs(first - second),
        "gradient_norm_difference": max(float((a - b).norm() / a.norm()) for a, b in pairs),
        "gradient_value_difference": max(relative_error(b, a) for a, b in pairs),
    }


def eager_noise(runtime: Runtime, sizes: Sizes) -> dict[str, Any]:
    """The noise of the frontier's network, uncompiled, with the machine's first kernels and with flash."""
    if runtime.device.type == "cuda":
        config = PRESETS["h100-10min"].config.model
    else:
        config = frontier_recipe(Scale(width=sizes.width, layers=2, context=sizes.context)).model
    seed_everything(0)
    model = GPT(config).to(runtime.device)
    model.initialize()
    model.compute_dtype = runtime.compute_dtype
    shape = (min(8, sizes.batch), sizes.context)
    inputs, targets = (torch.randint(config.vocab_size, shape).to(runtime.device) for _ in range(2))
    figures: dict[str, Any] = {"shape": list(shape)}
    for name in present_kernels(runtime.device):
        if name in ("fa3", "cudnn", "flash"):
            with attention_kernels(model, (name,)):
                figures[name] = noise_of_a_pass(
                    lambda: token_nats(model(inputs), targets).mean(), list(model.parameters())
                )
    return figures


def memory_bytes(device: torch.device) -> int | None:
    """Memory of the card."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def run_command(stage: EnvironmentStage) -> None:
    """Measures and writes one line a subject, what is quick first."""
    share_processor()
    post, runtime = stage.post, choose_runtime(stage.device)
    device = runtime.device
    sizes = CARD if device.type == "cuda" else TINY
    found = software(device)
    post.add("software", **found, memory_bytes=memory_bytes(device), card=card_state(CARD_FIELDS))
    lacks = fresh_process_lacks()
    post.add("fresh process", lacks=lacks)
    with post.timed():
        post.add("ceilings", **ceilings(runtime, sizes), clocks=card_state(CLOCK_FIELDS))
        post.add("attention", **attention_figures(runtime, sizes))
        post.add("noise", **eager_noise(runtime, sizes))
    if found["missing"]:
        raise SystemExit(f"packages that a run needs are missing: {', '.join(found['missing'])}")
    if lacks:
        raise SystemExit(f"the process that scores an artifact by python -I fails: {lacks}")
    if device.type == "cuda" and (found["compiler"] is None or not found["python_headers"]):
        raise SystemExit("torch.compile needs a C compiler and Python's headers; one of them is missing")


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 130 stopped."""
    return run_benchmark("gpu_environment", EnvironmentStage, run_command, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
