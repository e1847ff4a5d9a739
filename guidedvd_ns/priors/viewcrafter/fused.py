"""Layers of frozen networks that keep little for the backward pass, and their fast forms on a GPU.

Guidance differentiates the networks with respect to their input only, at every step, so what autograd keeps decides how
much memory a step takes. Here a normalisation with its SiLU keeps its input, a convolution nothing, a GEGLU its input:
a third of what the same layers of PyTorch keep. Weights that are trained get their gradients as ever.

A network whose kernels `use_channels_last` has laid out so computes in that layout throughout, gradients included: a
tensor of another layout costs a copy or a slow addition wherever it meets one. Any other network computes channels
first.
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

FEW_VALUES = 2**20
"""Tensors of fewer values are left to PyTorch, whose functions are launched faster than Triton's."""


def uses_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels take this tensor: on CUDA, where Triton is installed, outside of `torch.compile`."""
    # The compiler fuses the plain form itself.
    return x.is_cuda and not torch.compiler.is_compiling() and find_spec("triton") is not None


def is_channels_last(hidden: Tensor) -> bool:
    """Whether the layout of [N, C, h, w] is channels last, and no other as well."""
    return hidden.is_contiguous(memory_format=torch.channels_last) and not hidden.is_contiguous()


def use_channels_last(network: nn.Module) -> None:
    """Let a network compute in channels-last layout: lay out the kernels of its convolutions so, in place."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])


