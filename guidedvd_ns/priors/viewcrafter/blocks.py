"""The layers of the ViewCrafter UNet: residual, spatial and temporal ones, over frames flattened into the batch.

Between layers a video is `[B*T, C, h, w]`, frame index fastest within a batch entry. In channels-last memory pixels by
channels are then a matrix, and tokens, frames and convolutions over time are views of it: nothing is copied. Weights
and their names are those of diffusers' layers; what is added is how a layer sees time and how text and image tokens
reach it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from guidedvd_ns.priors.viewcrafter.fused import (
    add,
    adds_bias_later,
    conv2d,
    geglu,
    group_norm,
    is_channels_last,
    project,
    residual_block,
)

NORM_GROUPS = 32
FEW_TOKENS = 64
MOST_HEADS = 65535
"""Heads that CUDA's attention kernels take at once: each is a row of the grid."""


class Checkpointed(nn.Module):
    """A layer that can recompute its activations in the backward pass.

    diffusers' `ModelMixin.enable_gradient_checkpointing` switches every module that has this attribute.
    """

    gradient_checkpointing = False

    def compute(self, *inputs) -> Tensor:
        raise NotImplementedError

    def forward(self, *inputs) -> Tensor:
        return recompute(self.compute, *inputs) if self.gradient_checkpointing else self.compute(*inputs)


