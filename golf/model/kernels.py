"""Causal attention by the fastest kernels of the machine, chosen once for a run.

Shapes: B batch, T time, L last (graded) positions, H query heads, K key/value heads, E head width.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

FUSED_KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""torch's own, by the names that options have."""
MIN_CUDNN = 91501
"""9.15.1: earlier ones read beyond their tensors where 128 does not divide the length (pytorch #169849)."""


class KernelError(ValueError):
    """Kernels were asked for by name that this machine lacks."""


AttentionKernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes queries (B, H, L, E), keys and values (B, K, T, E); returns (B, H, L, E)."""


def causal_attention(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
    """Attention of the last L queries over all T keys, each reading itself and the keys before it."""
    num_queries, num_keys = q_BHLE.size(2), k_BKTE.size(2)
    if num_queries == num_keys:
        dtype = q_BHLE.dtype
        if q_BHLE.device.type == "cpu" and dtype == torch.bfloat16:
            # The backward pass of torch's CPU kernel takes 2.4 times as long in bf16 as in fp32.
            q_BHLE, k_BKTE, v_BKTE = q_BHLE.float(), k_BKTE.float(), v_BKTE.float()
        y_BHLE = F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=True)
        return y_BHLE.to(dtype)
    # The causal flag of torch's kernels would align the first query with the first key.
    return masked_attention(q_BHLE, k_BKTE, v_BKTE, causal_mask(num_queries, num_keys, q_BHLE.device))


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Whether each of the last L positions may see each of T, (L, T)."""
    keys_T = torch.arange(num_keys, device=device)
    return keys_T[None, :] <= keys_T[num_keys - num_queries :, None]


def repeating_attention(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
    """`causal_attention` with key/value heads repeated first, for kernels that do not share them."""
    if q_BHLE.size(2) == k_BKTE.size(2):
        k_BKTE, v_BKTE = repeat_heads(q_BHLE, k_BKTE, v_BKTE)
    return causal_attention(q_BHLE, k_BKTE, v_BKTE)


class FlashAttention3:
    """The package `flash_attn_interface` (FlashAttention 3, for Hopper), where L = T."""

    def __init__(self) -> None:
        # Imported here: code that is being compiled cannot import.
        self._attend = import_module("flash_attn_interface").flash_attn_func

    def __call__(self, q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Outputs (B, H, L, E)."""
        if q_BHLE.size(2) != k_BKTE.size(2):
            return causal_attention(q_BHLE, k_BKTE, v_BKTE)
        # The package has heads after time.
        found = self._attend(*(x.transpose(1, 2) for x in (q_BHLE, k_BKTE, v_BKTE)), causal=True)
        y_BLHE = found[0] if isinstance(found, tuple) else found
        return y_BLHE.transpose(1, 2)


def masked_attention(q_BHLE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, visible: Tensor) -> Tensor:
    """Attention where `visible`, boolean and broadcast to (B, H, L, T), says so.

    On a GPU key/value heads are repeated: torch's efficient kernel takes a mask, but shared heads only since
    2.14 (pytorch #191085), and what is left without it keeps all weights and fp32 copies of the keys.
    """
    if q_BHLE.device.type == "cuda":
        k_BKTE, v_BKTE = repeat_heads(q_BHLE, k_BKTE, v_BKTE)
    return F.scaled_dot_product_attention(q_BHLE, k_BKTE, v_BKTE, attn_mask=visible, enable_gqa=True)


def repeat_heads(q_BHLE: Tensor, *shared_BKTE: Tensor) -> tuple[Tensor, ...]:
    """Key or value heads as often as queries share them, (B, H, T, E)."""
    group = q_BHLE.size(1) // shared_BKTE[0].size(1)
    return tuple(x_BKTE.repeat_interleave(group, dim=1) for x_BKTE in shared_BKTE)


def kernel_order(capability: tuple[int, int], has_flash_3: bool, cudnn_version: int) -> tuple[str, ...]:
    """The kernels of a GPU of that capability, in the order to try them.

    On Hopper cuDNN's are 1.7 to 2.3 times as fast as torch's flash kernels for training shapes, on Ampere and
    Blackwell slower (transformers #48163); FlashAttention 3 is written for Hopper. GPUs before Ampere have
    neither torch's flash kernels nor cuDNN's.
    """
    if capability[0] < 8:
        return "efficient", "math"
    hopper = capability[0] == 9
    fastest = ("cudnn", "flash") if hopper and cudnn_version >= MIN_CUDNN else ("flash", "cudnn")
    return *(("fa3",) if hopper and has_flash_3 else ()), *fastest, "efficient", "math"


def present_kernels(device: torch.device) -> tuple[str, ...]:
    """The kernels that this machine has, in the order to try them."""
    if device.type != "cuda":
        return ("flash", "math") if cpu_flash_shares_heads() else ("math",)
    has_flash_3 = find_spec("flash_attn_interface") is not None
    version = torch.backends.cudnn.version() or 0
    return kernel_order(torch.cuda.get_device_capability(device), has_flash_3, version)


def cpu_flash_shares_heads() -> bool:
    """Whether torch's flash kernel of a CPU takes fewer key/value heads than queries; 2.8's does not."""
    q_BHLE, k_BKTE = torch.zeros(1, 2, 1, 8), torch.zeros(1, 1, 1, 8)
    try:
        with sdpa_kernels(("flash",)), warnings.catch_warnings(action="ignore"):
            causal_attention(q_BHLE, k_BKTE, k_BKTE)
    except RuntimeError:
        return False
    return True


def require_kernel(asked: str, present: Sequence[str]) -> tuple[str]:
    """The kernel that was asked for; KernelError, with those that are there, if it is none of them."""
    if asked not in present:
        raise KernelError(
            f"attention kernels {asked!r} were asked for; this machine has {', '.join(present)}"
        )
    return (asked,)


def attention_kernel(names: tuple[str, ...]) -> AttentionKernel:
    """The function that computes attention by the first of these kernels that can, within `sdpa_kernels`."""
    if "fa3" in names:
        return FlashAttention3()
    repeats = "efficient" in names and not {"cudnn", "flash"} & set(names)
    return repeating_attention if repeats else causal_attention


def sdpa_kernels(names: tuple[str, ...]) -> AbstractContextManager[object]:
    """Within the block torch's attention takes the first of these kernels that can do it."""
    fused = [FUSED_KERNELS[name] for name in names if name in FUSED_KERNELS]
    return sdpa_kernel(fused or list(FUSED_KERNELS.values()), set_priority=True)


@contextmanager
def attention_kernels(model: nn.Module, names: tuple[str, ...]) -> Iterator[None]:
    """Within the block the model's attention takes the first of these kernels that can do it.

    Compiled code keeps them. FlashAttention 3 only does training's shapes: for others the next one is taken,
    or torch's own choice.
    """
    kernel = attention_kernel(names)
    attentions: list[Any] = [module for module in model.modules() if "kernel" in vars(module)]
    before = [(module, module.kernel) for module in attentions]
    for module in attentions:
        module.kernel = kernel
    try:
        with sdpa_kernels(names):
            yield
    finally:
        for module, earlier in before:
            module.kernel = earlier
