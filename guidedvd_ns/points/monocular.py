"""Points from a monocular depth model, whose depths are aligned to triangulated points and checked against each other.

Such a model tells inverse depth up to a scale and a shift that differ from image to image. Both are estimated for each
view from the triangulated points that it observes; views whose points do not support an estimate are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from guidedvd_ns.points.fusion import fuse
from guidedvd_ns.points.triangulation import Triangulation
from guidedvd_ns.points.views import InputViews

DEFAULT_MODEL = "depth-anything/Depth-Anything-V2-Small-hf"

TOLERANCE = 0.05
"""Share of a depth by which two views may differ; a triangulated point within it supports an alignment."""
MIN_SUPPORT = 12
"""Triangulated points that must support the alignment of a view."""
MIN_SUPPORTING_SHARE = 0.4
_TRIALS = 500
_REFINEMENTS = 5
_MAX_DEPTH_RATIO = 3.0
"""How many times further than the farthest triangulated point a view's depths are believed."""

_DEPTH_MODELS = ("depth_pro", "glpn", "prompt_depth_anything", "zoedepth")
"""Kinds of models of transformers that tell depth and not its inverse."""

DepthModel = Callable[[np.ndarray], np.ndarray]
"""From an image [H, W, 3] uint8 to its inverse depth [H, W], up to scale and shift."""


def monocular_points(
    views: InputViews, anchors: Triangulation, model: DepthModel, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # [N, 3] float32 and [N, 3] uint8, N <= count
    """Points of all views' depth maps that agree with one another, in scene units."""
    depths = [aligned_depth(views, view, anchors, model(views.images[view]), seed) for view in range(len(views))]
    return fuse(views, depths, count, seed, TOLERANCE)


def aligned_depth(
    views: InputViews,
    view: int,
    anchors: Triangulation,
    inverse: np.ndarray,  # [h, w] inverse depth up to scale and shift, of any size
    seed: int,
) -> np.ndarray | None:  # [h, w] z-depth
    """A view's depths in scene units; 0 where the alignment makes them negative or too far to be believed.

    None where the triangulated points do not support an alignment.
    """
    pixels, depth = views.project(view, anchors.xyz[anchors.observed[:, view]].astype(np.float64))
    if len(depth) < MIN_SUPPORT:
        return None
    height, width = views.images[view].shape[:2]
    place = (pixels / [width, height] * inverse.shape[::-1] - 0.5).astype(np.float32)
    values = cv2.remap(
        inverse.astype(np.float32), place[:, :1], place[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )[:, 0]
    fitted = fit_scale_and_shift(values.astype(np.float64), depth, seed)
    if fitted is None:
        return None
    scale, shift = fitted
    farthest = _MAX_DEPTH_RATIO * depth.max()
    true_inverse = scale * inverse.astype(np.float64) + shift
    return np.where(true_inverse > 1 / farthest, 1 / np.maximum(true_inverse, 1 / farthest), 0.0)


def fit_scale_and_shift(
    inverse: np.ndarray,  # [N] a model's values
    depth: np.ndarray,  # [N] true depths, above zero
    seed: int,
) -> tuple[float, float] | None:
    """The scale above zero and the shift with 1 / depth = scale * inverse + shift for as many of N as possible.

    Random pairs propose, points within `TOLERANCE` of their depth vote, and weighted least squares over the voters
    refine the best proposal. None where fewer than `MIN_SUPPORT` or `MIN_SUPPORTING_SHARE` of the points vote for it.
    """
    random = np.random.default_rng(seed)
    first, second = random.integers(len(depth), size=(2, _TRIALS))
    gap = inverse[first] - inverse[second]
    usable = np.abs(gap) > 1e-6 * max(np.ptp(inverse), 1e-12)
    first, second, gap = first[usable], second[usable], gap[usable]
    scales = (1 / depth[first] - 1 / depth[second]) / gap
    shifts = 1 / depth[first] - scales * inverse[first]
    scales, shifts = scales[scales > 0], shifts[scales > 0]
    if not len(scales):
        return None
    votes = _supported(scales[:, None], shifts[:, None], inverse, depth).sum(axis=1)
    scale, shift = float(scales[votes.argmax()]), float(shifts[votes.argmax()])
    for _ in range(_REFINEMENTS):
        voters = _supported(scale, shift, inverse, depth)
        if voters.sum() < max(MIN_SUPPORT, MIN_SUPPORTING_SHARE * len(depth)):
            return None
        # Multiplied by depth, the equation's error is relative to it.
        rows = np.stack([inverse, np.ones_like(inverse)], axis=1)[voters] * depth[voters, None]
        scale, shift = np.linalg.lstsq(rows, np.ones(voters.sum()), rcond=None)[0].tolist()
        if scale <= 0:
            return None
    return scale, shift


def _supported(scale: np.ndarray | float, shift: np.ndarray | float, inverse: np.ndarray, depth: np.ndarray):
    return np.abs((scale * inverse + shift) * depth - 1) < TOLERANCE


def is_at_hand(name: str) -> bool:
    """Whether a model can be loaded without a download: a folder, or a model in the Hugging Face cache."""
    if Path(name).expanduser().is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "model.safetensors"), str)
    except HFValidationError:
        return False


def load_depth_model(name: str, device: torch.device | str) -> DepthModel:
    """A depth estimator of transformers, from a local folder or the Hugging Face hub (a download at first use).

    Raises:
        FileNotFoundError: there is no such folder or model, or it cannot be fetched.
    """
    from transformers import pipeline

    source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        estimator = pipeline("depth-estimation", model=source, device=torch.device(device))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"The depth model {name} cannot be loaded ({reason}): name the folder of a depth estimator of transformers "
            "or one on the Hugging Face hub with --pipeline.datamanager.points-depth-model."
        ) from error
    assert estimator.model is not None
    config = estimator.model.config
    gives_depth = config.model_type in _DEPTH_MODELS or getattr(config, "depth_estimation_type", "") == "metric"

    def inverse_depth(image: np.ndarray) -> np.ndarray:
        found: Any = estimator(Image.fromarray(image))
        predicted = found["predicted_depth"].squeeze().float().cpu().numpy()
        return 1 / np.maximum(predicted, 1e-3) if gives_depth else predicted

    return inverse_depth
