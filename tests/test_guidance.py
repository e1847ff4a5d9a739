"""Guided sampling: its formulas on a prior in closed form, its effect on a real tiny one."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from guidedvd_ns.grounding import SceneGrounding
from guidedvd_ns.guidance import SamplerProgress, guided_step, resize_target, sample_guided
from guidedvd_ns.priors.base import Prediction, SamplerSettings, VideoPrior, rms
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from tests.priors.tiny import tiny_prior


class GaussianPrior(VideoPrior):
    """Frames whose pixels are normal around grey, sampled by DDIM with the exact posterior mean; latents are pixels.

    `mixing` [L, L] makes the prediction of each frame a mixture of all.
    """

    size_multiple, dtype, device = 1, torch.float32, torch.device("cpu")
    MEAN, STD = 0.5, 0.2

    def __init__(self, mixing: Tensor | None = None, **settings):
        defaults = dict(num_frames=3, height=4, width=4, num_steps=12, eta=0.0, guidance_factor=0.3)
        self.settings = SamplerSettings(**defaults | settings)
        self.mixing = torch.eye(self.settings.num_frames) if mixing is None else mixing
        self.scheduler = ViewCrafterScheduler(base_scale=None)
        self.decoded_slices: list[slice] = []

    def condition(self, frames, known, reference, generator):
        return frames

    def timesteps(self, num_steps):
        self.scheduler.set_timesteps(num_steps)
        return self.scheduler.timesteps.tolist()

    def initial_noise(self, generator, height, width, num_frames):
        return torch.randn(1, 3, num_frames, height, width, generator=generator)

    def predict(self, x_t, t, conditioning):
        alpha = self.scheduler.alphas_cumprod[t].item()
        gain = math.sqrt(alpha) * self.STD**2 / (alpha * self.STD**2 + 1 - alpha)
        x0 = self.MEAN + gain * (x_t - math.sqrt(alpha) * self.MEAN)
        noise = (x_t - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
        mixed = torch.einsum("ij,bcjhw->bcihw", self.mixing, x0)
        return Prediction(mixed, noise, rms((self.scheduler.update(mixed, noise, t) - x_t).detach()))

    def step(self, x_t, t, prediction, generator):
        assert not prediction.x0.requires_grad
        noise = torch.randn(x_t.shape, generator=generator) if self.settings.eta else None
        return self.scheduler.update(
            prediction.x0, prediction.direction, t, eta=self.settings.eta, variance_noise=noise
        )

    def renoise(self, x_prev, t, generator):
        return self.scheduler.renoise(x_prev, t, torch.randn(x_prev.shape, generator=generator))

    def decode(self, latents, frame_slice, conditioning=None):
        self.decoded_slices.append(frame_slice)
        return latents[0, :, frame_slice].permute(1, 2, 3, 0)


def drain(sampling) -> tuple[list[SamplerProgress], Tensor]:
    progress = []
    while True:
        try:
            progress.append(next(sampling))
        except StopIteration as stop:
            return progress, stop.value


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Target, a known left half (in frame 2 nothing is known), photograph."""
    target = torch.rand(3, 4, 4, 3, generator=seeded(7)) * 0.6 + 0.2
    known = torch.zeros(3, 4, 4, 1, dtype=torch.bool)
    known[:2, :, :2] = True
    return target, known, target[0]


def known_difference(frames: Tensor, target: Tensor, known: Tensor) -> float:
    return (frames - target).abs()[known.expand_as(target)].mean().item()


@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_guidance_reaches_the_known_and_leaves_the_independent_rest_alone(scene, reconstruction):
    target, known, _ = scene
    _, unguided = drain(sample_guided(GaussianPrior(), *scene, seeded(), guidance_factor=0))
    progress, guided = drain(sample_guided(GaussianPrior(), *scene, seeded(), reconstruction=reconstruction))
    assert known_difference(guided, target, known) < 0.5 * known_difference(unguided, target, known)
    rest = ~known.expand_as(target)
    assert torch.equal(guided[rest], unguided[rest])
    # The first prediction is the mean whatever the noise: no gradient, so nothing to shift.
    assert [step.guided for step in progress] == [False] + [True] * 11
    assert progress[-1].known_error < progress[0].known_error


