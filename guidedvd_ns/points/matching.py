"""Which SIFT features of two views show the same point, when the poses of the views are known.

Few views stand far apart, and the usual test (best against second best in the whole image) then leaves little. Known
poses replace most of it: a match must lie on its epipolar line, in front of both cameras, and its two features must
have the sizes and the orientations that its depth implies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from guidedvd_ns.points.views import InputViews

_MAX_FEATURES = 4096
_PEAK_THRESHOLD = 0.003
"""Contrast that a feature needs: less than half of COLMAP's, since smooth walls have few strong ones."""

_BAND = 1.5
"""Pixels that a feature may be off the other's epipolar line."""
_MAX_DISTANCE = 0.7
"""Of unit descriptors, as in COLMAP."""
_RATIO = 0.9
"""Best distance as a share of the second best one, of another place: on the epipolar line, and in the whole image."""
_SAME_PLACE = 2.0
"""Pixels between two features, of different orientations or sizes, that count as one."""
_MAX_SIZE_ERROR = 0.7
"""Powers of two between the sizes of two features and what their depths imply."""
_MAX_TURN_ERROR = 25.0
"""Degrees between the orientations of two features and what the poses imply."""
_MAX_PAIRS_PER_VIEW = 12


@dataclass(frozen=True)
class Features:
    """N SIFT features of one view."""

    pixels: np.ndarray  # [N, 2] x first
    size: np.ndarray  # [N] pixels
    turn: np.ndarray  # [N] radians, from +x towards +y
    descriptors: np.ndarray  # [N, 128] float32 of length one

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Matches:
    """M pairs of features of two views."""

    views: tuple[int, int]
    features: np.ndarray  # [M, 2] int
    distinctive: np.ndarray  # [M] bool, true where nothing else in either whole image looks alike


def detect(views: InputViews) -> list[Features]:
    """The features of each view, without those on masked pixels.

    Raises:
        ModuleNotFoundError: pycolmap is not installed.
    """
    import pycolmap

    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.sift.max_num_features = _MAX_FEATURES
    options.sift.peak_threshold = _PEAK_THRESHOLD
    # It would log every extractor that it makes.
    level, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, 1
    try:
        extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
        return [_detect(extractor, image, mask) for image, mask in zip(views.images, views.masks, strict=True)]
    finally:
        pycolmap.logging.minloglevel = level


def _detect(extractor: Any, image: np.ndarray, mask: np.ndarray | None) -> Features:
    import cv2
    import pycolmap

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, descriptors = extractor.extract(pycolmap.Bitmap.from_array(grey))
    keypoints = pycolmap.keypoints_to_matrix(found).astype(np.float64).reshape(-1, 4)
    unit = np.asarray(descriptors.data).astype(np.float32).reshape(len(keypoints), 128)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    if mask is not None:
        rows, columns = (np.clip(keypoints[:, axis].astype(int), 0, mask.shape[1 - axis] - 1) for axis in (1, 0))
        keypoints, unit = keypoints[mask[rows, columns]], unit[mask[rows, columns]]
    return Features(keypoints[:, :2], keypoints[:, 2], keypoints[:, 3], unit)


def pairs_to_match(views: InputViews) -> list[tuple[int, int]]:
    """All pairs of few views; of many, those of each view and the closest others that look its way."""
    poses = views.cameras.camera_to_worlds.cpu().double().numpy()
    distance = np.linalg.norm(poses[:, None, :, 3] - poses[None, :, :, 3], axis=-1)
    facing = poses[:, :, 2] @ poses[:, :, 2].T
    # Views that look apart come last, whatever their distance.
    cost = distance / max(distance.max(), 1e-12) + np.where(facing < 0, 2.0, 0.0)
    nearest = np.argsort(cost + np.diag(np.full(len(views), np.inf)), axis=1)[:, :_MAX_PAIRS_PER_VIEW]
    return sorted(
        {(min(view, other), max(view, other)) for view in range(len(views)) for other in nearest[view] if view != other}
    )


def match(views: InputViews, pair: tuple[int, int], features: list[Features]) -> Matches:
    """Mutual best matches on epipolar lines that agree with the poses in depth, size and orientation."""
    first, second = features[pair[0]], features[pair[1]]
    if min(len(first), len(second)) < 2:
        return Matches(pair, np.empty((0, 2), dtype=int), np.empty(0, dtype=bool))
    distance = np.sqrt(np.maximum(2 - 2 * first.descriptors @ second.descriptors.T, 0))
    on_line = np.where(_epipolar_distance(views, pair, first, second) < _BAND, distance, np.float32(np.inf))
    best = on_line.argmin(axis=1)
    index = np.arange(len(first))
    value = on_line[index, best]
    mutual = (on_line.argmin(axis=0)[best] == index) & (value < _MAX_DISTANCE)
    index, best, value = index[mutual], best[mutual], value[mutual]

    there, back = _elsewhere(second, best), _elsewhere(first, index)
    clear = value < _RATIO * _second_best(on_line[index], there)
    clear &= value < _RATIO * _second_best(on_line.T[best], back)
    distinctive = value < _RATIO * _second_best(distance[index], there)
    distinctive &= value < _RATIO * _second_best(distance.T[best], back)
    kept = clear & _agrees_with_poses(views, pair, first, second, index, best)
    return Matches(pair, np.stack([index, best], axis=1)[kept], distinctive[kept])


