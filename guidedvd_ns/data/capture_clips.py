"""Training clips cut from captures with poses and depth: a stretch of frames, known where a few others see it too.

The counterpart of `clips.RoomClips` for a user's own photographs. A camera that was carried through a room takes the
place of a trajectory; sizes, holes and degradations are those of the rooms' clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
from guidedvd_ns.data.depth_captures import DepthCapture
from guidedvd_ns.data.visibility import Intrinsics, Sight, visible_from_views

MEASURED_TOLERANCE = 0.05
"""`visibility.DEPTH_TOLERANCE` for sensors and reconstructions, which are off by a few percent."""

MAX_STEP_TURN = 12.0
"""Frames between which the camera turns by more degrees do not follow each other in a clip."""

MAX_STEP_SHIFT = 0.3
"""Nor do those between which it moves by more than this share of the typical depth."""

MAX_TURN = 75.0
"""Degrees between the first and the last frame of a clip, and between the reference and other input views."""

MIN_MOTION = 0.08
"""A clip's camera moves by this share of the typical depth at least, or turns by so many radians."""

MAX_VIEW_DISTANCE = 1.5
"""Distance of other input views from the reference, as a share of the typical depth."""

STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Every how many frames of a capture become a clip's."""

MAX_ZOOM = 1.4
"""A clip shows the largest window of its shape, or one smaller by up to this factor."""

ATTEMPTS = 4
"""How often new candidates are drawn for a clip until one has holes of a usable size."""

WORKERS = 4
"""Threads that decode and resize."""


@dataclass(frozen=True)
class _Cut:
    """Which frames of a capture become a clip, and how they are seen."""

    capture: DepthCapture
    frames: list[int]
    """The T frames; the first is the reference."""
    views: list[int]
    """Input views, the reference first."""
    intrinsics: Intrinsics


class CaptureClips:
    """Endless numbered batches of clips of captures; a batch depends on its number and the seed alone.

    A clip is T frames at even distances in the order of their names, forwards or backwards, between which the camera
    moves little. Its guide knows the first and one or more nearby frames from outside that stretch.

    Args:
        folders: Captures with poses and depth (`depth_captures.read_any_capture`), each as likely as it has frames.
        config: Sizes and ranges; a batch has as many clips as one of rooms.
        device: Where batches live.
        seed: Seed of everything.
        cache: Where undistorted and smaller images are kept; the user's cache folder by default.

    Raises:
        FileNotFoundError: A file of a capture is missing.
        ValueError: A capture has no depths, or no stretch of frames that could be a clip; the sentence says why.
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
        self._stretches = [find_stretches(capture, config.num_frames) for capture in self._captures]
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="clips")

    @torch.no_grad()
    def batch(self, index: int) -> ClipBatch:
        """The `index`-th batch, see `clips.RoomClips.batch`.

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
        return degraded_clips(target.float() / 255, visible, config, keyed_generator(self.device, self.seed, index))

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

    def _draw_cut(self, size: tuple[int, int], draws: torch.Generator) -> _Cut:
        frame_counts = torch.tensor([float(len(capture)) for capture in self._captures])
        which = int(torch.multinomial(frame_counts, 1, generator=draws))
        capture, stretches = self._captures[which], self._stretches[which]
        start, stride = stretches[int(torch.randint(len(stretches), (1,), generator=draws))].tolist()
        frames = [start + stride * step for step in range(self.config.num_frames)]
        if torch.rand((), generator=draws) < 0.5:
            frames.reverse()
        others = torch.from_numpy(views_near(capture, frames))
        wanted = int(torch.randint(1, max(2, self.config.views_per_room), (1,), generator=draws))
        picked = others[torch.randperm(len(others), generator=draws)[:wanted]].tolist()
        views = [frames[0], *picked]
        extent = capture.extent([*frames, *picked])
        return _Cut(capture, frames, views, _draw_intrinsics(extent, size, draws))