def recompute(function: Callable[..., Tensor], *inputs) -> Tensor:
    """`function(*inputs)`, keeping the inputs alone for the backward pass; nothing in it may be random."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return cast(Tensor, checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False))


class TemporalConv(TemporalConvLayer):
    """diffusers' temporal convolution, with each (3, 1, 1) kernel run as a 2D one over (frame, pixel).

    The result is the same. In channels-last memory frames by pixels are already such an image; else the video is
    brought into its order once.
    """

    def forward(
        self,
        hidden_states: Tensor,  # [B*T, C, h, w]
        num_frames: int = 1,
    ) -> Tensor:  # [B*T, C, h, w]
        count, channels, height, width = hidden_states.shape
        stages = [
            (cast(nn.GroupNorm, stage[0]), cast(nn.Conv3d, stage[-1]))
            for stage in (self.conv1, self.conv2, self.conv3, self.conv4)
        ]
        if not is_channels_last(hidden_states):
            video = hidden_states.reshape(-1, num_frames, channels, height * width).transpose(1, 2)
            image = video
            for norm, conv in stages:
                image = group_norm(norm, image, silu=True)
                image = conv2d(image, conv.weight.squeeze(-1), conv.bias, padding=(1, 0))
            return (video + image).transpose(1, 2).reshape(hidden_states.shape)
        hidden, offset, later = hidden_states, None, adds_bias_later(hidden_states)
        for norm, conv in stages:
            hidden = group_norm(norm, hidden, silu=True, frames_per_set=num_frames, offset=offset)
            image = hidden.permute(0, 2, 3, 1).reshape(-1, num_frames, height * width, channels).permute(0, 3, 1, 2)
            image = conv2d(image, conv.weight.squeeze(-1), None if later else conv.bias, padding=(1, 0))
            hidden = image.permute(0, 2, 3, 1).reshape(count, height, width, channels).permute(0, 3, 1, 2)
            offset = conv.bias if later else None
        return add(hidden_states, hidden, offset)


class ResBlock(Checkpointed):
    """A residual block of each frame, then a residual convolution over time on its result."""

    def __init__(self, in_channels: int, out_channels: int, embedding_channels: int):
        super().__init__()
        self.spatial = ResnetBlock2D(
            in_channels=in_channels,
            out_channels=out_channels,
            temb_channels=embedding_channels,
            groups=NORM_GROUPS,
            eps=1e-5,
        )
        self.temporal = TemporalConv(out_channels, out_channels, norm_num_groups=NORM_GROUPS)
        zero_initialise(self.spatial.conv2)

    def compute(
        self,
        hidden: Tensor,  # [B*T, in_channels, h, w]
        embedding: Tensor,  # [B*T or 1, embedding_channels] after SiLU
        num_frames: int,
    ) -> Tensor:  # [B*T, out_channels, h, w]
        return self.temporal(residual_block(self.spatial, hidden, embedding), num_frames)


class TextImageAttention(nn.Module):
    """Cross attention with one query for two contexts, each with its own keys, values and softmax; the results add up.

    A context whose batch is smaller than that of the queries is shared by that many consecutive frames: their queries
    are then answered in one go, so that nothing is repeated for each frame.
    """

    def __init__(self, channels: int, heads: int, context_dim: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_k_ip = nn.Linear(context_dim, channels, bias=False)
        self.to_v_ip = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(
        self,
        hidden: Tensor,  # [B*T, h*w, C]
        text: Tensor,  # [B, text tokens, D]
        image: Tensor,  # [B or B*T, image tokens, D]
    ) -> Tensor:  # [B*T, h*w, C]
        query = self.to_q(hidden)
        attended = self._attend(query, self.to_k(text), self.to_v(text))
        attended = attended + self._attend(query, self.to_k_ip(image), self.to_v_ip(image))
        return self.to_out(attended)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, channels = key.shape[0], query.shape[-1]
        per_head = (batch, -1, self.heads, channels // self.heads)
        query_, key, value = (tensor.reshape(per_head).transpose(1, 2) for tensor in (query, key, value))
        attended = F.scaled_dot_product_attention(query_, key, value)
        return attended.transpose(1, 2).reshape(query.shape)


class TransformerBlock(Checkpointed):
    """Pre-norm self attention, a second attention and a GEGLU feed forward, each added to its input.

    The second attention is a cross attention where `context_dim` is given, else another self attention where
    `double_self_attention` is set, else left out.
    """

    recompute_above: float = math.inf
    """Bytes of the video above which the sublayers that are cheap to recompute keep their input alone.

    Cheap are the feed forward and attention to few tokens: they keep the most for the arithmetic that they take.
    """

    def __init__(self, channels: int, heads: int, *, context_dim: int | None = None, double_self_attention: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads=heads, dim_head=channels // heads)
        self.attn2 = None
        if context_dim is not None:
            self.attn2 = TextImageAttention(channels, heads, context_dim)
        elif double_self_attention:
            self.attn2 = Attention(channels, heads=heads, dim_head=channels // heads)
        if self.attn2 is not None:
            self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")

    def compute(
        self,
        hidden: Tensor,  # [N, tokens, ..., C]; what lies between is attended to one by one
        *context: Tensor,  # text and image tokens where there is a cross attention
    ) -> Tensor:  # [N, tokens, ..., C]
        few_tokens = hidden.shape[1] <= FEW_TOKENS
        hidden = self._run(self._attend, hidden, cheap=few_tokens)
        if self.attn2 is not None:
            hidden = self._run(self._attend_again, hidden, *context, cheap=few_tokens or bool(context))
        return self._run(self._feed_forward, hidden, cheap=True)

    def _run(self, sublayer: Callable[..., Tensor], hidden: Tensor, *context: Tensor, cheap: bool) -> Tensor:
        if cheap and hidden.numel() * hidden.element_size() > self.recompute_above:
            return recompute(sublayer, hidden, *context)
        return sublayer(hidden, *context)

    def _attend(self, hidden: Tensor) -> Tensor:
        return hidden + self_attention(self.attn1, self.norm1(hidden))

    def _attend_again(self, hidden: Tensor, *context: Tensor) -> Tensor:
        if isinstance(self.attn2, TextImageAttention):
            return hidden + self.attn2(self.norm2(hidden), *context)
        return hidden + self_attention(cast(Attention, self.attn2), self.norm2(hidden))

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        widen, narrow = cast(GEGLU, self.ff.net[0]), cast(nn.Linear, self.ff.net[2])
        return hidden + narrow(geglu(widen.proj(self.norm3(hidden))))


def self_attention(
    attention: Attention,
    hidden: Tensor,  # [N, tokens, ..., C]
) -> Tensor:  # [N, tokens, ..., C]
    """diffusers' self attention without the options that are not used here, each of which would copy the video.

    Axes between tokens and channels are attended to one by one: they count as heads, for which no tensor is copied.
    """
    projections = cast(tuple[nn.Linear, ...], (attention.to_q, attention.to_k, attention.to_v))
    head_channels = projections[0].out_features // attention.heads
    query, key, value = (
        tensor.view(*hidden.shape[:2], -1, head_channels).transpose(1, 2) for tensor in project(hidden, *projections)
    )
    parts = [
        _attend(*(tensor[:, start : start + MOST_HEADS] for tensor in (query, key, value)))
        for start in range(0, query.shape[1], MOST_HEADS)
    ]
    attended = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return cast(nn.ModuleList, attention.to_out)[0](attended.transpose(1, 2).reshape(*hidden.shape[:-1], -1))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [N, heads, tokens, channels]
    if query.is_cuda and query.shape[2] <= FEW_TOKENS and not torch.compiler.is_compiling():
        # The kernel that wastes the least where the tokens do not fill a tile; it was the fastest at every level.
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


class SpatialTransformer(nn.Module):
    """One transformer block over the pixels of each frame, with cross attention to text and image tokens."""

    def __init__(self, channels: int, heads: int, context_dim: int | None):
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.block = TransformerBlock(channels, heads, context_dim=context_dim, double_self_attention=False)
        self.proj_out = nn.Linear(channels, channels)
        zero_initialise(self.proj_out)

    def forward(
        self,
        hidden: Tensor,  # [B*T, C, h, w]
        context: tuple[Tensor, ...],  # () or (text, image), see TextImageAttention
    ) -> Tensor:  # [B*T, C, h, w]
        tokens = group_norm(self.norm, hidden, silu=False).permute(0, 2, 3, 1).flatten(1, 2)
        tokens = self.proj_out(self.block(self.proj_in(tokens), *context))
        return hidden + tokens.unflatten(1, hidden.shape[2:]).permute(0, 3, 1, 2)


class TemporalTransformer(nn.Module):
    """One transformer block over the frames of each pixel; both of its attentions are self attention.

    There is no position encoding: order enters through the temporal convolutions alone, so any number of frames works.
    `inner_channels` is the width of the block where it is not that of the video.
    """

    def __init__(self, channels: int, heads: int, inner_channels: int | None = None):
        super().__init__()
        inner_channels = channels if inner_channels is None else inner_channels
        self.norm = nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner_channels)
        self.block = TransformerBlock(inner_channels, heads, double_self_attention=True)
        self.proj_out = nn.Linear(inner_channels, channels)
        zero_initialise(self.proj_out)

    def forward(
        self,
        hidden: Tensor,  # [B*T, C, h, w]
        num_frames: int,
    ) -> Tensor:  # [B*T, C, h, w]
        count, channels, height, width = hidden.shape
        # The statistics of the norm run over the frames too.
        normed = group_norm(self.norm, hidden, silu=False, frames_per_set=num_frames)
        tokens = normed.permute(0, 2, 3, 1).reshape(-1, num_frames, height * width, channels)
        tokens = self.proj_out(self.block(self.proj_in(tokens)))
        return hidden + tokens.reshape(count, height, width, channels).permute(0, 3, 1, 2)


def zero_initialise(layer: nn.Linear | nn.Conv2d) -> None:
    """Let a residual branch start as the identity, from which training is stable."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
