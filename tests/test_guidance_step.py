"""How far guidance shifts a step, against what a linear prior's answer must be."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from guidedvd_ns.grounding import SceneGrounding
from guidedvd_ns.guidance import guidance_gradient, guided_step, sample_guided, step_factor
from guidedvd_ns.priors.base import Prediction, Reconstruction, rms
from tests.test_guidance import GaussianPrior, drain, known_difference, seeded


class FarSteppingPrior(GaussianPrior):
    """Its own steps are too long to bound those of guidance."""

    def predict(self, x_t: Tensor, t: int, conditioning) -> Prediction:
        return replace(super().predict(x_t, t, conditioning), guidance_length=torch.tensor(10.0))


PRIOR = FarSteppingPrior()
T = PRIOR.timesteps(12)[5]
X_T = PRIOR.initial_noise(seeded(1), 4, 4, 3)
SHOWN = PRIOR.decode(PRIOR.predict(X_T, T, None).x0, slice(0, 3))
KNOWN = torch.ones(3, 4, 4, 1, dtype=torch.bool)
KNOWN[:, :, 2:] = False


def shift(reconstruction: Reconstruction, difference: Tensor, *, factor: float, kind="shrinking") -> Tensor:
    """What guidance adds to the step where the guide differs from the prediction by `difference`."""
    grounding = SceneGrounding(SHOWN - difference, KNOWN, reconstruction)
    common = dict(generator=None, guidance_factor=factor, guidance_step=kind)
    unguided = guided_step(PRIOR, None, X_T, T, grounding=None, **common)
    return guided_step(PRIOR, None, X_T, T, grounding=grounding, **common).x_prev - unguided.x_prev


@pytest.mark.parametrize("factor", [0.25, 1.0])
@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_the_share_of_the_difference_that_is_asked_for_goes_away(reconstruction, factor):
    """The prediction is linear in x and each loss falls evenly: the absolute one where all differences are as large."""
    difference = 0.05 * torch.randn(SHOWN.shape, generator=seeded(2))
    difference = difference.sign() * 0.05 if reconstruction == "l1" else difference.clamp(-0.1, 0.1)
    assert ((SHOWN > 0.1) & (SHOWN < 0.9)).all()  # so nothing is clamped
    moved = PRIOR.predict(X_T + shift(reconstruction, difference, factor=factor), T, None).x0
    left = PRIOR.decode(moved, slice(0, 3)) - (SHOWN - difference)
    expected = torch.where(KNOWN, (1 - factor) * difference, difference)
    torch.testing.assert_close(left, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_a_shrinking_step_vanishes_with_the_loss_and_a_constant_one_does_not(reconstruction):
    difference = 0.1 * torch.rand(SHOWN.shape, generator=seeded(2))
    for kind, ratio in (("shrinking", 0.01), ("constant", 1.0)):
        far, near = (rms(shift(reconstruction, scale * difference, factor=0.3, kind=kind)) for scale in (1.0, 0.01))
        assert near.item() == pytest.approx(ratio * far.item(), rel=1e-2)


def test_a_shrinking_step_is_never_longer_than_the_sampler_s_own():
    grounding = SceneGrounding(SHOWN - 0.1, KNOWN, "l2")
    prediction, slope = guidance_gradient(PRIOR, None, X_T, T, grounding)
    flat = slope._replace(gradient=1e-6 * slope.gradient)
    rho = step_factor("shrinking", 0.3, prediction.guidance_length, flat, grounding.degree)
    assert rms(rho * flat.gradient).item() == pytest.approx(prediction.guidance_length.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["constant", "shrinking"])
def test_no_gradient_is_no_shift(kind):
    assert not shift("l1", torch.zeros_like(SHOWN), factor=0.3, kind=kind).any()


def test_a_prior_brings_the_kind_of_its_steps():
    target, photograph = (SHOWN - 0.1).clamp(0, 1), SHOWN[0]
    found = {}
    for kind in ("constant", "shrinking"):
        given = drain(sample_guided(GaussianPrior(), target, KNOWN, photograph, seeded(), guidance_step=kind))[1]
        brought = drain(sample_guided(GaussianPrior(guidance_step=kind), target, KNOWN, photograph, seeded()))[1]
        assert torch.equal(given, brought)
        found[kind] = known_difference(given, target, KNOWN)
    unguided = drain(sample_guided(GaussianPrior(), target, KNOWN, photograph, seeded(), guidance_factor=0))[1]
    assert found["constant"] != found["shrinking"]
    assert max(found.values()) < 0.5 * known_difference(unguided, target, KNOWN)
