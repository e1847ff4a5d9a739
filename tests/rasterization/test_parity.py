"""Values and gradients of the CPU rasterizer against the dense twin."""

import pytest
import torch
from torch import Tensor

from guidedvd_ns.rasterization import rasterize

from .dense_twin import rasterize_dense
from .scenes import Gaussians, cameras, random_gaussians

TOLERANCE = 1e-4
GSPLAT_TOLERANCE = 3e-4
"""gsplat's own rounding: its backward pass divides transmittances back up, in fast-math float32. On an H200 the kernels
and the twin lie up to 2.2e-4 from gsplat where many Gaussians overlap (elsewhere below 3e-5), 1e-5 from each other."""
NAMES = ("means", "quats", "scales", "opacities", "colors")


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """max|actual - expected| / max|expected|."""
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    assert expected.abs().max() > 0
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def weighted_sum(image: Tensor, opacity: Tensor) -> Tensor:
    """A loss in which every output of every pixel has a weight of its own."""
    generator = torch.Generator().manual_seed(5)
    image_weights = torch.randn(image.shape, generator=generator).to(image)
    opacity_weights = torch.randn(opacity.shape, generator=generator).to(image)
    # Expected depth is undefined where nothing was hit; a faint hit divides by its own tiny opacity.
    return (image * image_weights * (opacity.detach() > 0.05)).sum() + (opacity * opacity_weights).sum()


def leaves(gaussians: Gaussians) -> list[Tensor]:
    return [tensor.clone().requires_grad_() for tensor in gaussians]


SCENES = {
    "overlapping": ({"count": 150, "log_scale": -1.2}, 1, 48, 32, None, "classic"),
    "small": ({"count": 300, "log_scale": -3.2}, 1, 64, 48, None, "classic"),
    "mostly_off_screen": ({"count": 200, "spread": 4.0, "log_scale": -1.5}, 1, 48, 32, None, "classic"),
    "odd_size": ({"count": 150}, 1, 53, 35, None, "classic"),
    "two_cameras": ({"count": 120}, 2, 40, 30, None, "classic"),
    "antialiased": ({"count": 200, "log_scale": -3.5}, 1, 50, 37, None, "antialiased"),
    "sh0": ({"count": 100, "num_bases": 1}, 1, 40, 30, 0, "classic"),
    "sh1": ({"count": 100, "num_bases": 4}, 1, 40, 30, 1, "classic"),
    "sh2_of_3_bands": ({"count": 100, "num_bases": 16}, 2, 40, 30, 2, "classic"),
    "sh3_antialiased_two_cameras": ({"count": 100, "num_bases": 16}, 2, 41, 30, 3, "antialiased"),
}


@pytest.mark.parametrize("name", SCENES)
def test_values_and_gradients_match_the_dense_twin(name: str) -> None:
    scene, num_cameras, width, height, sh_degree, mode = SCENES[name]
    gaussians = random_gaussians(**scene)
    viewmats, Ks = cameras(num_cameras, width, height)
    options = {"sh_degree": sh_degree, "rasterize_mode": mode}

    ours = leaves(gaussians)
    our_viewmats = viewmats.clone().requires_grad_()
    image, opacity, info = rasterize(*ours, our_viewmats, Ks, width, height, render_mode="RGB+ED", **options)
    weighted_sum(image, opacity).backward()

    theirs = leaves(gaussians)
    twin_image, twin_opacity, splats = rasterize_dense(*theirs, viewmats, Ks, width, height, **options)
    weighted_sum(twin_image, twin_opacity).backward()

    assert torch.equal(info["radii"], torch.stack([splat.radii for splat in splats]))
    assert (info["radii"] > 0).sum() > 20
    hit = twin_opacity > 0
    errors = {
        "color": relative_error(image[..., :3], twin_image[..., :3]),
        "depth": relative_error(image[..., 3:] * hit, twin_image[..., 3:] * hit),
        "opacity": relative_error(opacity, twin_opacity),
        "means2d gradient": relative_error(info["means2d"].grad, torch.stack([splat.means2d.grad for splat in splats])),
    }
    for parameter, actual, expected in zip(NAMES, ours, theirs, strict=True):
        errors[f"{parameter} gradient"] = relative_error(actual.grad, expected.grad)
    assert max(errors.values()) <= TOLERANCE, errors
    assert torch.isfinite(our_viewmats.grad).all() and our_viewmats.grad.abs().max() > 0


def test_gradient_of_the_pose_matches_the_twin() -> None:
    """Along the six directions that keep the pose rigid."""
    gaussians = random_gaussians(80, num_bases=9)
    viewmats, Ks = cameras(1, 40, 30)

    def pose(twist: Tensor) -> Tensor:
        zero = torch.zeros(())
        wx, wy, wz, tx, ty, tz = twist
        rows = ([zero, -wz, wy, tx], [wz, zero, -wx, ty], [-wy, wx, zero, tz], [zero] * 4)
        return torch.linalg.matrix_exp(torch.stack([torch.stack(row) for row in rows]))[None] @ viewmats

    gradients = []
    for render in (rasterize, rasterize_dense):
        twist = torch.zeros(6, requires_grad=True)
        image, opacity, _ = render(*gaussians, pose(twist), Ks, 40, 30, sh_degree=2)
        weighted_sum(image[..., :3], opacity).backward()
        gradients.append(twist.grad)
    assert relative_error(*gradients) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("name", SCENES)
def test_cpu_kernels_and_twin_match_gsplat(name: str) -> None:
    scene, num_cameras, width, height, sh_degree, mode = SCENES[name]
    gaussians = random_gaussians(**scene)
    viewmats, Ks = cameras(num_cameras, width, height)
    options = {"sh_degree": sh_degree, "rasterize_mode": mode}

    results = {}
    for device in ("cuda", "cpu"):
        inputs = [tensor.detach().to(device).requires_grad_() for tensor in gaussians]
        image, opacity, info = rasterize(
            *inputs, viewmats.to(device), Ks.to(device), width, height, render_mode="RGB+ED", absgrad=True, **options
        )
        weighted_sum(image, opacity).backward()
        # gsplat leaves the centres of what is not visible unwritten.
        means2d = torch.where((info["radii"] > 0)[..., None], info["means2d"], 0)
        gradients = [tensor.grad for tensor in inputs] + [info["means2d"].grad, info["means2d"].absgrad]
        results[device] = [image, opacity, *gradients, info["radii"].float(), means2d]

    twin_inputs = leaves(gaussians)
    twin_image, twin_opacity, splats = rasterize_dense(*twin_inputs, viewmats, Ks, width, height, **options)
    weighted_sum(twin_image, twin_opacity).backward()
    twin = [twin_image, twin_opacity, *(tensor.grad for tensor in twin_inputs)]

    labels = ("image", "opacity", *(f"{parameter} gradient" for parameter in NAMES), "means2d gradient", "absgrad")
    labels += ("radii", "means2d")
    gsplat = [tensor.detach().cpu() for tensor in results["cuda"]]
    for other in (results["cpu"], twin):
        errors = {label: relative_error(a.detach(), b) for label, a, b in zip(labels, other, gsplat)}  # noqa: B905
        assert max(errors.values()) <= GSPLAT_TOLERANCE, errors
