"""Random scenes of Gaussians for the rasterizer's tests."""

import torch
from torch import Tensor

Gaussians = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # means, quats, scales, opacities, colors


def random_gaussians(
    count: int, seed: int = 0, *, spread: float = 1.0, log_scale: float = -2.0, num_bases: int = 0
) -> Gaussians:
    """Gaussians around (0, 0, 4). num_bases > 0 makes colors spherical harmonics [count, num_bases, 3]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    means = normal(count, 3) * torch.tensor([1.2, 0.9, 0.7]) * spread + torch.tensor([0.0, 0.0, 4.0])
    means[:, 2].clamp_(min=0.5)
    scales = torch.exp(0.6 * normal(count, 3) + log_scale)
    opacities = torch.sigmoid(1.5 * normal(count) + 0.5)
    colors = 0.4 * normal(count, num_bases, 3) if num_bases else torch.sigmoid(normal(count, 3))
    return means, normal(count, 4), scales, opacities, colors


def cameras(count: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """World-to-camera matrices and intrinsics: the first camera at the origin, the others a little aside and turned.

    The principal point is off the centre and the focal lengths differ, so that no mix-up of axes goes unseen.
    """
    viewmats = torch.eye(4).repeat(count, 1, 1)
    for index in range(1, count):
        angle = torch.tensor(0.15 * index)
        viewmats[index, 0, 0] = viewmats[index, 2, 2] = angle.cos()
        viewmats[index, 0, 2], viewmats[index, 2, 0] = angle.sin(), -angle.sin()
        viewmats[index, :3, 3] = torch.tensor([-0.4 * index, 0.1, 0.2])
    K = torch.tensor([[1.1 * width, 0, 0.47 * width], [0, 1.2 * width, 0.52 * height], [0, 0, 1]])
    return viewmats, K.repeat(count, 1, 1)
