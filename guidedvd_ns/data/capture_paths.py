"""Camera paths along which a capture shows the truth: stretches of a film, and pans over single photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_STEP_TURN = 12.0
"""Degrees by which the camera turns at most from frame to frame of a stretch."""

MAX_STEP_SHIFT = 0.3
"""Distance by which it moves at most from frame to frame, as a share of the typical depth."""

MAX_TURN = 75.0
"""Degrees between the first and the last frame of a stretch, and between the reference and other views, at most."""

MIN_MOTION = 0.08
"""Along a stretch the camera moves by this share of the typical depth at least, or turns by so many radians."""

MAX_VIEW_DISTANCE = 1.5
"""Distance of other input views from the reference at most, as a share of the typical depth."""

STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Every how many frames of a film belong to a stretch."""


@dataclass(frozen=True)
class CapturePoses:
    """Where the frames of a capture were taken."""

    poses: np.ndarray
    """[F, 3, 4] camera-to-world."""
    depth: float
    """Typical depth, in the units of the poses."""

    def turn(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Degrees between frames, for arrays of their indices."""
        trace = (self.poses[first][..., :3] * self.poses[second][..., :3]).sum((-2, -1))
        return np.rad2deg(np.arccos(((trace - 1) / 2).clip(-1, 1)))

    def shift(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distances between frames as shares of the typical depth."""
        return np.linalg.norm(self.poses[first][..., 3] - self.poses[second][..., 3], axis=-1) / self.depth

    def motion(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Turn and shift in one number: the sum of both as shares of what they may be from frame to frame."""
        return self.turn(first, second) / MAX_STEP_TURN + self.shift(first, second) / MAX_STEP_SHIFT


def find_stretches(path: CapturePoses, num_frames: int) -> np.ndarray:  # [S, num_frames] int64
    """Frames at even distances in a film, between which the camera moves little, but in all something.

    There are none where the frames are not those of a film in its order.
    """
    found = [np.zeros((0, num_frames), dtype=np.int64)]
    for stride in STRIDES:
        starts = np.arange(max(0, len(path.poses) - (num_frames - 1) * stride))
        stretches = starts[:, None] + stride * np.arange(num_frames)
        before, after = stretches[:, :-1], stretches[:, 1:]
        smooth = (path.turn(before, after) <= MAX_STEP_TURN) & (path.shift(before, after) <= MAX_STEP_SHIFT)
        turn, shift = path.turn(stretches[:, 0], stretches[:, -1]), path.shift(stretches[:, 0], stretches[:, -1])
        moves = (np.deg2rad(turn) >= MIN_MOTION) | (shift >= MIN_MOTION)
        found.append(stretches[smooth.all(axis=1) & moves & (turn <= MAX_TURN)])
    return np.concatenate(found)


def views_near(path: CapturePoses, frames: np.ndarray) -> np.ndarray:  # [n] int64
    """Frames that look about where the first of `frames` does and stand not far from it, but away from the others.

    One that stands where the camera is going would know all that it is about to see.
    """
    others = np.delete(np.arange(len(path.poses)), frames[0])
    reference = np.full(len(others), frames[0])
    near = (path.turn(reference, others) <= MAX_TURN) & (path.shift(reference, others) <= MAX_VIEW_DISTANCE)
    if len(frames) > 1:
        step = np.median(path.motion(frames[:-1], frames[1:]))
        near &= (path.motion(others[:, None], frames[None, 1:]) >= step).all(axis=1)
    return others[near]


def pan(
    start: tuple[float, float], end: tuple[float, float], num_frames: int
) -> np.ndarray:  # [num_frames, 3, 3], camera axes of a frame -> those of the photograph, OpenGL
    """Rotations that turn a camera evenly from one pair of angles (to the left, up; radians) to another."""
    progress = np.linspace(0, 1, num_frames)
    left, up = (first + (last - first) * progress for first, last in zip(start, end, strict=True))
    zero, one = np.zeros(num_frames), np.ones(num_frames)
    yaw = np.array([[np.cos(left), zero, np.sin(left)], [zero, one, zero], [-np.sin(left), zero, np.cos(left)]])
    pitch = np.array([[one, zero, zero], [zero, np.cos(up), -np.sin(up)], [zero, np.sin(up), np.cos(up)]])
    return np.einsum("ijn,jkn->nik", yaw, pitch)


def pan_limits(
    photograph: tuple[float, float],
    window: tuple[float, float],
) -> tuple[float, float]:
    """How far a camera may turn to either side and up or down (radians), so that no corner leaves the photograph.

    Args:
        photograph: Tangents of half its field of view, across and down.
        window: Those of the turning camera, which must be smaller.
    """
    limits = np.arctan(photograph) - np.arctan(window)
    corners = np.array([[x * window[0], y * window[1], -1.0] for x in (-1, 1) for y in (-1, 1)])
    for share in np.linspace(1, 0, 11):
        left, up = share * limits
        turns = np.concatenate([pan((left, y), (left, y), 1) for y in (-up, up)])
        rays = np.einsum("nij,cj->nci", turns, corners)
        # The opposite side is symmetrical.
        if (np.abs(rays[..., :2]) <= np.array(photograph) * -rays[..., 2:]).all():
            return float(left), float(up)
    return 0.0, 0.0