def in_layout_of(
    network: nn.Conv2d,
    hidden: Tensor,  # [N, C, h, w]
) -> Tensor:  # [N, C, h, w]
    """The input in the layout in which a network computes whose first convolution is this."""
    channels_last = is_channels_last(network.weight)
    return hidden.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def group_norm(
    norm: nn.GroupNorm,
    hidden: Tensor,  # [N, C, h, w]
    *,
    silu: bool,
    frames_per_set: int = 1,
    offset: Tensor | None = None,  # [C]
) -> Tensor:  # [N, C, h, w] in the same layout
    """Add the offset, normalise with statistics over so many consecutive frames together, and apply SiLU if asked."""
    count, channels, height, width = hidden.shape
    channels_last = is_channels_last(hidden)
    if channels_last and uses_kernels(hidden):
        rows = hidden.permute(0, 2, 3, 1).reshape(count // frames_per_set, -1, channels)
        normed = _GroupNormKernel.apply(rows, norm.weight, norm.bias, norm.num_groups, norm.eps, silu, offset)
        return normed.view(count, height, width, channels).permute(0, 3, 1, 2)
    if offset is not None:
        hidden = hidden + offset[:, None, None]
    # Channels first: PyTorch's channels-last form loses a digit on the CPU.
    video = hidden.contiguous().view(-1, frames_per_set, channels, height * width).transpose(1, 2)
    normed = F.group_norm(video, norm.num_groups, norm.weight, norm.bias, norm.eps)
    normed = (F.silu(normed) if silu else normed).transpose(1, 2).reshape(hidden.shape)
    return normed.contiguous(memory_format=torch.channels_last) if channels_last else normed


class _GroupNormKernel(torch.autograd.Function):
    """Channels-last group norm and SiLU by the kernels; see `group_norm`."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool, offset) -> Tensor:
        from guidedvd_ns.priors.viewcrafter import kernels

        out, statistics = kernels.group_norm_forward(rows, weight, bias, groups, eps, silu, offset)
        ctx.save_for_backward(rows, offset, *statistics)
        ctx.silu, ctx.dtype = silu, weight.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from guidedvd_ns.priors.viewcrafter import kernels

        rows, offset, *statistics = ctx.saved_tensors
        gradients = kernels.group_norm_backward(grad.contiguous(), rows, tuple(statistics), ctx.silu, offset)
        weight_grad, bias_grad = (
            gradient.sum(0).to(ctx.dtype) if wanted else None
            for gradient, wanted in zip(gradients[1:], ctx.needs_input_grad[1:3], strict=True)
        )
        return gradients[0], weight_grad, bias_grad, None, None, None, None


def conv2d(
    hidden: Tensor,  # [N, C, h, w]
    weight: Tensor,  # [D, C, kh, kw]
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
) -> Tensor:  # [N, D, h', w']
    """A convolution that keeps its input only if the weight is trained, and the input's layout."""
    if weight.shape[2:] == (1, 1) and stride == 1 and is_channels_last(hidden):
        # The layout of a 1x1 kernel cannot be told, and cuDNN's gradient would come out channels first.
        return F.linear(hidden.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
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
    if uses_kernels(hidden) and hidden.numel() > FEW_VALUES:
        return _GegluKernel.apply(hidden.contiguous())
    values, gates = hidden.chunk(2, dim=-1)
    return values * F.gelu(gates)


class _GegluKernel(torch.autograd.Function):
    """GEGLU by the kernels; see `geglu`."""

    @staticmethod
    def forward(ctx, hidden: Tensor) -> Tensor:
        from guidedvd_ns.priors.viewcrafter import pointwise

        ctx.save_for_backward(hidden)
        return pointwise.geglu_forward(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from guidedvd_ns.priors.viewcrafter import pointwise

        return pointwise.geglu_backward(grad.contiguous(), *ctx.saved_tensors)


def project(
    hidden: Tensor,  # [..., C]
    *layers: nn.Linear,  # C to D each, without bias
) -> tuple[Tensor, ...]:  # [..., D] each
    """Several linear layers of one input; where they are frozen its gradient is summed by the matrix products."""
    weights = [layer.weight for layer in layers]
    if any(weight.requires_grad for weight in weights) or torch.compiler.is_compiling():
        return tuple(F.linear(hidden, weight) for weight in weights)
    return _FrozenProjections.apply(hidden, *weights)


class _FrozenProjections(torch.autograd.Function):
    """PyTorch adds the gradients up in passes of their own."""

    @staticmethod
    def forward(ctx, hidden: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*weights)
        return tuple(F.linear(hidden, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        weights = ctx.saved_tensors
        gradient = grads[0].flatten(0, -2) @ weights[0]
        for grad, weight in zip(grads[1:], weights[1:], strict=True):
            gradient.addmm_(grad.flatten(0, -2), weight)
        return gradient.view(*grads[0].shape[:-1], -1), *(None for _ in weights)


def concatenate(
    first: Tensor,  # [N, C, h, w]
    second: Tensor,  # [N, D, h, w]
) -> Tensor:  # [N, C + D, h, w]
    """Join the channels."""
    if is_channels_last(first) and is_channels_last(second):
        return _ConcatenateChannels.apply(first, second)
    return torch.cat([first, second], dim=1)


class _ConcatenateChannels(torch.autograd.Function):
    """PyTorch's gradients are views with gaps in channels-last layout, over which all that follows is slow."""

    @staticmethod
    def forward(ctx, first: Tensor, second: Tensor) -> Tensor:
        ctx.channels = [first.shape[1], second.shape[1]]
        return torch.cat([first, second], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in grad.split(ctx.channels, dim=1))


def residual_block(
    block: ResnetBlock2D,
    hidden: Tensor,  # [N, C, h, w]
    activated_embedding: Tensor | None = None,  # [N or 1, E] after SiLU
) -> Tensor:  # [N, D, h, w]
    """diffusers' residual block with these layers: SiLU activations, no resampling, no output scale."""
    first, second = cast(nn.Conv2d, block.conv1), cast(nn.Conv2d, block.conv2)
    later, offset, shift = adds_bias_later(hidden), first.bias, None
    if activated_embedding is not None and block.time_emb_proj is not None:
        shift = block.time_emb_proj(activated_embedding)
        if len(shift) == 1:
            offset, shift = shift[0] if offset is None else offset + shift[0], None
    update = group_norm(block.norm1, hidden, silu=True)
    update = conv2d(update, first.weight, None if later else offset, padding=1)
    if shift is not None:
        update = update + shift[:, :, None, None]
    update = group_norm(block.norm2, update, silu=True, offset=offset if later else None)
    update = conv2d(update, second.weight, None if later else second.bias, padding=1)
    if block.conv_shortcut is not None:
        hidden = layer(block.conv_shortcut, hidden)
    return add(hidden, update, second.bias if later else None)


def adds_bias_later(hidden: Tensor) -> bool:
    """Whether the bias of a convolution of this video is left to the kernel that comes after it.

    PyTorch adds it in a pass of its own to what cuDNN computes.
    """
    return is_channels_last(hidden) and uses_kernels(hidden)


def add(
    hidden: Tensor,  # [N, C, h, w]
    update: Tensor,  # [N, C, h, w]
    bias: Tensor | None,  # [C]
) -> Tensor:  # [N, C, h, w]
    """hidden + update + bias."""
    if bias is None:
        return hidden + update
    if adds_bias_later(hidden) and is_channels_last(update):
        return _AddKernel.apply(hidden, update, bias)
    return hidden + (update + bias[:, None, None])


class _AddKernel(torch.autograd.Function):
    """The sum by the kernel; see `add`. Biases are frozen here."""

    @staticmethod
    def forward(ctx, hidden: Tensor, update: Tensor, bias: Tensor) -> Tensor:
        from guidedvd_ns.priors.viewcrafter import pointwise

        return pointwise.add(hidden.permute(0, 2, 3, 1), update.permute(0, 2, 3, 1), bias).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return grad, grad, None


def upsample(
    block: Upsample2D,
    hidden: Tensor,  # [N, C, h, w]
) -> Tensor:  # [N, D, 2h, 2w]
    """diffusers' upsampling: repeat each pixel, then a 3x3 convolution.

    In channels-last layout as one transposed convolution: each of the four pixels that were one sees two by two
    different ones, under kernels that are sums of the 3x3 one's entries.
    """
    conv = cast(nn.Conv2d, block.conv)
    if is_channels_last(hidden) and not conv.weight.requires_grad:
        weight = conv.weight.float() if conv.weight.dtype == torch.bfloat16 else conv.weight
        weight = _doubled_taps(_doubled_taps(weight, 2), 3).transpose(0, 1).to(hidden.dtype)
        return _FrozenTransposedConv2d.apply(hidden, weight.contiguous(memory_format=torch.channels_last), conv.bias)
    return layer(conv, F.interpolate(hidden, scale_factor=2.0, mode="nearest"))


def _doubled_taps(weight: Tensor, dim: int) -> Tensor:
    """The taps that a convolution after repetition becomes when transposed with stride two: three become four."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


class _FrozenTransposedConv2d(torch.autograd.Function):
    """A transposed convolution, [C, D, 4, 4], that doubles the resolution and keeps nothing of its input."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv_transpose2d(hidden, weight, bias, stride=2, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (weight,) = ctx.saved_tensors
        return F.conv2d(grad, weight, stride=2, padding=1), None, None


def layer(conv: nn.Conv2d, hidden: Tensor) -> Tensor:
    """`conv(hidden)` by `conv2d`."""
    return conv2d(hidden, conv.weight, conv.bias, stride=conv.stride[0], padding=conv.padding)  # pyright: ignore
