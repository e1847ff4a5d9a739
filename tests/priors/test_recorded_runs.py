"""The recorded runs of the original, from photograph, frames and token ids to decoded video, step by step and whole."""

import re

import pytest
import torch

from guidedvd_ns import guidance
from guidedvd_ns.grounding import SceneGrounding
from guidedvd_ns.guidance import decode_frames, denoise, guided_step, resize_target
from guidedvd_ns.priors.base import rms
from guidedvd_ns.priors.viewcrafter.conditioning import Conditioning
from tests.priors.recordings import (
    RecordedPrior,
    at_collection,
    below,
    fixture_json,
    fixture_tensors,
    relative_error,
)


def recorded_steps(run: str) -> list[tuple[int, int, dict[str, torch.Tensor]]]:
    """Index of the step, of the repeat, and what is recorded of it, in the order in which they were taken."""
    steps = {}
    for name, value in below(fixture_tensors("guided_ddim"), run + "/step").items():
        index, repeat, quantity = re.fullmatch(r"(\d+)/(?:rep(\d+)/)?(\w+)", name).groups()
        steps.setdefault((int(index), int(repeat or 0)), {})[quantity] = value
    return [(*key, steps[key]) for key in sorted(steps)]


def guidance_factor(run: str) -> float:
    description = fixture_json("guided_ddim")
    if not any("rho" in step for _, _, step in recorded_steps(run)):
        return 0.0
    scaled = description["scaled_run"]
    weight = scaled["weight_at_iteration"][str(scaled["train_iteration"])] if "scaled" in run else 1.0
    return description["rho_scale"] * weight


RUNS = at_collection(lambda: list(fixture_json("guided_ddim")["runs"]))


def steps_with(quantity: str) -> list[tuple[str, int, int]]:
    """Run, index and repeat of all steps of which the quantity is recorded."""
    return [(run, index, repeat) for run in RUNS for index, repeat, step in recorded_steps(run) if quantity in step]


def recorded_step(run: str, index: int, repeat: int) -> dict[str, torch.Tensor]:
    return {(i, r): step for i, r, step in recorded_steps(run)}[index, repeat]


@pytest.fixture(scope="module")
def prior() -> RecordedPrior:
    return RecordedPrior()


