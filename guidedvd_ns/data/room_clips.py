"""Clips of procedural rooms: a camera path in a room, seen truly and as a guide knows it.

The paths are those of the method's trajectories (method.md stage 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guidedvd_ns.data.clips import (
    COARSE,
    ClipBatch,
    ClipConfig,
    degraded_clips,
    draw_hole_fractions,
    draw_size,
    keyed_generator,
)
from guidedvd_ns.data.rooms import (
    HELD_OUT_SEEDS,
    Room,
    render,
    render_depth,
    sample_views,
    stack_rooms,
    training_seed,
)
from guidedvd_ns.data.rooms.views import is_free
from guidedvd_ns.data.visibility import Intrinsics, Matches, Sight, match_frames, visible_from_views

CLEARANCE = 0.15
"""Cameras keep this distance from everything, metres."""

DepthOf = Callable[[Tensor, int], Tensor]
"""Poses [R, N, 3, 4] and a divisor of the frame size -> z-depth [R, N, h, w, 1]."""


@dataclass(frozen=True)
class _Film:
    """B true clips, K of each room in turn, before they are degraded."""

    target: Tensor
    """[B, T, H, W, 3] in [0, 1]."""
    visible: Tensor
    """[B, T, H, W, 1] bool: an input view of the clip sees the surface."""
    depth: Tensor
    """[B, T, H, W, 1] z-depth, metres."""
    poses: Tensor
    """[B, T, 3, 4] OpenGL."""
    intrinsics: Intrinsics
    """Those of every frame."""


@dataclass(frozen=True)
class _Paths:
    """Candidate or chosen trajectories, M for each of R rooms."""

    reference: Tensor
    """[R, M] int64 index of the view at which the trajectory starts."""
    radius: Tensor
    """[R, M] metres."""
    azimuth: Tensor
    """[R, M] degrees at the last frame."""
    elevation: Tensor
    """[R, M] degrees at the last frame."""
    uses_view: Tensor
    """[R, M, V] bool: the views that the guide was fitted to."""

    def take(self, chosen: Tensor) -> _Paths:  # chosen: [R, K] int64
        names = ("reference", "radius", "azimuth", "elevation")
        uses_view = self.uses_view.gather(1, chosen[..., None].expand(-1, -1, self.uses_view.shape[2]))
        return _Paths(uses_view=uses_view, **{name: getattr(self, name).gather(1, chosen) for name in names})


def lay_out_rooms(seeds: list[int], config: ClipConfig) -> tuple[Room, Tensor]:
    """The rooms of these seeds as one batch, and their input views [R, views_per_room, 3, 4]."""
    rooms = [Room.sample(seed) for seed in seeds]
    views = [sample_views(room, seed, config.views_per_room) for room, seed in zip(rooms, seeds, strict=True)]
    return stack_rooms(rooms), torch.stack(
        [_tilted(poses, config.tilt, seed) for poses, seed in zip(views, seeds, strict=True)]
    )


def _tilted(poses: Tensor, tilt: float, seed: int) -> Tensor:  # [V, 3, 4]
    """The poses, each rolled about its optical axis by a normally distributed angle (degrees)."""
    roll = torch.deg2rad(tilt * torch.randn(len(poses), 1, generator=keyed_generator("cpu", seed, len(poses))))
    right, up, back, position = poses.unbind(-1)
    turned = (roll.cos() * right + roll.sin() * up, roll.cos() * up - roll.sin() * right, back, position)
    return torch.stack(turned, -1)


class RoomClips:
    """Endless numbered batches of clips; a batch depends on its number and the seed alone.

    Args:
        config: Sizes and ranges.
        device: Where rooms are rendered and batches live.
        seed: Seed of everything but the rooms themselves.
        held_out: Take rooms that are never trained on, for validation.
    """

    def __init__(
        self, config: ClipConfig, device: torch.device | str, *, seed: int = 0, held_out: bool = False
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.seed = seed
        self.held_out = held_out

    def room_seeds(self, index: int) -> list[int]:
        """The seeds of the rooms of a batch."""
        count = self.config.rooms_per_batch
        numbers = range(index * count, (index + 1) * count)
        return [HELD_OUT_SEEDS + number if self.held_out else training_seed(number) for number in numbers]

    def rooms(self, index: int) -> tuple[Room, Tensor]:
        """The rooms of a batch and their input views [R, V, 3, 4], on the CPU."""
        return lay_out_rooms(self.room_seeds(index), self.config)

    @torch.no_grad()
    def batch(self, index: int) -> ClipBatch:
        """The `index`-th batch: `rooms_per_batch * clips_per_room` clips (and their mirror images).

        Those without holes of the wanted size are left out, so a batch may be smaller, or empty.
        """
        clips = self._degraded(self._film(index), index)
        return clips[clips.has_usable_holes(self.config)]

    @torch.no_grad()
    def matched_batch(self, index: int, gap: int) -> tuple[ClipBatch, Matches]:
        """The same clips, and where the surfaces of each frame are in the one `gap` later.

        Raises:
            ValueError: where clips are mirrored, too.
        """
        if self.config.mirror:
            raise ValueError("Only clips without their mirror images are matched: set `mirror` of the clips to False.")
        film = self._film(index)
        clips = self._degraded(film, index)
        kept = clips.has_usable_holes(self.config)
        return clips[kept], match_frames(film.depth[kept], film.poses[kept], film.intrinsics, gap)

    def _degraded(self, film: _Film, index: int) -> ClipBatch:
        defects = keyed_generator(self.device, self.seed, index, self.held_out)
        return degraded_clips(film.target, film.visible, self.config, defects)

    def _film(self, index: int) -> _Film:
        config = self.config
        draws = keyed_generator("cpu", self.seed, index, self.held_out)
        size = draw_size(config, draws)
        room, views = self.rooms(index)
        room, views = room.to(self.device), views.to(self.device)
        intrinsics = self._intrinsics(size, draws)

        def depth_of(poses: Tensor, divisor: int) -> Tensor:
            return render_depth(room, poses, _scaled(intrinsics, divisor), size[0] // divisor, size[1] // divisor)

        view_depths = depth_of(views, 1)
        candidates = self._draw_paths(views, view_depths, draws)
        holes = self._rate(candidates, views, view_depths, intrinsics=intrinsics, depth_of=depth_of)
        usable = self._are_free(candidates, room, views)
        usable &= (holes >= config.min_hole_fraction) & (holes <= config.max_hole_fraction)
        paths = self._choose(candidates, holes, usable, draws)
        poses = _poses(paths, views, self._progress)
        seen = render(
            room,
            poses.flatten(1, 2),
            intrinsics,
            *size,
            supersample=config.supersample,
            compile=config.compile_rendering,
        )
        target, depth = (image.unflatten(1, poses.shape[1:3]) for image in (seen.rgb, seen.depth))
        sight = Sight(views, view_depths, intrinsics)
        visible = visible_from_views(depth, poses, intrinsics, sight, paths.uses_view)
        return _Film(
            target=target.flatten(0, 1),
            visible=visible.flatten(0, 1),
            depth=depth.flatten(0, 1),
            poses=poses.flatten(0, 1),
            intrinsics=intrinsics,
        )

    @property
    def _progress(self) -> Tensor:  # [T]
        return torch.linspace(0, 1, self.config.num_frames, device=self.device)

    def _intrinsics(self, size: tuple[int, int], draws: torch.Generator) -> Intrinsics:
        low, high = self.config.field_of_view
        angle = low + (high - low) * float(torch.rand((), generator=draws, dtype=torch.float64))
        # The longer side has the drawn angle: an upright photograph is a camera turned.
        focal = float(0.5 * max(size) / np.tan(np.deg2rad(angle) / 2))
        return focal, focal, size[1] / 2, size[0] / 2

    def _draw_paths(self, views: Tensor, view_depths: Tensor, draws: torch.Generator) -> _Paths:
        config = self.config
        rooms, num_views = views.shape[:2]
        count = num_views * config.candidates_per_view
        reference = torch.arange(num_views).repeat_interleave(config.candidates_per_view).expand(rooms, count)
        scales = torch.tensor(config.radius_scales)[
            torch.randint(len(config.radius_scales), (rooms, count), generator=draws)
        ]
        azimuth = config.azimuth * (2 * torch.rand(rooms, count, generator=draws) - 1)
        elevation = config.elevation * (2 * torch.rand(rooms, count, generator=draws) - 1)
        # The guide knows the reference and 1 to all of the other views.
        order = torch.rand(rooms, count, num_views, generator=draws)
        order = order.scatter(2, reference[..., None], -1.0).argsort(dim=2).argsort(dim=2)
        uses_view = order <= torch.randint(1, max(2, num_views), (rooms, count, 1), generator=draws)
        rows, columns = (slice(size // 2 - 2, size // 2 + 2) for size in view_depths.shape[2:4])
        centre_depth = view_depths[:, :, rows, columns].flatten(2).median(dim=2).values
        reference, scales = reference.to(self.device), scales.to(self.device)
        return _Paths(
            reference,
            scales * centre_depth.gather(1, reference),
            azimuth.to(self.device),
            elevation.to(self.device),
            uses_view.to(self.device),
        )

    def _rate(
        self, paths: _Paths, views: Tensor, view_depths: Tensor, *, intrinsics: Intrinsics, depth_of: DepthOf
    ) -> Tensor:  # [R, M]
        """Estimated hole fraction of each candidate clip, from small pictures at its middle and its end."""
        poses = _poses(paths, views, torch.tensor([0.5, 1.0], device=self.device))
        depth = depth_of(poses.flatten(1, 2), COARSE).unflatten(1, poses.shape[1:3])
        sight = Sight(views, view_depths, intrinsics)
        visible = visible_from_views(depth, poses, _scaled(intrinsics, COARSE), sight, paths.uses_view)
        middle, last = (1 - visible.flatten(3).float().mean(dim=3)).unbind(dim=2)
        return middle / 2 + last / 4

    def _are_free(self, paths: _Paths, room: Room, views: Tensor) -> Tensor:  # [R, M] bool
        positions = _poses(paths, views, self._progress)[..., 3]
        free = is_free(room, positions.flatten(1, 2), CLEARANCE)
        return free.unflatten(1, positions.shape[1:3]).all(dim=2)

    def _choose(self, candidates: _Paths, holes: Tensor, usable: Tensor, draws: torch.Generator) -> _Paths:
        """`clips_per_room` candidates of each room whose holes are nearest to drawn sizes: mostly small, some large."""
        config = self.config
        rooms, chosen = len(holes), []
        penalty = torch.where(usable, 0.0, 10.0)
        for _ in range(config.clips_per_room):
            wanted = draw_hole_fractions(rooms, config, draws, self.device)
            best = (torch.where(usable, holes - wanted, 0).abs() + penalty).argmin(dim=1, keepdim=True)
            # The next clip of the room takes another candidate if there is one.
            penalty = penalty.scatter_add(1, best, torch.ones_like(wanted))
            chosen.append(best)
        picked = torch.cat(chosen, dim=1)
        paths = candidates.take(picked)
        # Where there is no usable candidate the camera stays at its view: rays must start in free space.
        stays = ~usable.gather(1, picked)
        return replace(
            paths, azimuth=paths.azimuth.masked_fill(stays, 0), elevation=paths.elevation.masked_fill(stays, 0)
        )


def _poses(paths: _Paths, views: Tensor, progress: Tensor) -> Tensor:  # [R, M, len(progress), 3, 4]
    """Poses along the trajectories, as `orbits.orbit` lays them out, for many rooms at once."""
    start = views.gather(1, paths.reference[..., None, None].expand(-1, -1, 3, 4))
    rotation, position = start[..., :3], start[..., 3]
    azimuth = torch.deg2rad(paths.azimuth)[..., None] * progress
    elevation = torch.deg2rad(paths.elevation)[..., None] * progress
    sin_a, cos_a, sin_e, cos_e = azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()
    zero = torch.zeros_like(sin_a)
    right = torch.stack([cos_a, zero, -sin_a], dim=-1)
    up = torch.stack([-sin_e * sin_a, cos_e, -sin_e * cos_a], dim=-1)
    back = torch.stack([cos_e * sin_a, sin_e, cos_e * cos_a], dim=-1)
    rotations = rotation[:, :, None] @ torch.stack([right, up, back], dim=-1)
    moved = rotations[..., 2] - rotation[:, :, None, :, 2]
    positions = position[:, :, None] + paths.radius[..., None, None] * moved
    return torch.cat([rotations, positions[..., None]], dim=-1)


def _scaled(intrinsics: Intrinsics, divisor: int) -> Intrinsics:
    fx, fy, cx, cy = intrinsics
    return fx / divisor, fy / divisor, cx / divisor, cy / divisor
