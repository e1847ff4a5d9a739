"""A denoiser that is replayed as CUDA graphs gives the gradients of the eager one, whatever came before."""

import pytest
import torch
from torch import Tensor

from guidedvd_ns.grounding import SceneGrounding
from guidedvd_ns.guidance import guidance_gradient
from guidedvd_ns.priors.viewcrafter.capture import CapturedNetwork
from guidedvd_ns.priors.viewcrafter.fused import use_channels_last
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.scripts.benchmarks.random_model import random_prior, random_scene


def guided(prior: ViewCrafterPrior, seed: int) -> tuple[Tensor, Tensor]:
    """Clean estimate and gradient of a guided step on the inputs of this seed, on the CPU."""
    cpu = random_prior("tiny", torch.device("cpu"), torch.float32, seed=0)
    target, known, conditioning = random_scene(cpu, seed)
    conditioning = type(conditioning)(
        **{name: None if value is None else value.to(prior.device) for name, value in vars(conditioning).items()}
    )
    settings = prior.settings
    noise = cpu.initial_noise(torch.Generator().manual_seed(seed), settings.height, settings.width, settings.num_frames)
    grounding = SceneGrounding(target.to(prior.device), known.to(prior.device), "l2", frames_per_slice=2)
    t = prior.timesteps(4)[seed % 3]
    prediction, slope = guidance_gradient(prior, conditioning, noise.to(prior.device), t, grounding)
    return prediction.x0.cpu(), slope.gradient.cpu()


def close(ours: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> None:
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).norm() < tolerance * other.norm()


@pytest.mark.gpu
def test_replayed_steps_are_the_eager_ones():
    prior = random_prior("tiny", torch.device("cuda"), torch.float32, seed=0)
    for network in (prior.unet, prior.vae):
        use_channels_last(network)
    eager = {seed: guided(prior, seed) for seed in (1, 2)}
    prior.capture = True
    for seed in (1, 2, 1):
        close(guided(prior, seed), eager[seed], 2e-2)
    assert prior.captured is not None and prior.captured.bytes > 0
    prior.set_memory("low")
    assert prior.captured is None
    close(guided(prior, 1), eager[1], 2e-2)


@pytest.mark.gpu
def test_steps_on_a_gpu_are_those_on_a_cpu():
    expected = guided(random_prior("tiny", torch.device("cpu"), torch.float32, seed=0), 1)
    weights = random_prior("tiny", torch.device("cpu"), torch.float32, seed=0)
    for channels_last in (False, True):
        prior = random_prior("tiny", torch.device("cuda"), torch.float32, seed=0)
        for ours, theirs in ((prior.unet, weights.unet), (prior.vae, weights.vae)):
            ours.load_state_dict(theirs.state_dict())
            if channels_last:
                use_channels_last(ours)
        close(guided(prior, 1), expected, 5e-2)


@pytest.mark.gpu
def test_other_shapes_are_refused():
    weight = torch.randn(4, 4, device="cuda")
    x = torch.randn(3, 4, device="cuda")
    network = CapturedNetwork(lambda x, y: (x @ weight) * y, x, x)
    leaf = x.clone().requires_grad_(True)
    out = network(leaf, 2 * x)
    torch.testing.assert_close(out, (x @ weight) * 2 * x)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), leaf)[0], (2 * x) @ weight.T)
    with pytest.raises(ValueError, match="captured"):
        network(x[:2], x[:2])


def test_a_prior_on_the_cpu_is_not_captured():
    prior = random_prior("tiny", torch.device("cpu"), torch.float32, seed=0)
    expected = guided(prior, 1)
    prior.capture = True
    close(guided(prior, 1), expected, 1e-6)
    assert prior.captured is None
