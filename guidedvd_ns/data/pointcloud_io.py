"""Reading coloured point clouds from .ply files, without open3d."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_GREY = 127


@dataclass(frozen=True)
class PointCloud:
    """Coloured points, in the coordinates of whatever file they come from."""

    xyz: np.ndarray  # [N, 3] float32
    rgb: np.ndarray  # [N, 3] uint8
    tracked: bool = False
    """Whether each point is known to be seen by input views, since features of theirs made it."""

    def __len__(self) -> int:
        return len(self.xyz)


def read_ply(path: Path) -> PointCloud:
    """Reads the vertices of an ASCII or binary .ply file.

    Colours may be integers, or floats in [0, 1]; points without colours become mid-grey. Points with a coordinate that
    is not finite are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a .ply file, or its vertices have no x, y and z.
    """
    from plyfile import PlyData, PlyParseError

    if not path.is_file():
        raise FileNotFoundError(f"The point cloud {path} does not exist; put it there or remove its ply_file_path.")
    try:
        vertices = PlyData.read(str(path))["vertex"].data
        xyz = np.stack([vertices[axis] for axis in "xyz"], axis=-1).astype(np.float32)
    except (PlyParseError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"The point cloud {path} is not a .ply file with vertices x, y and z ({error}).") from error
    finite = np.isfinite(xyz).all(axis=-1)
    return PointCloud(xyz[finite], _colours(vertices)[finite])


def _colours(vertices: np.ndarray) -> np.ndarray:
    names = ("red", "green", "blue")
    if not set(names) <= set(vertices.dtype.names or ()):
        return np.full((len(vertices), 3), _GREY, dtype=np.uint8)
    colours = np.stack([vertices[name] for name in names], axis=-1)
    full = np.iinfo(colours.dtype).max if np.issubdtype(colours.dtype, np.integer) else 1.0
    return np.clip(np.nan_to_num(colours / full) * 255.0 + 0.5, 0, 255).astype(np.uint8)
