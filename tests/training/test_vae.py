"""The first stage: it learns, and folding the latents' statistics into the weights changes no picture."""

from dataclasses import replace

import torch
from sources import NoiseClips

from guidedvd_ns.priors.viewcrafter.conditioning import encode_frames
from guidedvd_ns.training.vae import VaeConfig, VaeStage, build_vae, normalise_latents

TINY = VaeConfig(
    block_out_channels=(8, 8, 16),
    norm_groups=4,
    latent_channels=4,
    batch_size=4,
    perceptual_weight=0.0,
    warmup_steps=2,
    bank_clips=6,
    start_clips=3,
    refresh_every=4,
)


def _stage():
    return VaeStage(TINY, NoiseClips(), (16, 16), torch.device("cpu"), seed=0)


def test_latents_are_normalised_and_pictures_unchanged():
    vae = build_vae(TINY, (16, 16)).eval()
    frames = torch.rand(12, 16, 16, 3)
    before = encode_frames(vae, frames, sample_posterior=False)
    pictures = vae.decode(before).sample
    log_variance = vae.encode(2 * frames.movedim(-1, 1) - 1).latent_dist.logvar
    mean, deviation = before.mean(dim=(0, 2, 3)), before.std(dim=(0, 2, 3))
    normalise_latents(vae, mean, deviation)
    after = encode_frames(vae, frames, sample_posterior=False)
    torch.testing.assert_close(after.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(after.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(after).sample, pictures, atol=1e-5, rtol=1e-4)
    scaled = log_variance - 2 * deviation.log()[:, None, None]
    found = vae.encode(2 * frames.movedim(-1, 1) - 1).latent_dist.logvar
    torch.testing.assert_close(found, scaled, atol=1e-5, rtol=1e-4)


def test_training_lowers_the_loss():
    config = replace(TINY, learning_rate=3e-3)
    stage = VaeStage(config, NoiseClips(), (16, 16), torch.device("cpu"), seed=0)
    losses = [float(stage.train_step(step, 0.0)["loss"]) for step in range(30)]
    assert sum(losses[-10:]) < 0.8 * 10 * losses[0]


def test_finished_vae_has_unit_latents():
    stage = _stage()
    stage.train_step(0, 0.0)
    vae = stage.finished()
    frames = torch.cat([NoiseClips().batch(0).target.flatten(0, 1)])
    latents = encode_frames(vae, frames, sample_posterior=False)
    assert 0.5 < float(latents.std()) < 2
    assert not any(parameter.requires_grad for parameter in vae.parameters())
