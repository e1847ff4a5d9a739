"""Time of the network's layers one by one, forward and with the gradient of their input, in several forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from guidedvd_ns.priors.viewcrafter import fused
from guidedvd_ns.priors.viewcrafter.blocks import ResBlock, SpatialTransformer, TemporalConv, TemporalTransformer
from guidedvd_ns.scripts.benchmarks.timing import measure

Case = tuple[str, Callable[[Tensor], Tensor], tuple[int, ...]]
"""Name, what is timed, and the shape of its input; a [N, C, h, w] input is channels last unless the name says else."""


@dataclass(frozen=True)
class VideoSize:
    """A video between two layers."""

    name: str
    videos: int
    frames: int
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.videos * self.frames, self.channels, self.height, self.width


SIZES = {
    "full": (
        VideoSize("full, level 0", 2, 25, 320, 40, 56),
        VideoSize("full, level 1", 2, 25, 640, 20, 28),
        VideoSize("full, level 2", 2, 25, 1280, 10, 14),
        VideoSize("bundled, level 0", 1, 16, 64, 24, 32),
        VideoSize("bundled, level 2", 1, 16, 128, 6, 8),
    ),
    "tiny": (VideoSize("tiny", 2, 3, 64, 4, 6),),
}
CONTEXT_TOKENS, CONTEXT_CHANNELS = (77, 256), 1024


def time_layers(size: str, device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Print and return milliseconds of each layer, forward alone and forward with backward."""
    rows = []
    for video in SIZES[size]:
        CONSOLE.print(f"{video.name}: {video.shape}, {video.frames} frames  (forward, and backward too, in ms)")
        for name, function, shape in _cases(video, device, dtype):
            row: dict[str, Any] = {"size": video.name, "layer": name}
            try:
                row |= _time(function, shape, device, dtype, channels_last="channels first" not in name)
                CONSOLE.print(
                    f"  {name:44} {row['forward']:8.3f} {row['both']:8.3f}  {row['teraflops']:6.0f} TFLOP/s",
                    highlight=False,
                )
            except Exception as failure:  # A form that this device lacks must not end the others.
                row["error"] = f"{type(failure).__name__}: {str(failure)[:120]}"
                CONSOLE.print(f"  {name:44} {row['error']}", highlight=False, markup=False)
            rows.append(row)
    return rows


def _time(
    function: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    channels_last: bool,
) -> dict[str, float]:
    x = torch.randn(shape, device=device, dtype=dtype)
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(True)
    gradient = torch.randn_like(function(x))

    def forward() -> None:
        with torch.no_grad():
            function(x)

    def both() -> None:
        # FLOP counting hooks into modules, whose input must be no leaf.
        torch.autograd.grad(function(x.view_as(x)), x, gradient)

    with FlopCounterMode(display=False) as counter:
        both()
    times = [1e3 * measure(timed, device, calls=8, warmup=2, seconds=0.5).seconds for timed in (forward, both)]
    return {"forward": times[0], "both": times[1], "teraflops": counter.get_total_flops() / times[1] / 1e9}


