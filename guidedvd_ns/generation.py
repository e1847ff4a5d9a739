"""Making a sequence: the guide's view of a trajectory, guided sampling a step at a time, and whether to trust it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.guidance import EXACT, GuidanceApproximation, resize_target, sample_guided
from guidedvd_ns.guide import Guide
from guidedvd_ns.metrics import masked_psnr
from guidedvd_ns.orbits import Trajectory
from guidedvd_ns.point_render import PointCloud
from guidedvd_ns.sequences import GeneratedSequence, SequenceScores

if TYPE_CHECKING:
    from guidedvd_ns.priors.base import VideoPrior
    from guidedvd_ns.priors.inpainting import FrameInpainter


@dataclass(frozen=True)
class GenerationSettings:
    """What a sequence is made with, beside the prior's own settings."""

    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths of which the one with the closest aspect ratio is sampled; without any, see `fit_size`."""
    hole_threshold: float = 0.9
    guided: bool = True
    perceptual: str = "none"
    perceptual_weight: float = 1e-4
    approximation: GuidanceApproximation = EXACT
    min_agreement: float = 0.0
    known_from_guide: bool = False
    close_holes: int = 1
    """Side (odd) in pixels of the sampled frames of the squares that must fit into a hole; 1 keeps every hole."""
    antialias: bool = True
    """Whether renders are averaged over their known pixels where they shrink; off resizes them as the authors do."""


@dataclass
class _Job:
    number: int
    trajectory: Trajectory
    target: Tensor
    known: Tensor
    sampler: Generator[Any, None, Tensor]
    started: float
    done_steps: int = 0


class InlineGenerator:
    """Generates on the device that trains, a denoising step whenever it is advanced, so that nobody waits for minutes.

    The same calls can be served by a process on another GPU: whoever uses it only submits and polls.
    """

    def __init__(
        self,
        prior: VideoPrior,
        guide: Guide,
        settings: GenerationSettings,
        seed: int,
        points: PointCloud | None = None,
    ) -> None:
        """Generate with `prior`, grounded on `guide`; the prior is shown `points` if given, else the guide's renders.

        Raises:
            ValueError: if `settings` contradict each other or cannot be met by the prior.
        """
        _check_settings(prior, settings)
        self.prior = prior
        self.guide = guide
        self.settings = settings
        self.seed = seed
        self.points = points
        self._job: _Job | None = None
        self._finished: GeneratedSequence | None = None

    @property
    def steps_per_sequence(self) -> int:
        return self.prior.settings.num_steps

    @property
    def is_busy(self) -> bool:
        return self._job is not None

    @property
    def remaining_steps(self) -> int:
        """Denoising steps until the sequence being sampled is complete; 0 when idle."""
        return self.steps_per_sequence - self._job.done_steps if self._job is not None else 0

    def submit(self, number: int, trajectory: Trajectory, photograph: Tensor, mask: Tensor | None = None) -> None:
        """Begin a sequence; its random draws depend on the seed and `number` alone.

        Args:
            number: order of generation.
            trajectory: L cameras, the first of them the input view's.
            photograph: [H, W, 3] in [0, 1], the input view.
            mask: [H, W, 1], true where the photograph counts.
        """
        started, settings = time.perf_counter(), self.settings
        size = sampling_size(photograph.shape[:2], self.prior, settings.sizes)
        view = self.guide.render(trajectory.cameras)
        known = view.known(settings.hole_threshold)
        if mask is not None:
            known[0] &= mask.to(known.device).bool()
        if settings.antialias:
            # Black holes must not darken what is known at their borders.
            target, known = _averages(view.rgb, known.float(), size)
        else:
            target, known = resize_target(view.rgb, known, *size)
        if settings.close_holes > 1:
            closed = close_holes(known, settings.close_holes)
            # A small hole keeps what was rendered there: it is dark because the photographs are.
            target = torch.where(closed & ~known, resize(view.rgb, size), target)
            known = closed
        photograph = photograph.to(target.device)
        if mask is None:
            reference = resize(photograph[None], size)[0]
        else:
            # Masked colours must not bleed over the mask's border.
            averages, counts = _averages(photograph[None], mask.to(photograph)[None], size)
            reference = torch.where(counts, averages, target[:1])[0]
            known[:1] &= counts
        draws = torch.Generator(device="cpu").manual_seed(self.seed + number)
        sampler = self._sampler(target, known, reference, self._condition(trajectory.cameras, size), draws)
        self._job = _Job(number, trajectory, target, known, sampler, started)

    def _condition(self, cameras: Cameras, size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        """The frames and mask that the prior is shown instead of the guide's: the points that the input view sees."""
        if self.points is None:
            return None
        return self.points.seen_from(cameras[:1], size).render(cameras, size)

    def _sampler(
        self,
        target: Tensor,
        known: Tensor,
        reference: Tensor,
        condition: tuple[Tensor, Tensor] | None,
        draws: torch.Generator,
    ) -> Generator[Any, None, Tensor]:
        settings = self.settings
        return sample_guided(
            self.prior,
            target,
            known,
            reference,
            draws,
            condition=condition,
            guidance_factor=None if settings.guided else 0.0,
            height=target.shape[1],
            width=target.shape[2],
            perceptual=_perceptual(settings.perceptual, target.device),
            perceptual_weight=settings.perceptual_weight,
            approximation=settings.approximation,
        )

    def advance(self, steps: int = 1) -> None:
        """Run up to `steps` denoising steps of the sequence being sampled."""
        for _ in range(steps):
            self._take_step()
        # The sampler hands its frames over when it is asked for more than its last step.
        if self.is_busy and self.remaining_steps <= 0:
            self._take_step()

    def _take_step(self) -> None:
        job = self._job
        if job is None:
            return
        try:
            next(job.sampler)
            job.done_steps += 1
        except StopIteration as end:
            self._finish(job, end.value)

    def _finish(self, job: _Job, frames: Tensor) -> None:
        scores = score_sequence(frames, job.target, job.known)
        if self.settings.known_from_guide:
            frames = blend_known(frames, job.target, job.known)
        self._finished = GeneratedSequence(
            number=job.number,
            trajectory=job.trajectory,
            frames=frames,
            guide=job.target,
            known=job.known,
            scores=scores,
            seconds=time.perf_counter() - job.started,
            kept=math.isfinite(scores.agreement) and scores.agreement >= self.settings.min_agreement,
        )
        self._job = None

    def poll(self) -> GeneratedSequence | None:
        """The finished sequence, once; None while there is none."""
        finished, self._finished = self._finished, None
        return finished


