"""Camera paths from the input views into the guide's holes: candidates, hole scores, top k, a pool.

Stage 2 of the method (Zhong et al., CVPR 2025, "trajectory initialization"; method.md stage 2). Pure geometry: what the
guide sees from a candidate comes from a render function that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

RENDER_BATCH = 8  # candidates rendered in one call, which bounds memory at full resolution


class DepthRender(Protocol):
    """What planning needs of a render: opacity in [0, 1], z-depth in scene units (meaningless at opacity near 0)."""

    @property
    def opacity(self) -> Tensor: ...  # [L, H, W, 1]

    @property
    def depth(self) -> Tensor: ...  # [L, H, W, 1]


Render = Callable[[Cameras], DepthRender]
"""Renders [L] cameras of one size."""


@dataclass
class TrajectoryConfig:
    """How candidate poses are laid out, scored and kept (defaults: method.md stage 2)."""

    strategy: Literal["planned", "random"] = "planned"
    """planned: keep the candidates that see the largest holes; random: keep as many, drawn blindly (ablation)."""
    azimuths: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """Azimuth offsets of the candidates in degrees; positive moves the camera to its right."""
    elevations: tuple[float, ...] = (-15.0, -7.5, 0.0, 7.5)
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
    max_hole_fraction: float = 0.1
    """Candidates with a larger share of hole pixels are left out: too little is known to ground a generation on."""
    inside_depth: float = 0.2
    """A known pixel is implausibly close when its depth is below this share of the input view's median depth."""
    inside_fraction: float = 0.5
    """Candidates with more than this share of implausibly close pixels are inside geometry, and left out."""
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
        if self.plan_resolution < 1:
            raise ValueError(f"trajectories.plan_resolution must be at least 1 pixel, got {self.plan_resolution}.")


@dataclass(frozen=True)
class Placement:
    """Where a trajectory ends: a point on the sphere in front of one input view."""

    view: int
    """Index of the input view among the input cameras."""
    scale: float
    """Radius as a share of the depth at the input view's image centre."""
    radius: float
    """Radius of the sphere in scene units."""
    azimuth: float
    """Offset in degrees about the input camera's own up axis; positive moves the camera to its right."""
    elevation: float
    """Offset in degrees from the input camera's horizontal plane; positive moves the camera up."""


@dataclass(frozen=True, eq=False)  # compared by identity: cameras hold tensors
class Trajectory(Placement):
    """A camera path from an input view to a placement that sees holes."""

    hole_fraction: float
    """Share of hole pixels in the guide's render at the last pose, after erosion."""
    cameras: Cameras
    """[L] cameras with the input view's intrinsics, without distortion and metadata; frame 0 is the input pose."""

    @property
    def name(self) -> str:
        """A name that is unique in a pool and fit for file names."""
        return f"view{self.view:03d}_scale{self.scale:.3g}_az{self.azimuth:+g}_el{self.elevation:+g}"

    @property
    def centre(self) -> Tensor:  # [3]
        """The sphere's centre, which every camera of the trajectory looks at, in scene units."""
        camera_to_world = self.cameras.camera_to_worlds[0]
        return camera_to_world[:, 3] - self.radius * camera_to_world[:, 2]


_PLACEMENT = ("view", "scale", "radius", "azimuth", "elevation")
_SAVED = (*_PLACEMENT, "hole_fraction")


