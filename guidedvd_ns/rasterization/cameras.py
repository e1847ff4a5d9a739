"""Nerfstudio's cameras as the matrices that a rasterizer takes, and as rays."""

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


def pixel_rays(cameras: Cameras, x: Tensor, y: Tensor) -> Tensor:  # [..., 3]
    """World-space rays through pixels of pinhole cameras, of z-depth 1.

    `position + z * ray` is the point at z-depth z. Distortion parameters are not looked at.

    Args:
        cameras: one, of shape [] or [1], or of the shape of `x`.
        x: [...] pixels from the image's left edge: the first pixel's centre is at 0.5.
        y: [...] pixels from its upper edge.
    """
    right = (x - cameras.cx[..., 0]) / cameras.fx[..., 0]
    up = (cameras.cy[..., 0] - y) / cameras.fy[..., 0]
    local = torch.stack([right, up, -torch.ones_like(right)], dim=-1)
    return (cameras.camera_to_worlds[..., :3] * local[..., None, :]).sum(dim=-1)
