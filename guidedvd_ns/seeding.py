"""New Gaussians where a generated sequence shows surfaces and the scene has nothing yet.

Densification splits and clones Gaussians that are there; across a hole as wide as a wall that takes more steps than a
run has. So the pixels that a sequence imagines become Gaussians at once, at a depth that continues the guide's. The
generated views, which look at them from several poses, correct it. This is no part of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.free_space import SeenSpace
from guidedvd_ns.guide import Guide
from guidedvd_ns.pull_push import fill_holes
from guidedvd_ns.rasterization import pixel_rays
from guidedvd_ns.sequences import GeneratedSequence
from guidedvd_ns.trajectory_pool import TrajectoryPool

OpacityOf = Callable[[Cameras], Tensor]
"""One camera -> the scene's opacity there, [H, W, 1] in [0, 1]."""


@dataclass
class SeedingConfig:
    """How many Gaussians a kept sequence brings."""

    frames: int = 3
    """Frames whose pixels become Gaussians, spread over the sequence, its last one among them; 0 switches seeding off,
    as in the paper."""
    stride: int = 2
    """Distance in pixels of the generated frame between two Gaussians."""
    max_opacity: float = 0.5
    """Pixels at which the scene is more opaque than this get none."""
    clearance: float = 0.1
    """Nothing begins closer to a camera of a planned trajectory than this share of the depth at the centre of its input
    view: planned cameras stand in free space, and what is close to one would hang as fog before cameras beside it."""

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise ValueError(f"seeding.frames must not be negative, got {self.frames}: 0 switches seeding off.")
        if self.stride < 1:
            raise ValueError(f"seeding.stride must be at least 1 pixel, got {self.stride}.")
        if not 0 < self.max_opacity <= 1:
            raise ValueError(f"seeding.max_opacity must be above 0 and at most 1, got {self.max_opacity}.")
        if self.clearance < 0:
            raise ValueError(f"seeding.clearance must not be negative, got {self.clearance}: 0 asks for none.")


@dataclass(frozen=True)
class Seeds:
    """Coloured points with a size."""

    means: Tensor
    """[N, 3] scene units."""
    colors: Tensor
    """[N, 3] in [0, 1]."""
    sizes: Tensor
    """[N] standard deviation of a round Gaussian, scene units."""


@torch.no_grad()
def seeds_of(
    sequence: GeneratedSequence,
    guide: Guide,
    opacity_of: OpacityOf,
    config: SeedingConfig,
    space: SeenSpace,
    pool: TrajectoryPool,
) -> Seeds:
    """Points on the surfaces that the sequence shows where the guide knows nothing and the scene has nothing.

    Their inverse depth is the guide's, continued smoothly into its holes: on a plane inverse depth is linear in the
    image. Where the guide knows nothing of a frame there are none, nor where an input view sees past the place, nor
    close to where a camera may go: depths that are continued from something near would leave fog in free space.

    Args:
        sequence: A generated sequence at the prior's resolution.
        guide: Knows the depth around the holes.
        opacity_of: Renders the scene that is being trained.
        config: How many.
        space: What the input views see.
        pool: Where cameras may go.
    """
    last = len(sequence.frames) - 1
    # Never frame 0: it is the photograph.
    chosen = sorted({round(last * (number + 1) / config.frames) for number in range(config.frames)} - {0})
    parts = [_seeds_of_frame(sequence, frame, guide, opacity_of, config) for frame in chosen]
    means, colors, sizes = (torch.cat([getattr(part, name) for part in parts]) for name in ("means", "colors", "sizes"))
    possible = ~(space.sees_past(means).to(means.device) | pool.comes_near(means, config.clearance))
    return Seeds(means[possible], colors[possible], sizes[possible])


def _seeds_of_frame(
    sequence: GeneratedSequence,
    frame: int,
    guide: Guide,
    opacity_of: OpacityOf,
    config: SeedingConfig,
) -> Seeds:
    image = sequence.frames[frame].float()
    known = sequence.known[frame].to(image.device)
    camera = _resized(sequence.trajectory.cameras[frame : frame + 1], *image.shape[:2]).to(image.device)
    inverse_depth = _continued_inverse_depth(guide.render(camera).depth[0].to(image), known)
    wanted = ~known & (opacity_of(camera).to(image) < config.max_opacity) & (inverse_depth > 0)
    on_grid = torch.zeros_like(wanted)
    on_grid[config.stride // 2 :: config.stride, config.stride // 2 :: config.stride] = True
    rows, columns = (wanted & on_grid)[..., 0].nonzero(as_tuple=True)
    z = 1 / inverse_depth[rows, columns, 0]
    # Twice the standard deviation reaches the next seed.
    return Seeds(_points(camera, rows, columns, z), image[rows, columns], 0.5 * config.stride * z / float(camera.fx))


def _continued_inverse_depth(
    depth: Tensor,  # [h, w, 1] the guide's z-depth, 0 where it hits nothing
    known: Tensor,  # [h, w, 1] bool, where the depth counts
) -> Tensor:  # [h, w, 1], 0 everywhere where nothing is known
    measured = known & (depth > 0)
    return fill_holes((1 / depth.clamp_min(1e-6))[None], measured.to(depth)[None])[0]


def _points(
    camera: Cameras,  # [1]
    rows: Tensor,  # [N]
    columns: Tensor,  # [N]
    z: Tensor,  # [N] z-depth, scene units
) -> Tensor:  # [N, 3] world
    """What lies at these depths behind the centres of these pixels."""
    return z[:, None] * pixel_rays(camera, columns + 0.5, rows + 0.5) + camera.camera_to_worlds[..., 3]


def _resized(camera: Cameras, height: int, width: int) -> Cameras:
    """The same view at another size in pixels."""
    across, down = width / float(camera.width), height / float(camera.height)
    return Cameras(
        camera_to_worlds=camera.camera_to_worlds,
        fx=camera.fx * across,
        fy=camera.fy * down,
        cx=camera.cx * across,
        cy=camera.cy * down,
        width=width,
        height=height,
        camera_type=camera.camera_type,
    )
