"""Scores of a rendered view: PSNR, SSIM, LPIPS where its weights are at hand, ST-LPIPS; masked pixels do not count."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_psnr(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """PSNR in dB of images [..., H, W, C] in [0, 1] over the pixels where `mask` [..., H, W, 1] is true."""
    squared = (prediction - target).square()
    if mask is not None:
        squared = squared[mask.bool().expand_as(squared)]
    return -10 * torch.log10(squared.mean().clamp_min(1e-10))


def masked_ssim(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """SSIM (11x11 Gaussian window of sigma 1.5) of images [H, W, 3] in [0, 1], averaged where `mask` is true."""
    from pytorch_msssim import ssim as unmasked_ssim
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    first, second = (image.movedim(-1, 0)[None] for image in (prediction, target))
    if mask is None:
        return unmasked_ssim(first, second, data_range=1.0)  # Splatfacto's, so that results compare
    _, local = ssim(first, second, data_range=1.0, return_full_image=True)
    return local[mask.bool().movedim(-1, 0)[None].expand_as(local)].mean()


@torch.no_grad()
def image_metrics(
    prediction: Tensor,  # [H, W, 3], in [0, 1]
    target: Tensor,  # [H, W, 3], in [0, 1]
    mask: Tensor | None = None,  # [H, W, 1], true where a pixel counts
    *,
    allow_download: bool = False,
) -> dict[str, float]:
    """Metrics of one view under the keys `psnr`, `ssim`, `st_lpips` and, where its weights are at hand, `lpips`.

    The perceptual distances see masked pixels as equal: they have no map that could be averaged over a mask.
    """
    from guidedvd_ns.losses import lpips_alex_metric, st_lpips_metric

    metrics = {
        "psnr": float(masked_psnr(prediction, target, mask)),
        "ssim": float(masked_ssim(prediction, target, mask)),
    }
    if mask is not None:
        prediction = torch.where(mask.bool(), prediction, target)
    lpips = lpips_alex_metric(prediction.device, allow_download=allow_download)
    if lpips is not None:
        metrics["lpips"] = float(lpips(prediction[None], target[None]))
    metrics["st_lpips"] = float(st_lpips_metric(prediction.device)(prediction[None], target[None]))
    return metrics
