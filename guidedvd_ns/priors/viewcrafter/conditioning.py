"""What ViewCrafter is told about a sequence, from pixels to the channels beside the noisy latent.

Sampling and training both go through these functions, so that a network sees the same layout in either. Leading batch
axes are allowed wherever a shape begins with `...`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from guidedvd_ns.pull_push import fill_holes

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class Conditioning:
    """One sequence's condition, encoded once and used at every denoising step."""

    z: Tensor
    """[1, C, L, h, w] latents of the condition frames."""
    known: Tensor | None
    """[1, 1, L, h, w] known share of each latent pixel, for a network that has a channel for it."""
    context: Tensor | None
    """[1, tokens, D] text and image tokens, for a network with cross attention."""
    unconditional_context: Tensor | None
    """[1, tokens, D] the same for the unconditional pass of classifier-free guidance."""
    lost: Tensor | None = None
    """[L, H, W, 3] condition frames minus their decoded latents, to give back (`SamplerSettings.restore_detail`)."""


def condition_frames(
    frames: Tensor,  # [..., L, H, W, 3] in [0, 1]
    known: Tensor,  # [..., L, H, W, 1] bool, or float in [0, 1]
    reference: Tensor,  # [..., H', W', 3] in [0, 1]
    fill: bool = False,
) -> tuple[Tensor, Tensor]:  # [..., L, H, W, 3] and float [..., L, H, W, 1]
    """Make the photograph frame 0, where everything is known, and what is unknown black, or fill it from around."""
    known = known.to(frames.dtype)
    photograph = reference.flatten(0, -4).movedim(-1, 1) if reference.dim() > 3 else reference.movedim(-1, 0)[None]
    photograph = F.interpolate(photograph, frames.shape[-3:-1], mode="bilinear", antialias=True)
    photograph = photograph.clamp(0, 1).movedim(1, -1).reshape(*frames.shape[:-4], 1, *frames.shape[-3:])
    frames = torch.cat([photograph, (frames * known)[..., 1:, :, :, :]], dim=-4)
    known = torch.cat([torch.ones_like(known[..., :1, :, :, :]), known[..., 1:, :, :, :]], dim=-4)
    return (fill_holes(frames, known) if fill else frames), known


def encode_frames(
    vae: AutoencoderKL,
    frames: Tensor,  # [N, H, W, 3] in [0, 1]
    *,
    sample_posterior: bool,
    generator: torch.Generator | None = None,
    frames_per_batch: int = 8,
) -> Tensor:  # [N, C, h, w] float32, scaled as the network wants them
    """Encode each frame by itself, to the mode of the posterior or to a sample of it."""
    latents = []
    for batch in frames.split(frames_per_batch):
        posterior = vae.encode((2 * batch - 1).movedim(-1, 1).to(vae.dtype)).latent_dist  # pyright: ignore
        latents.append(posterior.sample(generator) if sample_posterior else posterior.mode())
    return torch.cat(latents).float() * vae.config["scaling_factor"]


def known_share(
    known: Tensor,  # [B, L, H, W, 1] float in [0, 1]
    latent_size: tuple[int, int],
) -> Tensor:  # [B, 1, L, h, w]
    """The known share of the area that each latent pixel covers."""
    share = F.interpolate(known.flatten(0, 1).movedim(-1, 1), latent_size, mode="area")
    return share.reshape(known.shape[0], known.shape[1], 1, *latent_size).transpose(1, 2)


def network_input(
    x_t: Tensor,  # [B, C, L, h, w]
    z: Tensor,  # [B, C', L, h, w]
    known: Tensor | None,  # [B, 1, L, h, w]
) -> Tensor:  # [B, C + C' (+ 1), L, h, w]
    """The network's channels, in this order: noisy latent, latents of the condition frames, known share."""
    return torch.cat([x_t, z] if known is None else [x_t, z, known], dim=1)


def condition_velocity(
    z: Tensor,  # [B, C, L, h, w]
    alpha: Tensor,  # scalar or [B, 1, 1, 1, 1], cumulative product of alphas
) -> Tensor:  # [B, C, L, h, w]
    """What is known of the velocity sqrt(a) noise - sqrt(1 - a) x0 where x0 is expected to be near z, before any noise.

    A network that adds its output to this completes a video as well as its condition does before it has learned
    anything, and at pure noise predicts the difference alone.
    """
    return -(1 - alpha).sqrt() * z