def test_the_prior_may_be_shown_other_frames_than_those_that_guide(scene):
    target, known, photograph = scene
    prior, seen = GaussianPrior(), []
    prior.condition = lambda *given: seen.extend(given)
    shown, shown_known = torch.full((3, 8, 8, 3), 0.25), torch.ones(3, 8, 8, 1, dtype=torch.bool)
    _, frames = drain(sample_guided(prior, *scene, seeded(), condition=(shown, shown_known)))
    assert torch.equal(seen[0], torch.full((3, 4, 4, 3), 0.25)) and seen[1].shape == (3, 4, 4, 1) and seen[1].all()
    _, expected = drain(sample_guided(GaussianPrior(), *scene, seeded()))
    assert torch.equal(frames, expected)  # this prior's samples heed the guidance target alone
    with pytest.raises(ValueError, match=r"`condition` must be 3 frames.*\(2, 8, 8, 3\)"):
        sample_guided(prior, target, known, photograph, seeded(), condition=(shown[:2], shown_known[:2]))


def test_unguided_sampling_is_plain_ddim_and_builds_no_graph(scene):
    prior = GaussianPrior()
    requires_grad, predict = [], prior.predict
    prior.predict = lambda x, t, c: requires_grad.append(x.requires_grad or torch.is_grad_enabled()) or predict(x, t, c)
    progress, frames = drain(sample_guided(prior, *scene, seeded(), guidance_factor=0))
    assert not any(requires_grad)
    x = GaussianPrior().initial_noise(seeded(), 4, 4, 3)
    for t in prior.timesteps(12):
        prediction = predict(x, t, None)
        x = prior.step(x, t, prediction, None)
    assert torch.equal(frames, x[0].permute(1, 2, 3, 0).clamp(0, 1))
    assert [step.step for step in progress] == list(range(1, 13))
    assert {(step.num_steps, step.known_error, step.guided) for step in progress} == {(12, None, False)}


@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_a_step_is_the_sampler_s_own_minus_rho_times_the_gradient(scene, reconstruction):
    """Closed form: the prediction is linear in x, so the gradient is the mixing's transpose times that of the loss."""
    target, known, _ = scene
    prior = GaussianPrior(mixing=torch.rand(3, 3, generator=seeded(3)))
    t = prior.timesteps(12)[5]
    x_t = prior.initial_noise(seeded(1), 4, 4, 3)
    grounding = SceneGrounding(target, known, reconstruction)
    step = guided_step(prior, None, x_t, t, grounding=grounding, generator=None, guidance_factor=0.2)

    prediction = prior.predict(x_t, t, None)
    decoded, wanted = prediction.x0[0], target.permute(3, 0, 1, 2)
    mask = known.permute(3, 0, 1, 2).float()
    if reconstruction == "l1":
        slope = mask * (decoded - wanted).sign() / (3 * mask.sum())
    else:
        inside = (decoded > 0) & (decoded < 1)
        per_frame = (3 * mask.sum(dim=(0, 2, 3), keepdim=True)).clamp(min=1)
        slope = mask * inside * (decoded - wanted) / per_frame
    alpha = prior.scheduler.alphas_cumprod[t].item()
    gain = math.sqrt(alpha) * prior.STD**2 / (alpha * prior.STD**2 + 1 - alpha)
    gradient = gain * torch.einsum("ji,cjhw->cihw", prior.mixing, slope)[None]
    rho = 0.2 * prediction.guidance_length / rms(gradient)
    expected = prior.step(x_t, t, prediction, None) - rho * gradient
    torch.testing.assert_close(step.x_prev, expected, rtol=1e-4, atol=1e-5)
    assert step.rho == pytest.approx(rho.item(), rel=1e-4)
    assert step.known_error == pytest.approx(
        (decoded.clamp(0, 1) - wanted).abs()[mask.expand_as(wanted) > 0].mean().item(), rel=1e-5
    )
    shift = step.x_prev - prior.step(x_t, t, prediction, None)
    assert rms(shift).item() == pytest.approx(0.2 * prediction.guidance_length.item(), rel=1e-4)