@pytest.fixture(scope="module")
def conditioning(prior) -> Conditioning:
    """Through our encoders, with the recorded noise of the posterior, one frame after the other."""
    frames, noise = prior.recorded["cond/frames"], iter(prior.recorded["cond/vae_noise"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "diffusers.models.autoencoders.vae.randn_tensor",
            lambda shape, **_: torch.stack([next(noise) for _ in range(shape[0])]),
        )
        return prior.condition(frames, torch.ones(*frames.shape[:-1], 1), frames[prior.run["clip_image_frame"]])


@pytest.fixture(scope="module")
def grounding(prior) -> SceneGrounding:
    render, opacity = prior.recorded["guide/render_native"], prior.recorded["guide/opacity_native"]
    known = opacity.clamp(0, 1) >= prior.run["opacity_threshold"]
    size = (prior.run["height"], prior.run["width"])
    target, known = resize_target(render.movedim(1, -1), known.movedim(1, -1), *size)
    return SceneGrounding(target, known, "l2", frames_per_slice=1)


def test_conditioning_matches_the_original(prior, conditioning):
    recorded = prior.recorded
    assert relative_error(conditioning.z, recorded["cond/z_concat"]) < 1e-5
    assert relative_error(conditioning.context, recorded["cond/context"]) < 1e-5
    assert relative_error(conditioning.unconditional_context, recorded["cond/context_uncond"]) < 1e-5


def test_targets_match_the_original(prior, grounding):
    assert torch.equal(grounding.known, prior.recorded["guide/mask"].movedim(1, -1))
    expected = prior.recorded["guide/render"].movedim(1, -1) * grounding.known
    assert relative_error(grounding.target, expected) < 1e-6


@pytest.mark.parametrize(("run", "index", "repeat"), at_collection(lambda: steps_with("x_in")))
def test_every_prediction_matches_the_original(prior, conditioning, run, index, repeat):
    step = recorded_step(run, index, repeat)
    t = prior.timesteps(prior.run["S"])[index]
    x_t = step["x_in"].clone().requires_grad_(True)
    prediction = prior.predict(x_t, t, conditioning)
    assert relative_error(prediction.x0, step["pred_x0"]) < 1e-4
    if "v_cond" in step:  # the full record
        assert t == step["timestep"].item()
        assert relative_error(prediction.direction, step["eps"]) < 1e-4
        expected = prior.run["unconditional_guidance_scale"] * rms(step["v_cond"] - step["v_uncond"])
        assert prediction.guidance_length.item() == pytest.approx(expected.item(), rel=1e-4)
        (grad,) = torch.autograd.grad(prediction.x0, x_t, step["grad_x0"])
        assert relative_error(grad, step["grad_x"]) < 1e-3
        numbers = prior.scheduler.coefficients(t, prior.run["eta"])
        ratio = numbers.alpha / numbers.alpha_prev
        ours = torch.tensor([numbers.alpha, numbers.alpha_prev, numbers.sigma, ratio, numbers.rescale])
        assert (ours - step["coef"]).abs().max() < 1e-6
        prior.noise = [prior.recorded["noise/ancestral"][index, repeat]]
        assert relative_error(prior.step(x_t, t, prediction, None), step["x_prev_unguided"]) < 1e-4
    if "x_timetravel" in step:
        # At the noisiest step nothing of x is kept, and the noise is all there is.
        prior.noise = [prior.recorded["noise/timetravel"][index, repeat]]
        assert relative_error(prior.renoise(step["x_prev"], t, None), step["x_timetravel"]) < 1e-4


@pytest.mark.parametrize(("run", "index", "repeat"), at_collection(lambda: steps_with("x_in")))
def test_every_guided_step_matches_the_original(prior, conditioning, grounding, run, index, repeat):
    step = recorded_step(run, index, repeat)
    t, factor = prior.timesteps(prior.run["S"])[index], guidance_factor(run)
    prior.noise = [prior.recorded["noise/ancestral"][index, repeat]]
    ours = guided_step(
        prior,
        conditioning,
        step["x_in"],
        t,
        grounding=grounding if factor else None,
        generator=None,
        guidance_factor=factor,
    )
    assert relative_error(ours.x_prev, step["x_prev"]) < 1e-4
    if factor:
        assert ours.rho == pytest.approx(step["rho"].item(), rel=1e-3)
        x_t = step["x_in"].clone().requires_grad_(True)
        x0 = prior.predict(x_t, t, conditioning).x0
        (grad,) = torch.autograd.grad(x0, x_t, grounding.gradient(prior, x0)[0])
        assert relative_error(grad, step["grad_x"]) < 1e-3


@pytest.mark.parametrize(("run", "index", "repeat"), at_collection(lambda: steps_with("grad_x0")))
def test_loss_and_its_gradient_match_the_original(prior, grounding, run, index, repeat):
    step = recorded_step(run, index, repeat)
    count = prior.run["frames"]
    frames = decode_frames(prior, step["pred_x0"], count, 2)
    assert relative_error(frames, ((step["decoded"][0].permute(1, 2, 3, 0) + 1) / 2).clamp(0, 1)) < 1e-4
    assert (3 * grounding.known.sum(dim=(1, 2, 3))).tolist() == step["numel_frames"].tolist()
    # The original sums over a frame and divides its gradient by the number of values.
    losses = torch.stack([grounding.loss(frames[k : k + 1], slice(k, k + 1)) for k in range(count)])
    assert relative_error(losses * step["numel_frames"], step["loss_frames"]) < 1e-4
    assert relative_error(grounding.gradient(prior, step["pred_x0"])[0], step["grad_x0"]) < 1e-3


@pytest.mark.parametrize("run", RUNS)
def test_whole_runs_match_the_original(prior, conditioning, grounding, monkeypatch, run):
    recorded, steps, factor = prior.recorded, recorded_steps(run), guidance_factor(run)
    prior.noise = []
    for index, repeat, _ in steps:
        if repeat > 0:
            prior.noise.append(recorded["noise/timetravel"][index, repeat - 1])
        prior.noise.append(recorded["noise/ancestral"][index, repeat])
    taken = []

    def spy(*args, **kwargs):
        taken.append(guided_step(*args, **kwargs))
        return taken[-1]

    monkeypatch.setattr(guidance, "guided_step", spy)
    sampling = denoise(
        prior,
        conditioning,
        recorded["x_T"],
        grounding=grounding if factor else None,
        generator=None,
        num_steps=prior.run["S"],
        guidance_factor=factor,
        repeats=1 + max(repeat for _, repeat, _ in steps),
    )
    for _ in sampling:
        pass
    for ours, (index, repeat, step) in zip(taken, steps, strict=True):
        assert relative_error(ours.x_prev, step["x_prev"]) < 1e-3, (index, repeat)
        if factor:
            assert ours.rho == pytest.approx(step["rho"].item(), rel=5e-3), (index, repeat)
    latents, count = taken[-1].x_prev, prior.run["frames"]
    video = torch.cat([prior.decode(latents, slice(k, k + 1)) for k in range(count)])
    assert relative_error(2 * video - 1, recorded[f"{run}/video"][0].permute(1, 2, 3, 0)) < 1e-3
