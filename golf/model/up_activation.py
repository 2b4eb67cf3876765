"""The feed-forward's activation max(u, s u)^2, and the whole sublayer with it inside the matrix products.

Experimental and off by default: no gain is measured yet. What it saves is traffic: the
reference writes and reads u and dL/dh, (N, F) each, between matrix products and elementwise work; here both
stay in registers. Inductor fuses the elementwise work too, but not into the products. Compiled for sm_80 and
sm_90 the tiles spill nothing where sizes are whole tiles.

Shapes: N tokens, D width, F hidden; K is the dimension that a product adds up over, C that of its columns.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.system.device import triton_is_interpreted

PRODUCT_TILES = {torch.bfloat16: (128, 128, 64, 8), torch.float32: (64, 64, 32, 4)}
"""Rows, columns and depth of a tile, and warps; with three stages within the 99 KiB of consumer cards."""


def squared_leaky(u: Tensor, slope: float) -> Tensor:
    """max(u, slope u)^2 by torch's own operations: the reference."""
    return F.leaky_relu(u, slope).square()


class FusedFeedForward(torch.autograd.Function):
    """down(max(u, slope u)^2) with u = up(x); two of its six matrix products do the elementwise work as well.

    Kept for the backward pass: h = max(u, slope u)^2, which `down` reads anyway, and with a slope a byte for
    the sign of u. dh/du = 2 sqrt(h) above 0 and -2 slope sqrt(h) below, and the root of a rounded h is
    nearer to the truth than a rounded u.
    """

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, up_FD: Tensor, down_DF: Tensor, slope: float) -> Tensor:
        """Shape (N, D), in the dtype that all three have."""
        h_NF, above_NF = torch.ops.golf.up_activation(x_ND, up_FD, slope)
        ctx.save_for_backward(x_ND, up_FD, down_DF, h_NF, above_NF)
        ctx.slope = slope
        return h_NF @ down_DF.T

    @staticmethod
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of x, up and down."""
        x_ND, up_FD, down_DF, h_NF, above_NF = ctx.saved_tensors
        du_NF = torch.ops.golf.up_activation_backward(dy_ND, down_DF, h_NF, above_NF, ctx.slope)
        return du_NF @ up_FD, du_NF.T @ x_ND, dy_ND.T @ h_NF, None


def fused_feedforward(x: Tensor, up_FD: Tensor, down_DF: Tensor, slope: float) -> Tensor:
    """Maps (..., D) to (..., D); x and both matrices are alike in dtype, fp32 or bf16.

    Only after `define_up_activation`.
    """
    return FusedFeedForward.apply(x.flatten(0, -2), up_FD, down_DF, slope).view_as(x)


@cache
def define_up_activation() -> None:
    """Makes golf::up_activation and its backward known to torch; ImportError without Triton.

    Opaque to torch.compile: it is told shapes alone and leaves the launch as it is.
    """
    kernel = _product_kernel()

    @torch.library.custom_op("golf::up_activation", mutates_args=())
    def up_activation(x_ND: Tensor, up_FD: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        h_NF = x_ND.new_empty(x_ND.size(0), up_FD.size(0))
        above_NF = torch.empty(h_NF.shape if slope else (0,), dtype=torch.int8, device=x_ND.device)
        _launch_product(kernel, x_ND, up_FD, h_NF, h_NF, above_NF, slope, backward=False)
        return h_NF, above_NF

    @up_activation.register_fake
    def _(x_ND: Tensor, up_FD: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        h_NF = x_ND.new_empty(x_ND.size(0), up_FD.size(0))
        return h_NF, x_ND.new_empty(h_NF.shape if slope else (0,), dtype=torch.int8)

    @torch.library.custom_op("golf::up_activation_backward", mutates_args=())
    def up_activation_backward(
        dy_ND: Tensor, down_DF: Tensor, h_NF: Tensor, above_NF: Tensor, slope: float
    ) -> Tensor:
        du_NF = torch.empty_like(h_NF)
        _launch_product(kernel, dy_ND, down_DF, du_NF, h_NF, above_NF, slope, backward=True)
        return du_NF

    @up_activation_backward.register_fake
    def _(dy_ND: Tensor, down_DF: Tensor, h_NF: Tensor, above_NF: Tensor, slope: float) -> Tensor:
        return torch.empty_like(h_NF)


def _launch_product(
    kernel: Any,
    left_NK: Tensor,
    weight: Tensor,
    out_NC: Tensor,
    h_NC: Tensor,
    above_NC: Tensor,
    slope: float,
    backward: bool,
) -> None:
    num_rows, depth = left_NK.shape
    num_columns = out_NC.size(1)
    tile_rows, tile_columns, tile_depth, num_warps = PRODUCT_TILES[left_NK.dtype]
    grid = (-(-num_rows // tile_rows) * -(-num_columns // tile_columns),)
    with torch.cuda.device_of(left_NK):
        kernel[grid](
            left_NK.contiguous(),
            weight.contiguous(),
            out_NC,
            h_NC,
            above_NC,
            num_rows,
            num_columns,
            depth,
            slope,
            BACKWARD=backward,
            SLOPED=slope != 0.0,
            WHOLE=depth % tile_depth == 0,
            # The interpreter would multiply the bit patterns of bf16 (triton-lang/triton #11585).
            WIDEN=triton_is_interpreted(),
            ROWS=tile_rows,
            COLUMNS=tile_columns,
            DEPTH=tile_depth,
            num_warps=num_warps,
            num_stages=3,
        )


@cache
def _product_kernel() -> Callable[..., Any]:
    """A product and, in the same pass, forward max(u, s u)^2 of it, backward it times dh/du.

    Built at its first use, so that this module can be imported without Triton, whose interpreter looks for
    the language among the global names.
    """
    global tl
    import triton
    import triton.language as tl

    @triton.jit
    def product_kernel(
        left,
        weight,
        out,
        h,
        above,
        num_rows,
        num_columns,
        depth,
        slope,
        BACKWARD: tl.constexpr,
        SLOPED: tl.constexpr,
        WHOLE: tl.constexpr,
        WIDEN: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
        DEPTH: tl.constexpr,
    ):
        # Programs that run together are eight tiles tall: they share rows and columns in the cache.
        in_band = 8 * tl.cdiv(num_columns, COLUMNS)
        band = tl.program_id(0) // in_band
        place = tl.program_id(0) % in_band
        tall = tl.minimum(tl.cdiv(num_rows, ROWS) - 8 * band, 8)
        rows = (8 * band + place % tall) * ROWS + tl.arange(0, ROWS)
        columns = place // tall * COLUMNS + tl.arange(0, COLUMNS)
        inner = tl.arange(0, DEPTH)
        # Beyond the edge a tile reads rows from the start again; what comes of them is never stored.
        left_at = left + (rows % num_rows).to(tl.int64)[:, None] * depth + inner[None, :]
        # The weight as it lies: up, (columns, depth), or backward down, (depth, columns).
        down_step, across_step = (num_columns, 1) if BACKWARD else (1, depth)
        right_at = weight + inner[:, None] * down_step + (columns % num_columns)[None, :] * across_step
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, depth, DEPTH):
            if WHOLE:
                left_tile, right_tile = tl.load(left_at), tl.load(right_at)
            else:
                left_tile = tl.load(left_at, mask=inner[None, :] < depth - start, other=0.0)
                right_tile = tl.load(right_at, mask=inner[:, None] < depth - start, other=0.0)
            if WIDEN:
                left_tile, right_tile = left_tile.to(tl.float32), right_tile.to(tl.float32)
            total = tl.dot(left_tile, right_tile, total, input_precision="ieee")
            left_at += DEPTH
            right_at += DEPTH * down_step
        places = rows.to(tl.int64)[:, None] * num_columns + columns[None, :]
        inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        if BACKWARD:
            twice_root = 2.0 * tl.sqrt(tl.load(h + places, mask=inside, other=0.0).to(tl.float32))
            if SLOPED:
                is_above = tl.load(above + places, mask=inside, other=0) != 0
                twice_root = tl.where(is_above, twice_root, -tl.abs(slope) * twice_root)
            result = total * twice_root
        else:
            leaky = tl.where(total > 0, total, slope * total)
            result = leaky * leaky
            if SLOPED:
                tl.store(above + places, (total > 0).to(tl.int8), mask=inside)
        tl.store(out + places, result.to(out.dtype.element_ty), mask=inside)

    return product_kernel