@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_slices_add_up_to_the_whole(scene, reconstruction):
    target, known, _ = scene

    def perceptual(images: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        images, targets = images * known, targets * known
        return (images.mean(dim=(1, 2, 3)) - targets.mean(dim=(1, 2, 3))).square().mean()

    x0 = torch.rand(1, 3, 3, 4, 4, generator=seeded(2))
    results = []
    for frames_per_slice in (1, 2, 3):
        grounding = SceneGrounding(
            target,
            known,
            reconstruction,
            perceptual=perceptual,
            perceptual_weight=1.0,
            frames_per_slice=frames_per_slice,
        )
        results.append(grounding.gradient(GaussianPrior(), x0))
    for gradient, loss, error in results[1:]:
        torch.testing.assert_close(gradient, results[0].gradient)
        assert loss.item() == pytest.approx(results[0].loss.item())
        assert error.item() == pytest.approx(results[0].known_error.item())
    without = SceneGrounding(target, known, reconstruction).gradient(GaussianPrior(), x0).gradient
    assert not torch.allclose(without, results[0].gradient)


def test_nothing_known_is_no_guidance_and_never_nan(scene):
    target, known, photograph = scene
    _, unguided = drain(sample_guided(GaussianPrior(), *scene, seeded(), guidance_factor=0))
    prior = GaussianPrior()
    target[~known.expand_as(target)] = torch.nan
    progress, frames = drain(sample_guided(prior, target, torch.zeros_like(known), photograph, seeded()))
    assert torch.equal(frames, unguided)
    assert not any(step.guided for step in progress)
    assert len(prior.decoded_slices) == 1


def test_frames_without_a_known_pixel_are_not_decoded(scene):
    target, known, _ = scene
    prior = GaussianPrior()
    grounding = SceneGrounding(
        target, known, "l2", frames_per_slice=1, perceptual=lambda a, b, known: (known * (a - b)).norm()
    )
    gradient = grounding.gradient(prior, torch.rand(1, 3, 3, 4, 4)).gradient
    assert prior.decoded_slices == [slice(0, 1), slice(1, 2)]
    assert torch.isfinite(gradient).all() and not gradient[0, :, 2].any()


def test_a_gradient_that_is_not_finite_leaves_the_step_unguided(scene):
    target, known, _ = scene
    prior = GaussianPrior()
    x_t, t = prior.initial_noise(seeded(), 4, 4, 3), prior.timesteps(12)[3]
    grounding = SceneGrounding(target, known, "l1", perceptual=lambda a, b, known: a.mean() / 0 - b.mean())
    step = guided_step(prior, None, x_t, t, grounding=grounding, generator=None, guidance_factor=0.2)
    assert step.rho == 0
    assert torch.equal(step.x_prev, prior.step(x_t, t, prior.predict(x_t, t, None), None))


def test_the_callers_grad_mode_and_autocast_do_not_reach_the_sampler(scene):
    _, expected = drain(sample_guided(GaussianPrior(), *scene, seeded()))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        sampling = sample_guided(GaussianPrior(mixing=torch.eye(3)), *scene, seeded())
        next(sampling)
        assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        _, frames = drain(sampling)
    assert torch.equal(frames, expected)


def test_two_sequences_can_be_advanced_in_turn(scene):
    expected = [drain(sample_guided(GaussianPrior(), *scene, seeded(), num_steps=n))[1] for n in (6, 10)]
    prior = GaussianPrior()
    samplings = [sample_guided(prior, *scene, seeded(), num_steps=n) for n in (6, 10)]
    for _ in range(6):
        for sampling in samplings:
            next(sampling)
    for sampling, frames in zip(samplings, expected, strict=True):
        assert torch.equal(drain(sampling)[1], frames)


def test_targets_are_brought_to_the_prior_s_size(scene):
    target, known, photograph = scene
    _, frames = drain(sample_guided(GaussianPrior(), *scene, seeded(), height=6, width=10, num_steps=2))
    assert frames.shape == (3, 6, 10, 3)
    large, large_known = resize_target(target, known, 8, 8)
    assert torch.equal(large_known, known.repeat_interleave(2, 1).repeat_interleave(2, 2))
    torch.testing.assert_close(large.mean(dim=(1, 2)), target.mean(dim=(1, 2)), rtol=0.1, atol=0.05)
    same = resize_target(target, known.float(), 4, 4)
    assert torch.equal(same[0], target) and torch.equal(same[1], known)


def test_bad_arguments_are_named_at_once(scene):
    target, known, photograph = scene
    prior = GaussianPrior()
    with pytest.raises(ValueError, match=r"`target`.*\(3, 4, 4, 1\)"):
        sample_guided(prior, known, known, photograph, seeded())
    with pytest.raises(ValueError, match=r"`known`.*\(2, 4, 4, 1\)"):
        sample_guided(prior, target, known[:2], photograph, seeded())
    with pytest.raises(ValueError, match=r"`reference`.*\(3, 4, 4, 3\)"):
        sample_guided(prior, target, known, target, seeded())
    with pytest.raises(ValueError, match="guidance_factor.*-1"):
        sample_guided(prior, target, known, photograph, seeded(), guidance_factor=-1)
    with pytest.raises(ValueError, match="`repeats`.*0"):
        sample_guided(prior, target, known, photograph, seeded(), repeats=0)


def test_a_real_tiny_prior_is_grounded_and_repeatable():
    target = torch.rand(3, 16, 24, 3, generator=seeded(5))
    known = torch.ones(3, 16, 24, 1, dtype=torch.bool)
    known[:, :, 12:] = False
    results = [
        drain(sample_guided(tiny_prior(), target, known, target[0], seeded(seed), repeats=repeats))
        for seed, repeats in ((0, 1), (0, 1), (1, 1), (0, 2))
    ]
    frames = [result[1] for result in results]
    assert torch.equal(frames[0], frames[1])
    assert not torch.allclose(frames[0], frames[2]) and not torch.allclose(frames[0], frames[3])
    _, unguided = drain(sample_guided(tiny_prior(), target, known, target[0], seeded(), guidance_factor=0))
    assert known_difference(frames[0], target, known) < known_difference(unguided, target, known)
    assert frames[0].shape == (3, 16, 24, 3) and frames[0].min() >= 0 and frames[0].max() <= 1


def test_guidance_and_frames_see_the_detail_that_the_prior_restores():
    """A network that leaves the condition as it is gives no error to guide by, and sharp frames."""
    prior = tiny_prior(num_steps=1, restore_detail=True)
    prior.residual = True
    for parameter in prior.unet.parameters():
        parameter.zero_()
    target = torch.rand(3, 16, 24, 3, generator=seeded(5))
    known = torch.ones(3, 16, 24, 1, dtype=torch.bool)
    known[1:, :, 12:] = False
    (progress,), frames = drain(sample_guided(prior, target, known, target[0], seeded()))
    assert progress.known_error == pytest.approx(0, abs=1e-5)
    # Time step 0 keeps some noise.
    assert known_difference(frames, target, known) < 0.1
    prior.settings = replace(prior.settings, restore_detail=False)
    (progress,), frames = drain(sample_guided(prior, target, known, target[0], seeded()))
    assert progress.known_error > 0.1 and known_difference(frames, target, known) > 0.2


@pytest.mark.gpu
def test_a_gpu_samples_what_a_cpu_samples():
    target, known = torch.rand(3, 16, 24, 3, generator=seeded(5)), torch.ones(3, 16, 24, 1, dtype=torch.bool)
    frames = []
    for device in ("cpu", "cuda"):
        prior = tiny_prior()
        prior.unet.to(device)
        prior.vae.to(device)
        frames.append(drain(sample_guided(prior, target, known, target[0], seeded()))[1].cpu())
    torch.testing.assert_close(*frames, rtol=1e-2, atol=1e-2)
