"""Scores: known values, masks, and LPIPS that is left out instead of NaN."""

from __future__ import annotations

import math

import pytest
import torch

from guidedvd_ns import losses
from guidedvd_ns.metrics import image_metrics, masked_psnr, masked_ssim


def _image(seed: int = 0, size: tuple[int, int] = (40, 48)) -> torch.Tensor:
    return torch.rand(*size, 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_constant_difference():
    assert float(masked_psnr(torch.full((4, 4, 3), 0.5), torch.full((4, 4, 3), 0.6))) == pytest.approx(20.0, abs=1e-4)


def test_psnr_counts_only_what_the_mask_keeps():
    image, other = _image(), _image().clone()
    other[:, 24:] = 0
    mask = torch.zeros(40, 48, 1, dtype=torch.bool)
    mask[:, :24] = True
    assert float(masked_psnr(other, image, mask)) == pytest.approx(100.0)
    other[:, :24] = image[:, :24] + 0.1
    assert float(masked_psnr(other, image, mask)) == pytest.approx(20.0, abs=1e-3)


def test_ssim_is_splatfactos_without_a_mask():
    from pytorch_msssim import SSIM

    image, other = _image(), (_image() * 0.7 + 0.3 * _image(1))
    expected = SSIM(data_range=1.0, size_average=True, channel=3)(
        other.movedim(-1, 0)[None], image.movedim(-1, 0)[None]
    )
    assert float(masked_ssim(other, image)) == pytest.approx(float(expected), abs=1e-6)


def test_masked_ssim_ignores_what_is_masked():
    image, other = _image(), _image().clone()
    other[:, 36:] = _image(2)[:, 36:]
    mask = torch.zeros(40, 48, 1, dtype=torch.bool)
    mask[:, :24] = True  # further than half a window from the change
    assert float(masked_ssim(other, image, mask)) == pytest.approx(1.0, abs=1e-5)
    assert float(masked_ssim(other, image)) < 0.95


def test_lpips_is_left_out_where_its_weights_are_missing(monkeypatch):
    monkeypatch.setattr(losses, "lpips_alex_metric", lambda *_, **__: None)
    metrics = image_metrics(_image(), _image(1))
    assert set(metrics) == {"psnr", "ssim", "st_lpips"}
    assert all(math.isfinite(value) for value in metrics.values())


def test_lpips_is_reported_where_it_can_be_had(monkeypatch):
    monkeypatch.setattr(losses, "lpips_alex_metric", lambda *_, **__: lambda a, b: (a - b).abs().mean())
    metrics = image_metrics(_image(), _image(1))
    assert metrics["lpips"] == pytest.approx(float((_image() - _image(1)).abs().mean()))


def test_perceptual_scores_do_not_see_masked_pixels():
    image, other = _image(), _image().clone()
    other[:, 24:] = 0
    mask = torch.ones(40, 48, 1, dtype=torch.bool)
    mask[:, 24:] = False
    assert image_metrics(other, image, mask)["st_lpips"] == pytest.approx(0.0, abs=1e-6)
