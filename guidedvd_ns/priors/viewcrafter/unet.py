"""The ViewCrafter UNet: a latent video denoiser of any width, conditioned on rendered frames and, if wanted, on tokens.

The computation is that of the public checkpoint Drexubery/ViewCrafter_25; with fewer channels and without context it is
the network of the bundled prior.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from guidedvd_ns.priors.viewcrafter.blocks import (
    NORM_GROUPS,
    ResBlock,
    SpatialTransformer,
    TemporalTransformer,
    zero_initialise,
)
from guidedvd_ns.priors.viewcrafter.fused import concatenate, group_norm, in_layout_of, layer, upsample

INITIAL_ATTENTION_HEADS = 8


class UNetLayer(nn.Module):
    """A residual block, where `heads` is given a spatial and a temporal transformer, where asked for an upsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        heads: int | None,
        context_dim: int | None,
        upsample: bool = False,
    ):
        super().__init__()
        self.res = ResBlock(in_channels, out_channels, embedding_channels)
        self.spatial = SpatialTransformer(out_channels, heads, context_dim) if heads else None
        self.temporal = TemporalTransformer(out_channels, heads) if heads else None
        self.upsample = Upsample2D(out_channels, use_conv=True) if upsample else None

    def forward(
        self,
        hidden: Tensor,  # [B*T, in_channels, h, w]
        embedding: Tensor,  # [B*T or 1, embedding_channels] after SiLU
        context: tuple[Tensor, ...],
        num_frames: int,
    ) -> Tensor:  # [B*T, out_channels, h or 2h, w or 2w]
        hidden = self.res(hidden, embedding, num_frames)
        if self.spatial is not None and self.temporal is not None:
            hidden = self.temporal(self.spatial(hidden, context), num_frames)
        return hidden if self.upsample is None else upsample(self.upsample, hidden)


