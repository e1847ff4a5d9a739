"""Scene-grounding guidance: sample a video prior, and pull every denoising step towards what the guide knows.

The method's stage 3 (Zhong et al. 2025, section 4.2): the clean video that the prior predicts at a step is decoded and
compared with the guide's render where the scene is known; the gradient of the difference with respect to the noisy
latent, through decoder and denoiser, shifts the sampler's own step.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.grounding import Grounding, LatentGrounding, PerceptualDistance, SceneGrounding, Slope
from guidedvd_ns.priors.base import GuidanceStep, Prediction, Reconstruction, VideoPrior, frame_slices, rms


@dataclass(frozen=True)
class SamplerProgress:
    """Where sampling stands after a denoising step."""

    step: int
    """Steps that are done, 1 to `num_steps`."""
    num_steps: int
    known_error: float | None
    """Mean absolute difference of predicted and rendered frames over known pixels, in [0, 1]; None without guidance."""
    guided: bool
    """Whether guidance shifted this step."""


@dataclass(frozen=True)
class GuidedStep:
    """One denoising step and what guidance did to it."""

    x_prev: Tensor
    """The latent at the previous time step, shaped like the prior's latents."""
    known_error: float | None
    """See `SamplerProgress`."""
    rho: float
    """Factor of the gradient that was subtracted; 0 where there was no guidance."""


