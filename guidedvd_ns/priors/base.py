"""`VideoPrior`: the one interface that a video diffusion model must meet to complete scenes.

It holds what guided sampling needs and nothing else, whatever the model's parameterisation (eps, v, flow) and latent
layout. Images at this border are float `[L, H, W, C]` in [0, 1]; what latents look like is the prior's own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Optional, get_args

import torch
from torch import Tensor

Reconstruction = Literal["l1", "l2"]
GuidanceStep = Literal["constant", "shrinking"]
"""How far guidance shifts a step: as far whatever the loss (the authors'), or no farther than the loss asks for."""
Memory = Literal["default", "low"]
"""What a prior may take: `low` is slower and fits a 16 GB card."""


@dataclass(frozen=True)
class SamplerSettings:
    """How a prior wants to be sampled; every prior brings its own values in its configuration file.

    Raises:
        ValueError: where a value lies outside its range.
    """

    num_frames: int
    """Length of a sequence."""
    height: int
    """Height in pixels at which it samples, a multiple of the prior's `size_multiple`."""
    width: int
    """Width in pixels at which it samples, a multiple of the prior's `size_multiple`."""
    num_steps: int
    """Denoising steps of a sequence."""
    eta: float = 1.0
    """Share of fresh noise in every step: 0 is deterministic DDIM, 1 ancestral sampling."""
    cfg_scale: float = 1.0
    """Classifier-free guidance scale w; at 1 the unconditional pass is left out."""
    guidance_rescale: float = 0.0
    """How far the standard deviation of the classifier-free guided output is drawn back to the conditional one's."""
    guidance_factor: float = 0.2
    """Strength of scene-grounding guidance, the factor of rho (method.md, stage 3.4)."""
    guidance_step: GuidanceStep = "constant"
    """Whether guidance shifts every step by that share of its length, or less where less loss is left."""
    reconstruction: Reconstruction = "l1"
    """Distance between decoded frame and guide: mean absolute difference, or the authors' squared error per frame."""
    restore_detail: bool = False
    """Whether frames get back what encoding and decoding lose of the condition: they are its frames C plus the decoded
    change, C + D(x) - D(E(C)), so that what the network leaves as it is stays sharp. Off, they are D(x)."""

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` of the sampler settings must be at least 1 but is {getattr(self, name)}.")
        for name in ("eta", "guidance_rescale"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` of the sampler settings must lie in [0, 1] but is {getattr(self, name)}.")
        for name in ("cfg_scale", "guidance_factor"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` of the sampler settings must not be negative but is {getattr(self, name)}.")
        for name, choices in (("reconstruction", Reconstruction), ("guidance_step", GuidanceStep)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"`{name}` of the sampler settings must be {' or '.join(get_args(choices))} but is"
                    f" {getattr(self, name)}."
                )


@dataclass
class SamplerOverrides:
    """Values in place of the prior's `SamplerSettings`; what is left open is the prior's."""

    num_frames: Optional[int] = None
    """Length of a sequence, the input view included. Default: the prior's, which it was trained for."""
    num_steps: Optional[int] = None
    """Denoising steps of a sequence. Default: the prior's."""
    eta: Optional[float] = None
    """Share of fresh noise in every step: 0 is deterministic DDIM, 1 ancestral sampling. Default: the prior's."""
    cfg_scale: Optional[float] = None
    """Scale of classifier-free guidance, for priors that have an unconditional pass. Default: the prior's."""
    guidance_rescale: Optional[float] = None
    """How far classifier-free guidance's output is drawn back to the conditional one's spread. Default: the prior's."""
    guidance_factor: Optional[float] = None
    """Strength of scene-grounding: of a constant step its length relative to the sampler's own (0.2 in the paper), of a
    shrinking one the share of the difference that it takes away. Default: the prior's."""
    guidance_step: Optional[GuidanceStep] = None
    """Whether that length is kept whatever the loss (constant, the paper's) or bounded by it (shrinking). Default: the
    prior's."""
    reconstruction: Optional[Reconstruction] = None
    """Distance to the guide: mean absolute difference (l1) or the authors' squared error. Default: the prior's."""
    restore_detail: Optional[bool] = None
    """Whether frames get back the detail that the autoencoder loses of what the prior is shown; off decodes latents
    alone (the authors'). Default: the prior's."""

    def apply(self, settings: SamplerSettings) -> SamplerSettings:
        """`settings` with what is set here in its place; raises ValueError where a value lies outside its range."""
        return replace(settings, **{name: value for name, value in vars(self).items() if value is not None})


def authors_sampling() -> SamplerOverrides:
    """How GuidedVD-3DGS samples from ViewCrafter (viewcrafter-architecture.md, section 6); a new object every time."""
    return SamplerOverrides(
        num_frames=25,
        num_steps=50,
        eta=1.0,
        cfg_scale=7.5,
        guidance_rescale=0.7,
        guidance_factor=0.2,
        guidance_step="constant",
        reconstruction="l2",
        restore_detail=False,
    )


@dataclass(frozen=True)
class Prediction:
    """What the prior says about a noisy latent at one time step."""

    x0: Tensor
    """Estimate of the clean latent, as `VideoPrior.decode` takes it; differentiable in the noisy latent."""
    direction: Tensor
    """What else the sampler's step needs (for DDIM the estimate of the noise), shaped like `x0`."""
    guidance_length: Tensor
    """Scalar without gradient: the rms length that a guidance step is measured against.

    w * rms(e_cond - e_uncond) under classifier-free guidance (method.md, stage 3.4), else what the prior documents.
    """
    scale: float = 1.0
    """Factor between the clean latent and `x0`, for a prior that was trained on dimmed latents at noisy steps."""


class VideoPrior(ABC):
    """A video diffusion model that completes the frames of a camera trajectory."""

    settings: SamplerSettings
    size_multiple: int
    """Heights and widths that are sampled must be multiples of this."""
    frames_per_slice: int = 4
    """Frames that are decoded together; more take more memory."""
    memory: Memory = "default"

    def set_memory(self, memory: Memory) -> None:
        """Choose between speed (`default`) and memory (`low`); makes no difference to a prior that is small anyway."""
        self.memory = memory

    def override(self, overrides: SamplerOverrides) -> None:
        """Take over the settings that a user set; raises ValueError where one is out of range or cannot be had."""
        self.settings = overrides.apply(self.settings)

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating point type that the network computes in."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the network lies, and all tensors that go in and come out."""

    @abstractmethod
    def condition(
        self,
        frames: Tensor,  # [L, H, W, 3] in [0, 1]
        known: Tensor,  # [L, H, W, 1] bool, or float in [0, 1]
        reference: Tensor,  # [H', W', 3] in [0, 1], the photograph at the first frame's pose
        generator: torch.Generator | None,
    ) -> Any:
        """Encode what is known of a sequence; the result is opaque and goes to `predict` at every step."""

    @abstractmethod
    def timesteps(self, num_steps: int) -> list[int]:
        """The time steps of a run, noisiest first; `predict` and `step` take those of the latest call."""

    @abstractmethod
    def initial_noise(self, generator: torch.Generator | None, height: int, width: int, num_frames: int) -> Tensor:
        """The latent that sampling starts from, for frames of `height` x `width` pixels."""

    @abstractmethod
    def predict(
        self,
        x_t: Tensor,
        t: int,
        conditioning: Any,
    ) -> Prediction:
        """Run the denoiser; the result is differentiable in `x_t` where that requires a gradient."""

    @abstractmethod
    def step(
        self,
        x_t: Tensor,
        t: int,
        prediction: Prediction,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The sampler's own update to the previous time step, without gradient."""

    @abstractmethod
    def renoise(
        self,
        x_prev: Tensor,
        t: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Noise the result of `step` up to time step t again, to repeat the step ("time travel")."""

    @abstractmethod
    def decode(
        self,
        latents: Tensor,
        frame_slice: slice,
        conditioning: Any = None,
    ) -> Tensor:  # [l, H, W, 3]
        """Frames of the slice, [0, 1] being black to white (not clamped); differentiable in `latents`.

        With what `condition` made of the sequence they get back its detail where the settings say so
        (`restore_detail`); without, they show the latents alone.
        """

    def encode(
        self,
        frames: Tensor,  # [L, H, W, 3] in [0, 1]
    ) -> Tensor:
        """Latents of clean frames, as `decode` takes them, for guidance that is measured on latents.

        Raises:
            NotImplementedError: by a prior that cannot.
        """
        raise NotImplementedError(f"{type(self).__name__} encodes no frames, so guidance must be measured on pixels.")


def frame_slices(num_frames: int, frames_per_slice: int) -> Iterator[slice]:
    """Consecutive slices that cover all frames."""
    for start in range(0, num_frames, frames_per_slice):
        yield slice(start, min(start + frames_per_slice, num_frames))


def rms(tensor: Tensor) -> Tensor:
    """Root mean square over all elements, the length that guidance is measured in; a scalar."""
    return tensor.float().square().mean().sqrt()
