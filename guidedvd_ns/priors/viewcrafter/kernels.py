"""Triton kernels for what PyTorch is slow at on channels-last videos: group normalisation with SiLU.

PyTorch's own CUDA group norm copies to channels-first, runs one block of threads for each group (64 in all where the
statistics run over the frames of two videos) and leaves SiLU to another pass. These read the video twice and write it
once; sums are taken in float32. `fused.py` wraps them for autograd and has their twins in plain PyTorch.

A video is `[S, R, C]` here: S sets of statistics, each over R rows (pixels) of C channels in groups.
"""

# pyright: reportArgumentType=false
# Triton's compile-time arguments take plain numbers.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ROWS, BLOCK_CHANNELS = 32, 64
TARGET_PROGRAMS = 2048
"""Enough programs to fill a large GPU several times over, few enough that each sums many rows."""


@triton.jit
def _silu_input_gradient(z):
    """SiLU's derivative."""
    gate = tl.sigmoid(z)
    return gate * (1 + z * (1 - gate))


@triton.jit
def _channel_sums(
    x_ptr,
    offset_ptr,  # [C] added to x; only where there is an offset
    grad_ptr,  # gradient of the output; only in the backward pass
    scale_ptr,  # [S, C]; only in the backward pass
    shift_ptr,  # [S, C]; only in the backward pass
    sums_ptr,  # [S, chunks, 2, C] float32, written
    rows,
    channels,
    rows_per_chunk,
    SILU: tl.constexpr,
    BACKWARD: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over a chunk of rows, for each channel: of x and x^2, or of the gradient before SiLU and of that times x."""
    s = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    first = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    second = tl.zeros([BLOCK_R, BLOCK_C], dtype=tl.float32)
    if BACKWARD:
        scale = tl.load(scale_ptr + s * channels + c, mask=inside, other=0.0)[None, :]
        shift = tl.load(shift_ptr + s * channels + c, mask=inside, other=0.0)[None, :]
    if OFFSET:
        x_offset = tl.load(offset_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    start = chunk * rows_per_chunk
    end = tl.minimum(start + rows_per_chunk, rows)
    for row in range(start, end, BLOCK_R):
        r = row + tl.arange(0, BLOCK_R)
        mask = (r < end)[:, None] & inside[None, :]
        offset = (s * rows + r.to(tl.int64)[:, None]) * channels + c[None, :]
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        if OFFSET:
            x = tl.where(mask, x + x_offset, 0.0)
        if BACKWARD:
            grad = tl.load(grad_ptr + offset, mask=mask, other=0.0).to(tl.float32)
            if SILU:
                grad = grad * _silu_input_gradient(x * scale + shift)
            first += grad
            second += grad * x
        else:
            first += x
            second += x * x
    out = sums_ptr + (s * tl.num_programs(1) + chunk) * 2 * channels + c
    tl.store(out, tl.sum(first, axis=0), mask=inside)
    tl.store(out + channels, tl.sum(second, axis=0), mask=inside)


@triton.jit
def _group_statistics(
    sums_ptr,  # [S, chunks, 2, C]
    weight_ptr,  # [C]
    bias_ptr,  # [C]
    scale_ptr,  # [S, C] written: the norm is scale * x + shift
    shift_ptr,  # [S, C] written
    mean_ptr,  # [S, G] written
    rstd_ptr,  # [S, G] written
    count,  # values of a group, as a float
    channels,
    chunks,
    eps,
    GROUP: tl.constexpr,  # channels of a group
    BLOCK_K: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """Mean and inverse standard deviation of one group, and what they make of its channels."""
    s = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    lane = tl.arange(0, BLOCK_G)
    c = group * GROUP + lane
    inside = lane < GROUP
    first = tl.zeros([BLOCK_K, BLOCK_G], dtype=tl.float32)
    second = tl.zeros([BLOCK_K, BLOCK_G], dtype=tl.float32)
    for start in range(0, chunks, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = (k < chunks)[:, None] & inside[None, :]
        offset = (s * chunks + k[:, None]) * 2 * channels + c[None, :]
        first += tl.load(sums_ptr + offset, mask=mask, other=0.0)
        second += tl.load(sums_ptr + offset + channels, mask=mask, other=0.0)
    mean = tl.sum(tl.sum(first, axis=1), axis=0) / count
    variance = tl.sum(tl.sum(second, axis=1), axis=0) / count - mean * mean
    rstd = 1 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    weight = tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(scale_ptr + s * channels + c, rstd * weight, mask=inside)
    tl.store(shift_ptr + s * channels + c, bias - mean * rstd * weight, mask=inside)
    tl.store(mean_ptr + s * tl.num_programs(1) + group, mean)
    tl.store(rstd_ptr + s * tl.num_programs(1) + group, rstd)


@triton.jit
def _group_gradients(
    sums_ptr,  # [S, chunks, 2, C]
    scale_ptr,  # [S, C]
    mean_ptr,  # [S, G]
    rstd_ptr,  # [S, G]
    slope_ptr,  # [S, C] written: the input's gradient is scale * (gradient before SiLU) + slope * x + constant
    constant_ptr,  # [S, C] written
    weight_grad_ptr,  # [S, C] written: this set's share of the gradient of the norm's weight
    bias_grad_ptr,  # [S, C] written
    count,  # values of a group, as a float
    channels,
    chunks,
    GROUP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """What the two group means of the backward pass make of each channel."""
    s = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    lane = tl.arange(0, BLOCK_G)
    c = group * GROUP + lane
    inside = lane < GROUP
    first = tl.zeros([BLOCK_K, BLOCK_G], dtype=tl.float32)
    second = tl.zeros([BLOCK_K, BLOCK_G], dtype=tl.float32)
    for start in range(0, chunks, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = (k < chunks)[:, None] & inside[None, :]
        offset = (s * chunks + k[:, None]) * 2 * channels + c[None, :]
        first += tl.load(sums_ptr + offset, mask=mask, other=0.0)
        second += tl.load(sums_ptr + offset + channels, mask=mask, other=0.0)
    mean = tl.load(mean_ptr + s * tl.num_programs(1) + group)
    rstd = tl.load(rstd_ptr + s * tl.num_programs(1) + group)
    scale = tl.load(scale_ptr + s * channels + c, mask=inside, other=0.0)
    bias_grad = tl.sum(first, axis=0)
    weight_grad = rstd * (tl.sum(second, axis=0) - mean * bias_grad)
    # scale is rstd * weight, so these are the means of the normalised input's gradient, times rstd.
    mean_grad = tl.sum(scale * bias_grad, axis=0) / count
    mean_product = tl.sum(scale * weight_grad, axis=0) / count
    slope = -rstd * mean_product
    ones = tl.full([BLOCK_G], 1.0, dtype=tl.float32)
    tl.store(slope_ptr + s * channels + c, slope * ones, mask=inside)
    tl.store(constant_ptr + s * channels + c, (-slope * mean - mean_grad) * ones, mask=inside)
    tl.store(weight_grad_ptr + s * channels + c, weight_grad, mask=inside)
    tl.store(bias_grad_ptr + s * channels + c, bias_grad, mask=inside)


@triton.jit
def _apply(
    x_ptr,
    offset_ptr,  # [C] added to x; only where there is an offset
    grad_ptr,  # only in the backward pass
    out_ptr,  # written: the output, or the gradient of the input
    scale_ptr,  # [S, C]
    shift_ptr,  # [S, C]
    slope_ptr,  # [S, C]; only in the backward pass
    constant_ptr,  # [S, C]; only in the backward pass
    rows,
    channels,
    SILU: tl.constexpr,
    BACKWARD: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The normalised and activated video, or the gradient of its input."""
    s = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    mask = (r < rows)[:, None] & inside[None, :]
    offset = (s * rows + r.to(tl.int64)[:, None]) * channels + c[None, :]
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(tl.float32)
    if OFFSET:
        x += tl.load(offset_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    scale = tl.load(scale_ptr + s * channels + c, mask=inside, other=0.0)[None, :]
    shift = tl.load(shift_ptr + s * channels + c, mask=inside, other=0.0)[None, :]
    z = x * scale + shift
    if BACKWARD:
        out = tl.load(grad_ptr + offset, mask=mask, other=0.0).to(tl.float32)
        if SILU:
            out = out * _silu_input_gradient(z)
        slope = tl.load(slope_ptr + s * channels + c, mask=inside, other=0.0)[None, :]
        constant = tl.load(constant_ptr + s * channels + c, mask=inside, other=0.0)[None, :]
        out = scale * out + slope * x + constant
    else:
        out = z
        if SILU:
            out = z * tl.sigmoid(z)
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=mask)


def group_norm_forward(
    x: Tensor,  # [S, R, C] contiguous
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    groups: int,
    eps: float,
    silu: bool,
    offset: Tensor | None = None,  # [C] added to x first
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, like x, and what the backward pass wants: scale and shift [S, C], mean and rstd [S, groups]."""
    sets, rows, channels = x.shape
    scale, shift = x.new_empty(2, sets, channels, dtype=torch.float32)
    mean, rstd = x.new_empty(2, sets, groups, dtype=torch.float32)
    sums, grid, rows_per_chunk = _plan_sums(x)
    unused, count = scale, float(rows * (channels // groups))
    _channel_sums[grid](
        x,
        unused if offset is None else offset,
        x,
        unused,
        unused,
        sums,
        rows,
        channels,
        rows_per_chunk,
        SILU=silu,
        BACKWARD=False,
        OFFSET=offset is not None,
        BLOCK_R=BLOCK_ROWS,
        BLOCK_C=BLOCK_CHANNELS,
    )
    _group_statistics[(sets, groups)](
        sums, weight, bias, scale, shift, mean, rstd, count, channels, sums.shape[1], eps, **_group_blocks(x, groups)
    )
    out = torch.empty_like(x)
    _apply[tiles(x)](
        x,
        unused if offset is None else offset,
        x,
        out,
        scale,
        shift,
        unused,
        unused,
        rows,
        channels,
        SILU=silu,
        BACKWARD=False,
        OFFSET=offset is not None,
        BLOCK_R=BLOCK_ROWS,
        BLOCK_C=BLOCK_CHANNELS,
    )
    return out, (scale, shift, mean, rstd)


def group_norm_backward(
    grad: Tensor,  # [S, R, C] contiguous
    x: Tensor,  # [S, R, C] contiguous
    statistics: tuple[Tensor, ...],  # of the forward pass
    silu: bool,
    offset: Tensor | None = None,  # [C], of the forward pass
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input [S, R, C], of the weight [S, C] and of the bias [S, C]: those two still to be summed."""
    scale, shift, mean, rstd = statistics
    sets, rows, channels = x.shape
    slope, constant, weight_grad, bias_grad = x.new_empty(4, sets, channels, dtype=torch.float32)
    sums, grid, rows_per_chunk = _plan_sums(x)
    _channel_sums[grid](
        x,
        scale if offset is None else offset,
        grad,
        scale,
        shift,
        sums,
        rows,
        channels,
        rows_per_chunk,
        SILU=silu,
        BACKWARD=True,
        OFFSET=offset is not None,
        BLOCK_R=BLOCK_ROWS,
        BLOCK_C=BLOCK_CHANNELS,
    )
    groups = mean.shape[1]
    _group_gradients[(sets, groups)](
        sums,
        scale,
        mean,
        rstd,
        slope,
        constant,
        weight_grad,
        bias_grad,
        float(rows * (channels // groups)),
        channels,
        sums.shape[1],
        **_group_blocks(x, groups),
    )
    out = torch.empty_like(x)
    _apply[tiles(x)](
        x,
        scale if offset is None else offset,
        grad,
        out,
        scale,
        shift,
        slope,
        constant,
        rows,
        channels,
        SILU=silu,
        BACKWARD=True,
        OFFSET=offset is not None,
        BLOCK_R=BLOCK_ROWS,
        BLOCK_C=BLOCK_CHANNELS,
    )
    return out, weight_grad, bias_grad


def _plan_sums(x: Tensor) -> tuple[Tensor, tuple[int, int, int], int]:
    """Room for the partial sums [S, chunks, 2, C], the grid that fills it, and the rows of a chunk."""
    sets, rows, channels = x.shape
    columns = triton.cdiv(channels, BLOCK_CHANNELS)
    wanted = max(TARGET_PROGRAMS // (sets * columns), 1)
    rows_per_chunk = triton.cdiv(triton.cdiv(rows, wanted), BLOCK_ROWS) * BLOCK_ROWS
    chunks = triton.cdiv(rows, rows_per_chunk)
    sums = x.new_empty(sets, chunks, 2, channels, dtype=torch.float32)
    return sums, (sets, chunks, columns), rows_per_chunk


def _group_blocks(x: Tensor, groups: int) -> dict[str, int]:
    group = x.shape[2] // groups
    return {"GROUP": group, "BLOCK_K": 32, "BLOCK_G": triton.next_power_of_2(group)}


def tiles(
    x: Tensor,  # [S, R, C]
) -> tuple[int, int, int]:
    """A grid of programs of `BLOCK_ROWS` rows and `BLOCK_CHANNELS` channels each."""
    return x.shape[0], triton.cdiv(x.shape[1], BLOCK_ROWS), triton.cdiv(x.shape[2], BLOCK_CHANNELS)
