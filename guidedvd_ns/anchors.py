"""Anchors: what the guide knows, seen from places beside and between the photographs, to which the scene is held.

Photographs and generated frames look at the scene from few places. What stands in no photograph may hang as fog before
any other camera, and what stands in some is fitted to these alone. From other places the guide tells what ought to be
seen, as far as it knows. This is no part of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nerfstudio.cameras.camera_utils import quaternion_from_matrix, quaternion_matrix, quaternion_slerp
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.draws import random_index, shuffled
from guidedvd_ns.free_space import SeenSpace
from guidedvd_ns.guide import Guide
from guidedvd_ns.orbits import cameras_at
from guidedvd_ns.trajectory_pool import TrajectoryPool

ATTEMPTS = 8
"""Pairs of input views that are tried for each place, until there is a free one between two."""


@dataclass
class AnchorConfig:
    """How the scene is held to what the guide knows."""

    weight: float = 0.6
    """Weight of the mean L1 difference to the guide; 0 switches anchors off, as in the paper. Without generation there
    are none, either."""
    every: int = 2
    """Steps of the second phase from one look at the guide to the next; each costs about as much as a photograph."""
    places: int = 96
    """Places that are drawn when the second phase begins, to look from."""
    on_trajectories: float = 0.5
    """Share of places on planned trajectories, also on those that nothing is generated along; the others lie between
    two input views."""
    min_known: float = 0.2
    """From where the guide knows less than this share of the pixels, nothing is learned."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"anchors.weight must not be negative, got {self.weight}: 0 switches anchors off.")
        for name in ("every", "places"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"anchors.{name} must be at least 1, got {getattr(self, name)}: weight 0 switches anchors off."
                )
        for name in ("on_trajectories", "min_known"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"anchors.{name} must lie in [0, 1], got {getattr(self, name)}.")


@dataclass(frozen=True)
class Anchor:
    """What the guide sees from one place."""

    camera: Cameras
    """[1]"""
    rgb: Tensor
    """[H, W, 3] in [0, 1]."""
    known: Tensor
    """[H, W, 1] bool, where the guide is opaque."""

    def loss(self, rgb: Tensor) -> Tensor:  # [H, W, 3] -> []
        """Mean absolute difference of a render to the guide; what the guide does not know counts as equal."""
        return ((rgb - self.rgb).abs() * self.known).mean()


class Anchors:
    """Places drawn at random, and what the guide sees from them."""

    def __init__(
        self,
        config: AnchorConfig,
        cameras: Cameras,
        guide: Guide,
        pool: TrajectoryPool,
        space: SeenSpace,
        *,
        hole_threshold: float,
        seed: int,
    ) -> None:
        """Draw the places; they follow from the arguments alone.

        Args:
            config: Where they lie.
            cameras: [N] input cameras.
            guide: Fitted.
            pool: The planned trajectories, any number of them.
            space: What the input views see: between two of them there may be a wall.
            hole_threshold: Opacity from which on the guide knows a pixel.
            seed: Of all draws.
        """
        self._config, self._guide = config, guide
        self._hole_threshold, self._seed = hole_threshold, seed
        generator = torch.Generator().manual_seed(seed)
        drawn = (_draw_place(config, cameras, pool, space, generator) for _ in range(config.places))
        self._places = [camera for camera in drawn if camera is not None]

    def __len__(self) -> int:
        return len(self._places)

    def at(self, step: int) -> Anchor | None:
        """The guide's view from the place of a step; None where it knows too little there, or where no place was found.

        Which place that is depends on no other random draw, so that a resumed run goes on as it would have, and a run
        without anchors generates the same.
        """
        if not self._places:
            return None
        camera = self._places[random_index(len(self._places), torch.Generator().manual_seed(self._seed + step))]
        view = self._guide.render(camera)
        known = view.known(self._hole_threshold)[0]
        if float(known.float().mean()) < self._config.min_known:
            return None
        return Anchor(camera, view.rgb[0], known)


def _draw_place(
    config: AnchorConfig, cameras: Cameras, pool: TrajectoryPool, space: SeenSpace, generator: torch.Generator
) -> Cameras | None:
    """A camera [1] on a trajectory, or between two input views; None where there is no such place."""
    if not pool.is_empty and float(torch.rand((), generator=generator)) < config.on_trajectories:
        path = pool.trajectories[random_index(len(pool), generator)].cameras
        # Never frame 0, the photograph's own.
        frame = 1 + random_index(len(path) - 1, generator)
        return path[frame : frame + 1]
    if len(cameras) < 2:
        return None
    for _ in range(ATTEMPTS):
        first, second = shuffled(range(len(cameras)), generator)[:2]
        camera = between(cameras, first, second, float(torch.rand((), generator=generator)))
        if not bool(space.hides(camera.camera_to_worlds[0, :, 3])):
            return camera
    return None


def between(cameras: Cameras, first: int, second: int, share: float) -> Cameras:
    """A camera on the straight line between two, turned evenly from one to the other, with the intrinsics of the first.

    Args:
        cameras: [N].
        first: Number of the camera at share 0.
        second: Number of the camera at share 1.
        share: In [0, 1].

    Returns:
        [1], without distortion and metadata.
    """
    start, end = (cameras.camera_to_worlds[number].detach().cpu().double() for number in (first, second))
    start_turn, end_turn = (quaternion_from_matrix(pose[:, :3].numpy()) for pose in (start, end))
    rotation = torch.from_numpy(quaternion_matrix(quaternion_slerp(start_turn, end_turn, share))[:3, :3])
    position = torch.lerp(start[:, 3:], end[:, 3:], share)
    pose = torch.cat([rotation, position], dim=1)[None].to(cameras.camera_to_worlds)
    return cameras_at(cameras, first, pose)
