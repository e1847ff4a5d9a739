"""A set of 3D Gaussians in Splatfacto's parameterisation, rendered for nerfstudio cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.rasterization import camera_matrices, rasterize

PARAMETER_NAMES = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Splatfacto's parameter groups: means [N,3], log scales [N,3], quaternions [N,4] (wxyz), colour [N,3],
higher spherical harmonics [N,K-1,3], opacity logits [N,1]."""


@dataclass(frozen=True)
class Rendering:
    """Premultiplied colour over a black background, with what densification needs to know."""

    rgb: Tensor  # [C, H, W, 3], in [0, 1] up to the overshoot of spherical harmonics
    opacity: Tensor  # [C, H, W, 1], accumulated opacity O(p) in [0, 1]
    depth: Tensor | None  # [C, H, W, 1], expected z-depth in scene units; 0 where nothing was hit
    info: dict[str, Any]


def render_gaussians(
    gaussians: Mapping[str, Tensor],
    cameras: Cameras,  # [C], all of one image size
    *,
    active_sh_degree: int | None,
    with_depth: bool = True,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    absgrad: bool = False,
) -> Rendering:
    """Render Gaussians for `cameras`, over black.

    Args:
        gaussians: tensors under `PARAMETER_NAMES`, on one device.
        cameras: OpenGL camera-to-world, pinhole, on any device.
        active_sh_degree: spherical-harmonics degree in use; None means that `features_dc` are colour logits
            (Splatfacto's convention for `sh_degree=0`).
    """
    device = gaussians["means"].device
    viewmats, intrinsics = camera_matrices(cameras.to(device))
    if active_sh_degree is None:
        colors = torch.sigmoid(gaussians["features_dc"])
    else:
        colors = torch.cat((gaussians["features_dc"][:, None, :], gaussians["features_rest"]), dim=1)
    image, opacity, info = rasterize(
        means=gaussians["means"],
        quats=gaussians["quats"],
        scales=torch.exp(gaussians["scales"]),
        opacities=torch.sigmoid(gaussians["opacities"]).squeeze(-1),
        colors=colors,
        viewmats=viewmats,
        Ks=intrinsics,
        width=int(cameras.width.flatten()[0]),
        height=int(cameras.height.flatten()[0]),
        sh_degree=active_sh_degree,
        render_mode="RGB+ED" if with_depth else "RGB",
        rasterize_mode=rasterize_mode,
        absgrad=absgrad,
    )
    return Rendering(image[..., :3], opacity, image[..., 3:4] if with_depth else None, info)
