"""The points of a data set's own cloud that the input views see."""

from __future__ import annotations

import math

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.point_render import OCCLUSION, PointCloud

_LONGEST_SIDE = 512
"""Pixels of the images on which occlusion is decided."""


def seen_points(
    cameras: Cameras,  # [V] pinholes of the input views
    xyz: Tensor,  # [N, 3]
    *,
    may_be_hidden: bool,
) -> Tensor:  # [M] indices, ascending
    """Points inside the image of at least one view and, where they may be hidden, not behind the cloud's own surface.

    The surface is what discs around the points cover, the larger the sparser the cloud is (point_render.py).
    """
    cloud = PointCloud(xyz.float(), torch.zeros_like(xyz))
    seen = torch.zeros(len(xyz), dtype=torch.bool)
    for view in range(len(cameras)):
        camera = cameras[view : view + 1]
        width, height = int(camera.width[0, 0]), int(camera.height[0, 0])
        shrink = min(1.0, _LONGEST_SIDE / max(width, height))
        size = (max(round(height * shrink), 1), max(round(width * shrink), 1))
        index, _ = cloud.visible(camera, size, occlusion=OCCLUSION if may_be_hidden else math.inf)
        seen[index] = True
    return seen.nonzero()[:, 0]
