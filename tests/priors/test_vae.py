"""The autoencoder, which is diffusers' own, against recordings of the original one."""

import pytest
import torch
from diffusers import AutoencoderKL

from tests.priors.recordings import (
    RecordedPrior,
    fixture_json,
    fixture_tensors,
    norms_of,
    original_vae,
    relative_error,
)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return original_vae()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return fixture_tensors("vae.io")


def test_posterior_matches_the_original(vae, recorded):
    posterior = vae.encode(recorded["x"]).latent_dist
    sample = posterior.mean + posterior.std * recorded["noise"]
    expected = {
        "moments": posterior.parameters,
        "mean": posterior.mode(),
        "logvar_clamped": posterior.logvar,
        "std": posterior.std,
        "sample": sample,
        "sample_scaled": vae.config["scaling_factor"] * sample,
    }
    for name, ours in expected.items():
        assert relative_error(ours, recorded[name]) < 1e-5, name


def test_decoding_and_its_gradient_match_the_original(vae, recorded):
    z = recorded["z"].clone().requires_grad_(True)
    decoded = vae.decode(z).sample
    assert relative_error(decoded, recorded["dec"]) < 1e-5
    (grad,) = torch.autograd.grad((decoded * recorded["R"]).sum(), z)
    assert relative_error(grad, recorded["grad_z"]) < 1e-5


@pytest.mark.parametrize("together", [False, True])
def test_decoded_video_and_its_gradient_match_the_original(recorded, together):
    prior = RecordedPrior()
    latents = recorded["video/z_scaled"].clone().requires_grad_(True)
    count = latents.shape[2]
    slices = [slice(0, count)] if together else [slice(k, k + 1) for k in range(count)]
    decoded = 2 * torch.cat([prior.decode(latents, frames) for frames in slices]) - 1
    decoded = decoded.permute(3, 0, 1, 2)[None]
    assert relative_error(decoded, recorded["video/dec"]) < 1e-5
    (grad,) = torch.autograd.grad((decoded * recorded["video/R"]).sum(), latents)
    assert relative_error(grad, recorded["video/grad_z_scaled"]) < 1e-5


def test_every_norm_is_the_original_one(vae):
    assert norms_of("vae", vae) == fixture_json("vae")["norms"]
