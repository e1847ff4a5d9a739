"""Small Gaussian scenes and cameras that several tests share."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor


def wall(
    count: int = 400, distance: float = 2.0, colour: tuple[float, float, float] = (0.8, 0.4, 0.2)
) -> dict[str, Tensor]:
    """A wall of opaque Gaussians in the plane z = -distance, x in [-1, 0]: the right half of the view is a hole."""
    generator = torch.Generator().manual_seed(3)
    means = torch.rand(count, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.0])
    means += torch.tensor([-1.0, -1.0, -distance])
    return {
        "means": means,
        "scales": torch.full((count, 3), 0.12).log(),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        "features_dc": torch.logit(torch.tensor(colour)).repeat(count, 1),
        "features_rest": torch.zeros(count, 0, 3),
        "opacities": torch.full((count, 1), 5.0),
    }


def cameras(count: int = 1, width: int = 32, height: int = 24) -> Cameras:
    """Cameras at the origin that look along -z (OpenGL), each a little further to the right."""
    poses = torch.eye(4)[None, :3].repeat(count, 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(count)
    return Cameras(poses, fx=float(width), fy=float(width), cx=width / 2, cy=height / 2, width=width, height=height)
