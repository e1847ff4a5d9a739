"""What the network is told: black holes, the photograph first, known shares, and the order of the channels."""

import torch

from guidedvd_ns.priors.viewcrafter.conditioning import (
    condition_frames,
    condition_velocity,
    encode_frames,
    known_share,
    network_input,
)
from tests.priors.tiny import tiny_prior


def test_holes_are_black_and_frame_0_is_the_photograph():
    frames, reference = torch.rand(3, 4, 6, 3), torch.rand(4, 6, 3)
    known = torch.rand(3, 4, 6, 1) > 0.5
    shown, shown_known = condition_frames(frames, known, reference)
    torch.testing.assert_close(shown[0], reference)
    assert shown_known[0].min() == 1
    assert torch.equal(shown[1:], torch.where(known, frames, torch.zeros(()))[1:])
    assert torch.equal(shown_known[1:], known[1:].float())


def test_a_batch_is_conditioned_like_its_sequences():
    frames, reference = torch.rand(2, 3, 4, 6, 3), torch.rand(2, 8, 12, 3)
    known = (torch.rand(2, 3, 4, 6, 1) > 0.5).float()
    together = condition_frames(frames, known, reference)
    for index in range(2):
        alone = condition_frames(frames[index], known[index], reference[index])
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_[index])


def test_a_larger_photograph_is_averaged_down():
    stripes = torch.zeros(16, 16, 3)
    stripes[:, ::2] = 1
    shown, _ = condition_frames(torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 1), stripes)
    assert (shown[0, :, 1:-1] - 0.5).abs().max() < 0.05


def test_known_share_is_the_mean_over_the_latent_pixel():
    known = torch.zeros(1, 2, 4, 4, 1)
    known[0, 1, :2, :2] = 1
    known[0, 1, 2, 2] = 1
    share = known_share(known, (2, 2))
    assert share.shape == (1, 1, 2, 2, 2)
    assert torch.equal(share[0, 0], torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.25]]]))


def test_channels_are_noisy_latent_then_condition_then_mask():
    x_t, z, known = torch.full((1, 2, 1, 1, 1), 1.0), torch.full((1, 3, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1, 1), 3.0)
    assert network_input(x_t, z, known).flatten().tolist() == [1, 1, 2, 2, 2, 3]
    assert network_input(x_t, z, None).flatten().tolist() == [1, 1, 2, 2, 2]


@torch.no_grad()
def test_encoding_is_per_frame_scaled_and_seeded():
    vae, frames = tiny_prior().vae, torch.rand(3, 8, 8, 3)
    mode = encode_frames(vae, frames, sample_posterior=False)
    torch.testing.assert_close(mode, encode_frames(vae, frames, sample_posterior=False, frames_per_batch=1))
    expected = 0.5 * vae.encode(2 * frames.movedim(-1, 1) - 1).latent_dist.mean
    torch.testing.assert_close(mode, expected)
    samples = [
        encode_frames(vae, frames, sample_posterior=True, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(samples[0], samples[1])
    assert not torch.allclose(samples[0], samples[2]) and not torch.allclose(samples[0], mode)


def test_condition_velocity_leads_from_pure_noise_to_the_condition():
    z, noise = torch.randn(1, 4, 2, 3, 3), torch.randn(1, 4, 2, 3, 3)
    alpha = torch.tensor(0.0)
    velocity = condition_velocity(z, alpha)
    torch.testing.assert_close(alpha.sqrt() * noise - (1 - alpha).sqrt() * velocity, z)


def test_untrained_residual_prior_predicts_its_condition():
    prior = tiny_prior()
    prior.residual = True
    torch.nn.init.zeros_(prior.unet.conv_out.weight)
    torch.nn.init.zeros_(prior.unet.conv_out.bias)
    frames, known = torch.rand(3, 16, 24, 3), torch.ones(3, 16, 24, 1)
    conditioning = prior.condition(frames, known, frames[0], None)
    t = prior.timesteps(3)[0]
    prediction = prior.predict(prior.initial_noise(torch.Generator().manual_seed(0), 16, 24, 3), t, conditioning)
    torch.testing.assert_close(prediction.x0, conditioning.z)
