"""A ViewCrafter prior with random weights, built where it runs: time and memory depend on no weight's value."""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from guidedvd_ns.priors.base import SamplerSettings
from guidedvd_ns.priors.viewcrafter.conditioning import Conditioning
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet

ModelSize = Literal["full", "tiny"]
IMAGE_TOKENS = 256

_SETTINGS: dict[ModelSize, dict[str, Any]] = {
    "full": dict(num_frames=25, height=320, width=448, num_steps=50),
    "tiny": dict(num_frames=3, height=32, width=48, num_steps=4),
}
_UNET = {
    "full": dict(),
    "tiny": dict(model_channels=32, channel_mult=(1, 2), attention_resolutions=(2, 1), num_head_channels=16)
    | dict(num_res_blocks=1, context_dim=32),
}
_VAE_WIDTHS = {"full": (128, 256, 512, 512), "tiny": (32, 32)}


def random_prior(size: ModelSize, device: torch.device, dtype: torch.dtype, seed: int) -> ViewCrafterPrior:
    """The prior at the authors' settings; weights are drawn on the device, so the host holds no copy."""
    widths = _VAE_WIDTHS[size]
    with torch.device("meta"):
        unet = ViewCrafterUNet(**_UNET[size])
        vae = AutoencoderKL(
            block_out_channels=widths,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * len(widths),  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * len(widths),  # pyright: ignore[reportArgumentType]
            scaling_factor=0.18215,
        )
    generator = torch.Generator(device).manual_seed(seed)
    for network in (unet, vae):
        nn.Module.to(network, dtype).to_empty(device=device)
        _draw_weights(network, generator)
    # Decoded frames lie around grey, well inside the range that the loss clamps to.
    vae.decoder.conv_out.weight.data.mul_(0.3)
    settings = SamplerSettings(
        **_SETTINGS[size], eta=1.0, cfg_scale=7.5, guidance_rescale=0.7, guidance_factor=0.2, reconstruction="l2"
    )
    return ViewCrafterPrior(
        unet,
        vae,
        ViewCrafterScheduler(),
        settings,
        known_mask_channel=False,
        sample_posterior=True,
        context_encoder=lambda _photograph: _random_contexts(unet, generator),
    )


def random_scene(prior: ViewCrafterPrior, seed: int) -> tuple[Tensor, Tensor, Conditioning]:
    """Smooth random frames [L, H, W, 3], where they are known [L, H, W, 1] (left 70 %), and a condition."""
    settings, device = prior.settings, prior.device
    generator = torch.Generator(device).manual_seed(seed)
    length, height, width = settings.num_frames, settings.height, settings.width
    coarse = torch.rand(length, 3, height // 16, width // 16, device=device, generator=generator)
    target = nn.functional.interpolate(coarse, (height, width), mode="bilinear").movedim(1, -1)
    known = torch.zeros(length, height, width, 1, dtype=torch.bool, device=device)
    known[:, :, : width * 7 // 10] = True
    latent_size = (height // prior.latent_stride, width // prior.latent_stride)
    z = torch.randn(1, prior.latent_channels, length, *latent_size, device=device, generator=generator)
    context, unconditional = _random_contexts(prior.unet, generator)
    return target, known, Conditioning(z=z, known=None, context=context, unconditional_context=unconditional)


def _random_contexts(unet: ViewCrafterUNet, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (1, unet.config["text_tokens"] + IMAGE_TOKENS, unet.config["context_dim"])
    first, second = (torch.randn(shape, device=unet.device, generator=generator) for _ in range(2))
    return first, second


@torch.no_grad()
def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Normal weights that keep the size of what passes through, layers that training starts at zero among them."""
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
