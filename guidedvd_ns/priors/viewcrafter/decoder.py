"""Decoding frames with diffusers' autoencoder in the layers of `fused.py`, which keep little for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from guidedvd_ns.priors.viewcrafter.fused import group_norm, layer, residual_block, upsample


def decode(
    vae: AutoencoderKL,
    latents: Tensor,  # [N, C, h, w] unscaled
) -> Tensor:  # [N, 3, H, W], -1 to 1 being black to white
    """`vae.decode(latents).sample` for an autoencoder of Stable Diffusion's kind."""
    decoder = vae.decoder
    hidden = latents.contiguous(memory_format=torch.channels_last)
    if vae.post_quant_conv is not None:
        hidden = vae.post_quant_conv(hidden)
    hidden = _residual(decoder.mid_block.resnets[0], decoder.conv_in(hidden))
    for attention, block in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
        hidden = _residual(block, cast(Attention, attention)(hidden) if attention is not None else hidden)
    for up_block in cast(nn.ModuleList, decoder.up_blocks):
        for block in cast(nn.ModuleList, up_block.resnets):
            hidden = _residual(block, hidden)
        for block in cast(Iterable[Upsample2D], up_block.upsamplers or ()):
            hidden = upsample(block, hidden)
    return layer(decoder.conv_out, group_norm(cast(nn.GroupNorm, decoder.conv_norm_out), hidden, silu=True))


def _residual(block: nn.Module, hidden: Tensor) -> Tensor:
    return residual_block(cast(ResnetBlock2D, block), hidden)
