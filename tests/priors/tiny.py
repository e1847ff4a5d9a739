"""A real ViewCrafter prior with tiny random networks, as the bundled one is built: no context, a known mask."""

import torch
from diffusers import AutoencoderKL
from torch import nn

from guidedvd_ns.priors.base import SamplerSettings
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet


def tiny_prior(**settings) -> ViewCrafterPrior:
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
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.5,
    )
    defaults = dict(num_frames=3, height=16, width=24, num_steps=3, guidance_factor=0.05)
    return ViewCrafterPrior(
        unet,
        vae,
        ViewCrafterScheduler(base_scale=None),
        SamplerSettings(**defaults | settings),
        known_mask_channel=True,
        sample_posterior=False,
    )
