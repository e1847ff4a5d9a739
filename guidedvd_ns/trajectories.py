"""Camera paths from the input views into the guide's holes: candidates, hole scores, top k, a pool.

Stage 2 of the method (Zhong et al., CVPR 2025, "trajectory initialization"; method.md stage 2). Pure geometry: what the
guide sees from a candidate comes from a render function that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from guidedvd_ns.draws import shuffled
from guidedvd_ns.free_space import DepthRender, Render, SeenSpace
from guidedvd_ns.orbits import Placement, Trajectory, cameras_at, orbit, path_to, trajectory_to
from guidedvd_ns.trajectory_pool import TrajectoryPool

RENDER_BATCH = 8  # candidates rendered in one call, which bounds memory at full resolution
PATH_CHECKS = 8  # positions along a path that must lie in free space


@dataclass
class TrajectoryConfig:
    """How candidate poses are laid out, scored and kept.

    Candidates reach further than the paper's (azimuths to 30 degrees, elevations from -15 to 7.5, holes up to 10 % of
    the image), whose paths leave most of what a test view off the inputs' path sees unvisited. Further still does harm:
    the prior is left too little to go by.
    """

    strategy: Literal["planned", "random"] = "planned"
    """planned: keep the candidates that see the largest holes; random: keep as many, drawn blindly (ablation)."""
    azimuths: tuple[float, ...] = (-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0)
    """Azimuth offsets of the candidates in degrees; positive moves the camera to its right."""
    elevations: tuple[float, ...] = (-15.0, -7.5, 0.0, 7.5, 15.0)
    """Elevation offsets of the candidates in degrees; positive moves the camera up."""
    radius_scales: tuple[float, ...] = (1.0, 1.0 / 3.0, 1.0 / 10.0)
    """Radius of the sphere as a share of the depth at the image centre (smaller: more of a pan than an orbit)."""
    keep: tuple[int, ...] = (3, 2, 1)
    """Trajectories kept of each input view, one number for each radius scale."""
    hole_threshold: float = 0.7
    """A pixel is a hole where the guide's opacity is below this."""
    erosion: int = 5
    """Side in pixels, at the input images' size, of the square that hole masks are eroded by (odd; 1: no erosion)."""
    min_hole_fraction: float = 0.001
    """Candidates with a smaller share of hole pixels are left out: there is nothing to fill."""
    max_hole_fraction: float = 0.4
    """Candidates with a larger share of hole pixels are left out: too little is known to ground a generation on."""
    inside_depth: float = 0.2
    """A known pixel is implausibly close when its depth is below this share of the input view's median depth."""
    inside_fraction: float = 0.5
    """Candidates with more than this share of implausibly close pixels are inside geometry, and left out."""
    keep_in_free_space: bool = True
    """Whether paths are left out on which a camera stands behind a surface that an input view sees, while no other view
    sees past it. The random strategy stays blind."""
    centre_window: float = 0.05
    """Side of the window at the image centre whose median depth sets the radius, as a share of the image's sides."""
    plan_resolution: int = 320
    """Longest side in pixels at which candidates are rendered; input images that are smaller keep their size."""

    def __post_init__(self) -> None:
        if len(self.radius_scales) != len(self.keep):
            raise ValueError(
                f"trajectories.keep has {len(self.keep)} numbers for {len(self.radius_scales)} radius_scales: "
                "give one number for each scale."
            )
        if self.erosion < 1 or self.erosion % 2 == 0:
            raise ValueError(f"trajectories.erosion must be an odd number of pixels, got {self.erosion}.")
        if min(self.radius_scales, default=1.0) <= 0:
            raise ValueError(f"trajectories.radius_scales must be positive, got {self.radius_scales}.")
        for name in ("hole_threshold", "min_hole_fraction", "max_hole_fraction", "inside_depth", "inside_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"trajectories.{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.min_hole_fraction > self.max_hole_fraction:
            raise ValueError(
                f"trajectories.min_hole_fraction is {self.min_hole_fraction} and max_hole_fraction"
                f" {self.max_hole_fraction}: no candidate lies between them."
            )
        if self.plan_resolution < 1:
            raise ValueError(f"trajectories.plan_resolution must be at least 1 pixel, got {self.plan_resolution}.")


def hole_fraction(opacity: Tensor, threshold: float, erosion: int) -> Tensor:  # [L, H, W, 1] -> [L]
    """Share of hole pixels (opacity below the threshold) of each image that an `erosion` x `erosion` square leaves.

    Beyond the image's border everything counts as hole: holes that run out of the image are not eroded from there.
    """
    known = (opacity[..., 0] >= threshold).float()[:, None]
    grown = F.max_pool2d(known, kernel_size=erosion, stride=1, padding=erosion // 2)
    return 1.0 - grown.mean(dim=(1, 2, 3))


def scaled_erosion(erosion: int, scale: float) -> int:
    """The odd side in pixels that comes nearest to `erosion` in an image resized by `scale`.

    Never below 3 where `erosion` is not 1: the least that removes single-pixel speckle, which is what erosion is for.
    """
    if erosion == 1:
        return 1
    return max(3, 2 * math.floor(erosion * scale / 2) + 1)


def is_inside_geometry(render: DepthRender, typical_depth: float, config: TrajectoryConfig) -> Tensor:  # [L] bool
    """Whether implausibly close surfaces fill most of an image, as seen from within a wall or just behind it.

    `typical_depth` is the guide's median depth at the input view, in scene units.
    """
    close = (render.depth < config.inside_depth * typical_depth) & (render.opacity >= config.hole_threshold)
    return close.float().mean(dim=(1, 2, 3)) > config.inside_fraction


def plan(
    cameras: Cameras,
    render: Render,
    config: TrajectoryConfig,
    generator: torch.Generator,
    num_frames: int = 25,
) -> TrajectoryPool:
    """Look for holes around every input view and keep the trajectories that lead to the largest ones.

    Input views without a known depth at the image centre are left out with a log line. Where nothing is kept the pool
    is empty, which the caller should tell the user.

    Args:
        cameras: [N] input cameras, undistorted.
        render: The guide: opacity and depth for [L] cameras of one size.
        config: Candidates and thresholds.
        generator: CPU generator; used by the random strategy only.
        num_frames: Poses of a trajectory, the input view's own one included; at least 2.
    """
    kept: list[Trajectory] = []
    with torch.no_grad():
        looks = config.keep_in_free_space and config.strategy == "planned"
        space = _seen_space(cameras, render, config) if looks else None
        for view in track(range(len(cameras)), "Planning trajectories", console=CONSOLE, transient=True):
            found = _plan_view(cameras, view, render, config, generator, space)
            kept += [trajectory_to(placement, fraction, cameras, num_frames) for placement, fraction in found]
    return TrajectoryPool(tuple(kept))


def _plan_view(
    cameras: Cameras,
    view: int,
    render: Render,
    config: TrajectoryConfig,
    generator: torch.Generator,
    space: SeenSpace | None,
) -> list[tuple[Placement, float]]:
    """The placements kept of one input view, with their hole fractions."""
    depths = _input_depths(render(_own_view(cameras, view, config)), config)
    if depths is None:
        CONSOLE.log(f"Input view {view} gets no trajectories: the guide has no depth at its image centre.")
        return []
    centre_depth, typical_depth = depths
    kept: list[tuple[Placement, float]] = []
    for scale, count in zip(config.radius_scales, config.keep, strict=True):
        candidates = [
            Placement(view, scale, centre_depth * scale, azimuth, elevation)
            for azimuth in config.azimuths
            for elevation in config.elevations
            if (azimuth, elevation) != (0.0, 0.0)
        ]
        if config.strategy == "random":
            candidates = shuffled(candidates, generator)[:count]
        elif space is not None:
            candidates = _in_free_space(candidates, space, cameras)
        fractions, inside = _score(candidates, cameras, render, typical_depth, config)
        useful = [
            (candidate, fraction)
            for candidate, fraction, is_inside in zip(candidates, fractions, inside, strict=True)
            if config.strategy == "random"
            or (config.min_hole_fraction <= fraction <= config.max_hole_fraction and not is_inside)
        ]
        # The sort is stable, so equal holes keep the candidates' order and planning is deterministic.
        kept += sorted(useful, key=lambda pair: pair[1], reverse=True)[:count]
    return kept


def _seen_space(cameras: Cameras, render: Render, config: TrajectoryConfig) -> SeenSpace:
    """What the input views see of the guide, each rendered at the planning resolution."""
    own = [_own_view(cameras, view, config) for view in range(len(cameras))]
    return SeenSpace.of(own, render, config.hole_threshold)


def _own_view(cameras: Cameras, view: int, config: TrajectoryConfig) -> Cameras:  # [1]
    """An input view's own camera at the planning resolution."""
    return _resized(cameras_at(cameras, view, cameras.camera_to_worlds[view][None]), config.plan_resolution)


def _in_free_space(candidates: list[Placement], space: SeenSpace, cameras: Cameras) -> list[Placement]:
    """Those on whose paths no position is hidden; the input view's own one needs no check."""
    paths = [path_to(candidate, cameras, PATH_CHECKS + 1)[1:, :, 3] for candidate in candidates]
    if not paths:
        return []
    hidden = space.hides(torch.stack(paths)).any(dim=1).tolist()
    return [candidate for candidate, is_hidden in zip(candidates, hidden, strict=True) if not is_hidden]


def _input_depths(render: DepthRender, config: TrajectoryConfig) -> tuple[float, float] | None:
    """Median depth at the centre and over all of an input view's known pixels; None where the centre is unknown."""
    opacity, depth = render.opacity[0, ..., 0], render.depth[0, ..., 0]
    height, width = depth.shape
    known = (opacity >= config.hole_threshold) & depth.isfinite() & (depth > 0)
    rows, columns = _window(height, config.centre_window), _window(width, config.centre_window)
    at_centre = depth[rows, columns][known[rows, columns]]
    if at_centre.numel() == 0:
        return None
    return float(at_centre.median()), float(depth[known].median())


def _window(size: int, share: float) -> slice:
    """The middle `share` of `size` pixels, at least three of them."""
    half = max(1, round(share * size / 2))
    middle = size // 2
    return slice(max(0, middle - half), middle + half + 1)


def _score(
    candidates: list[Placement],
    cameras: Cameras,
    render: Render,
    typical_depth: float,
    config: TrajectoryConfig,
) -> tuple[list[float], list[bool]]:
    """Hole fraction and inside-geometry verdict of each candidate of one view."""
    fractions: list[float] = []
    inside: list[bool] = []
    for start in range(0, len(candidates), RENDER_BATCH):
        batch = candidates[start : start + RENDER_BATCH]
        view = batch[0].view
        poses = orbit(
            cameras.camera_to_worlds[view],
            batch[0].radius,
            torch.tensor([candidate.azimuth for candidate in batch]),
            torch.tensor([candidate.elevation for candidate in batch]),
        )
        full = cameras_at(cameras, view, poses)
        full_width = int(full.width[0])
        seen = render(_resized(full, config.plan_resolution))
        erosion = scaled_erosion(config.erosion, seen.opacity.shape[2] / full_width)
        fractions += hole_fraction(seen.opacity, config.hole_threshold, erosion).tolist()
        inside += is_inside_geometry(seen, typical_depth, config).tolist()
    return fractions, inside


def _resized(cameras: Cameras, longest_side: int) -> Cameras:
    """The same cameras at a size whose longest side is at most `longest_side` pixels; changes its argument."""
    largest = int(torch.maximum(cameras.width, cameras.height).max())
    if largest > longest_side:
        cameras.rescale_output_resolution(longest_side / largest, scale_rounding_mode="round")
    return cameras
