"""A capture as it lies on disk: frames with poses and lenses, the views of each split, and the point cloud."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Optional

import numpy as np

from guidedvd_ns.data.pointcloud_io import PointCloud

Lens = Literal["perspective", "fisheye"]

LENSES: dict[str, Lens] = {
    "SIMPLE_PINHOLE": "perspective",
    "PINHOLE": "perspective",
    "SIMPLE_RADIAL": "perspective",
    "RADIAL": "perspective",
    "OPENCV": "perspective",
    "FULL_OPENCV": "perspective",
    "SIMPLE_RADIAL_FISHEYE": "fisheye",
    "RADIAL_FISHEYE": "fisheye",
    "OPENCV_FISHEYE": "fisheye",
}
"""COLMAP's names of the camera models that can be undistorted."""

_DISTORTION_ORDER: dict[Lens, tuple[str, ...]] = {
    "perspective": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye": ("k1", "k2", "k3", "k4"),
}


@dataclass(frozen=True)
class Frame:
    """One photograph and the camera that took it; the principal point counts from the corner of the first pixel."""

    name: str
    """How the capture's own files call it."""
    image_path: Path
    mask_path: Optional[Path]
    """Non-zero where a pixel counts; None where all of them do."""
    camera_to_world: np.ndarray  # [4, 4]
    """OpenGL convention (+x right, +y up, looking along -z), in the units of the capture."""
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    lens: Lens = "perspective"
    distortion: tuple[float, ...] = ()
    """OpenCV's order: k1 k2 p1 p2 k3 k4 k5 k6, or k1 k2 k3 k4 for a fisheye. Empty: an ideal pinhole."""
    depth_path: Optional[Path] = None
    """Measured z-depth through the same lens, of any size: an image of whole numbers or an .npy, 0 where unknown."""

    def resized(self, width: int, height: int) -> "Frame":
        """The same view sampled with `width` x `height` pixels."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )


@dataclass(frozen=True)
class Capture:
    """Everything a folder says about its photographs, before any view is chosen, moved, undistorted or scaled."""

    folder: Path
    frames: list[Frame]
    """In the natural order of their names (`2.jpg` before `10.jpg`)."""
    split_names: dict[str, list[str]] = field(default_factory=dict)
    """Names of frames that the capture itself reserves for `train`, `val` and `test`."""
    load_points: Callable[[Sequence[str]], Optional[PointCloud]] = lambda input_names: None
    """Reads the points that may be known when only the named input views are; None where the capture has no points."""
    points_source: str = "capture"
    """What these points are called: "capture", or another word where not all of them are seen by input views."""
    applied_transform: Optional[np.ndarray] = None  # [3, 4]
    """Takes the coordinates of the original reconstruction to the capture's, where the two differ."""
    applied_scale: float = 1.0
    orientation_override: Optional[str] = None
    depth_unit: float = 1e-3
    """Length of 1 in the files of depths, in the units of the capture."""


def natural_order(name: str) -> list:
    """Sort key under which numbers inside names count as numbers: `frame_2` comes before `frame_10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def sorted_frames(frames: Sequence[Frame], source: Path) -> list[Frame]:
    """`frames` in natural order.

    Raises:
        ValueError: there are none, or two have the same name.
    """
    if not frames:
        raise ValueError(f"{source} lists no frames; it needs the poses of at least two photographs.")
    ordered = sorted(frames, key=lambda frame: natural_order(frame.name))
    for first, second in itertools.pairwise(ordered):
        if first.name == second.name:
            raise ValueError(f"{source} lists the frame {first.name} twice; remove one of the two entries.")
    return ordered


def checked_lens(model: str, where: str) -> Lens:
    """The lens behind COLMAP's name of a camera model.

    Raises:
        ValueError: the model is not one that can be undistorted.
    """
    if model not in LENSES:
        raise ValueError(
            f"{where} has the camera model {model!r}; undistort the images, or use one of {', '.join(LENSES)}."
        )
    return LENSES[model]


def checked_distortion(lens: Lens, coefficients: dict[str, float]) -> tuple[float, ...]:
    """Named coefficients in OpenCV's order for `lens`; empty where all of them are zero."""
    ordered = tuple(float(coefficients.get(name, 0.0)) for name in _DISTORTION_ORDER[lens])
    # A fisheye without coefficients still is the equidistant projection, not a pinhole.
    return ordered if lens == "fisheye" or any(ordered) else ()


def checked_pose(matrix: object, where: str) -> np.ndarray:
    """A [3, 4] or [4, 4] pose as a float64 [4, 4] matrix.

    Raises:
        ValueError: it has another shape, or a number in it is not finite.
    """
    try:
        pose = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"{where} has no 3x4 or 4x4 pose matrix; give it one or remove the frame.")
    if not np.isfinite(pose).all():
        raise ValueError(f"{where} has a pose that is not finite; correct it or remove the frame.")
    return np.concatenate([pose[:3], [[0.0, 0.0, 0.0, 1.0]]])