def fundamental_matrix(views: InputViews, pair: tuple[int, int]) -> np.ndarray:  # [3, 3]
    """F with q^T F p = 0 for the pixels p in the first view and q in the second one of any point."""
    first, second = (views.world_to_camera(view) for view in pair)
    rotation = second[:, :3] @ first[:, :3].T
    x, y, z = second[:, 3] - rotation @ first[:, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    inverses = [np.linalg.inv(views.intrinsics(view)) for view in pair]
    return inverses[1].T @ cross @ rotation @ inverses[0]


def triangulate_pairs(
    views: InputViews,
    pair: tuple[int, int],
    pixels: tuple[np.ndarray, np.ndarray],  # [M, 2] each
) -> np.ndarray:  # [M, 3]
    """The points closest to the two rays of each match, in the least squares of the rays' distances."""
    origins, directions = [], []
    for view, position in zip(pair, pixels, strict=True):
        pose = views.world_to_camera(view)
        origins.append(-pose[:, :3].T @ pose[:, 3])
        towards = views.unproject(view, position, np.ones(len(position))) - origins[-1]
        directions.append(towards / np.linalg.norm(towards, axis=1, keepdims=True))
    across = [np.eye(3) - ray[:, :, None] * ray[:, None, :] for ray in directions]
    right = sum((matrix @ origin for matrix, origin in zip(across, origins, strict=True)), np.zeros(3))
    # Parallel rays have no closest point: one far away then.
    matrix = across[0] + across[1] + 1e-12 * np.eye(3)
    return np.linalg.solve(matrix, right[..., None])[..., 0]


def _epipolar_distance(
    views: InputViews, pair: tuple[int, int], first: Features, second: Features
) -> np.ndarray:  # [N, M] float32, pixels
    matrix = fundamental_matrix(views, pair)
    p, q = (np.concatenate([features.pixels, np.ones((len(features), 1))], axis=1) for features in (first, second))
    in_second, in_first = (lines.astype(np.float32) for lines in (p @ matrix.T, q @ matrix))
    lengths = [np.linalg.norm(lines[:, :2], axis=1) for lines in (in_second, in_first)]
    return np.abs(in_second @ q.T.astype(np.float32)) / np.minimum(lengths[0][:, None], lengths[1][None])


def _elsewhere(features: Features, chosen: np.ndarray) -> np.ndarray:  # [M, N] bool
    """Which features are at another place than each of the M chosen ones."""
    x, y = features.pixels.astype(np.float32).T
    return np.hypot(x[chosen, None] - x, y[chosen, None] - y) > _SAME_PLACE


def _second_best(distance: np.ndarray, allowed: np.ndarray) -> np.ndarray:  # [M]
    return np.where(allowed, distance, np.float32(np.inf)).min(axis=1)


def _agrees_with_poses(
    views: InputViews, pair: tuple[int, int], first: Features, second: Features, index: np.ndarray, best: np.ndarray
) -> np.ndarray:  # [M] bool
    """Whether matches are in front of both views, and sizes and orientations are those of a patch that faces them."""
    xyz = triangulate_pairs(views, pair, (first.pixels[index], second.pixels[best]))
    (start, near), (other, far) = views.project(pair[0], xyz), views.project(pair[1], xyz)
    in_front = (near > 0) & (far > 0)
    near, far = np.where(in_front, near, 1.0), np.where(in_front, far, 1.0)
    focal = [views.intrinsics(view)[0, 0] for view in pair]
    size = np.log2(first.size[index] * near / focal[0]) - np.log2(second.size[best] * far / focal[1])

    turn = first.turn[index]
    step = 0.1 * first.size[index, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    moved, _ = views.project(pair[1], views.unproject(pair[0], start + step, near))
    direction = np.arctan2(moved[:, 1] - other[:, 1], moved[:, 0] - other[:, 0])
    error = np.degrees(np.abs(np.angle(np.exp(1j * (direction - second.turn[best])))))
    return in_front & (np.abs(size) < _MAX_SIZE_ERROR) & (error < _MAX_TURN_ERROR)
