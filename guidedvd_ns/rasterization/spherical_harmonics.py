"""View-dependent colour from real spherical harmonics up to degree 3."""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SH_DEGREE = 3


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics of unit directions, in the order and with the signs that all 3DGS files use.

    After Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013.

    Args:
        degree: 0 to 3.
        directions: unit vectors [..., 3].

    Returns:
        Basis values [..., (degree + 1) ** 2].
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, 0.2820947917738781)]
    if degree >= 1:
        basis += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree >= 2:
        zz = z * z
        cos2, sin2 = x * x - y * y, 2.0 * x * y
        minus_z = -1.092548430592079 * z
        basis += [
            0.5462742152960395 * sin2,
            minus_z * y,
            0.9461746957575601 * zz - 0.3153915652525201,
            minus_z * x,
            0.5462742152960395 * cos2,
        ]
    if degree >= 3:
        ring = -2.285228997322329 * zz + 0.4570457994644658
        tilted_z = 1.445305721320277 * z
        basis += [
            -0.5900435899266435 * (x * sin2 + y * cos2),
            tilted_z * sin2,
            ring * y,
            z * (1.865881662950577 * zz - 1.119528997770346),
            ring * x,
            tilted_z * cos2,
            -0.5900435899266435 * (x * cos2 - y * sin2),
        ]
    return torch.stack(basis, dim=-1)


def sh_to_rgb(
    degree: int,
    means: Tensor,  # [N, 3]
    coefficients: Tensor,  # [N, K, 3]
    camera_positions: Tensor,  # [C, 3]
) -> Tensor:
    """Colours of N Gaussians seen from C cameras, shifted by 0.5 and cut off below at zero as in 3DGS.

    Args:
        degree: bands in use, 0 to 3; K may hold more.

    Returns:
        RGB [C, N, 3], at least 0 and not bounded above.
    """
    directions = F.normalize(means - camera_positions[:, None], dim=-1)
    basis = sh_basis(degree, directions)  # [C, N, k]
    used = coefficients[:, : basis.shape[-1]]
    # A product of [C, 1, k] with [k, 3] for each Gaussian: no [C, N, k, 3] tensor is made.
    rgb = torch.bmm(basis.transpose(0, 1), used).transpose(0, 1)
    return torch.clamp_min(rgb + 0.5, 0.0)
