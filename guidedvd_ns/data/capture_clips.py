"""Training clips cut from captures with poses and depth, known where a few input views see the same surfaces.

The counterpart of `room_clips.RoomClips` for a user's own photographs; sizes, holes and degradations are those of the
rooms' clips. A trajectory's place takes a stretch of frames in which a camera was carried through a room. Photographs
that are no film show no such path; there the camera stays where one was taken, and pans over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.data.capture_paths import CapturePoses, find_stretches, pan, pan_limits, views_near
from guidedvd_ns.data.clips import (
    COARSE,
    ClipBatch,
    ClipConfig,
    degraded_clips,
    draw_hole_fractions,
    draw_size,
    keyed_generator,
)
from guidedvd_ns.data.depth_captures import DepthCapture, Look
from guidedvd_ns.data.visibility import Intrinsics, Sight, visible_from_views
from guidedvd_ns.draws import random_index, shuffled

MEASURED_TOLERANCE = 0.05
"""`visibility.DEPTH_TOLERANCE` for sensors and reconstructions, which are off by a few percent."""

MAX_ZOOM = 1.4
"""A clip of a film shows the largest window of its shape, or one smaller by up to this factor."""

PAN_ZOOM = (1.5, 2.0)
"""That of a pan is smaller by a factor in this range: the rest of the photograph is what it pans over."""

ATTEMPTS = 4
"""How often new candidates are drawn for a clip until one has holes of a usable size."""

WORKERS = 4
"""Threads that decode and resize."""


@dataclass(frozen=True)
class Cut:
    """What of a capture becomes a clip."""

    capture: DepthCapture
    frames: list[Look]
    """The T frames; the first is the reference."""
    views: list[Look]
    """Input views, the reference first."""
    intrinsics: Intrinsics
    """Those of all frames and views."""


class CaptureClips:
    """Endless numbered batches of clips of captures; a batch depends on its number and the seed alone.

    A film's clip is T frames at even distances in the order of their names, forwards or backwards, between which the
    camera moves little. Its guide knows the first and one or more nearby frames from outside that stretch. That of a
    pan knows its first frame and nearby photographs.

    Args:
        folders: Captures with poses and depth (`depth_captures.read_any_capture`), each as likely as it has frames.
        config: Sizes and ranges; a batch has as many clips as one of rooms.
        device: Where batches live.
        seed: Seed of everything.
        cache: Where undistorted and smaller images are kept; the user's cache folder by default.

    Raises:
        FileNotFoundError: A file of a capture is missing.
        ValueError: A capture has no depths, or fewer than two photographs with depth; the sentence says why.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        config: ClipConfig,
        device: torch.device | str,
        *,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        if not folders:
            raise ValueError("No capture was given to cut clips from; name the folder of one.")
        self.config = config
        self.device = torch.device(device)
        self.seed = seed
        longest = max(max(size) for size in ((config.height, config.width), *config.other_sizes))
        self._captures = [DepthCapture(Path(folder), 3 * longest // 2, cache) for folder in folders]
        self._paths = [_checked_poses(capture) for capture in self._captures]
        self._stretches = [find_stretches(path, config.num_frames) for path in self._paths]
        for capture, stretches in zip(self._captures, self._stretches, strict=True):
            kind = f"{len(stretches)} stretches of film" if len(stretches) else "no film, so its clips are pans"
            CONSOLE.log(f"{capture.folder}: {len(capture)} frames with depth, {kind}.")
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="clips")

    @torch.no_grad()
    def batch(self, index: int) -> ClipBatch:
        """The `index`-th batch, see `room_clips.RoomClips.batch`.

        Raises:
            ValueError: No clip of the batch has holes of a usable size.
        """
        config = self.config
        size = draw_size(config, keyed_generator("cpu", self.seed, index))
        count = config.rooms_per_batch * config.clips_per_room
        drawn = self._pool.map(lambda number: self._clip(size, index, number), range(count))
        clips = [clip for clip in drawn if clip is not None]
        if not clips:
            raise ValueError(
                f"The captures give no clip with holes between {config.min_hole_fraction:.0%} and "
                f"{config.max_hole_fraction:.0%}; give captures that look at places from several sides."
            )
        target, visible = (torch.stack(parts).to(self.device) for parts in zip(*clips, strict=True))
        defects = keyed_generator(self.device, self.seed, index)
        degraded = degraded_clips(target.float() / 255, visible, config, defects)
        return degraded[degraded.has_usable_holes(config)]

    def _clip(self, size: tuple[int, int], index: int, number: int) -> tuple[Tensor, Tensor] | None:
        """A clip's frames [T, H, W, 3] uint8 and what its input views see of them [T, H, W, 1], if one is found."""
        config = self.config
        draws = keyed_generator("cpu", self.seed, index, number)
        wanted = float(draw_hole_fractions(1, config, draws, "cpu"))
        for _ in range(ATTEMPTS):
            cuts = [self._draw_cut(size, draws) for _ in range(config.candidates_per_view)]
            holes = [_estimated_holes(cut, size) for cut in cuts]
            usable = [
                (abs(share - wanted), position)
                for position, share in enumerate(holes)
                if config.min_hole_fraction <= share <= config.max_hole_fraction
            ]
            if usable:
                cut = cuts[min(usable)[1]]
                images = torch.from_numpy(cut.capture.images(cut.frames, cut.intrinsics, size))
                return images, visible_pixels(cut, cut.frames, size)
        return None

    def _draw_cut(self, size: tuple[int, int], draws: torch.Generator) -> Cut:
        frame_counts = torch.tensor([float(len(capture)) for capture in self._captures])
        which = int(torch.multinomial(frame_counts, 1, generator=draws))
        capture, path, stretches = self._captures[which], self._paths[which], self._stretches[which]
        if not len(stretches):
            photograph = random_index(len(capture), draws)
            others = self._draw_views(views_near(path, np.array([photograph])), draws)
            return draw_pan(capture, photograph, others, self.config.num_frames, size=size, draws=draws)
        frames = stretches[random_index(len(stretches), draws)]
        if torch.rand((), generator=draws) < 0.5:
            frames = frames[::-1]
        others = self._draw_views(views_near(path, frames), draws)
        extent = capture.extent([*frames, *others])
        views = _straight([frames[0], *others])
        return Cut(capture, _straight(frames), views, draw_window(extent, size, draws))

    def _draw_views(self, near: np.ndarray, draws: torch.Generator) -> list[int]:
        wanted = 1 + random_index(max(1, self.config.views_per_room - 1), draws)
        return shuffled(near.tolist(), draws)[:wanted]


def draw_pan(
    capture: DepthCapture,
    photograph: int,
    others: list[int],
    num_frames: int,
    *,
    size: tuple[int, int],
    draws: torch.Generator,
) -> Cut:
    """A camera that turns at the place of a photograph from one part of it to another; `others` are input views."""
    left, right, top, bottom = capture.extent([photograph, *others])
    half = min(left, right), min(top, bottom)
    zoom, *angles = torch.rand(5, generator=draws, dtype=torch.float64).tolist()
    zoom = PAN_ZOOM[0] + (PAN_ZOOM[1] - PAN_ZOOM[0]) * zoom
    focal = zoom * max(0.5 * size[1] / half[0], 0.5 * size[0] / half[1])
    limits = pan_limits(half, (0.5 * size[1] / focal, 0.5 * size[0] / focal))
    to_left, up, end_to_left, end_up = (
        (2 * angle - 1) * limit for angle, limit in zip(angles, (*limits, *limits), strict=True)
    )
    turns = pan((to_left, up), (end_to_left, end_up), num_frames)
    frames = [Look(photograph, turn) for turn in turns]
    return Cut(capture, frames, [frames[0], *_straight(others)], (focal, focal, size[1] / 2, size[0] / 2))


def visible_pixels(
    cut: Cut, frames: list[Look], size: tuple[int, int], divisor: int = 1
) -> Tensor:  # [n, h / divisor, w / divisor, 1] bool
    """Which pixels of `frames` show a surface that an input view sees, on pictures smaller by `divisor`."""
    fx, fy, cx, cy = cut.intrinsics
    scaled = (fx / divisor, fy / divisor, cx / divisor, cy / divisor)
    depth = torch.from_numpy(cut.capture.depths(frames, scaled, (size[0] // divisor, size[1] // divisor)))
    view_depth = torch.from_numpy(cut.capture.depths(cut.views, cut.intrinsics, size))
    poses, views = cut.capture.looking(frames), cut.capture.looking(cut.views)
    sight = Sight(views[None], view_depth[None], cut.intrinsics)
    every = torch.ones(1, 1, len(cut.views), dtype=torch.bool)
    return visible_from_views(depth[None, None], poses[None, None], scaled, sight, every, MEASURED_TOLERANCE)[0, 0]


def _estimated_holes(cut: Cut, size: tuple[int, int]) -> float:
    """Share of the clip that no input view sees, from small pictures at its middle and its end."""
    visible = visible_pixels(cut, [cut.frames[len(cut.frames) // 2], cut.frames[-1]], size, COARSE)
    middle, last = (1 - visible.float().mean(dim=(1, 2, 3))).tolist()
    return middle / 2 + last / 4


def _checked_poses(capture: DepthCapture) -> CapturePoses:
    if len(capture) < 2:
        raise ValueError(
            f"{capture.folder} has one frame with depth, but a clip needs another input view; give it more."
        )
    if capture.typical_depth <= 0:
        raise ValueError(f"The depth maps of {capture.folder} hold no measurements; write them again.")
    return CapturePoses(capture.poses.numpy(), capture.typical_depth)


def _straight(frames: Sequence[int] | np.ndarray) -> list[Look]:
    return [Look(int(frame), np.eye(3)) for frame in frames]


def draw_window(extent: tuple[float, float, float, float], size: tuple[int, int], draws: torch.Generator) -> Intrinsics:
    """Square pixels, and a window that lies within `extent` (`DepthCapture.extent`)."""
    left, right, top, bottom = extent
    zoom, across, down = torch.rand(3, generator=draws, dtype=torch.float64).tolist()
    focal = max(size[1] / (left + right), size[0] / (top + bottom)) * (1 + (MAX_ZOOM - 1) * zoom)
    # The window's edges, as tangents, stay inside: its centre may lie anywhere between these.
    cx_range = size[1] - focal * right, focal * left
    cy_range = size[0] - focal * bottom, focal * top
    cx = cx_range[0] + across * (cx_range[1] - cx_range[0])
    cy = cy_range[0] + down * (cy_range[1] - cy_range[0])
    return focal, focal, cx, cy
