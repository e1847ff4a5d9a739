"""Points triangulated from SIFT features of the input views, whose poses and intrinsics stay as they are.

Matches of pairs (matching.py) are joined to tracks, and COLMAP's robust estimator puts each track where most of its
views agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.progress import track

from guidedvd_ns.points.matching import Features, Matches, detect, match, pairs_to_match
from guidedvd_ns.points.views import InputViews

MAX_REPROJECTION_ERROR = 1.5
"""Pixels between a point and a feature that belongs to it."""
MIN_ANGLE = 1.5
"""Degrees between two of a point's rays, at least."""


@dataclass(frozen=True)
class Triangulation:
    """N points, each seen by at least two views."""

    xyz: np.ndarray  # [N, 3] float32, scene units
    rgb: np.ndarray  # [N, 3] uint8, mean over the views that observe a point
    observed: np.ndarray  # [N, V] bool, by which views

    def __len__(self) -> int:
        return len(self.xyz)


def triangulate(views: InputViews) -> Triangulation:
    """SIFT features, matches along epipolar lines, tracks, points.

    A point is kept if two views or more see it within `MAX_REPROJECTION_ERROR` and under an angle of `MIN_ANGLE`.
    That says little about a point of two views, where any match on the epipolar line has a small error: its two
    features must also be unlike all others.

    Raises:
        ModuleNotFoundError: pycolmap is not installed.
    """
    features = detect(views)
    pairs = pairs_to_match(views)
    steps = track(pairs, description="Triangulating initial points", transient=True)
    return _points(views, features, [match(views, pair, features) for pair in steps])


def _points(views: InputViews, features: list[Features], matches: list[Matches]) -> Triangulation:
    offsets = np.cumsum([0, *(len(found) for found in features)])
    view_of = np.repeat(np.arange(len(views)), np.diff(offsets))
    pixels = np.concatenate([found.pixels for found in features])
    sure = _distinctive_features(matches, offsets)
    estimate = _Estimator(views)
    xyz, rgb, observed = [], [], []
    for members in _tracks(matches, offsets):
        found = estimate(view_of[members], pixels[members])
        if found is None:
            continue
        position, inliers = found
        seen = members[inliers]
        by = np.unique(view_of[seen])
        if len(by) < 2 or (len(by) == 2 and not sure[seen].all()):
            continue
        colours = [views.colours(int(view_of[member]), pixels[member : member + 1])[0] for member in seen]
        xyz.append(position)
        rgb.append(np.mean(colours, axis=0).round())
        observed.append(np.isin(np.arange(len(views)), by))
    return Triangulation(
        np.array(xyz, dtype=np.float32).reshape(-1, 3),
        np.array(rgb, dtype=np.uint8).reshape(-1, 3),
        np.array(observed, dtype=bool).reshape(-1, len(views)),
    )


def _distinctive_features(matches: list[Matches], offsets: np.ndarray) -> np.ndarray:
    """Which of all views' features, counted on, have a match that is distinctive."""
    sure = np.zeros(offsets[-1], dtype=bool)
    for found in matches:
        chosen = found.features[found.distinctive]
        sure[offsets[found.views[0]] + chosen[:, 0]] = True
        sure[offsets[found.views[1]] + chosen[:, 1]] = True
    return sure


def _tracks(matches: list[Matches], offsets: np.ndarray) -> list[np.ndarray]:
    """Features that matches connect, directly or not: numbers into all views' features, counted on."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate(
        [found.features + offsets[list(found.views)] for found in matches] or [np.empty((0, 2), dtype=int)]
    )
    count = int(offsets[-1])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.nonzero(np.diff(label[order]))[0] + 1)
    return [members for members in groups if len(members) > 1]


class _Estimator:
    """pycolmap's LO-RANSAC triangulation of one track in given cameras."""

    def __init__(self, views: InputViews) -> None:
        import pycolmap

        self._cameras, self._poses = [], []
        for view, image in enumerate(views.images):
            matrix, height, width = views.intrinsics(view), *image.shape[:2]
            params = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
            self._cameras.append(pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params))
            self._poses.append(pycolmap.Rigid3d(views.world_to_camera(view)))
        self._options = pycolmap.EstimateTriangulationOptions()
        self._options.residual_type = pycolmap.TriangulationResidualType.REPROJECTION_ERROR
        self._options.min_tri_angle = np.radians(MIN_ANGLE)
        self._options.ransac.max_error = MAX_REPROJECTION_ERROR
        self._options.ransac.random_seed = 0
        self._estimate: Any = pycolmap.estimate_triangulation

    def __call__(
        self,
        view_of: np.ndarray,  # [M] int
        pixels: np.ndarray,  # [M, 2]
    ) -> tuple[np.ndarray, np.ndarray] | None:  # [3] and inliers [M] bool
        cameras = [self._cameras[view] for view in view_of]
        found = self._estimate(pixels, [self._poses[view] for view in view_of], cameras, self._options)
        return None if found is None else (found["xyz"], np.asarray(found["inliers"]))