def _cases(video: VideoSize, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    channels, frames = video.channels, video.frames
    heads = max(channels // 64, 1)

    def built(module: nn.Module) -> Any:
        module = module.to(device, dtype).eval().requires_grad_(False)
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        fused.use_channels_last(module)
        return module

    norm = built(nn.GroupNorm(32, channels))
    for name, together in (("frame", 1), ("video", frames)):
        yield (
            f"norm of a {name}, SiLU: ours",
            lambda x, n=together: fused.group_norm(norm, x, silu=True, frames_per_set=n),
            video.shape,
        )
    yield "norm of a frame, SiLU: PyTorch", lambda x: F.silu(norm(x)), video.shape
    yield "norm of a frame, SiLU: PyTorch, channels first", lambda x: F.silu(norm(x)), video.shape
    yield (
        "norm of a video, SiLU: PyTorch, channels first",
        lambda x: F.silu(norm(x.reshape(video.videos, frames, channels, -1).transpose(1, 2))),
        video.shape,
    )

    conv = built(nn.Conv2d(channels, channels, 3, padding=1))
    yield "convolution 3x3", lambda x: fused.layer(conv, x), video.shape
    yield "convolution 3x3, channels first", lambda x: fused.layer(conv, x), video.shape
    yield from _temporal_convolutions(video, built)

    yield "linear", built(nn.Linear(channels, channels)), (video.shape[0], video.height * video.width, channels)
    yield "linear x 8", built(nn.Linear(channels, 8 * channels)), (video.shape[0], video.height * video.width, channels)
    wide = (video.shape[0], video.height * video.width, 8 * channels)
    yield "GEGLU: ours", fused.geglu, wide
    yield "GEGLU: PyTorch", lambda x: x.chunk(2, dim=-1)[0] * F.gelu(x.chunk(2, dim=-1)[1]), wide
    yield "layer norm", built(nn.LayerNorm(channels)), (video.shape[0], video.height * video.width, channels)

    tokens = {"pixels": (video.shape[0], video.height * video.width)}
    tokens["frames"] = (video.videos * video.height * video.width, frames)
    for name, (count, length) in tokens.items():
        for backend in (None, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
            label = "the default" if backend is None else backend.name.split("_")[0].lower()
            yield f"attention to {name}: {label}", _attention(heads, backend), (count, length, channels)
    yield "attention to frames: matrix products", _plain_attention(heads), (*tokens["frames"], channels)

    block = built(ResBlock(channels, channels, 4 * channels))
    embedding = torch.randn(video.shape[0], 4 * channels, device=device, dtype=dtype)
    yield "residual block", lambda x: block(x, embedding, frames), video.shape
    spatial = built(SpatialTransformer(channels, heads, CONTEXT_CHANNELS))
    contexts = [torch.randn(video.videos, n, CONTEXT_CHANNELS, device=device, dtype=dtype) for n in CONTEXT_TOKENS]
    yield "spatial transformer", lambda x: spatial(x, tuple(contexts)), video.shape
    temporal = built(TemporalTransformer(channels, heads))
    yield "temporal transformer", lambda x: temporal(x, frames), video.shape

    def recomputing(x: Tensor) -> Tensor:
        temporal.block.recompute_above = 0
        try:
            return temporal(x, frames)
        finally:
            temporal.block.recompute_above = float("inf")

    yield "temporal transformer, recomputed", recomputing, video.shape


def _temporal_convolutions(video: VideoSize, built: Callable[[nn.Module], Any]) -> Iterator[Case]:
    """One (3, 1, 1) convolution in several forms, then the layer of four with their norms."""
    conv = built(nn.Conv3d(video.channels, video.channels, (3, 1, 1), padding=(1, 0, 0)))
    pixels = video.height * video.width
    image = (video.videos, video.channels, video.frames, pixels)

    def matrices(x: Tensor) -> Tensor:  # [videos, C, T, pixels]
        rows = x.permute(0, 2, 3, 1).reshape(video.videos, -1, video.channels)
        return _ShiftedProducts.apply(rows, conv.weight.flatten(2), conv.bias, pixels)

    def flat(x: Tensor) -> Tensor:
        return fused.conv2d(x, conv.weight.squeeze(-1), conv.bias, padding=(1, 0))

    yield "convolution over time: 2D", flat, image
    yield "convolution over time: 2D, channels first", flat, image
    yield "convolution over time: 3D", conv, (*image[:3], video.height, video.width)
    yield "convolution over time: matrix products", matrices, image
    layers = built(TemporalConv(video.channels, video.channels, norm_num_groups=32))
    yield "temporal convolution (4 with norms)", lambda x: layers(x, video.frames), video.shape


class _ShiftedProducts(torch.autograd.Function):
    """A convolution over time as three matrix products, added up in place."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.pixels = pixels
        out = torch.addmm(bias, rows.flatten(0, 1), weight[:, :, 1].T).view_as(rows)
        for video, result in zip(rows, out, strict=True):
            result[pixels:].addmm_(video[:-pixels], weight[:, :, 0].T)
            result[:-pixels].addmm_(video[pixels:], weight[:, :, 2].T)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        (weight,) = ctx.saved_tensors
        pixels = ctx.pixels
        out = (grad.flatten(0, 1) @ weight[:, :, 1]).view_as(grad)
        for video, result in zip(grad, out, strict=True):
            result[:-pixels].addmm_(video[pixels:], weight[:, :, 0])
            result[pixels:].addmm_(video[:-pixels], weight[:, :, 2])
        return out, None, None, None


def _attention(heads: int, backend: SDPBackend | None) -> Callable[[Tensor], Tensor]:
    def attend(x: Tensor) -> Tensor:
        per_head = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        if backend is None:
            attended = F.scaled_dot_product_attention(per_head, per_head, per_head)
        else:
            with sdpa_kernel(backend):
                attended = F.scaled_dot_product_attention(per_head, per_head, per_head)
        return attended.transpose(1, 2).flatten(2)

    return attend


def _plain_attention(heads: int) -> Callable[[Tensor], Tensor]:
    def attend(x: Tensor) -> Tensor:
        per_head = x.unflatten(-1, (heads, -1)).transpose(1, 2)
        scores = per_head @ per_head.transpose(-1, -2) * per_head.shape[-1] ** -0.5
        return (scores.softmax(dim=-1) @ per_head).transpose(1, 2).flatten(2)

    return attend
