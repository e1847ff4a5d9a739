"""Nerfstudio's cameras as the matrices that a rasterizer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras


def camera_matrices(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """World-to-camera matrices and intrinsics of pinhole cameras.

    Nerfstudio stores camera-to-world poses in the OpenGL convention (x right, y up, looking along -z); rasterizers
    take world-to-camera poses in the OpenCV convention (x right, y down, looking along +z). The rotation is taken to be
    orthonormal; gradients flow to `cameras.camera_to_worlds`. Distortion parameters are not looked at.

    Args:
        cameras: any batch shape; flattened to C cameras.

    Returns:
        viewmats [C, 4, 4] and Ks [C, 3, 3] (in pixels), float32, on the cameras' device.
    """
    opengl = cameras.camera_to_worlds.reshape(-1, 3, 4)
    opencv = opengl * opengl.new_tensor([1.0, -1.0, -1.0, 1.0])
    rotation = opencv[:, :, :3].transpose(1, 2)
    viewmats = torch.eye(4, dtype=opengl.dtype, device=opengl.device).repeat(len(opengl), 1, 1)
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3:] = -rotation @ opencv[:, :, 3:]

    Ks = torch.zeros(len(opengl), 3, 3, dtype=opengl.dtype, device=opengl.device)
    Ks[:, 0, 0] = cameras.fx.reshape(-1)
    Ks[:, 1, 1] = cameras.fy.reshape(-1)
    Ks[:, 0, 2] = cameras.cx.reshape(-1)
    Ks[:, 1, 2] = cameras.cy.reshape(-1)
    Ks[:, 2, 2] = 1.0
    return viewmats, Ks