class InpaintingGenerator(InlineGenerator):
    """Fills each frame by itself in place of a video prior: a step of generation is a frame."""

    prior: FrameInpainter  # type: ignore[assignment]

    def __init__(self, inpainter: FrameInpainter, guide: Guide, settings: GenerationSettings, seed: int) -> None:
        super().__init__(inpainter, guide, settings, seed)  # type: ignore[arg-type]

    @property
    def steps_per_sequence(self) -> int:
        return self.prior.settings.num_frames - 1

    def _sampler(
        self,
        target: Tensor,
        known: Tensor,
        reference: Tensor,
        condition: tuple[Tensor, Tensor] | None,
        draws: torch.Generator,
    ) -> Generator[Any, None, Tensor]:
        return self.prior.complete(target, known, reference, draws)


def score_sequence(frames: Tensor, guide: Tensor, known: Tensor) -> SequenceScores:
    """Score frames [L, h, w, 3] against the guide's renders, where known [L, h, w, 1]; frame 0 is not scored."""
    frames, guide, known = frames[1:], guide[1:], known[1:].bool()
    steady = known[1:] & known[:-1]
    change = (frames[1:] - frames[:-1]) - (guide[1:] - guide[:-1])
    return SequenceScores(
        agreement=float(masked_psnr(frames, guide, known)) if known.any() else 0.0,
        hole_fraction=float((~known).float().mean()),
        flicker=float(change.abs()[steady.expand_as(change)].mean()) if steady.any() else 0.0,
    )


