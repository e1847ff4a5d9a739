"""Dataparsers' outputs of the corner of known walls, with files on disk."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from PIL import Image

from tests.points.known_scenes import corner_views

UNIT, SCALE = 1e-3, 0.5
"""A file's number times both is a depth of the scene."""


def corner_outputs(folder: Path, count: int = 3, depth: str = "", points: int = 0) -> DataparserOutputs:
    """Images, depth maps ("png" or "npy") and a cloud of points on the walls of the views of the corner."""
    folder.mkdir(parents=True, exist_ok=True)
    views, depths = corner_views(count)
    metadata: dict[str, Any] = {}
    images = [folder / f"{view}.png" for view in range(count)]
    for path, image in zip(images, views.images, strict=True):
        Image.fromarray(image).save(path)
    if depth:
        metadata["depth_filenames"] = [folder / f"depth_{view}.{depth}" for view in range(count)]
        metadata["depth_unit_scale_factor"] = UNIT
        for path, values in zip(metadata["depth_filenames"], depths, strict=True):
            numbers = values / UNIT / SCALE
            if depth == "npy":
                np.save(path, numbers.astype(np.float32))
            else:
                Image.fromarray(numbers.round().astype(np.uint16)).save(path)
    if points:
        xyz = np.random.default_rng(0).uniform(0, 1, size=(points, 3))
        xyz[:, 0] = 0
        metadata |= {"points3D_xyz": torch.tensor(xyz).float(), "points3D_rgb": torch.full((points, 3), 7).byte()}
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return DataparserOutputs(images, views.cameras, scene_box=box, metadata=metadata, dataparser_scale=SCALE)
