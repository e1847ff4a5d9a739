"""Real ViewCrafter priors with tiny random networks: one like the bundled prior, one like the public checkpoint."""

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from guidedvd_ns.priors.base import SamplerSettings
from guidedvd_ns.priors.viewcrafter.context import ContextEncoder
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet


def tiny_prior(**settings) -> ViewCrafterPrior:
    """Without context, with a known mask."""
    torch.manual_seed(0)
    unet = ViewCrafterUNet(
        in_channels=9,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2,),
        num_head_channels=32,
        context_dim=None,
        fs_conditioning=False,
        initial_attention=False,
    )
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.05)
    defaults = dict(num_frames=3, height=16, width=24, num_steps=3, guidance_factor=0.05)
    return ViewCrafterPrior(
        unet,
        tiny_vae(),
        ViewCrafterScheduler(base_scale=None),
        SamplerSettings(**defaults | settings),
        known_mask_channel=True,
        sample_posterior=False,
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
    )


def tiny_context_encoder(**options) -> ContextEncoder:
    """Five text tokens and three image tokens of width 8."""
    torch.manual_seed(0)
    shared = dict(intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, hidden_act="gelu")
    text = CLIPTextConfig(
        vocab_size=6, hidden_size=8, max_position_embeddings=5, bos_token_id=0, eos_token_id=0, pad_token_id=0, **shared
    )
    image = CLIPVisionConfig(hidden_size=12, image_size=8, patch_size=4, **shared)
    projector = ImageProjector(
        embed_dims=12, output_dims=8, hidden_dims=8, depth=1, dim_head=4, heads=2, num_queries=3, ffn_ratio=2
    )
    options = dict(tokenized_prompts=((3, 1, 4), (3,))) | options
    return ContextEncoder(CLIPTextModel(text), CLIPVisionModel(image), projector, **options)


def tiny_context_prior(**settings) -> ViewCrafterPrior:
    """With context and classifier-free guidance, without a known mask."""
    context_encoder = tiny_context_encoder()
    unet = ViewCrafterUNet(
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(2,),
        num_head_channels=16,
        context_dim=8,
        text_tokens=5,
        image_tokens_per_frame=2,
    )
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.05)
    defaults = dict(num_frames=3, height=16, width=24, num_steps=3, cfg_scale=3.0, guidance_rescale=0.7)
    return ViewCrafterPrior(
        unet,
        tiny_vae(),
        ViewCrafterScheduler(),
        SamplerSettings(**defaults | settings),
        known_mask_channel=False,
        sample_posterior=True,
        context_encoder=context_encoder,
    )
