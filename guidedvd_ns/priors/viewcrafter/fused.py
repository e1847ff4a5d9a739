"""Layers of frozen networks that keep little for the backward pass, and their fast forms on a GPU.

Guidance differentiates the networks with respect to their input only, at every step, so what autograd keeps decides how
much memory a step takes. Here a normalisation with its SiLU keeps its input, a convolution nothing, a GEGLU its input:
a third of what the same layers of PyTorch keep. Weights that are trained get their gradients as ever.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input


def uses_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels take this tensor: on CUDA, where Triton is installed, outside of `torch.compile`."""
    # The compiler fuses the plain form itself.
    return x.is_cuda and not torch.compiler.is_compiling() and find_spec("triton") is not None


def group_norm(
    norm: nn.GroupNorm,
    hidden: Tensor,  # [N, C, h, w]
    *,
    silu: bool,
    frames_per_set: int = 1,
) -> Tensor:  # [N, C, h, w], by the kernels in channels-last memory
    """Normalise, with statistics over so many consecutive frames together, and apply SiLU where asked for."""
    count, channels, height, width = hidden.shape
    if uses_kernels(hidden):
        rows = hidden.permute(0, 2, 3, 1).reshape(count // frames_per_set, -1, channels).contiguous()
        normed = _GroupNormKernel.apply(rows, norm.weight, norm.bias, norm.num_groups, norm.eps, silu)
        return normed.view(count, height, width, channels).permute(0, 3, 1, 2)
    # Channels first: PyTorch's channels-last form loses a digit on the CPU.
    video = hidden.contiguous().view(-1, frames_per_set, channels, height * width).transpose(1, 2)
    normed = F.group_norm(video, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return (F.silu(normed) if silu else normed).transpose(1, 2).reshape(hidden.shape)


class _GroupNormKernel(torch.autograd.Function):
    """Channels-last group norm and SiLU by the kernels; see `group_norm`."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        from guidedvd_ns.priors.viewcrafter import kernels

        out, statistics = kernels.group_norm_forward(rows, weight, bias, groups, eps, silu)
        ctx.save_for_backward(rows, *statistics)
        ctx.silu, ctx.dtype = silu, weight.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from guidedvd_ns.priors.viewcrafter import kernels

        rows, *statistics = ctx.saved_tensors
        gradients = kernels.group_norm_backward(grad.contiguous(), rows, tuple(statistics), ctx.silu)
        weight_grad, bias_grad = (
            gradient.sum(0).to(ctx.dtype) if wanted else None
            for gradient, wanted in zip(gradients[1:], ctx.needs_input_grad[1:3], strict=True)
        )
        return gradients[0], weight_grad, bias_grad, None, None, None


def conv2d(
    hidden: Tensor,  # [N, C, h, w]
    weight: Tensor,  # [D, C, kh, kw]
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
) -> Tensor:  # [N, D, h', w']
    """A convolution that keeps its input only if the weight is trained."""
    if weight.requires_grad or not (torch.is_grad_enabled() and hidden.requires_grad) or torch.compiler.is_compiling():
        return F.conv2d(hidden, weight, bias, stride, padding)
    return _FrozenConv2d.apply(hidden, weight, bias, stride, padding)


class _FrozenConv2d(torch.autograd.Function):
    """PyTorch's convolution keeps its input even for a weight without gradient."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, stride, padding) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = hidden.shape, stride, padding
        return F.conv2d(hidden, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (weight,) = ctx.saved_tensors
        gradient = conv2d_input(ctx.shape, weight, grad, ctx.stride, ctx.padding)
        return gradient, None, None, None, None


def geglu(
    hidden: Tensor,  # [..., 2 * width]: values, then gates
) -> Tensor:  # [..., width]
    """Values times the exact GELU of the gates."""
    if uses_kernels(hidden):
        return _GegluKernel.apply(hidden.contiguous())
    values, gates = hidden.chunk(2, dim=-1)
    return values * F.gelu(gates)


class _GegluKernel(torch.autograd.Function):
    """GEGLU by the kernels; see `geglu`."""

    @staticmethod
    def forward(ctx, hidden: Tensor) -> Tensor:
        from guidedvd_ns.priors.viewcrafter import kernels

        ctx.save_for_backward(hidden)
        return kernels.geglu_forward(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from guidedvd_ns.priors.viewcrafter import kernels

        return kernels.geglu_backward(grad.contiguous(), *ctx.saved_tensors)


def residual_block(
    block: ResnetBlock2D,
    hidden: Tensor,  # [N, C, h, w]
    activated_embedding: Tensor | None = None,  # [N, E] after SiLU
) -> Tensor:  # [N, D, h, w]
    """diffusers' residual block with these layers: SiLU activations, no resampling, no output scale."""
    update = layer(block.conv1, group_norm(block.norm1, hidden, silu=True))
    if activated_embedding is not None and block.time_emb_proj is not None:
        update = update + block.time_emb_proj(activated_embedding)[:, :, None, None]
    update = layer(block.conv2, group_norm(block.norm2, update, silu=True))
    if block.conv_shortcut is not None:
        hidden = layer(block.conv_shortcut, hidden)
    return hidden + update


def upsample(
    block: Upsample2D,
    hidden: Tensor,  # [N, C, h, w]
) -> Tensor:  # [N, C, 2h, 2w]
    """diffusers' upsampling: repeat each pixel, then a convolution."""
    return layer(cast(nn.Conv2d, block.conv), F.interpolate(hidden, scale_factor=2.0, mode="nearest"))


def layer(conv: nn.Conv2d, hidden: Tensor) -> Tensor:
    """`conv(hidden)` by `conv2d`."""
    return conv2d(hidden, conv.weight, conv.bias, stride=conv.stride[0], padding=conv.padding)  # pyright: ignore


def use_channels_last(network: nn.Module) -> None:
    """Lay the kernels of all convolutions out for channels-last videos, in place."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
