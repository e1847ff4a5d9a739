"""A readable twin of `rasterize`: every Gaussian against every pixel, in plain torch, differentiated by autograd.

It is the oracle of the rasterizer's tests and the yardstick of `gvd-benchmark rasterizer`. The formulas are written as
in the 3DGS and EWA splatting papers, one camera at a time, and share no code with the package.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

TILE = 16


@dataclass
class Splats:
    """N Gaussians in the image plane of one camera."""

    means2d: Tensor  # [N, 2]
    inverse_covariances: Tensor  # [N, 2, 2]
    opacities: Tensor  # [N]
    colors: Tensor  # [N, 3]
    depths: Tensor  # [N]
    radii: Tensor  # [N] int, 0 = not visible


def rotation_matrices(quats: Tensor) -> Tensor:  # [N, 4] -> [N, 3, 3]
    """Rotate the three unit vectors by q v q*, with q normalised."""
    w, vector = torch.nn.functional.normalize(quats, dim=-1).split([1, 3], dim=-1)
    columns = []
    for unit in torch.eye(3, dtype=quats.dtype):
        cross = torch.linalg.cross(vector, unit.expand_as(vector))
        columns.append(unit + 2 * w * cross + 2 * torch.linalg.cross(vector, cross))
    return torch.stack(columns, dim=-1)


def spherical_harmonics(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics as Cartesian polynomials (the usual tables, 3DGS's signs) [N, (degree+1)^2]."""
    x, y, z = directions.unbind(-1)
    pi = torch.pi
    bands = [
        [(1 / (4 * pi)) ** 0.5 * torch.ones_like(x)],
        [-((3 / (4 * pi)) ** 0.5) * y, (3 / (4 * pi)) ** 0.5 * z, -((3 / (4 * pi)) ** 0.5) * x],
        [
            (15 / (4 * pi)) ** 0.5 * x * y,
            -((15 / (4 * pi)) ** 0.5) * y * z,
            (5 / (16 * pi)) ** 0.5 * (3 * z**2 - 1),
            -((15 / (4 * pi)) ** 0.5) * x * z,
            (15 / (16 * pi)) ** 0.5 * (x**2 - y**2),
        ],
        [
            -((35 / (32 * pi)) ** 0.5) * y * (3 * x**2 - y**2),
            (105 / (4 * pi)) ** 0.5 * x * y * z,
            -((21 / (32 * pi)) ** 0.5) * y * (5 * z**2 - 1),
            (7 / (16 * pi)) ** 0.5 * z * (5 * z**2 - 3),
            -((21 / (32 * pi)) ** 0.5) * x * (5 * z**2 - 1),
            (105 / (16 * pi)) ** 0.5 * z * (x**2 - y**2),
            -((35 / (32 * pi)) ** 0.5) * x * (x**2 - 3 * y**2),
        ],
    ]
    return torch.stack([basis for band in bands[: degree + 1] for basis in band], dim=-1)


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    sh_degree: Optional[int],
    antialiased: bool,
) -> Splats:
    """EWA projection for one camera; all Gaussians must lie in front of it."""
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    points = means @ rotation.T + translation
    depths = points[:, 2]
    tangents = points[:, :2] / depths[:, None]
    focal, center = torch.stack([K[0, 0], K[1, 1]]), K[:2, 2]
    means2d = tangents * focal + center

    size = torch.tensor([width, height], dtype=means.dtype)
    margin = 0.3 * 0.5 * size / focal
    slopes = torch.minimum(torch.maximum(tangents, -center / focal - margin), (size - center) / focal + margin)
    jacobians = torch.zeros(len(means), 2, 3, dtype=means.dtype)
    jacobians[:, 0, 0], jacobians[:, 1, 1] = focal[0] / depths, focal[1] / depths
    jacobians[:, :, 2] = -focal * slopes / depths[:, None]

    stretched = rotation_matrices(quats) * scales[:, None, :]
    covariances = stretched @ stretched.transpose(1, 2)
    to_image = jacobians @ rotation
    sharp = to_image @ covariances @ to_image.transpose(1, 2)
    blurred = sharp + 0.3 * torch.eye(2, dtype=means.dtype)

    if antialiased:
        opacities = opacities * torch.sqrt(torch.clamp_min(sharp.det() / blurred.det(), 0))
    if sh_degree is not None:
        directions = torch.nn.functional.normalize(means + rotation.T @ translation, dim=-1)
        basis = spherical_harmonics(sh_degree, directions)
        colors = torch.clamp_min((basis[:, :, None] * colors[:, : basis.shape[1]]).sum(1) + 0.5, 0)

    trace, determinant = blurred[:, 0, 0] + blurred[:, 1, 1], blurred.det()
    largest = trace / 2 + torch.sqrt(torch.clamp_min((trace / 2) ** 2 - determinant, 0.01))
    radii = torch.ceil(3 * torch.sqrt(largest))
    off_image = (means2d + radii[:, None] <= 0) | (means2d - radii[:, None] >= size)
    radii = torch.where(off_image.any(-1), 0, radii).int()
    return Splats(means2d, blurred.inverse(), opacities, colors, depths, radii)


