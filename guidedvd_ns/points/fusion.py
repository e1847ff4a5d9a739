"""From depth maps of the input views to one set of points, without those that other views contradict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import cv2
import numpy as np

from guidedvd_ns.points.views import InputViews

MAX_JUMP = 0.1
"""Depths within a pixel's 3 x 3 neighbourhood differ by at most this share of them: beyond lies an edge, where the
depth of a pixel is that of neither side."""
_SPARE = 4
"""Pixels looked at for every point wanted: most surfaces are seen by several views, and some pixels fail."""


def fuse(
    views: InputViews,
    depths: Sequence[Optional[np.ndarray]],  # [h, w] z-depth each, scene units, of any size; 0 where unknown
    count: int,
    seed: int,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:  # [N, 3] float32 and [N, 3] uint8, N <= count
    """At most `count` points of random pixels that count, lie on no depth edge and are consistent with other views.

    Another view agrees with a point if its own depth there differs by at most `tolerance` as a share of the point's,
    and contradicts it if its own is greater: it sees through the point. A smaller one hides the point and says nothing.
    A point is dropped if more views contradict than agree. Where several views agree, their surface is taken from the
    first of them only.

    Args:
        views: the input views.
        depths: one map a view through the same lens, or None for a view that has none.
        count: how many points at most.
        seed: of the choice of pixels.
        tolerance: share of a depth by which two maps may differ.
    """
    random = np.random.default_rng(seed)
    known = [view for view, depth in enumerate(depths) if depth is not None]
    xyz, rgb = [], []
    for view in known:
        pixels, depth = _candidates(views, view, depths[view], _SPARE * count // len(known), random)
        points = views.unproject(view, pixels, depth)
        agreeing, contradicting = np.zeros(len(points), dtype=int), np.zeros(len(points), dtype=int)
        earlier = np.zeros(len(points), dtype=bool)
        for other in known:
            if other == view:
                continue
            agrees, contradicts = _compare(views, other, depths[other], points, tolerance)
            agreeing += agrees
            contradicting += contradicts
            earlier |= agrees & (other < view)
        kept = (contradicting <= agreeing) & ~earlier
        xyz.append(points[kept])
        rgb.append(views.colours(view, pixels[kept]))
    positions, colours = (np.concatenate([*parts, np.empty((0, 3))]) for parts in (xyz, rgb))
    chosen = np.sort(random.permutation(len(positions))[:count])
    return positions[chosen].astype(np.float32), colours[chosen].astype(np.uint8)


def _candidates(
    views: InputViews, view: int, depth: Optional[np.ndarray], count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:  # [N, 2] pixels of the image, x first, and [N] depths
    """Random pixels of a map that have a depth, count, and lie on no depth edge."""
    assert depth is not None
    usable = _smooth(depth)
    mask = views.masks[view]
    if mask is not None:
        small = cv2.resize(mask.astype(np.uint8), depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
        usable &= small > 0
    rows, columns = np.nonzero(usable)
    chosen = random.permutation(len(rows))[:count]
    rows, columns = rows[chosen], columns[chosen]
    height, width = views.images[view].shape[:2]
    scale = np.array([width / depth.shape[1], height / depth.shape[0]])
    return (np.stack([columns, rows], axis=1) + 0.5) * scale, depth[rows, columns].astype(np.float64)


def _smooth(depth: np.ndarray) -> np.ndarray:
    """Pixels that have a depth, as their neighbours do, without an edge between them [h, w] bool."""
    values = depth.astype(np.float32)
    window = np.ones((3, 3), dtype=np.uint8)
    nearest, farthest = cv2.erode(values, window), cv2.dilate(values, window)
    return np.isfinite(values) & (nearest > 0) & (farthest <= nearest * (1 + MAX_JUMP))


def _compare(
    views: InputViews, view: int, depth: Optional[np.ndarray], points: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:  # [N] bool each
    """Whether one view's map agrees with points, and whether it sees through them."""
    assert depth is not None
    pixels, distance = views.project(view, points)
    height, width = views.images[view].shape[:2]
    inside = (distance > 0) & (pixels >= 0).all(axis=1) & (pixels < [width, height]).all(axis=1)
    columns, rows = (np.where(inside[:, None], pixels, 0) / [width, height] * depth.shape[::-1]).astype(int).T
    own = depth[rows, columns]
    inside &= own > 0
    agrees = inside & (np.abs(own - distance) <= tolerance * distance)
    return agrees, inside & ~agrees & (own > distance)