class ViewCrafterUNet(ModelMixin, ConfigMixin):
    """Predicts v from a noisy latent video and the latents of its condition, concatenated along the channels.

    Args:
        in_channels: channels of the sample and its condition together.
        out_channels: channels of the prediction.
        model_channels: width at full resolution, a multiple of 32.
        channel_mult: width of each level as a multiple of `model_channels`; a level halves the resolution.
        num_res_blocks: residual blocks of each level.
        attention_resolutions: downsampling factors at which there are transformers (the middle always has them).
        num_head_channels: channels of one attention head; it divides every width that has attention.
        context_dim: width of the context tokens, or None for a network without cross attention.
        text_tokens: how many of the context tokens are text; the rest are image tokens.
        image_tokens_per_frame: image tokens of one frame, where every frame has its own.
        fs_conditioning: whether the frame rate is embedded next to the time step.
        default_fs: frame rate (frames per second) where the caller gives none.
        initial_attention: whether a temporal transformer follows the first convolution.

    Raises:
        ValueError: where the widths do not divide into norm groups or attention heads.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        *,
        in_channels: int = 8,
        out_channels: int = 4,
        model_channels: int = 320,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (4, 2, 1),
        num_head_channels: int = 64,
        context_dim: int | None = 1024,
        text_tokens: int = 77,
        image_tokens_per_frame: int = 16,
        fs_conditioning: bool = True,
        default_fs: int = 10,
        initial_attention: bool = True,
    ):
        super().__init__()
        _check_widths(model_channels, channel_mult, attention_resolutions, num_head_channels)
        embedding_channels = 4 * model_channels
        self.time_proj = Timesteps(model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(model_channels, embedding_channels)
        self.fs_embedding = TimestepEmbedding(model_channels, embedding_channels) if fs_conditioning else None

        self.conv_in = nn.Conv2d(in_channels, model_channels, 3, padding=1)
        self.temporal_in = None
        if initial_attention:
            inner_channels = INITIAL_ATTENTION_HEADS * num_head_channels
            self.temporal_in = TemporalTransformer(model_channels, INITIAL_ATTENTION_HEADS, inner_channels)

        def layer(in_channels: int, out_channels: int, attention: bool, upsample: bool = False) -> UNetLayer:
            heads = out_channels // num_head_channels if attention else None
            return UNetLayer(
                in_channels, out_channels, embedding_channels, heads=heads, context_dim=context_dim, upsample=upsample
            )

        channels = model_channels
        skips = [channels]
        self.down_blocks = nn.ModuleList()
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                self.down_blocks.append(layer(channels, mult * model_channels, 2**level in attention_resolutions))
                channels = mult * model_channels
                skips.append(channels)
            if level < len(channel_mult) - 1:
                self.down_blocks.append(Downsample2D(channels, use_conv=True, name="op"))
                skips.append(channels)

        self.mid_blocks = nn.ModuleList([layer(channels, channels, True), layer(channels, channels, False)])

        self.up_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for index in range(num_res_blocks + 1):
                attention = 2**level in attention_resolutions
                upsample = level > 0 and index == num_res_blocks
                self.up_blocks.append(layer(channels + skips.pop(), mult * model_channels, attention, upsample))
                channels = mult * model_channels

        self.conv_norm_out = nn.GroupNorm(NORM_GROUPS, channels, eps=1e-5)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)
        zero_initialise(self.conv_out)

    def forward(
        self,
        sample: Tensor,  # [B, in_channels, T, h, w]
        timestep: Tensor,  # [B] int, 0..999, or [1] for all
        context: Tensor | None = None,  # [B, text_tokens + image tokens, context_dim]
        fs: Tensor | None = None,  # like `timestep`, frames per second
    ) -> Tensor:  # [B, out_channels, T, h, w]
        """Denoise a batch of videos; h and w are multiples of `2 ** (levels - 1)`.

        Raises:
            ValueError: where a context is missing, unexpected or holds no image tokens.
        """
        batch, _, num_frames, height, width = sample.shape
        # Every residual block begins with the same activation of the embedding.
        embedding = F.silu(self._embed(timestep, fs, sample.dtype))
        if len(embedding) > 1:
            embedding = embedding.repeat_interleave(num_frames, dim=0)
        context_pair = self._split_context(context, num_frames)

        hidden = self.conv_in(in_layout_of(self.conv_in, sample.transpose(1, 2).flatten(0, 1)))
        if self.temporal_in is not None:
            hidden = self.temporal_in(hidden, num_frames)
        skips = [hidden]
        for block in self.down_blocks:
            is_layer = isinstance(block, UNetLayer)
            hidden = block(hidden, embedding, context_pair, num_frames) if is_layer else block(hidden)
            skips.append(hidden)
        for block in self.mid_blocks:
            hidden = block(hidden, embedding, context_pair, num_frames)
        for block in self.up_blocks:
            hidden = block(concatenate(hidden, skips.pop()), embedding, context_pair, num_frames)
        hidden = layer(self.conv_out, group_norm(self.conv_norm_out, hidden, silu=True))
        return hidden.reshape(batch, num_frames, -1, height, width).transpose(1, 2)

    def _embed(self, timestep: Tensor, fs: Tensor | None, dtype: torch.dtype) -> Tensor:  # [B, 4 * model_channels]
        embedding = self.time_embedding(self.time_proj(timestep).to(dtype))
        if self.fs_embedding is None:
            return embedding
        if fs is None:
            fs = torch.full_like(timestep, self.config["default_fs"])
        return embedding + self.fs_embedding(self.time_proj(fs).to(dtype))

    def _split_context(self, context: Tensor | None, num_frames: int) -> tuple[Tensor, ...]:
        """Text tokens for all frames of a video, and image tokens for all frames or dealt out to them.

        Image tokens are dealt out only where there are exactly `image_tokens_per_frame` for every frame; the 25-frame
        checkpoint brings 256 for all, and every frame sees them all.
        """
        context_dim, text_tokens = self.config["context_dim"], self.config["text_tokens"]
        if (context is None) != (context_dim is None):
            given = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
            raise ValueError(f"The network has `context_dim`={context_dim} but got {given}.")
        if context is None:
            return ()
        if context.shape[1] <= text_tokens:
            raise ValueError(
                f"`context` must hold image tokens after its {text_tokens} text tokens, but its shape is"
                f" {tuple(context.shape)}."
            )
        text, image = context[:, :text_tokens], context[:, text_tokens:]
        per_frame = self.config["image_tokens_per_frame"]
        if image.shape[1] == per_frame * num_frames:
            image = image.reshape(-1, per_frame, image.shape[-1])
        return text, image


def _check_widths(
    model_channels: int, channel_mult: tuple[int, ...], attention_resolutions: tuple[int, ...], num_head_channels: int
) -> None:
    if model_channels % NORM_GROUPS:
        raise ValueError(f"`model_channels` must be a multiple of {NORM_GROUPS} (norm groups) but is {model_channels}.")
    attended = [mult for level, mult in enumerate(channel_mult) if 2**level in attention_resolutions]
    for mult in [*attended, channel_mult[-1]]:
        if (mult * model_channels) % num_head_channels:
            raise ValueError(
                f"`num_head_channels`={num_head_channels} does not divide the width {mult * model_channels} of a level"
                " with attention; choose a divisor."
            )
