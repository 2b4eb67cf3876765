"""The fused kernels and their references agree with float64, and only training's own passes go through them.

Triton's kernels run on a GPU (-m gpu), or in Triton's interpreter: where Triton is installed, one test here
runs this file again with TRITON_INTERPRET=1.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from model_switches import TINY
from torch import Tensor

from golf.entry.bundle import bundle
from golf.entry.selfextract import pack_script
from golf.model.feedforward import FeedForward
from golf.model.fused import (
    choose_training_kernels,
    present_training_kernels,
    training_kernel_names,
    training_kernels,
)
from golf.model.gpt import GPT, ModelConfig
from golf.model.kernels import KernelError
from golf.model.up_activation import (
    PRODUCT_TILES,
    _launch_product,
    _product_kernel,
    fused_feedforward,
    squared_leaky,
)
from golf.system.device import triton_is_interpreted
from golf.train.objective import mean_nats

ROOT = Path(__file__).parents[2]
DEVICES = [*["cpu"] * triton_is_interpreted(), pytest.param("cuda", marks=pytest.mark.gpu)]
BFLOAT16_STEP = 2**-7
"""From a bf16 number to the next, as a share of it: the interpreter cuts off where a GPU rounds."""
SLACK = {"cpu": 1.0, "cuda": 5.0}
"""A GPU's exponential and division are a few units in the last place off."""
HAS_TRITON = find_spec("triton") is not None


def plain_feedforward(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    return squared_leaky(x @ up.T, slope) @ down.T


def exact_feedforward(x: Tensor, up: Tensor, down: Tensor, slope: float) -> Tensor:
    u = x @ up.T
    return torch.maximum(u, slope * u) ** 2 @ down.T


def with_gradients(
    function: Callable[..., Tensor], tensors: list[Tensor], dtype: torch.dtype, device: str, *others: object
) -> list[Tensor]:
    """The value and, for a seeded gradient of it, those of the tensors; in float64 on the CPU."""
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
    value = function(*leaves, *(x.to(device) if isinstance(x, Tensor) else x for x in others))
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(7))
    gradients = torch.autograd.grad(value, leaves, weights.to(device, value.dtype))
    return [x.detach().double().cpu() for x in (value, *gradients)]


def worst_error(got: Tensor, exact: Tensor) -> float:
    """The largest difference, as a share of the largest magnitude."""
    return float((got - exact).abs().max() / exact.abs().max())


