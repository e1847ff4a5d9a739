"""Scene-grounding guidance: sample a video prior, and pull every denoising step towards what the guide knows.

The method's stage 3 (Zhong et al. 2025, section 4.2): the clean video that the prior predicts at a step is decoded and
compared with the guide's render where the scene is known; the gradient of the difference with respect to the noisy
latent, through decoder and denoiser, shifts the sampler's own step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.priors.base import Prediction, Reconstruction, VideoPrior, rms

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""Images and targets, [B, H, W, 3] in [0, 1] each -> scalar, their mean distance."""


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


class SceneGrounding:
    """The distance between decoded frames and the guide's renders over the known part of the scene.

    `l1` is the mean absolute difference over all known pixels of the sequence. `l2` is the authors' code: half the
    squared difference of the clamped frames, averaged over the known pixels of each frame, so that every frame weighs
    the same. A perceptual distance of the known parts is averaged over the frames (`l1`) or summed (`l2`). Frames
    without a known pixel count for nothing.

    Args:
        target: [L, H, W, 3] renders in [0, 1].
        known: [L, H, W, 1] bool, where they show the scene.
        reconstruction: which distance.
        perceptual: distance of whole images, or None for none.
        perceptual_weight: its factor.
        frames_per_slice: frames that are decoded together; bounds the memory.
    """

    def __init__(
        self,
        target: Tensor,
        known: Tensor,
        reconstruction: Reconstruction,
        *,
        perceptual: PerceptualDistance | None = None,
        perceptual_weight: float = 1e-4,
        frames_per_slice: int = 4,
    ):
        self.target = torch.where(known, target, torch.zeros_like(target))
        self.known = known.to(target.dtype)
        self.reconstruction: Reconstruction = reconstruction
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.frames_per_slice = frames_per_slice
        self.mean_weights = self.known / (3 * self.known.sum()).clamp(min=1)
        self.frame_weights = self.known / (3 * self.known.sum(dim=(1, 2, 3), keepdim=True)).clamp(min=1)
        self.known_frames: list[bool] = known.flatten(1).any(dim=1).tolist()

    def gradient(self, prior: VideoPrior, x0: Tensor) -> tuple[Tensor, float]:
        """d loss / d x0 through the decoder, slice by slice, and the mean absolute error over known pixels."""
        x0 = x0.detach().requires_grad_(True)
        gradient, error = torch.zeros_like(x0), x0.new_zeros(())
        for frames in frame_slices(len(self.known_frames), self.frames_per_slice):
            if not any(self.known_frames[frames]):
                continue
            decoded = prior.decode(x0, frames)
            gradient += torch.autograd.grad(self.loss(decoded, frames), x0)[0]
            difference = decoded.detach().clamp(0, 1) - self.target[frames]
            error += (self.mean_weights[frames] * difference.abs()).sum()
        return gradient, error.item()

    def loss(
        self,
        decoded: Tensor,  # [l, H, W, 3], [0, 1] being black to white
        frames: slice,  # which frames of the sequence they are
    ) -> Tensor:  # scalar
        """The frames' share of the loss; the shares of all frames add up to it."""
        target, known = self.target[frames], self.known[frames]
        if self.reconstruction == "l1":
            loss = (self.mean_weights[frames] * (decoded - target).abs()).sum()
        else:
            loss = 0.5 * (self.frame_weights[frames] * (decoded.clamp(0, 1) - target).square()).sum()
        if self.perceptual is not None:
            shown = [index for index, any_known in enumerate(self.known_frames[frames]) if any_known]
            images, targets = (known * decoded.clamp(0, 1))[shown], target[shown]
            count = len(shown) / len(self.known_frames) if self.reconstruction == "l1" else len(shown)
            loss = loss + self.perceptual_weight * count * self.perceptual(images, targets)
        return loss


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
    height: int | None = None,
    width: int | None = None,
    reconstruction: Reconstruction | None = None,
    perceptual: PerceptualDistance | None = None,
    perceptual_weight: float = 1e-4,
    repeats: int = 1,
    frames_per_slice: int = 4,
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
        height, width: size in pixels to sample at; the prior's own by default.
        reconstruction: distance between decoded frames and target; the prior's own by default.
        perceptual: an additional distance between the known parts of decoded frames and target.
        perceptual_weight: its factor.
        repeats: how often each step is taken, with fresh noise in between ("time travel").
        frames_per_slice: frames that are decoded together; bounds the memory.

    Raises:
        ValueError: on a wrong shape or a number out of range.
    """
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
    shown, shown_known = (target, known) if condition is None else condition
    if shown.shape[:1] + shown.shape[3:] != (len(target), 3) or shown_known.shape != (*shown.shape[:-1], 1):
        raise ValueError(
            f"`condition` must be {len(target)} frames [L, H, W, 3] and their mask [L, H, W, 1], but has shapes"
            f" {tuple(shown.shape)} and {tuple(shown_known.shape)}."
        )
    shown, shown_known = resize_target(shown.to(prior.device), shown_known.to(prior.device), height, width)
    target, known = resize_target(target.to(prior.device), known.to(prior.device), height, width)
    grounding = None
    if guidance_factor > 0:
        grounding = SceneGrounding(
            target,
            known,
            settings.reconstruction if reconstruction is None else reconstruction,
            perceptual=perceptual,
            perceptual_weight=perceptual_weight,
            frames_per_slice=frames_per_slice,
        )

    def run() -> Generator[SamplerProgress, None, Tensor]:
        with torch.autocast(prior.device.type, enabled=False):
            conditioning = prior.condition(shown, shown_known, reference, generator)
        noise = prior.initial_noise(generator, height, width, len(target))
        latents = yield from denoise(
            prior,
            conditioning,
            noise,
            grounding=grounding,
            generator=generator,
            num_steps=num_steps,
            guidance_factor=guidance_factor,
            repeats=repeats,
        )
        return decode_frames(prior, latents, len(target), frames_per_slice)

    return run()


def denoise(
    prior: VideoPrior,
    conditioning: Any,
    x_t: Tensor,
    *,
    grounding: SceneGrounding | None,
    generator: torch.Generator | None,
    num_steps: int,
    guidance_factor: float,
    repeats: int = 1,
) -> Generator[SamplerProgress, None, Tensor]:
    """Take all steps from noise to the final latents, which are the generator's value; yields after each."""
    for index in range(num_steps):
        # Asked again at every step: another sequence may have been advanced in between, with another number of steps.
        t = prior.timesteps(num_steps)[index]
        for repeat in range(repeats):
            if repeat > 0:
                x_t = prior.renoise(x_t, t, generator)
            step = guided_step(
                prior, conditioning, x_t, t, grounding=grounding, generator=generator, guidance_factor=guidance_factor
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
    grounding: SceneGrounding | None,
    generator: torch.Generator | None,
    guidance_factor: float,
) -> GuidedStep:
    """The sampler's own step from the unguided prediction, then the shift by rho * gradient (stage 3, steps 1 to 5).

    rho = factor * guidance_length / rms(g): the shift is as long as the prior says, the loss only sets its direction.
    """
    # The caller may be inside a training step: neither its autocast nor its gradient mode may reach the sampler.
    with torch.autocast(x_t.device.type, enabled=False), torch.set_grad_enabled(grounding is not None):
        x_t = x_t.detach().requires_grad_(grounding is not None)
        prediction = prior.predict(x_t, t, conditioning)
        detached = Prediction(prediction.x0.detach(), prediction.direction.detach(), prediction.guidance_length)
        x_prev = prior.step(x_t.detach(), t, detached, generator)
        if grounding is None:
            return GuidedStep(x_prev, known_error=None, rho=0.0)
        # One slice of the decoder's graph at a time, then the denoiser's once.
        gradient_x0, known_error = grounding.gradient(prior, prediction.x0)
        (gradient,) = torch.autograd.grad(prediction.x0, x_t, gradient_x0)
    length = rms(gradient).item()
    if length == 0:
        return GuidedStep(x_prev, known_error, rho=0.0)
    rho = guidance_factor * prediction.guidance_length.item() / length
    shifted = x_prev - rho * gradient
    if not torch.isfinite(shifted).all():
        CONSOLE.log(f"[yellow]The guidance gradient at time step {t} is not finite; this step goes unguided.")
        return GuidedStep(x_prev, known_error, rho=0.0)
    return GuidedStep(shifted, known_error, rho)


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
def decode_frames(prior: VideoPrior, latents: Tensor, num_frames: int, frames_per_slice: int) -> Tensor:
    """All frames, [L, H, W, 3] in [0, 1], decoded a slice at a time."""
    slices = frame_slices(num_frames, frames_per_slice)
    with torch.autocast(latents.device.type, enabled=False):
        return torch.cat([prior.decode(latents, frames).clamp(0, 1) for frames in slices])


def frame_slices(num_frames: int, frames_per_slice: int) -> Iterator[slice]:
    """Consecutive slices that cover all frames."""
    for start in range(0, num_frames, frames_per_slice):
        yield slice(start, min(start + frames_per_slice, num_frames))


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
