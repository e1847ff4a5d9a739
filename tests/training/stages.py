"""Tiny stages, for tests of what trains them."""

import torch
from sources import NoiseClips

from guidedvd_ns.training.diffusion import DiffusionConfig, DiffusionStage
from guidedvd_ns.training.vae import VaeConfig, build_vae

VAE = VaeConfig(
    block_out_channels=(8, 8),
    norm_groups=4,
    latent_channels=2,
    batch_size=2,
    warmup_steps=2,
    bank_clips=6,
    start_clips=3,
)
TINY = DiffusionConfig(
    model_channels=32,
    channel_mult=(1,),
    attention_resolutions=(1,),
    batch_size=2,
    warmup_steps=2,
    bank_clips=6,
    start_clips=3,
    refresh_every=2,
    noise_bias=0.5,
)


def diffusion_stage(config: DiffusionConfig = TINY, **options) -> DiffusionStage:
    torch.manual_seed(7)
    vae = build_vae(VAE, (16, 16)).eval().requires_grad_(False)
    return DiffusionStage(config, NoiseClips(), vae, seed=3, **options)
