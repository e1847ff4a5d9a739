"""Triton kernels that work value by value on channels-last videos: a sum with a bias, and GEGLU."""

# pyright: reportArgumentType=false
# Triton's compile-time arguments take plain numbers.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from guidedvd_ns.priors.viewcrafter.kernels import BLOCK_CHANNELS, BLOCK_ROWS, tiles


@triton.jit
def _add(
    x_ptr,  # [rows, channels]
    y_ptr,  # [rows, channels]
    bias_ptr,  # [channels]
    out_ptr,  # [rows, channels] written
    rows,
    channels,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """x + y + bias."""
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    offset = r.to(tl.int64)[:, None] * channels + c[None, :]
    out = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    out += tl.load(y_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    out += tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=mask)


def add(
    x: Tensor,  # [..., C] contiguous
    y: Tensor,  # [..., C] contiguous
    bias: Tensor,  # [C]
) -> Tensor:  # [..., C]
    """x + y + bias."""
    out = torch.empty_like(x)
    rows = x.view(1, -1, x.shape[-1])
    _add[tiles(rows)](x, y, bias, out, rows.shape[1], rows.shape[2], BLOCK_R=BLOCK_ROWS, BLOCK_C=BLOCK_CHANNELS)
    return out


@triton.jit
def _geglu(
    hidden_ptr,  # [rows, 2 * width]: values, then gates
    grad_ptr,  # [rows, width]; only in the backward pass
    out_ptr,  # written: [rows, width] the output, or [rows, 2 * width] the gradient of the input
    count,  # rows * width
    width,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Values times the exact GELU of the gates, or the gradients of both."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < count
    value_at = index + (index // width) * width
    value = tl.load(hidden_ptr + value_at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(hidden_ptr + value_at + width, mask=mask, other=0.0).to(tl.float32)
    normal = 0.5 * (1 + tl.erf(gate * 0.7071067811865476))
    if BACKWARD:
        grad = tl.load(grad_ptr + index, mask=mask, other=0.0).to(tl.float32)
        slope = normal + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
        tl.store(out_ptr + value_at, (grad * gate * normal).to(out_ptr.dtype.element_ty), mask=mask)
        tl.store(out_ptr + value_at + width, (grad * value * slope).to(out_ptr.dtype.element_ty), mask=mask)
    else:
        tl.store(out_ptr + index, (value * gate * normal).to(out_ptr.dtype.element_ty), mask=mask)


def geglu_forward(
    hidden: Tensor,  # [..., 2 * width] contiguous
) -> Tensor:  # [..., width]
    """Values, the first half of the channels, times the exact GELU of the gates, the second half."""
    out = hidden.new_empty(*hidden.shape[:-1], hidden.shape[-1] // 2)
    _geglu[(triton.cdiv(out.numel(), 1024),)](
        hidden, hidden, out, out.numel(), out.shape[-1], BACKWARD=False, BLOCK=1024
    )
    return out


def geglu_backward(
    grad: Tensor,  # [..., width] contiguous
    hidden: Tensor,  # [..., 2 * width] contiguous
) -> Tensor:  # [..., 2 * width]
    """The gradient of `geglu_forward`."""
    out = torch.empty_like(hidden)
    _geglu[(triton.cdiv(grad.numel(), 1024),)](
        hidden, grad, out, grad.numel(), grad.shape[-1], BACKWARD=True, BLOCK=1024
    )
    return out
