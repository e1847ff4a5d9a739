"""EWA projection of 3D Gaussians to image-plane ellipses, by gsplat 1.4.0's rules, differentiable by autograd."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR = 0.3
"""Variance in square pixels added to both axes of every ellipse, so that none is smaller than a pixel."""
FRUSTUM_MARGIN = 0.3
"""Share of the half field of view beyond the image border where the Jacobian of the projection is held constant."""


class Projection(NamedTuple):
    """N Gaussians on the image planes of C cameras; pixel units, the first pixel's centre is (0.5, 0.5)."""

    means2d: Tensor  # [C, N, 2]
    conics: Tensor  # [C, N, 3], (xx, xy, yy) of the inverse covariance
    depths: Tensor  # [C, N], z in the camera's frame
    radii: Tensor  # [C, N] int32, three standard deviations of the long axis, rounded up; 0 = not visible
    compensations: Tensor  # [C, N], in [0, 1]: opacity factor that undoes the brightening by BLUR


def rotation_matrices(quats: Tensor) -> Tensor:  # [N, 4] -> [3, 3, N]
    """Rotation matrices of quaternions (w, x, y, z) of any length, Gaussians last."""
    w, x, y, z = F.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
    ]
    return torch.stack(rows)


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    usable: Tensor,  # [N] bool
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
) -> Projection:
    """Project Gaussians with the local affine approximation (Zwicker et al., "EWA Splatting", 2002).

    What is not usable, outside [near_plane, far_plane], off the image or degenerate gets radius 0, finite values in all
    else, and zero gradients. All inputs must be finite.
    """
    rotations = viewmats[:, :3, :3]
    x, y, z = (rotations @ means.T + viewmats[:, :3, 3:]).unbind(1)  # [C, N] each
    in_range = usable & (z >= near_plane) & (z <= far_plane)
    depths = torch.where(in_range, z, 1.0)
    x, y = torch.where(in_range, x, 0.0), torch.where(in_range, y, 0.0)

    inverse_depths = depths.reciprocal()
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))  # [C, 1] each
    tan_x, tan_y = x * inverse_depths, y * inverse_depths
    means2d = torch.stack([fx * tan_x + cx, fy * tan_y + cy], dim=-1)

    margin_x, margin_y = FRUSTUM_MARGIN * 0.5 * width / fx, FRUSTUM_MARGIN * 0.5 * height / fy
    slope_x = torch.clamp(tan_x, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    slope_y = torch.clamp(tan_y, -(cy / fy + margin_y), (height - cy) / fy + margin_y)

    # The covariance is A A^T with A = (Jacobian) (world to camera) (rotation) (scale), here by rows [C, 3, N].
    axes = (rotation_matrices(quats) * scales.T).reshape(3, -1)
    axis_x, axis_y, axis_z = (rotations @ axes).reshape(len(viewmats), 3, 3, -1).unbind(1)
    row_x = (fx * inverse_depths)[:, None] * (axis_x - slope_x[:, None] * axis_z)
    row_y = (fy * inverse_depths)[:, None] * (axis_y - slope_y[:, None] * axis_z)
    xx, xy, yy = (row_x * row_x).sum(1), (row_x * row_y).sum(1), (row_y * row_y).sum(1)

    return _ellipses(xx, xy, yy, means2d, depths, in_range, width, height)


def _ellipses(
    xx: Tensor,  # [C, N], as are xy and yy: the covariance in square pixels before the blur
    xy: Tensor,
    yy: Tensor,
    means2d: Tensor,  # [C, N, 2]
    depths: Tensor,  # [C, N]
    in_range: Tensor,  # [C, N] bool
    width: int,
    height: int,
) -> Projection:
    """Blur and invert the covariances, and find which ellipses reach the image."""
    with torch.no_grad():
        half_trace = 0.5 * (xx + yy) + BLUR
        determinant = (xx + BLUR) * (yy + BLUR) - xy * xy
        long_axis = half_trace + torch.sqrt(torch.clamp_min(half_trace * half_trace - determinant, 0.01))
        radii = torch.ceil(3.0 * torch.sqrt(long_axis))
        u, v = means2d.unbind(-1)
        on_image = (u + radii > 0) & (u - radii < width) & (v + radii > 0) & (v - radii < height)
        # A covariance that overflowed has a NaN or infinite determinant.
        visible = in_range & on_image & (determinant > 0) & torch.isfinite(determinant)
        radii = torch.where(visible, radii, 0.0).int()

    xx, xy, yy = torch.where(visible, xx, 0.0), torch.where(visible, xy, 0.0), torch.where(visible, yy, 0.0)
    blurred_xx, blurred_yy = xx + BLUR, yy + BLUR
    inverse_determinant = (blurred_xx * blurred_yy - xy * xy).reciprocal()
    conics = torch.stack([blurred_yy, -xy, blurred_xx], dim=-1) * inverse_determinant[..., None]
    compensations = _finite_slope_sqrt((xx * yy - xy * xy) * inverse_determinant)
    return Projection(means2d, conics, depths, radii, compensations)


def _finite_slope_sqrt(ratio: Tensor) -> Tensor:
    """Square root of max(ratio, 0) whose derivative is gsplat's 0.5 / (root + 1e-6): finite for flat Gaussians."""
    root = ratio.detach().clamp_min(0.0).sqrt()
    return root + (ratio - ratio.detach()) * (0.5 / (root + 1e-6))
