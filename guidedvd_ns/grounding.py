"""What a denoising step is compared with: the guide's renders where they show the scene, as frames or as latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from guidedvd_ns.priors.base import Reconstruction, VideoPrior, frame_slices

DEGREES: dict[Reconstruction, int] = {"l1": 1, "l2": 2}
PerceptualDistance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images and targets, [B, H, W, 3] in [0, 1] each, and 1 where they count, [B, H, W, 1] -> scalar, their distance."""


class Slope(NamedTuple):
    """A loss and where it rises."""

    gradient: Tensor
    """Of the loss with respect to a latent, shaped like that."""
    loss: Tensor
    """Scalar."""
    known_error: Tensor | None
    """Scalar, the mean absolute difference over known pixels in [0, 1]; None where no frame was decoded."""


class Grounding(Protocol):
    """What a step is guided by."""

    degree: int
    """The power of the difference that the loss is homogeneous in: 1 for absolute, 2 for squared differences."""

    def gradient(self, prior: VideoPrior, x0: Tensor, conditioning: Any, scale: float) -> Slope:
        """The loss, and its gradient with respect to x0, which is `scale` times the clean latent."""
        ...


class LatentGrounding:
    """The distance between the clean estimate and the encoded renders, over the latents that show known pixels only.

    Args:
        latents: [1, C, L, h, w] encoded renders.
        known: [L, H, W, 1] bool, where they show the scene.
        reconstruction: mean absolute (`l1`) or half the squared (`l2`) difference over all known latents; `l2` averages
            frame by frame, as `SceneGrounding` does.
    """

    def __init__(self, latents: Tensor, known: Tensor, reconstruction: Reconstruction):
        self.latents = latents
        self.reconstruction: Reconstruction = reconstruction
        self.degree = DEGREES[reconstruction]
        unknown = F.adaptive_max_pool2d(1 - known.to(latents.dtype).movedim(-1, 1), latents.shape[-2:])
        self.known = (1 - unknown).transpose(0, 1)[None]

    def gradient(self, prior: VideoPrior, x0: Tensor, conditioning: Any, scale: float) -> Slope:
        """See `Grounding`; no frame is decoded, so there is no error in pixels. The prior is not asked anything."""
        difference = self.known * (x0.detach() / scale - self.latents)
        channels = x0.shape[1]
        if self.reconstruction == "l1":
            count = (channels * self.known.sum()).clamp(min=1)
            return Slope(difference.sign() / (scale * count), difference.abs().sum() / count, None)
        counts = (channels * self.known.sum(dim=(1, 3, 4), keepdim=True)).clamp(min=1)
        return Slope(difference / (scale * counts), 0.5 * (difference.square() / counts).sum(), None)


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
        self.degree = DEGREES[reconstruction]
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.frames_per_slice = frames_per_slice
        self.mean_weights = self.known / (3 * self.known.sum()).clamp(min=1)
        self.frame_weights = self.known / (3 * self.known.sum(dim=(1, 2, 3), keepdim=True)).clamp(min=1)
        self.known_frames: list[bool] = known.flatten(1).any(dim=1).tolist()

    def gradient(self, prior: VideoPrior, x0: Tensor, conditioning: Any = None, scale: float = 1.0) -> Slope:
        """See `Grounding`; goes through the decoder of x0 / scale slice by slice."""
        x0 = x0.detach().requires_grad_(True)
        gradient, total, error = torch.zeros_like(x0), x0.new_zeros(()), x0.new_zeros(())
        for frames in frame_slices(len(self.known_frames), self.frames_per_slice):
            if not any(self.known_frames[frames]):
                continue
            decoded = prior.decode(x0 / scale if scale != 1 else x0, frames, conditioning)
            loss = self.loss(decoded, frames)
            gradient += torch.autograd.grad(loss, x0)[0]
            total += loss.detach()
            difference = decoded.detach().clamp(0, 1) - self.target[frames]
            error += (self.mean_weights[frames] * difference.abs()).sum()
        return Slope(gradient, total, error)

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
            images, targets = decoded.clamp(0, 1), target
            if len(shown) < len(images):
                images, targets, known = images[shown], targets[shown], known[shown]
            count = len(shown) / len(self.known_frames) if self.reconstruction == "l1" else len(shown)
            loss = loss + self.perceptual_weight * count * self.perceptual(images, targets, known)
        return loss
