"""`gvd-benchmark rasterizer`: time of a training step's rendering, beside the dense twin from the tests."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from torch import Tensor

TWIN_PATH = Path(__file__).parents[3] / "tests" / "rasterization" / "dense_twin.py"
SH_DEGREE = 3
FOCAL = 0.875
"""Focal length as a multiple of the image's width: a field of view of 60 degrees."""


def benchmark_rasterizer(
    *,
    gaussians: int = 10_000,
    width: int = 160,
    height: int = 120,
    repeats: int = 30,
    twin_repeats: int = 3,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Median time of one forward and backward pass: colour by spherical harmonics of degree 3, depth and opacity.

    The scene is random: centres evenly spread over the image and over depths from 2 to 8, scales log-normal around
    0.027, which at 160 pixels' width are radii (three standard deviations) of about 5 pixels. Afterwards the dense twin
    of the tests renders the same scene on the CPU, in strips so that it fits in memory.

    Args:
        gaussians: number of Gaussians.
        width: of the image, in pixels.
        height: of the image, in pixels.
        repeats: passes that are timed, after three that are not.
        twin_repeats: passes of the twin, which takes seconds; 0 leaves it out.
        device: cpu, or cuda to time gsplat.
        seed: of the scene.
    """
    import torch
    from nerfstudio.utils.rich_utils import CONSOLE

    from guidedvd_ns.rasterization import rasterize

    parameters = [parameter.to(device).requires_grad_() for parameter in _random_scene(gaussians, width, height, seed)]
    viewmats, Ks = (matrix.to(device) for matrix in _camera(width, height))
    generator = torch.Generator().manual_seed(seed)
    image_gradient = torch.randn(1, height, width, 4, generator=generator).to(device)
    opacity_gradient = torch.randn(1, height, width, 1, generator=generator).to(device)
    means, quats, scales, opacities, coefficients = parameters
    radii = torch.zeros(0)

    def run_rasterizer() -> None:
        nonlocal radii
        image, opacity, info = rasterize(
            means,
            quats,
            scales,
            opacities,
            coefficients,
            viewmats,
            Ks,
            width,
            height,
            sh_degree=SH_DEGREE,
            render_mode="RGB+ED",
        )
        torch.autograd.backward((image, opacity), (image_gradient, opacity_gradient))
        radii = info["radii"]
        if device != "cpu":
            torch.cuda.synchronize()

    ours = _median_seconds(run_rasterizer, parameters, repeats, warmup=3)
    visible = radii[radii > 0].float()
    CONSOLE.print(
        f"{gaussians} Gaussians at {width}x{height} on {device} ({torch.get_num_threads()} threads): {len(visible)} "
        f"visible, mean radius {visible.mean():.1f} px"
    )
    CONSOLE.print(f"rasterizer  forward + backward  median of {repeats}: {1e3 * ours:.1f} ms")

    twin = _load_twin()
    if twin is None or twin_repeats == 0:
        CONSOLE.print(f"The dense twin is left out{'' if twin else f': {TWIN_PATH} comes with the repository only'}.")
        return
    parameters = [parameter.detach().cpu().requires_grad_() for parameter in parameters]
    image_rows, opacity_rows = image_gradient[0].cpu(), opacity_gradient[0].cpu()

    def run_twin() -> None:
        _run_twin_in_strips(twin, parameters, image_rows, opacity_rows)

    dense = _median_seconds(run_twin, parameters, twin_repeats, warmup=0)
    CONSOLE.print(f"dense twin  forward + backward  median of {twin_repeats}: {1e3 * dense:.0f} ms")
    CONSOLE.print(f"The rasterizer is {dense / ours:.0f} times faster.")


def _random_scene(count: int, width: int, height: int, seed: int) -> tuple[Tensor, ...]:
    """Means, quats, scales, opacities and coefficients, as seen by `_camera`; a few lie just off the image."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    z = 2 + 6 * torch.rand(count, generator=generator)
    uv = (torch.rand(count, 2, generator=generator) - 0.5) * 1.1
    xy = uv * torch.tensor([1.0, height / width]) / FOCAL * z[:, None]
    means = torch.cat([xy, z[:, None]], dim=-1)
    quats = torch.randn(count, 4, generator=generator)
    scales = torch.exp(0.5 * torch.randn(count, 3, generator=generator) - 3.6)
    opacities = torch.sigmoid(torch.randn(count, generator=generator))
    coefficients = 0.2 * torch.randn(count, (SH_DEGREE + 1) ** 2, 3, generator=generator)
    return means, quats, scales, opacities, coefficients


def _camera(width: int, height: int) -> tuple[Tensor, Tensor]:
    """One camera at the origin, looking along +z."""
    import torch

    focal = FOCAL * width
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return torch.eye(4)[None], K[None]


def _median_seconds(run: Callable[[], None], parameters: list[Tensor], repeats: int, warmup: int) -> float:
    seconds = []
    for index in range(warmup + repeats):
        for parameter in parameters:
            parameter.grad = None
        start = time.perf_counter()
        run()
        if index >= warmup:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _load_twin() -> Optional[ModuleType]:
    """The twin's module from the repository's tests, None where the package is installed without them."""
    if not TWIN_PATH.is_file():
        return None
    spec = importlib.util.spec_from_file_location("dense_twin", TWIN_PATH)
    if spec is None or spec.loader is None:
        return None
    twin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    return twin


def _run_twin_in_strips(
    twin: ModuleType,
    parameters: list[Tensor],
    image_gradient: Tensor,  # [H, W, 4]
    opacity_gradient: Tensor,  # [H, W, 1]
) -> None:
    """Project once, composite and differentiate row by row of pixels, then differentiate the projection.

    All rows at once would hold tens of gigabytes for the backward pass.
    """
    import torch

    height, width = image_gradient.shape[:2]
    viewmats, Ks = _camera(width, height)
    splats = twin.project(*parameters, viewmats[0], Ks[0], width, height, SH_DEGREE, False)
    projected = {name: value for name, value in vars(splats).items() if name != "radii"}
    detached = {name: value.detach().requires_grad_() for name, value in projected.items()}
    pixels = twin.pixel_grid(width, height).reshape(height, width, 2)
    for row in range(height):
        features, opacity = twin.composite(twin.Splats(**detached, radii=splats.radii), pixels[row])
        depth = features[:, 3:] / opacity.clamp(min=1e-10)
        image = torch.cat([features[:, :3], depth], dim=-1)
        torch.autograd.backward((image, opacity), (image_gradient[row], opacity_gradient[row]))
    torch.autograd.backward(list(projected.values()), [value.grad for value in detached.values()])
