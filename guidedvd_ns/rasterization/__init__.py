"""Rasterization of 3D Gaussians (gsplat on CUDA, Numba kernels elsewhere); cameras as matrices and rays."""

from guidedvd_ns.rasterization.cameras import camera_matrices, pixel_rays
from guidedvd_ns.rasterization.rasterize import rasterize

__all__ = ["camera_matrices", "pixel_rays", "rasterize"]