def composite(splats: Splats, pixels: Tensor) -> tuple[Tensor, Tensor]:  # pixels [P, 2] integer (column, row)
    """Front-to-back alpha compositing: accumulated (RGB, depth) [P, 4] and opacity [P, 1]."""
    order = torch.argsort(splats.depths.detach(), stable=True)
    means2d, radii = splats.means2d[order], splats.radii[order]
    offsets = means2d - (pixels[:, None] + 0.5)  # [P, N, 2]
    (a, b), (_, c) = splats.inverse_covariances[order].permute(1, 2, 0)
    dx, dy = offsets.unbind(-1)
    sigmas = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
    alphas = torch.clamp_max(splats.opacities[order] * torch.exp(-sigmas), 0.999)

    # A Gaussian is known to the tiles that its square of three standard deviations overlaps, and to no others.
    tiles = (pixels // TILE)[:, None]
    first, stop = torch.floor((means2d - radii[:, None]) / TILE), torch.ceil((means2d + radii[:, None]) / TILE)
    known = (radii > 0) & ((tiles >= first) & (tiles < stop)).all(-1)
    alphas = torch.where(known & (sigmas >= 0) & (alphas >= 1 / 255), alphas, 0)
    # The pixel closes before the Gaussian that would take its transmittance to 1e-4.
    alphas = torch.where(torch.cumprod(1 - alphas, dim=-1) > 1e-4, alphas, 0)

    behind = torch.cumprod(1 - alphas, dim=-1)
    in_front = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=-1)
    weights = alphas * in_front
    features = torch.cat([splats.colors, splats.depths[:, None]], dim=-1)[order]
    return weights @ features, weights.sum(-1, keepdim=True)


def pixel_grid(width: int, height: int) -> Tensor:
    """All pixels as (column, row), row by row [height * width, 2]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)


def rasterize_dense(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: Optional[int] = None,
    rasterize_mode: str = "classic",
) -> tuple[Tensor, Tensor, list[Splats]]:
    """`rasterize` with render_mode="RGB+ED": image [C, H, W, 4], opacity [C, H, W, 1], the splats of each camera.

    The gradients of `means2d` are kept in the splats.
    """
    images, opacity_maps, all_splats = [], [], []
    for viewmat, K in zip(viewmats, Ks, strict=True):
        splats = project(
            *(means, quats, scales, opacities, colors),
            *(viewmat, K, width, height, sh_degree, rasterize_mode == "antialiased"),
        )
        if splats.means2d.requires_grad:
            splats.means2d.retain_grad()
        features, opacity = composite(splats, pixel_grid(width, height))
        depth = features[:, 3:] / opacity.clamp(min=1e-10)
        images.append(torch.cat([features[:, :3], depth], dim=-1).reshape(height, width, 4))
        opacity_maps.append(opacity.reshape(height, width, 1))
        all_splats.append(splats)
    return torch.stack(images), torch.stack(opacity_maps), all_splats
