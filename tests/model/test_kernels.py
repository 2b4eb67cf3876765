"""Every kernel that is there agrees with float64 arithmetic; what is not there is refused by name."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from model_switches import TINY
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from golf.model.gpt import GPT
from golf.model.kernels import (
    KernelError,
    attention_kernel,
    attention_kernels,
    causal_attention,
    kernel_order,
    masked_attention,
    present_kernels,
    require_kernel,
    sdpa_kernels,
)


class SeenHeads(TorchFunctionMode):
    """Notes how many key/value heads torch's attention is given, and calls it only on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[int] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.heads.append(args[1].size(1))
        return args[0] if args[0].device.type == "cuda" else func(*args, **kwargs)


CPU_KERNELS = present_kernels(torch.device("cpu"))


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax of masked products in float64, key/value heads repeated."""
    repeats = q.size(1) // k.size(1)
    k, v = (x.double().repeat_interleave(repeats, dim=1) for x in (k, v))
    scores = q.double() @ k.mT / math.sqrt(q.size(-1))
    late = torch.ones(q.size(2), k.size(2), dtype=torch.bool).triu(1 + k.size(2) - q.size(2))
    return scores.masked_fill(late, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize("num_queries", [1, 7, 24])
@pytest.mark.parametrize("names", [CPU_KERNELS, *((name,) for name in CPU_KERNELS)], ids=str)
def test_kernels_of_a_cpu_agree_with_float64_forward_and_backward(names, num_queries):
    torch.manual_seed(0)
    heads = [torch.randn(2, num, size, 8) for num, size in ((4, num_queries), (2, 24), (2, 24))]
    own, exact = ([x.clone().requires_grad_() for x in heads] for _ in range(2))
    with sdpa_kernels(names):
        y = attention_kernel(names)(*own)
        y.square().sum().backward()
    expected = exact_attention(*exact)
    expected.square().sum().backward()
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=0)
    for got, wanted in zip(own, exact, strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-4, rtol=0)


def test_cudnn_comes_first_on_hopper_alone_and_nothing_is_ruled_out():
    orders = {major: kernel_order((major, 0), False, 91501) for major in (8, 9, 10, 12)}
    assert {major for major, order in orders.items() if order[0] == "cudnn"} == {9}
    assert all(sorted(order) == ["cudnn", "efficient", "flash", "math"] for order in orders.values())


def test_an_old_cudnn_comes_first_nowhere():
    assert kernel_order((9, 0), False, 91002)[:2] == ("flash", "cudnn")


def test_gpus_before_ampere_have_the_kernels_that_they_can_run():
    assert kernel_order((7, 5), False, 91501) == ("efficient", "math")


def test_flash_attention_3_comes_before_all_on_hopper_where_it_is_installed():
    assert kernel_order((9, 0), True, 91501)[0] == "fa3"
    assert "fa3" not in kernel_order((8, 0), True, 91501)


def test_kernels_that_a_machine_lacks_are_refused_with_those_that_it_has():
    with pytest.raises(
        KernelError, match=f"'cudnn' were asked for; this machine has {', '.join(CPU_KERNELS)}"
    ):
        require_kernel("cudnn", present_kernels(torch.device("cpu")))


@pytest.mark.parametrize("with_sums", [False, True])
def test_flash_attention_3_gets_and_gives_heads_behind_time(monkeypatch, with_sums):
    shapes = []

    def attend(q, k, v, causal):
        shapes.append((tuple(q.shape), tuple(k.shape), causal))
        y = exact_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).float()
        return (y, None) if with_sums else y

    monkeypatch.setitem(sys.modules, "flash_attn_interface", SimpleNamespace(flash_attn_func=attend))
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, num, 6, 8) for num in (4, 2, 2))
    model = GPT(TINY)
    with attention_kernels(model, ("fa3", "flash", "math")):
        kernel = model.blocks[0].attention.kernel
        y = kernel(q, k, v)
        kernel(q[:, :, -2:], k, v)
    torch.testing.assert_close(y.double(), exact_attention(q, k, v), atol=1e-5, rtol=0)
    assert shapes == [((2, 6, 4, 8), (2, 6, 2, 8), True)]
    assert model.blocks[0].attention.kernel is causal_attention, "the choice ends with its block"


def test_flash_attention_3_is_part_of_a_compiled_graph_that_later_blocks_take_up(monkeypatch):
    def attend(q, k, v, causal):
        return F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal, enable_gqa=True
        ).transpose(1, 2)

    monkeypatch.setitem(sys.modules, "flash_attn_interface", SimpleNamespace(flash_attn_func=attend))
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, num, 6, 8) for num in (4, 2, 2))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model = GPT(TINY)
    attention = model.blocks[0].attention

    def attend_by_the_model(q, k, v):
        return attention.kernel(q, k, v)

    compiled = torch.compile(attend_by_the_model, backend=backend, fullgraph=True, dynamic=False)
    for _ in range(2):
        with attention_kernels(model, ("fa3", "flash", "math")):
            y = compiled(q, k, v)
    torch.testing.assert_close(y.double(), exact_attention(q, k, v), atol=1e-5, rtol=0)
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("names", "heads"), [(("efficient", "math"), 4), (("flash", "efficient", "math"), 2), (("math",), 2)]
)
def test_heads_are_repeated_for_the_efficient_kernel_which_does_not_share_them(names, heads):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, num, 6, 8) for num in (4, 2, 2))
    with sdpa_kernels(names), SeenHeads() as seen:
        y = attention_kernel(names)(q, k, v)
    torch.testing.assert_close(y.double(), exact_attention(q, k, v), atol=1e-5, rtol=0)
    assert seen.heads == [heads]


@pytest.mark.parametrize(("device", "heads"), [("cpu", 2), ("cuda", 4)])
def test_under_a_mask_a_gpu_is_given_a_key_head_for_each_query_head(device, heads):
    with FakeTensorMode(), SeenHeads() as seen:
        q, k, v = (torch.empty(2, num, size, 8, device=device) for num, size in ((4, 3), (2, 6), (2, 6)))
        masked_attention(q, k, v, torch.ones(3, 6, dtype=torch.bool, device=device))
    assert seen.heads == [heads]


@pytest.mark.gpu
@pytest.mark.parametrize("num_queries", [100, 256])
@pytest.mark.parametrize("name", ["fa3", "cudnn", "flash", "efficient", "math"])
def test_every_kernel_agrees_with_float64_on_the_device(name, num_queries):
    present = present_kernels(torch.device("cuda"))
    if name not in present:
        pytest.skip(f"this machine has {', '.join(present)}")
    if name == "flash" and num_queries < 256:
        pytest.skip("torch's flash kernel takes no mask")
    torch.manual_seed(0)
    shapes = ((8, num_queries), (4, 256), (4, 256))
    q, k, v = (torch.randn(2, heads, length, 64, device="cuda") for heads, length in shapes)
    with sdpa_kernels((name,)):
        got = attention_kernel((name,))(*(x.bfloat16() for x in (q, k, v)))
    exact = exact_attention(*(x.cpu() for x in (q, k, v)))
    torch.testing.assert_close(got.cpu().double(), exact, atol=3e-2, rtol=0)