def blend_known(
    frames: Tensor,  # [L, h, w, 3]
    guide: Tensor,  # [L, h, w, 3]
    known: Tensor,  # [L, h, w, 1], bool
    margin: int = 5,
) -> Tensor:  # [L, h, w, 3]
    """Take known pixels from the guide, with a transition of `margin` pixels on the known side of each border."""
    share = known.float().movedim(-1, 1)
    inside = F.avg_pool2d(share, margin, stride=1, padding=margin // 2, count_include_pad=False)
    # 0 at the border, where half of the window is known, and 1 where all of it is.
    weight = (share * (2 * inside - 1).clamp(0, 1)).movedim(1, -1)
    return weight * guide + (1 - weight) * frames


def close_holes(
    known: Tensor,  # [L, h, w, 1] bool
    side: int,
) -> Tensor:  # [L, h, w, 1] bool
    """Make known what of a hole no square of `side` pixels (odd) fits into: specks and lines, not what is unseen.

    Over black, dark detail of a photograph is fitted by half-transparent Gaussians, whose opacity is that of a hole. In
    terms of morphology the holes are opened; beyond the image's border a hole goes on.
    """
    hole = (~known).float().movedim(-1, 1)
    eroded = 1 - F.max_pool2d(1 - hole, side, stride=1, padding=side // 2)
    opened = F.max_pool2d(eroded, side, stride=1, padding=side // 2)
    return (opened < 0.5).movedim(1, -1)


def sampling_size(
    size: tuple[int, int] | torch.Size, prior: VideoPrior, choices: tuple[tuple[int, int], ...] = ()
) -> tuple[int, int]:
    """Height and width to sample for images of `size`: the choice of the closest aspect ratio, else `fit_size`."""
    if not choices:
        return fit_size(size, prior)
    return min(choices, key=lambda choice: abs(math.log(choice[0] * size[1] / (choice[1] * size[0]))))


def fit_size(size: tuple[int, int] | torch.Size, prior: VideoPrior) -> tuple[int, int]:
    """Height and width for the prior: the aspect ratio of `size`, the area the prior was trained at, its multiples."""
    height, width = size
    area = prior.settings.height * prior.settings.width
    multiple = prior.size_multiple
    scale = math.sqrt(area / (height * width))
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))  # type: ignore


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [L, H, W, C] to [L, h, w, C], bilinear, antialiased where it shrinks."""
    if images.shape[1:3] == size:
        return images
    moved = images.movedim(-1, 1)
    return F.interpolate(moved, size, mode="bilinear", antialias=True).clamp(0, 1).movedim(1, -1)


def _averages(
    images: Tensor,  # [L, H, W, C] in [0, 1]
    counts: Tensor,  # [L, H, W, 1] 1 where a pixel counts, else 0
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:  # [L, h, w, C] in [0, 1] and bool [L, h, w, 1]
    """Resize by averages of what counts only; a pixel of the result counts if more than half of what it covers does."""
    shares = resize(counts, size)
    return (resize(images * counts, size) / shares.clamp_min(1e-6)).clamp(0, 1), shares > 0.5


def _check_settings(prior: VideoPrior, settings: GenerationSettings) -> None:
    """Raise ValueError for what would fail, or be ignored, when the first sequence is sampled."""
    if prior.settings.num_frames < 2:
        raise ValueError(
            "--pipeline.datamanager.sampler.num-frames must be at least 2: frame 0 is the photograph itself."
        )
    for size in settings.sizes:
        if min(size) < 1 or any(side % prior.size_multiple for side in size):
            raise ValueError(
                f"--pipeline.datamanager.sampling-sizes has {size[0]}x{size[1]}, but this prior samples multiples"
                f" of {prior.size_multiple} only."
            )
    if settings.close_holes < 1 or settings.close_holes % 2 == 0:
        raise ValueError(
            f"--pipeline.datamanager.close-holes must be an odd number of pixels, got {settings.close_holes}."
        )
    if settings.approximation.space == "latents" and settings.perceptual != "none":
        raise ValueError(
            "Guidance in latent space has no perceptual term: give --pipeline.datamanager.guidance-perceptual none, or"
            " --pipeline.datamanager.approximation.space pixels."
        )


def _perceptual(name: str, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    if name == "none":
        return None
    from guidedvd_ns.losses import perceptual_distance

    return perceptual_distance(name, device)  # type: ignore[arg-type]
