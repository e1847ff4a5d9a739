"""Projection and spherical harmonics against gsplat's own torch code, which runs without CUDA."""

import pytest
import torch
from gsplat.cuda import _torch_impl as gsplat_torch

from guidedvd_ns.rasterization.projection import project
from guidedvd_ns.rasterization.spherical_harmonics import sh_to_rgb

from .scenes import cameras, random_gaussians


@pytest.mark.parametrize("spread", [0.5, 1.0, 4.0])
def test_projection_matches_gsplat(spread: float) -> None:
    """Spread 4 puts most Gaussians beyond the frustum's margin, many off the image and some behind the camera."""
    width, height = 50, 37
    means, quats, scales, _, _ = random_gaussians(300, spread=spread)
    means[:20, 2] *= -1
    viewmats, Ks = cameras(2, width, height)
    ours = project(means, quats, scales, torch.ones(300, dtype=torch.bool), viewmats, Ks, width, height, 0.2, 5.0)

    covariances, _ = gsplat_torch._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    radii, means2d, depths, conics, compensations = gsplat_torch._fully_fused_projection(
        means, covariances, viewmats, Ks, width, height, near_plane=0.2, far_plane=5.0, calc_compensations=True
    )
    assert torch.equal(ours.radii, radii)
    assert ours.radii.dtype == torch.int32
    visible = radii > 0
    assert visible.any() and not visible.all()
    torch.testing.assert_close(ours.means2d[visible], means2d[visible], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(ours.depths[visible], depths[visible])
    torch.testing.assert_close(ours.conics[visible], conics[visible], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.compensations[visible], compensations[visible], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_match_gsplat(degree: int) -> None:
    means, _, _, _, coefficients = random_gaussians(50, num_bases=16)
    positions = torch.randn(2, 3)
    expected = gsplat_torch._spherical_harmonics(degree, means - positions[:, None], coefficients.expand(2, -1, -1, -1))
    expected = torch.clamp_min(expected + 0.5, 0.0)
    torch.testing.assert_close(sh_to_rgb(degree, means, coefficients, positions), expected, rtol=1e-4, atol=1e-5)
