"""Front-to-back compositing on the CPU as a differentiable torch operation."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from guidedvd_ns.rasterization.tiles import TileBins, bin_gaussians

MIN_TILES_PER_THREAD = 8
SHARES_PER_THREAD = 8


class Composite(torch.autograd.Function):
    """Composite projected Gaussians over C images of H x W pixels, with a kernel for each direction."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,  # [C, N, 2]
        conics: Tensor,  # [C, N, 3]
        opacities: Tensor,  # [C, N]
        features: Tensor,  # [C, N, 4], the last is the depth
        radii: Tensor,  # [C, N] int32
        width: int,
        height: int,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        """Accumulated features [C, H, W, 4] and opacity [C, H, W, 1].

        With absgrad, the backward pass sets `means2d.absgrad` [C, N, 2]: the sum over pixels of the absolute values of
        their gradients (Ye et al., "AbsGS", 2024).
        """
        from guidedvd_ns.rasterization import kernels

        gaussians = _flat_arrays(means2d, conics, opacities, features)
        bins = bin_gaussians(gaussians[0], radii.cpu().numpy(), gaussians[3][:, 3], width, height)
        num_cameras = len(means2d)
        image = np.zeros((num_cameras, height, width, kernels.NUM_FEATURES), dtype=np.float32)
        transmittance = np.ones((num_cameras, height, width), dtype=np.float32)
        last_pair = np.full((num_cameras, height, width), -1, dtype=np.int32)
        _run_over_tiles(
            kernels.composite,
            len(bins.tile_starts) - 1,
            *gaussians,
            *(bins.gaussians, bins.tile_starts, bins.columns, bins.rows),
            *(image, transmittance, last_pair),
        )
        ctx.save_for_backward(means2d, conics, opacities, features)
        ctx.transmittance, ctx.last_pair, ctx.bins, ctx.absgrad = transmittance, last_pair, bins, absgrad
        opacity_map = torch.from_numpy(1.0 - transmittance[..., None])
        return torch.from_numpy(image).to(means2d.device), opacity_map.to(means2d.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Any, ...]:
        from guidedvd_ns.rasterization import kernels

        image_gradient, opacity_gradient = _flat_arrays(*output_gradients)
        means2d, conics, opacities, features = ctx.saved_tensors
        bins: TileBins = ctx.bins
        pair_gradients = np.zeros((len(bins.slots), kernels.NUM_GRADIENTS), dtype=np.float32)
        gradients = np.zeros((*opacities.shape, kernels.NUM_GRADIENTS), dtype=np.float32)
        _run_over_tiles(
            kernels.composite_gradients,
            len(bins.tile_starts) - 1,
            *_flat_arrays(means2d, conics, opacities, features),
            *(bins.gaussians, bins.tile_starts, bins.columns, bins.rows),
            *(ctx.transmittance, ctx.last_pair),
            *(image_gradient.reshape(*ctx.last_pair.shape, -1), -opacity_gradient.reshape(ctx.last_pair.shape)),
            *(bins.slots, pair_gradients),
        )
        flat_gradients = gradients.reshape(-1, kernels.NUM_GRADIENTS)
        kernels.sum_slots(pair_gradients, bins.slot_gaussians, bins.slot_starts, flat_gradients)
        parts = np.split(gradients, [2, 4, 7, 8], axis=-1)
        xy, absolute_xy, conic, opacity, feature = (
            torch.from_numpy(np.ascontiguousarray(part)).to(means2d.device) for part in parts
        )
        if ctx.absgrad:
            means2d.absgrad = absolute_xy
        return xy, conic, opacity[..., 0], feature, None, None, None, None


def _flat_arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors [C, N, ...] as contiguous arrays [C * N, ...]."""
    return [tensor.detach().flatten(0, 1).contiguous().cpu().numpy() for tensor in tensors]


def _run_over_tiles(kernel: Callable, num_tiles: int, *arguments: Any) -> None:
    """Call kernel(first_tile, stop_tile, *arguments) for all tiles, on as many threads as torch uses.

    Plain threads that take the next few tiles when they are free, and not Numba's `prange`: its equal shares leave
    threads idle where Gaussians crowd in one part of the image, its compilation takes twice as long, and its fallback
    threading layer aborts the process when training and viewer render at once.
    """
    num_threads = max(1, min(torch.get_num_threads(), num_tiles // MIN_TILES_PER_THREAD))
    if num_threads == 1:
        kernel(0, num_tiles, *arguments)
        return
    share = -(-num_tiles // (num_threads * SHARES_PER_THREAD))
    with ThreadPoolExecutor(num_threads) as pool:
        shares = [pool.submit(kernel, i, min(i + share, num_tiles), *arguments) for i in range(0, num_tiles, share)]
    for done in shares:
        done.result()
