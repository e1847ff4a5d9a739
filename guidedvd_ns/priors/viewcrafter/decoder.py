"""Decoding frames with diffusers' autoencoder in the layers of `fused.py`, which keep little for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from guidedvd_ns.priors.viewcrafter.fused import group_norm, in_layout_of, layer, residual_block, upsample


def decode(
    vae: AutoencoderKL,
    latents: Tensor,  # [N, C, h, w] unscaled
) -> Tensor:  # [N, 3, H, W], -1 to 1 being black to white
    """`vae.decode(latents).sample` for an autoencoder of Stable Diffusion's kind."""
    decoder = vae.decoder
    hidden = in_layout_of(decoder.conv_in, latents)
    if vae.post_quant_conv is not None:
        hidden = layer(vae.post_quant_conv, hidden)
    hidden = _residual(decoder.mid_block.resnets[0], decoder.conv_in(hidden))
    for attention, block in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
        hidden = _residual(block, _attend(cast(Attention, attention), hidden) if attention is not None else hidden)
    for up_block in cast(nn.ModuleList, decoder.up_blocks):
        for block in cast(nn.ModuleList, up_block.resnets):
            hidden = _residual(block, hidden)
        for block in cast(Iterable[Upsample2D], up_block.upsamplers or ()):
            hidden = upsample(block, hidden)
    return layer(decoder.conv_out, group_norm(cast(nn.GroupNorm, decoder.conv_norm_out), hidden, silu=True))


def _residual(block: nn.Module, hidden: Tensor) -> Tensor:
    return residual_block(cast(ResnetBlock2D, block), hidden)


def _attend(
    attention: Attention,
    hidden: Tensor,  # [N, C, h, w]
) -> Tensor:  # [N, C, h, w]
    """diffusers' attention to the pixels, in the layout of the rest."""
    tokens = group_norm(cast(nn.GroupNorm, attention.group_norm), hidden, silu=False).permute(0, 2, 3, 1).flatten(1, 2)
    query, key, value = (
        project(tokens).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for project in cast(tuple[nn.Linear, ...], (attention.to_q, attention.to_k, attention.to_v))
    )
    with _matrix_products() if hidden.is_cuda else nullcontext():
        attended = F.scaled_dot_product_attention(query, key, value)
    update = cast(nn.ModuleList, attention.to_out)[0](attended.transpose(1, 2).flatten(2))
    return hidden + update.unflatten(1, hidden.shape[2:]).permute(0, 3, 1, 2)


@contextmanager
def _matrix_products() -> Iterator[None]:
    """Attention by plain matrix products in the precision of its inputs.

    The one head has as many channels as the network, 512, for which the fused kernels' backward pass is slow: on an
    H200 it took 38 ms of a guided step where the products take three.
    """
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)