def feedforward_inputs(rows: int, width: int, hidden: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = ((rows, width, 1.0), (hidden, width, width**-0.5), (width, hidden, hidden**-0.5))
    return [(torch.randn(a, b) * scale).to(dtype) for a, b, scale in sizes]


@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_of_the_feedforward_agrees_with_float64(dtype, slope):
    tensors = feedforward_inputs(37, 24, 51, dtype)
    got = with_gradients(plain_feedforward, tensors, dtype, "cpu", slope)
    exact = with_gradients(exact_feedforward, tensors, torch.float64, "cpu", slope)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    assert all(worst_error(a, b) < tolerance for a, b in zip(got, exact, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "width", "hidden"), [(150, 72, 200), (1, 64, 128), (1200, 33, 130)])
@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_feedforward_agrees_with_float64_as_its_reference_does(
    dtype, slope, rows, width, hidden, device
):
    tensors = feedforward_inputs(rows, width, hidden, dtype)
    with training_kernels("triton"):
        got = with_gradients(fused_feedforward, tensors, dtype, device, slope)
    plain = with_gradients(plain_feedforward, tensors, dtype, device, slope)
    exact = with_gradients(exact_feedforward, tensors, torch.float64, "cpu", slope)
    for a, b, c in zip(got, exact, plain, strict=True):
        if dtype == torch.float32:
            assert worst_error(a, b) < 3e-6
        elif device == "cuda":
            assert worst_error(a, b) < 1.5 * worst_error(c, b) + 1e-3
        else:
            assert worst_error(a, b) < 2 * BFLOAT16_STEP


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_the_product_with_its_activation_keeps_h_and_the_sign_of_u(slope, dtype, device):
    x, up, _ = feedforward_inputs(130, 40, 140, dtype)
    with training_kernels("triton"):
        h, above = torch.ops.golf.up_activation(x.to(device), up.to(device), slope)
    u = x.double() @ up.double().T
    assert (
        h.dtype == dtype and worst_error(h.double().cpu(), torch.maximum(u, slope * u) ** 2) < BFLOAT16_STEP
    )
    clear = u.abs() > 1e-5
    assert above.numel() == (u.numel() if slope else 0)
    assert not slope or torch.equal(above.cpu().bool()[clear], (u > 0)[clear])


def model_on(device: str, config: ModelConfig) -> GPT:
    torch.manual_seed(0)
    model = GPT(config)
    model.initialize()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.to(device)


def noting(function: Callable[..., None], calls: list[str]) -> Callable[..., None]:
    """The function, its name noted at each call."""

    def noted(*args: object, **kwargs: object) -> None:
        calls.append(function.__name__)
        function(*args, **kwargs)

    return noted


def loss_and_gradients(
    loss: Callable[..., Tensor], model: GPT, kernels: str
) -> tuple[float, dict[str, Tensor]]:
    tokens = torch.randint(2, 64, (2, 2, 24), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with training_kernels(kernels):
        value = loss(model, *tokens.to(model.embedding.weight.device))
    value.backward()
    return float(value.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_trains_alike_with_either_kernels_in_one_graph(compiled, device, monkeypatch):
    launches = []
    monkeypatch.setattr("golf.model.up_activation._launch_product", noting(_launch_product, launches))
    model = model_on(device, replace(TINY, activation_slope=0.3))
    backend = "inductor" if device == "cuda" else "aot_eager"
    loss = torch.compile(mean_nats, backend=backend, fullgraph=True) if compiled else mean_nats
    value, gradients = loss_and_gradients(mean_nats, model, "torch")
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    fused_value, fused_gradients = loss_and_gradients(loss, model, "triton")
    # Each layer's up projection forward, its down projection backward.
    assert launches == ["_launch_product"] * 2 * TINY.num_layers
    assert fused_value == pytest.approx(value, abs=1e-5 * SLACK[device])
    assert fused_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, atol=1e-5 * SLACK[device], rtol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_scores_and_other_activations_never_reach_the_fused_kernels(device, monkeypatch):
    def refuse(*_: object) -> Tensor:
        raise AssertionError("a fused kernel was called")

    monkeypatch.setattr("golf.model.feedforward.fused_feedforward", refuse)
    tokens = torch.randint(2, 64, (1, 24), device=device)
    with training_kernels("triton"), pytest.raises(AssertionError, match="a fused kernel"):
        mean_nats(model_on(device, TINY), tokens, tokens)
    model_on(device, TINY)(tokens)
    with training_kernels("triton"):
        mean_nats(model_on(device, replace(TINY, feedforward="gelu")), tokens, tokens)


def test_without_being_asked_for_the_feedforward_is_what_it_always_was():
    torch.manual_seed(0)
    layer = FeedForward(16, 24, 0.3)
    for matrix in (layer.up, layer.down):
        torch.nn.init.orthogonal_(matrix.weight)
    x = torch.randn(2, 5, 16)
    u = torch.nn.functional.leaky_relu(layer.up(x), 0.3)
    with training_kernels("torch"):
        assert torch.equal(layer(x), layer.down(u.square()))


def test_triton_needs_a_gpu_with_bf16_tensor_cores_or_its_interpreter():
    assert training_kernel_names((9, 0), has_triton=True, interpreted=False) == ["torch", "triton"]
    assert training_kernel_names((7, 5), has_triton=True, interpreted=False) == ["torch"]
    assert training_kernel_names((9, 0), has_triton=False, interpreted=False) == ["torch"]
    assert training_kernel_names(None, has_triton=True, interpreted=False) == ["torch"]
    assert training_kernel_names(None, has_triton=True, interpreted=True) == ["torch", "triton"]


@pytest.mark.skipif(triton_is_interpreted(), reason="the interpreter makes Triton's kernels present")
def test_kernels_for_training_that_a_machine_lacks_are_refused_with_those_that_it_has():
    with pytest.raises(KernelError, match=r"'triton' were asked for; this machine has torch$"):
        choose_training_kernels("triton", present_training_kernels(torch.device("cpu")))


@pytest.mark.skipif(HAS_TRITON, reason="Triton is installed")
def test_where_triton_is_missing_the_block_fails_and_closes_behind_itself():
    layer = FeedForward(16, 24)
    with pytest.raises(ImportError, match="triton"), training_kernels("triton"):
        pass
    assert layer(torch.zeros(1, 16)).shape == (1, 16)


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: pip install triton, an extra")
@pytest.mark.skipif(triton_is_interpreted(), reason="this is the run in the interpreter")
def test_triton_runs_the_kernels_in_its_interpreter():
    command = [sys.executable, "-m", "pytest", "-k", "cpu", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: pip install triton, an extra")
@pytest.mark.skipif(triton_is_interpreted(), reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_product_compiles_for_gpus_that_are_not_here_within_a_consumer_cards_memory(
    capability, backward, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = _product_kernel()
    rows, columns, depth, num_warps = PRODUCT_TILES[torch.bfloat16]
    fixed = {"BACKWARD": backward, "SLOPED": True, "WHOLE": True, "WIDEN": False}
    fixed |= {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}
    pointers = {**dict.fromkeys(("left", "weight", "out", "h"), "*bf16"), "above": "*i8", "slope": "fp32"}
    types = {name: "constexpr" if name in fixed else pointers.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(
        kernel,
        types,
        {(kernel.arg_names.index(name),): value for name, value in fixed.items()},
        {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind[0] in "*i"},
    )
    target = GPUTarget("cuda", capability, 32)
    made = compile(source, target=target, options={"num_warps": num_warps, "num_stages": 3})
    assert made.metadata.shared <= 99 * 1024
    assert ("wgmma" if capability == 90 else "mma.sync") in made.asm["ptx"]


KERNELS_ALONE = '''"""A feed-forward by either kernels."""

import torch

from golf.model.fused import training_kernels
from golf.model.up_activation import fused_feedforward, squared_leaky

torch.manual_seed(0)
x, up, down = torch.randn(5, 16), torch.randn(24, 16), torch.randn(16, 24)
with training_kernels("triton"):
    fused = fused_feedforward(x, up, down, 0.3)
plain = squared_leaky(x @ up.T, 0.3) @ down.T
print(bool(torch.isclose(fused, plain, rtol=1e-3, atol=1e-3).all()))
'''


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: pip install triton, an extra")
@pytest.mark.parametrize("pack", [str.encode, pack_script])
def test_a_flattened_and_packed_script_still_runs_the_kernels(pack, tmp_path):
    script, alone = tmp_path / "source.py", tmp_path / "alone"
    script.write_text(KERNELS_ALONE)
    alone.mkdir()
    (alone / "train_gpt.py").write_bytes(pack(bundle(script, ROOT)))
    path = os.pathsep.join(entry for entry in sys.path if entry and Path(entry) != ROOT)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    command = [sys.executable, "-P", "train_gpt.py"]
    done = subprocess.run(command, cwd=alone, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