@dataclass(frozen=True)
class GuidanceApproximation:
    """Cheaper gradients than the method's; the defaults are exact. `gvd-benchmark sampler` measures what each costs.

    Raises:
        ValueError: where `every` is not positive.
    """

    every: int = 1
    """Guide the first step and every so many after it; the others are the sampler's own, without any graph."""
    detach_denoiser: bool = False
    """Take the gradient with respect to the clean estimate for that with respect to the noisy latent, as MPGD does (He
    et al. 2024): nothing goes back through the denoiser, whose Jacobian counts as a multiple of the identity."""
    space: Literal["pixels", "latents"] = "pixels"
    """Compare decoded frames, or latents where all that they show is known (no decoder, no perceptual term)."""
    undimmed: bool = False
    """Decode the clean estimate at its full scale where the prior dims it at noisy steps. The authors' code compares
    dim frames; latents are always compared undimmed."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"`every` of the guidance approximation must be at least 1 but is {self.every}.")


EXACT = GuidanceApproximation()


def sample_guided(
    prior: VideoPrior,
    target: Tensor,  # [L, H, W, 3] the guide's renders in [0, 1]
    known: Tensor,  # [L, H, W, 1] where they show the scene, bool (or float, true above 0.5)
    reference: Tensor,  # [H', W', 3] in [0, 1], the photograph at the first frame's pose
    generator: torch.Generator,
    *,
    condition: tuple[Tensor, Tensor] | None = None,
    num_steps: int | None = None,
    guidance_factor: float | None = None,
    guidance_step: GuidanceStep | None = None,
    height: int | None = None,
    width: int | None = None,
    reconstruction: Reconstruction | None = None,
    perceptual: PerceptualDistance | None = None,
    perceptual_weight: float = 1e-4,
    repeats: int = 1,
    frames_per_slice: int | None = None,
    approximation: GuidanceApproximation = EXACT,
) -> Generator[SamplerProgress, None, Tensor]:
    """Complete the frames of a trajectory; yields after every denoising step so that nothing has to wait for the end.

    The returned generator's value (`StopIteration.value`, or that of `yield from`) is the frames, `[L, height, width,
    3]` in [0, 1]. All random numbers come from `generator`: the same seed gives the same sequence.

    Args:
        prior: the video model.
        target, known, reference: see above; `target` and `known` are resized to `height` x `width`.
        generator: source of all noise, on the CPU or on the prior's device.
        condition: frames and mask, shaped like `target` and `known`, that the prior is conditioned on instead of those.
        num_steps: denoising steps; the prior's own number by default.
        guidance_factor: strength of guidance, 0 for none; the prior's own by default.
        guidance_step: how far guidance shifts a step, see `step_factor`; the prior's own by default.
        height, width: size in pixels to sample at; the prior's own by default.
        reconstruction: distance between decoded frames and target; the prior's own by default.
        perceptual: an additional distance between the known parts of decoded frames and target.
        perceptual_weight: its factor.
        repeats: how often each step is taken, with fresh noise in between ("time travel").
        frames_per_slice: frames that are decoded together; bounds the memory; the prior's own by default.
        approximation: how much of the gradient to save.

    Raises:
        ValueError: on a wrong shape or a number out of range.
    """
    frames_per_slice = prior.frames_per_slice if frames_per_slice is None else frames_per_slice
    _check_inputs(target, known, reference, repeats=repeats, frames_per_slice=frames_per_slice)
    settings = prior.settings
    num_steps = settings.num_steps if num_steps is None else num_steps
    guidance_factor = settings.guidance_factor if guidance_factor is None else guidance_factor
    if num_steps < 1 or guidance_factor < 0:
        raise ValueError(
            f"`num_steps` must be at least 1 and `guidance_factor` at least 0, but they are {num_steps} and"
            f" {guidance_factor}."
        )
    height = settings.height if height is None else height
    width = settings.width if width is None else width
    target, known = resize_target(target.to(prior.device), known.to(prior.device), height, width)
    shown, shown_known = (target, known) if condition is None else condition
    if shown.shape[:1] + shown.shape[3:] != (len(target), 3) or shown_known.shape != (*shown.shape[:-1], 1):
        raise ValueError(
            f"`condition` must be {len(target)} frames [L, H, W, 3] and their mask [L, H, W, 1], but has shapes"
            f" {tuple(shown.shape)} and {tuple(shown_known.shape)}."
        )
    if condition is not None:
        shown, shown_known = resize_target(shown.to(prior.device), shown_known.to(prior.device), height, width)
    chosen: Reconstruction = settings.reconstruction if reconstruction is None else reconstruction
    kind: GuidanceStep = settings.guidance_step if guidance_step is None else guidance_step

    def ground() -> Grounding:
        if approximation.space == "latents":
            return LatentGrounding(prior.encode(torch.where(known, target, torch.zeros_like(target))), known, chosen)
        return SceneGrounding(
            target,
            known,
            chosen,
            perceptual=perceptual,
            perceptual_weight=perceptual_weight,
            frames_per_slice=frames_per_slice,
        )

    def run() -> Generator[SamplerProgress, None, Tensor]:
        with torch.autocast(prior.device.type, enabled=False):
            conditioning = prior.condition(shown, shown_known, reference, generator)
            grounding = ground() if guidance_factor > 0 else None
        noise = prior.initial_noise(generator, height, width, len(target))
        latents = yield from denoise(
            prior,
            conditioning,
            noise,
            grounding=grounding,
            generator=generator,
            num_steps=num_steps,
            guidance_factor=guidance_factor,
            guidance_step=kind,
            repeats=repeats,
            approximation=approximation,
        )
        return decode_frames(prior, latents, len(target), frames_per_slice, conditioning)

    return run()


def denoise(
    prior: VideoPrior,
    conditioning: Any,
    x_t: Tensor,
    *,
    grounding: Grounding | None,
    generator: torch.Generator | None,
    num_steps: int,
    guidance_factor: float,
    guidance_step: GuidanceStep = "constant",
    repeats: int = 1,
    approximation: GuidanceApproximation = EXACT,
) -> Generator[SamplerProgress, None, Tensor]:
    """Take all steps from noise to the final latents, which are the generator's value; yields after each."""
    for index in range(num_steps):
        # Asked again at every step: another sequence may have been advanced in between, with another number of steps.
        t = prior.timesteps(num_steps)[index]
        guided = grounding if index % approximation.every == 0 else None
        for repeat in range(repeats):
            if repeat > 0:
                x_t = prior.renoise(x_t, t, generator)
            step = guided_step(
                prior,
                conditioning,
                x_t,
                t,
                grounding=guided,
                generator=generator,
                guidance_factor=guidance_factor,
                guidance_step=guidance_step,
                approximation=approximation,
            )
            x_t = step.x_prev
        yield SamplerProgress(index + 1, num_steps, step.known_error, guided=step.rho > 0)
    return x_t


def guided_step(
    prior: VideoPrior,
    conditioning: Any,
    x_t: Tensor,
    t: int,
    *,
    grounding: Grounding | None,
    generator: torch.Generator | None,
    guidance_factor: float,
    guidance_step: GuidanceStep = "constant",
    approximation: GuidanceApproximation = EXACT,
) -> GuidedStep:
    """The sampler's own step from the unguided prediction, then the shift by rho * gradient (stage 3, steps 1 to 5).

    See `step_factor` for rho.
    """
    x_t = x_t.detach()
    # The caller may be inside a training step: neither its autocast nor its gradient mode may reach the sampler.
    with torch.autocast(x_t.device.type, enabled=False), torch.set_grad_enabled(grounding is not None):
        if grounding is None:
            return GuidedStep(prior.step(x_t, t, prior.predict(x_t, t, conditioning), generator), None, rho=0.0)
        prediction, slope = guidance_gradient(prior, conditioning, x_t, t, grounding, approximation)
        x_prev = prior.step(x_t, t, prediction, generator)
    # All on the device: waiting for a number would leave it idle in the middle of a step.
    length = rms(slope.gradient)
    rho = step_factor(guidance_step, guidance_factor, prediction.guidance_length, slope, grounding.degree)
    shifted = x_prev - rho * slope.gradient
    finite = torch.isfinite(shifted).all()
    numbers = [length, rho, finite, length if slope.known_error is None else slope.known_error]
    length, rho, finite, error = torch.stack([number.to(length) for number in numbers]).tolist()
    known_error = None if slope.known_error is None else error
    if length == 0 or rho == 0:
        return GuidedStep(x_prev, known_error, rho=0.0)
    if not finite:
        CONSOLE.log(f"[yellow]The guidance gradient at time step {t} is not finite; this step goes unguided.")
        return GuidedStep(x_prev, known_error, rho=0.0)
    return GuidedStep(shifted, known_error, rho)


def step_factor(
    kind: GuidanceStep,
    factor: float,
    guidance_length: Tensor,  # scalar, see `Prediction`
    slope: Slope,
    degree: int,
) -> Tensor:  # scalar
    """rho, by which the gradient g is multiplied before it is subtracted; not a number where g is zero.

    `constant` is the authors' (method.md, stage 3.4), rho = factor * guidance_length / rms(g): the shift has that
    length however small the loss L is.

    `shrinking` aims at taking the share `factor` of the difference away, rho = factor * d * L / |g|^2, but is never
    longer than guidance_length. At 1 this is Polyak's step (1969) for a loss that can reach 0; d, the loss's degree in
    the difference, makes it reach 0 for squared differences too. It vanishes with the loss, and but for that bound does
    not depend on how long the sampler's steps are.
    """
    length = rms(slope.gradient)
    if kind == "constant":
        return factor * guidance_length / length
    return torch.minimum(factor * degree * slope.loss / (slope.gradient.numel() * length**2), guidance_length / length)


def guidance_gradient(
    prior: VideoPrior,
    conditioning: Any,
    x_t: Tensor,
    t: int,
    grounding: Grounding,
    approximation: GuidanceApproximation = EXACT,
) -> tuple[Prediction, Slope]:
    """The prediction without its graph, and the slope of the loss at x_t."""
    through_denoiser = not approximation.detach_denoiser
    with torch.set_grad_enabled(through_denoiser):
        x_t = x_t.detach().requires_grad_(through_denoiser)
        prediction = prior.predict(x_t, t, conditioning)
    undim = approximation.undimmed or approximation.space == "latents"
    # One slice of the decoder's graph at a time, then the denoiser's once.
    with torch.enable_grad():
        slope = grounding.gradient(prior, prediction.x0, conditioning, prediction.scale if undim else 1.0)
        if through_denoiser:
            slope = slope._replace(gradient=torch.autograd.grad(prediction.x0, x_t, slope.gradient)[0])
    detached = replace(prediction, x0=prediction.x0.detach(), direction=prediction.direction.detach())
    return detached, slope


def resize_target(
    target: Tensor,  # [L, H, W, 3] in [0, 1]
    known: Tensor,  # [L, H, W, 1] bool, or float
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:  # [L, height, width, 3] in [0, 1] and bool [L, height, width, 1]
    """Bring renders and mask to the prior's size: bilinear the one, nearest the other."""
    target = F.interpolate(target.float().movedim(-1, 1), (height, width), mode="bilinear").clamp(0, 1).movedim(1, -1)
    known = F.interpolate(known.float().movedim(-1, 1), (height, width), mode="nearest").movedim(1, -1) > 0.5
    return target, known


@torch.no_grad()
def decode_frames(
    prior: VideoPrior, latents: Tensor, num_frames: int, frames_per_slice: int, conditioning: Any = None
) -> Tensor:
    """All frames, [L, H, W, 3] in [0, 1], decoded a slice at a time."""
    slices = frame_slices(num_frames, frames_per_slice)
    with torch.autocast(latents.device.type, enabled=False):
        return torch.cat([prior.decode(latents, frames, conditioning).clamp(0, 1) for frames in slices])


def _check_inputs(target: Tensor, known: Tensor, reference: Tensor, *, repeats: int, frames_per_slice: int) -> None:
    if target.dim() != 4 or target.shape[-1] != 3:
        raise ValueError(f"`target` must be [L, H, W, 3] but has shape {tuple(target.shape)}.")
    if known.shape != (*target.shape[:-1], 1):
        raise ValueError(
            f"`known` must have the shape of `target` with one channel, {(*target.shape[:-1], 1)}, but has shape"
            f" {tuple(known.shape)}."
        )
    if reference.dim() != 3 or reference.shape[-1] != 3:
        raise ValueError(f"`reference` must be [H, W, 3] but has shape {tuple(reference.shape)}.")
    for name, value in (("repeats", repeats), ("frames_per_slice", frames_per_slice)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1 but is {value}.")
