"""Clips that the bundled prior is trained on: a camera path in a procedural room, seen truly and as a guide knows it.

The paths are those of the method's trajectories (method.md stage 2). A pixel is known where the reference view or
another input view sees its surface; known pixels are then degraded (`degradation.py`), unknown ones are black.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guidedvd_ns.data.degradation import degrade
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

COARSE = 4
"""Candidate trajectories are rated on pictures smaller by this factor."""

DepthOf = Callable[[Tensor, int], Tensor]
"""Poses [R, N, 3, 4] and a divisor of the frame size -> z-depth [R, N, h, w, 1]."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips of T frames."""

    target: Tensor
    """[B, T, H, W, 3] true frames in [0, 1]."""
    condition: Tensor
    """[B, T, H, W, 3] the guide's frames in [0, 1], black where unknown; frame 0 is the clean reference."""
    known: Tensor
    """[B, T, H, W, 1] 1 where the guide knows the scene, else 0."""

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, item: slice | Tensor) -> ClipBatch:
        return ClipBatch(self.target[item], self.condition[item], self.known[item])

    def hole_fraction(self) -> Tensor:  # [B]
        """Share of unknown pixels of each clip."""
        return 1 - self.known.mean(dim=(1, 2, 3, 4))


def concatenate_clips(batches: list[ClipBatch]) -> ClipBatch:
    """All clips of several batches, in order."""
    return ClipBatch(
        torch.cat([batch.target for batch in batches]),
        torch.cat([batch.condition for batch in batches]),
        torch.cat([batch.known for batch in batches]),
    )


@dataclass(frozen=True)
class ClipConfig:
    """Sizes and ranges of the clips."""

    num_frames: int = 16
    """Frames of a clip, the reference included."""
    height: int = 96
    """Frame height in pixels."""
    width: int = 128
    """Frame width in pixels."""
    other_sizes: tuple[tuple[int, int], ...] = ((80, 144), (144, 80), (128, 96), (112, 112))
    """Heights and widths of some batches, since photographs come in all shapes."""
    other_sizes_share: float = 0.25
    """Share of batches that have one of the other sizes."""
    rooms_per_batch: int = 8
    """Rooms that are rendered together."""
    clips_per_room: int = 4
    """Clips of each room of a batch; each may start from another view."""
    views_per_room: int = 4
    """Input views of each room, of which a clip's guide knows 2 to all."""
    candidates_per_view: int = 5
    """Trajectories drawn for each view, among which clips are chosen by their holes."""
    azimuth: float = 30.0
    """Largest azimuth offset of a trajectory's end in degrees, to either side."""
    elevation: float = 15.0
    """Largest elevation offset of a trajectory's end in degrees, up or down."""
    radius_scales: tuple[float, ...] = (1.0, 1.0 / 3.0, 1.0 / 10.0)
    """Radius of the trajectory's sphere as a share of the depth at the image centre, drawn for each trajectory."""
    field_of_view: tuple[float, float] = (50.0, 85.0)
    """Range of the field of view along the longer side in degrees, drawn once a batch."""
    tilt: float = 3.0
    """Standard deviation of the input views' roll about their optical axis in degrees: nobody's hand is level."""
    min_hole_fraction: float = 0.02
    """Clips with a smaller share of unknown pixels are dropped."""
    max_hole_fraction: float = 0.6
    """Clips with a larger share of unknown pixels are dropped."""
    large_holes: float = 0.1
    """Share of clips for which large holes (0.35 and more) are looked for."""
    mild: float = 0.5
    """Share of clips that are degraded mildly (strength up to 0.3; of the others up to 1)."""
    mirror: bool = True
    """Whether every clip comes a second time with left and right exchanged and other defects."""
    supersample: int = 2
    """Rays of a pixel along each axis."""
    compile_rendering: bool = False
    """Fuse the renderer's work with torch.compile (CUDA only), which takes a while and then saves much more."""


