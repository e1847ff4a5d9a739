"""Filling the holes of images smoothly from what is known around them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def fill_holes(
    frames: Tensor,  # [..., H, W, C]
    known: Tensor,  # [..., H, W, 1] float in [0, 1]
) -> Tensor:  # [..., H, W, C]
    """Fill what is unknown of each frame smoothly from what is known around it (pull-push, Gortler et al. 1996).

    Known averages are pulled up a pyramid of halved resolutions; holes are then pushed down from the finest level that
    knows something. A frame without any known pixel becomes black.
    """
    images = (frames * known).flatten(0, -4).movedim(-1, 1)
    weights = known.expand(*frames.shape[:-1], 1).flatten(0, -4).movedim(-1, 1)
    return _pull_push(images, weights).movedim(1, -1).reshape(frames.shape)


def _pull_push(
    weighted: Tensor,  # [N, C, H, W] colours times weights
    weights: Tensor,  # [N, 1, H, W] in [0, 1]
) -> Tensor:  # [N, C, H, W]
    size = weighted.shape[-2:]
    share = weights.clamp(max=1)
    colour = weighted / weights.clamp_min(1e-6) * share
    if max(size) == 1:
        return colour
    coarse_weighted, coarse_weights = (F.avg_pool2d(image, 2, ceil_mode=True) for image in (weighted, weights))
    # Averages of colours count in full as soon as a quarter of a cell is known.
    gain = 1 / coarse_weights.clamp(0.25, 1)
    coarse = _pull_push(coarse_weighted * gain, coarse_weights * gain)
    return colour + (1 - share) * F.interpolate(coarse, size, mode="bilinear", align_corners=False)
