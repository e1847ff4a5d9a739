"""The cheaper gradients against what they must be on a prior in closed form."""

import math

import pytest
import torch
from torch import Tensor

from guidedvd_ns.grounding import LatentGrounding, SceneGrounding
from guidedvd_ns.guidance import GuidanceApproximation, guided_step, sample_guided
from guidedvd_ns.priors.base import Prediction, rms
from tests.test_guidance import GaussianPrior, drain, seeded


class DimmedPrior(GaussianPrior):
    """Its clean estimates come at a third of their size; latents of frames are their pixels."""

    DIMMED = 1 / 3

    def predict(self, x_t: Tensor, t: int, conditioning) -> Prediction:
        prediction = super().predict(x_t, t, conditioning)
        return Prediction(
            self.DIMMED * prediction.x0, prediction.direction, prediction.guidance_length, scale=self.DIMMED
        )

    def encode(self, frames: Tensor) -> Tensor:
        return frames.permute(3, 0, 1, 2)[None]


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    target = torch.rand(3, 4, 4, 3, generator=seeded(7)) * 0.6 + 0.2
    known = torch.zeros(3, 4, 4, 1, dtype=torch.bool)
    known[:2, :, :2] = True
    return target, known, target[0]


def shift(prior, grounding, **approximation) -> Tensor:
    """What guidance adds to a step."""
    t = prior.timesteps(12)[5]
    x_t = prior.initial_noise(seeded(1), 4, 4, 3)
    common = dict(generator=None, guidance_factor=0.2)
    unguided = guided_step(prior, None, x_t, t, grounding=None, **common)
    chosen = GuidanceApproximation(**approximation)
    step = guided_step(prior, None, x_t, t, grounding=grounding, approximation=chosen, **common)
    assert step.rho > 0 and (step.known_error is None) == (approximation.get("space") == "latents")
    return step.x_prev - unguided.x_prev


def direction(tensor: Tensor) -> Tensor:
    return tensor / rms(tensor)


def test_a_detached_denoiser_is_exact_where_its_jacobian_is_a_multiple_of_the_identity(scene):
    target, known, _ = scene
    grounding = SceneGrounding(target, known, "l2")
    exact, detached = (shift(GaussianPrior(), grounding, detach_denoiser=value) for value in (False, True))
    torch.testing.assert_close(detached, exact, rtol=1e-4, atol=1e-6)


def test_a_detached_denoiser_shifts_by_the_gradient_of_the_clean_estimate(scene):
    target, known, _ = scene
    prior = GaussianPrior(mixing=torch.rand(3, 3, generator=seeded(3)))
    requires_grad, predict = [], prior.predict
    prior.predict = lambda x, t, c: requires_grad.append(x.requires_grad or torch.is_grad_enabled()) or predict(x, t, c)
    grounding = SceneGrounding(target, known, "l2")
    detached = shift(prior, grounding, detach_denoiser=True)
    assert not any(requires_grad)
    x0 = predict(prior.initial_noise(seeded(1), 4, 4, 3), prior.timesteps(12)[5], None).x0
    expected = grounding.gradient(prior, x0).gradient
    torch.testing.assert_close(direction(detached), -direction(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_latents_guide_as_pixels_do_where_they_are_the_same(scene, reconstruction):
    target, known, _ = scene
    prior = GaussianPrior(mixing=0.5 * torch.eye(3) + 0.1)
    pixels = shift(prior, SceneGrounding(target, known, reconstruction))
    latents = shift(prior, LatentGrounding(target.permute(3, 0, 1, 2)[None], known, reconstruction), space="latents")
    torch.testing.assert_close(latents, pixels, rtol=1e-3, atol=1e-5)


def test_a_latent_counts_where_all_that_it_shows_is_known():
    known = torch.ones(2, 4, 6, 1, dtype=torch.bool)
    known[0, 3, 5] = False
    grounding = LatentGrounding(torch.zeros(1, 4, 2, 2, 3), known, "l2")
    assert grounding.known.shape == (1, 1, 2, 2, 3)
    assert grounding.known.flatten().tolist() == [1.0] * 5 + [0.0] + [1.0] * 6


def test_dimmed_estimates_are_compared_at_full_scale_where_asked_for(scene):
    target, known, _ = scene
    grounding = SceneGrounding(target, known, "l2")
    undimmed = shift(DimmedPrior(), grounding, undimmed=True)
    torch.testing.assert_close(direction(undimmed), direction(shift(GaussianPrior(), grounding)), rtol=1e-3, atol=1e-4)
    assert rms(direction(undimmed) - direction(shift(DimmedPrior(), grounding))) > 0.1
    latents = LatentGrounding(target.permute(3, 0, 1, 2)[None], known, "l2")
    ours = shift(DimmedPrior(), latents, space="latents")
    torch.testing.assert_close(direction(ours), direction(shift(GaussianPrior(), latents, space="latents")))


def test_guidance_at_every_third_step_builds_a_graph_for_those_alone(scene):
    prior = GaussianPrior()
    graphs, predict = [], prior.predict
    prior.predict = lambda x, t, c: graphs.append(x.requires_grad) or predict(x, t, c)
    progress, _ = drain(sample_guided(prior, *scene, seeded(), approximation=GuidanceApproximation(every=3)))
    assert graphs == [index % 3 == 0 for index in range(12)]
    # The first prediction is the mean whatever the noise, so it is not shifted.
    assert [step.guided for step in progress] == [index % 3 == 0 and index > 0 for index in range(12)]
    assert [step.known_error is None for step in progress] == [index % 3 != 0 for index in range(12)]


def test_whole_sequences_can_be_guided_by_latents(scene):
    target, known, _ = scene
    frames = {
        factor: drain(
            sample_guided(
                DimmedPrior(),
                *scene,
                seeded(),
                guidance_factor=factor,
                approximation=GuidanceApproximation(space="latents"),
            )
        )[1]
        for factor in (0.0, 0.05)
    }
    assert all(math.isfinite(value.sum()) for value in frames.values())
    assert not torch.equal(frames[0.0], frames[0.05])


def test_what_cannot_be_is_named(scene):
    with pytest.raises(ValueError, match="`every`.*0"):
        GuidanceApproximation(every=0)
    with pytest.raises(NotImplementedError, match="GaussianPrior encodes no frames"):
        drain(sample_guided(GaussianPrior(), *scene, seeded(), approximation=GuidanceApproximation(space="latents")))