@dataclass(frozen=True)
class _Film:
    """K true clips in each of R rooms, before they are degraded."""

    target: Tensor
    """[R, K, T, H, W, 3] in [0, 1]."""
    visible: Tensor
    """[R, K, T, H, W, 1] bool: an input view of the clip sees the surface."""
    depth: Tensor
    """[R, K, T, H, W, 1] z-depth, metres."""
    poses: Tensor
    """[R, K, T, 3, 4] OpenGL."""
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
        film = self._film(index)
        target, visible = film.target.flatten(0, 1), film.visible.flatten(0, 1)
        return degraded_clips(target, visible, self.config, self._defects(index))[0]

    @torch.no_grad()
    def matched_batch(self, index: int, gap: int) -> tuple[ClipBatch, Matches]:
        """The same clips, and where the surfaces of each frame are in the one `gap` later.

        Raises:
            ValueError: where clips are mirrored, too.
        """
        if self.config.mirror:
            raise ValueError("Only clips without their mirror images are matched: set `mirror` of the clips to False.")
        film = self._film(index)
        target, visible = film.target.flatten(0, 1), film.visible.flatten(0, 1)
        clips, kept = degraded_clips(target, visible, self.config, self._defects(index))
        matches = match_frames(film.depth.flatten(0, 1), film.poses.flatten(0, 1), film.intrinsics, gap)
        return clips, matches[kept]

    def _defects(self, index: int) -> torch.Generator:
        return keyed_generator(self.device, self.seed, index, self.held_out)

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
        return _Film(target, visible, depth, poses, intrinsics)

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


def draw_size(config: ClipConfig, draws: torch.Generator) -> tuple[int, int]:
    """Height and width of a batch."""
    share, which = torch.rand(2, generator=draws, dtype=torch.float64).tolist()
    if not config.other_sizes or share >= config.other_sizes_share:
        return config.height, config.width
    return config.other_sizes[int(which * len(config.other_sizes))]


def draw_hole_fractions(
    count: int, config: ClipConfig, draws: torch.Generator, device: torch.device | str
) -> Tensor:  # [count, 1]
    """Shares of unknown pixels that are looked for: mostly small, some large."""
    draw = torch.rand(count, 1, generator=draws).to(device)
    is_large = (torch.rand(count, 1, generator=draws) < config.large_holes).to(device)
    return torch.where(is_large, 0.35 + 0.2 * draw, 0.03 + 0.35 * draw**1.6)


def degraded_clips(
    target: Tensor,  # [B, T, H, W, 3]
    visible: Tensor,  # [B, T, H, W, 1]
    config: ClipConfig,
    generator: torch.Generator,
) -> tuple[ClipBatch, Tensor]:
    """True clips and their mirror images as a guide would know them; those without holes of a usable size are left out.

    The second value says which were kept, bool [B], with mirror images [2 B].

    Args:
        target: True frames in [0, 1]; frame 0 is the reference.
        visible: 1 where an input view sees the pixel's surface, else 0.
        config: Which degradations and holes are wanted.
        generator: Seeded generator on the device of the tensors.
    """
    if config.mirror:
        target = torch.cat([target, target.flip(3)])
        visible = torch.cat([visible, visible.flip(3)])
    draw = torch.rand(2, len(target), generator=generator, device=target.device)
    strength = torch.where(draw[0] < config.mild, 0.3 * draw[1], 0.3 + 0.7 * draw[1])
    condition, known = degrade(target, visible, strength, generator)
    clips = ClipBatch(target, condition, known)
    holes = clips.hole_fraction()
    usable = (holes >= config.min_hole_fraction) & (holes <= config.max_hole_fraction)
    return clips[usable], usable


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


def keyed_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator whose draws depend on all numbers of the key."""
    state = np.random.SeedSequence(key).generate_state(2, dtype=np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 ^ int(state[1]))