def find_stretches(capture: DepthCapture, num_frames: int) -> np.ndarray:  # [S, 2] first frame and stride
    """All stretches of a capture between whose frames the camera moves little, but in all something.

    Raises:
        ValueError: there is none.
    """
    depth, count = capture.typical_depth, len(capture)
    if depth <= 0:
        raise ValueError(f"The depth maps of {capture.folder} hold no measurement; write them again.")
    if count <= num_frames:
        raise ValueError(
            f"{capture.folder} has {count} frames with depth, but a clip needs {num_frames} and another input view; "
            "give more frames or shorten the clips."
        )
    found = []
    for stride in STRIDES:
        starts = np.arange(count - (num_frames - 1) * stride)
        if not len(starts):
            break
        steps = starts[:, None] + stride * np.arange(num_frames)
        turn, shift = _motion(capture, steps[:, :-1], steps[:, 1:])
        in_all_turn, in_all_shift = _motion(capture, steps[:, 0], steps[:, -1])
        smooth = (turn <= MAX_STEP_TURN).all(1) & (shift <= MAX_STEP_SHIFT * depth).all(1)
        moves = (np.deg2rad(in_all_turn) >= MIN_MOTION) | (in_all_shift >= MIN_MOTION * depth)
        found += [(start, stride) for start in starts[smooth & moves & (in_all_turn <= MAX_TURN)]]
    if not found:
        raise ValueError(
            f"{capture.folder} has no {num_frames} frames in a row between which the camera moves, but at most "
            f"{MAX_STEP_TURN:.0f} degrees a frame; give a capture that was filmed, with frames named in their order."
        )
    return np.array(found)


def views_near(capture: DepthCapture, frames: list[int]) -> np.ndarray:  # [n] int64
    """Frames from outside a clip's stretch that look about where its reference does and stand not far from it."""
    everything = np.arange(len(capture))
    outside = everything[(everything < min(frames)) | (everything > max(frames))]
    turn, shift = _motion(capture, np.full(len(outside), frames[0]), outside)
    return outside[(turn <= MAX_TURN) & (shift <= MAX_VIEW_DISTANCE * capture.typical_depth)]


def visible_pixels(cut: _Cut, frames: list[int], size: tuple[int, int], divisor: int = 1) -> Tensor:  # [n, h, w, 1]
    """Which pixels of `frames` show a surface that an input view sees, on pictures smaller by `divisor`, bool."""
    fx, fy, cx, cy = cut.intrinsics
    scaled = (fx / divisor, fy / divisor, cx / divisor, cy / divisor)
    depth = torch.from_numpy(cut.capture.depths(frames, scaled, (size[0] // divisor, size[1] // divisor)))
    view_depth = torch.from_numpy(cut.capture.depths(cut.views, cut.intrinsics, size))
    poses, views = cut.capture.poses[frames], cut.capture.poses[cut.views]
    sight = Sight(views[None], view_depth[None], cut.intrinsics)
    every = torch.ones(1, 1, len(cut.views), dtype=torch.bool)
    return visible_from_views(depth[None, None], poses[None, None], scaled, sight, every, MEASURED_TOLERANCE)[0, 0]


def _estimated_holes(cut: _Cut, size: tuple[int, int]) -> float:
    """Share of the clip that no input view sees, from small pictures at its middle and its end."""
    visible = visible_pixels(cut, [cut.frames[len(cut.frames) // 2], cut.frames[-1]], size, COARSE)
    middle, last = (1 - visible.float().mean(dim=(1, 2, 3))).tolist()
    return middle / 2 + last / 4


def _motion(capture: DepthCapture, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles in degrees and distances between the poses of frames, of the shape of their indices."""
    poses = capture.poses.numpy()
    before, after = poses[first], poses[second]
    trace = (before[..., :3] * after[..., :3]).sum((-2, -1))
    turn = np.rad2deg(np.arccos(((trace - 1) / 2).clip(-1, 1)))
    return turn, np.linalg.norm(after[..., 3] - before[..., 3], axis=-1)


def _draw_intrinsics(
    extent: tuple[float, float, float, float], size: tuple[int, int], draws: torch.Generator
) -> Intrinsics:
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
