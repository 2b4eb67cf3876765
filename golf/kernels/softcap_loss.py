"""Cross-entropy behind a softcap, c tanh(logit / c), by torch's operations and in one kernel each way.

Experimental and off by default: no gain measured yet, for no GPU was at hand. What it saves: the reference
makes capped fp32 logits, (N, V), from those of the head, and their log-probabilities; here the head's logits
are read once forward and once backward, and all between is in registers. Inductor fuses much of the same.

Shapes: N tokens, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_LOGITS = 4096
"""Logits of a token that a program has in registers at a time."""
LOGITS_PER_THREAD = 16


def softcap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), of any shape; a cap of 0 leaves x as it is."""
    return cap * torch.tanh(x / cap) if cap else x


def capped_nats(logits_NV: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """Nats of each target, fp32, shape (N,), by torch's own operations: the reference."""
    return F.cross_entropy(softcap(logits_NV.float(), cap), targets_N, reduction="none")


class FusedCappedNats(torch.autograd.Function):
    """`capped_nats` in one kernel each way, which keeps a number per token beside the logits."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, cap: float) -> Tensor:
        """Shape (N,), fp32."""
        nats_N, log_sums_N = torch.ops.golf.capped_nats(logits_NV, targets_N, cap)
        ctx.save_for_backward(logits_NV, targets_N, log_sums_N)
        ctx.cap = cap
        return nats_N

    @staticmethod
    def backward(ctx: Any, dnats_N: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the logits, in their dtype."""
        return torch.ops.golf.capped_nats_backward(dnats_N, *ctx.saved_tensors, ctx.cap), None, None


def fused_capped_nats(logits_NV: Tensor, targets_N: Tensor, cap: float) -> Tensor:
    """`capped_nats` of finite logits, fp32 or bf16, and targets in 0..V-1, of which nothing is checked.

    Only after `define_capped_nats`.
    """
    return FusedCappedNats.apply(logits_NV, targets_N, cap)


@cache
def define_capped_nats() -> None:
    """Makes golf::capped_nats and its backward known to torch; ImportError without Triton.

    Opaque to torch.compile: it is told shapes alone and leaves the launch as it is.
    """
    forward_kernel, backward_kernel = _nats_kernel(), _logits_gradient_kernel()

    @torch.library.custom_op("golf::capped_nats", mutates_args=())
    def forward(logits_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
        nats_N = torch.empty(logits_NV.size(0), dtype=torch.float32, device=logits_NV.device)
        log_sums_N = torch.empty_like(nats_N)
        _launch_by_token(forward_kernel, logits_NV, targets_N, cap, nats_N, log_sums_N)
        return nats_N, log_sums_N

    @forward.register_fake
    def _(logits_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
        nats_N = logits_NV.new_empty(logits_NV.size(0), dtype=torch.float32)
        return nats_N, torch.empty_like(nats_N)

    @torch.library.custom_op("golf::capped_nats_backward", mutates_args=())
    def backward(
        dnats_N: Tensor, logits_NV: Tensor, targets_N: Tensor, log_sums_N: Tensor, cap: float
    ) -> Tensor:
        dlogits_NV = logits_NV.new_empty(logits_NV.shape)
        dnats_N = dnats_N.contiguous()
        _launch_by_token(backward_kernel, logits_NV, targets_N, cap, dnats_N, log_sums_N, dlogits_NV)
        return dlogits_NV

    @backward.register_fake
    def _(dnats_N: Tensor, logits_NV: Tensor, targets_N: Tensor, log_sums_N: Tensor, cap: float) -> Tensor:
        return logits_NV.new_empty(logits_NV.shape)


def _launch_by_token(
    kernel: Any, logits_NV: Tensor, targets_N: Tensor, cap: float, *per_token: Tensor
) -> None:
    num_tokens, vocab_size = logits_NV.shape
    block = min(MOST_LOGITS, 1 << (vocab_size - 1).bit_length())
    with torch.cuda.device_of(logits_NV):
        kernel[(num_tokens,)](
            logits_NV.contiguous(),
            targets_N.contiguous(),
            *per_token,
            vocab_size,
            cap,
            CAPPED=cap != 0.0,
            BLOCK=block,
            num_warps=max(1, block // (32 * LOGITS_PER_THREAD)),
        )


@cache
def _nats_kernel() -> Callable[..., Any]:
    """A token's log-sum-exp in one pass over its logits, and the nats of its target.

    Built at its first use, so that this module can be imported without Triton, whose interpreter looks for
    the language among the global names.
    """
    global tl
    import triton
    import triton.language as tl

    @triton.jit
    def nats_kernel(
        logits, targets, nats, log_sums, vocab_size, cap, CAPPED: tl.constexpr, BLOCK: tl.constexpr
    ):
        token = tl.program_id(0).to(tl.int64)
        own = logits + token * vocab_size
        columns = tl.arange(0, BLOCK)
        # The target's logit is a sound start of the running maximum, and its own share of the sum is 0.
        target_logit = tl.load(own + tl.load(targets + token)).to(tl.float32)
        if CAPPED:
            # tanh by one exponential; it is 1 or -1 where that overflows or vanishes.
            target_logit = cap * (1.0 - 2.0 / (tl.exp(2.0 * target_logit / cap) + 1.0))
        highest = target_logit
        total = 0.0 * target_logit
        for start in range(0, vocab_size, BLOCK):
            inside = columns < vocab_size - start
            block = tl.load(own + start + columns, mask=inside, other=0.0).to(tl.float32)
            if CAPPED:
                block = cap * (1.0 - 2.0 / (tl.exp(2.0 * block / cap) + 1.0))
            block = tl.where(inside, block, -float("inf"))
            higher = tl.maximum(highest, tl.max(block, axis=0))
            total = total * tl.exp(highest - higher) + tl.sum(tl.exp(block - higher), axis=0)
            highest = higher
        tl.store(log_sums + token, highest + tl.log(total))
        # Not log_sum - target_logit, which large logits would round.
        tl.store(nats + token, highest - target_logit + tl.log(total))

    return nats_kernel


@cache
def _logits_gradient_kernel() -> Callable[..., Any]:
    """A token's (probability - [is the target]) (1 - tanh^2), times the gradient of its nats."""
    global tl
    import triton
    import triton.language as tl

    @triton.jit
    def logits_gradient_kernel(
        logits,
        targets,
        dnats,
        log_sums,
        dlogits,
        vocab_size,
        cap,
        CAPPED: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        token = tl.program_id(0).to(tl.int64)
        own = token * vocab_size
        columns = tl.arange(0, BLOCK)
        target = tl.load(targets + token)
        dnat = tl.load(dnats + token)
        log_sum = tl.load(log_sums + token)
        for start in range(0, vocab_size, BLOCK):
            inside = columns < vocab_size - start
            block = tl.load(logits + own + start + columns, mask=inside, other=0.0).to(tl.float32)
            scale = dnat
            if CAPPED:
                tanh = 1.0 - 2.0 / (tl.exp(2.0 * block / cap) + 1.0)
                block = cap * tanh
                scale = dnat * (1.0 - tanh * tanh)
            gradient = (tl.exp(block - log_sum) - (start + columns == target)) * scale
            tl.store(dlogits + own + start + columns, gradient.to(dlogits.dtype.element_ty), mask=inside)

    return logits_gradient_kernel
