"""Points from the depths that an RGB-D camera measured with the input views."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils.data_utils import get_depth_image_from_path

from guidedvd_ns.data.image_cache import open_image
from guidedvd_ns.points.fusion import fuse
from guidedvd_ns.points.views import InputViews

TOLERANCE = 0.03
"""Share of a depth by which two views may differ: what consumer sensors and their poses are good for."""


def has_sensor_depth(outputs: DataparserOutputs) -> bool:
    """Whether each view has a depth map that fits its image; nerfstudio leaves those of distorted views distorted."""
    distortion = outputs.cameras.distortion_params
    straight = distortion is None or not bool((distortion != 0).any())
    return straight and len(outputs.metadata.get("depth_filenames") or ()) == len(outputs.image_filenames)


def depth_unit(outputs: DataparserOutputs) -> float:
    """What 1 in the files of depths is in scene units."""
    return float(outputs.metadata.get("depth_unit_scale_factor", 1e-3)) * float(outputs.dataparser_scale)


def sensor_points(
    outputs: DataparserOutputs, views: InputViews, chosen: Sequence[int], count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # [N, 3] float32 and [N, 3] uint8, N <= count
    """Fused measurements of the views `chosen`, in scene units.

    Raises:
        FileNotFoundError: a depth map is missing.
        ValueError: a file is no depth map.
    """
    return fuse(views, [read_depth(outputs, view) for view in chosen], count, seed, TOLERANCE)


def read_depth(outputs: DataparserOutputs, view: int) -> np.ndarray:  # [h, w] float32
    """A view's z-depth in scene units, at the map's own size; 0 where nothing was measured."""
    path = outputs.metadata["depth_filenames"][view]
    if not path.is_file():
        raise FileNotFoundError(f"The depth map {path} does not exist; put it there, or choose other initial points.")
    width, height = _size(path)
    depth = get_depth_image_from_path(path, height, width, depth_unit(outputs))[..., 0].numpy()
    return np.where(np.isfinite(depth), depth, 0.0)


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a depth map."""
    if path.suffix != ".npy":
        with open_image(path) as image:
            return image.size
    try:
        height, width = np.load(path, mmap_mode="r").shape[:2]
    except ValueError as error:
        raise ValueError(f"{path} is not an array of depths ({error}); replace it or remove its frame.") from error
    return width, height
