"""Rasterization of 3D Gaussians: gsplat on CUDA, Numba kernels elsewhere, one signature."""
