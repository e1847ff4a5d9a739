"""`gvd-benchmark rasterizer` times what it says it does."""

import pytest
import torch

from guidedvd_ns.rasterization import rasterize
from guidedvd_ns.scripts.benchmarks import rasterizer as benchmark


def test_the_twin_in_strips_has_the_gradients_of_the_rasterizer() -> None:
    width, height = 20, 15
    viewmats, Ks = benchmark._camera(width, height)
    image_gradient, opacity_gradient = torch.randn(1, height, width, 4), torch.randn(1, height, width, 1)
    gradients = []
    for dense in (False, True):
        parameters = [tensor.requires_grad_() for tensor in benchmark._random_scene(400, width, height, seed=1)]
        if dense:
            twin = benchmark._load_twin()
            assert twin is not None
            benchmark._run_twin_in_strips(twin, parameters, image_gradient[0], opacity_gradient[0])
        else:
            image, opacity, _ = rasterize(
                *parameters, viewmats, Ks, width, height, sh_degree=benchmark.SH_DEGREE, render_mode="RGB+ED"
            )
            torch.autograd.backward((image, opacity), (image_gradient, opacity_gradient))
        gradients.append([parameter.grad for parameter in parameters])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() <= 2e-4 * theirs.abs().max()


def test_it_prints_both_times_and_their_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.benchmark_rasterizer(gaussians=200, width=32, height=24, repeats=2, twin_repeats=1)
    printed = capsys.readouterr().out
    assert "rasterizer  forward + backward" in printed
    assert "dense twin  forward + backward" in printed
    assert "times faster" in printed


def test_it_does_without_the_twin(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.benchmark_rasterizer(gaussians=50, width=16, height=16, repeats=1, twin_repeats=0)
    assert "left out" in capsys.readouterr().out