class TrajectoryPool:
    """The kept trajectories, drawn in shuffled rounds over the input views and, of each view, over its trajectories."""

    def __init__(self, trajectories: tuple[Trajectory, ...] = ()) -> None:
        self.trajectories = trajectories
        self._views_left: list[int] = []
        self._members_left: dict[int, list[int]] = {}

    @property
    def is_empty(self) -> bool:
        return not self.trajectories

    def __len__(self) -> int:
        return len(self.trajectories)

    def draw(self, generator: torch.Generator) -> Trajectory:
        """The next trajectory. A view comes again only when every view had its turn, likewise a view's trajectories.

        Args:
            generator: CPU generator that shuffles each new round.

        Raises:
            ValueError: The pool is empty.
        """
        if self.is_empty:
            raise ValueError("There is no trajectory to draw: the pool is empty, check TrajectoryPool.is_empty first.")
        if not self._views_left:
            self._views_left = _shuffled(sorted({trajectory.view for trajectory in self.trajectories}), generator)
        view = self._views_left.pop()
        members = self._members_left.get(view) or _shuffled(
            [index for index, trajectory in enumerate(self.trajectories) if trajectory.view == view], generator
        )
        self._members_left[view] = members
        return self.trajectories[members.pop()]

    def state_dict(self) -> dict[str, Any]:
        """Trajectories and drawing state as plain types, fit for a checkpoint read with `weights_only=True`."""
        return {
            "trajectories": [
                {name: getattr(trajectory, name) for name in _SAVED} | {"num_frames": len(trajectory.cameras)}
                for trajectory in self.trajectories
            ],
            "views_left": list(self._views_left),
            "members_left": {view: list(members) for view, members in self._members_left.items()},
        }

    def load_state_dict(self, state: dict[str, Any], cameras: Cameras) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: The saved state.
            cameras: [N] the input cameras that the trajectories were planned from; poses are rebuilt from them.

        Raises:
            ValueError: A saved trajectory belongs to an input view that `cameras` lacks.
        """
        trajectories = []
        for entry in state["trajectories"]:
            if entry["view"] >= len(cameras):
                raise ValueError(
                    f"The checkpoint has a trajectory of input view {entry['view']}, but there are only {len(cameras)} "
                    "input views: resume with the data that the run was started with."
                )
            saved = Placement(*(entry[name] for name in _PLACEMENT))
            trajectories.append(_trajectory(saved, entry["hole_fraction"], cameras, entry["num_frames"]))
        self.trajectories = tuple(trajectories)
        self._views_left = list(state["views_left"])
        self._members_left = {view: list(members) for view, members in state["members_left"].items()}


def orbit(
    camera_to_world: Tensor,  # [3, 4]
    radius: float,
    azimuths: Tensor,  # [L]
    elevations: Tensor,  # [L]
) -> Tensor:  # [L, 3, 4]
    """Poses on a sphere around the point `radius` in front of a camera, all of them pointed at that point.

    The sphere's pole is the input camera's own up axis (robust where a capture's world up is unknown). The camera at
    azimuth a and elevation e lies, seen from the centre and in the input camera's axes (right, up, back), in the
    direction `(cos e sin a, sin e, cos e cos a)`; its right axis stays perpendicular to the pole, so it does not roll.
    At offsets (0, 0) the result equals `camera_to_world` to the last bit.

    Args:
        camera_to_world: Input pose, OpenGL.
        radius: Distance to the sphere's centre in scene units.
        azimuths: Offsets in degrees.
        elevations: Offsets in degrees.

    Returns:
        OpenGL poses, in the input's dtype and on its device.
    """
    rotation, position = camera_to_world[:, :3].double(), camera_to_world[:, 3].double()
    azimuth = torch.deg2rad(azimuths.to(rotation))
    elevation = torch.deg2rad(elevations.to(rotation))
    sin_a, cos_a, sin_e, cos_e = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    zero = torch.zeros_like(sin_a)
    right = torch.stack([cos_a, zero, -sin_a], dim=-1)
    up = torch.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], dim=-1)
    back = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], dim=-1)
    rotations = rotation @ torch.stack([right, up, back], dim=-1)
    # The change of the back axis, not the centre, is added up: exactly zero at zero offsets.
    positions = position + radius * (rotations[..., 2] - rotation[:, 2])
    return torch.cat([rotations, positions[..., None]], dim=-1).to(camera_to_world)


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
        for view in track(range(len(cameras)), "Planning trajectories", console=CONSOLE, transient=True):
            found = _plan_view(cameras, view, render, config, generator)
            kept += [_trajectory(placement, fraction, cameras, num_frames) for placement, fraction in found]
    return TrajectoryPool(tuple(kept))


def _plan_view(
    cameras: Cameras, view: int, render: Render, config: TrajectoryConfig, generator: torch.Generator
) -> list[tuple[Placement, float]]:
    """The placements kept of one input view, with their hole fractions."""
    own = _resized(_cameras_at(cameras, view, cameras.camera_to_worlds[view][None]), config.plan_resolution)
    depths = _input_depths(render(own), config)
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
            candidates = _shuffled(candidates, generator)[:count]
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
        full = _cameras_at(cameras, view, poses)
        full_width = int(full.width[0])
        seen = render(_resized(full, config.plan_resolution))
        erosion = scaled_erosion(config.erosion, seen.opacity.shape[2] / full_width)
        fractions += hole_fraction(seen.opacity, config.hole_threshold, erosion).tolist()
        inside += is_inside_geometry(seen, typical_depth, config).tolist()
    return fractions, inside


def _trajectory(placement: Placement, fraction: float, cameras: Cameras, num_frames: int) -> Trajectory:
    """Poses from the input view to a placement, interpolated in the angles so that each lies on the sphere."""
    progress = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    poses = orbit(
        cameras.camera_to_worlds[placement.view],
        placement.radius,
        progress * placement.azimuth,
        progress * placement.elevation,
    )
    return Trajectory(**asdict(placement), hole_fraction=fraction, cameras=_cameras_at(cameras, placement.view, poses))


def _cameras_at(cameras: Cameras, view: int, poses: Tensor) -> Cameras:  # poses: [L, 3, 4]
    """[L] cameras with the intrinsics of one input view. Distortion and metadata (camera index) stay behind."""
    intrinsics = {
        name: getattr(cameras, name)[view].expand(len(poses), 1).clone()
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type")
    }
    return Cameras(camera_to_worlds=poses, **intrinsics)


def _resized(cameras: Cameras, longest_side: int) -> Cameras:
    """The same cameras at a size whose longest side is at most `longest_side` pixels; changes its argument."""
    largest = int(torch.maximum(cameras.width, cameras.height).max())
    if largest > longest_side:
        cameras.rescale_output_resolution(longest_side / largest, scale_rounding_mode="round")
    return cameras


def _shuffled(items: list, generator: torch.Generator) -> list:
    return [items[index] for index in torch.randperm(len(items), generator=generator).tolist()]
