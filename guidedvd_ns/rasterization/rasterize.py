"""The one call that renders Gaussians: gsplat's kernels on CUDA, this package's on every other device."""

from functools import partial
from typing import Any, Literal, Optional, get_args

import torch
from torch import Tensor

from guidedvd_ns.rasterization.compositing import Composite
from guidedvd_ns.rasterization.projection import project
from guidedvd_ns.rasterization.single_thread import on_single_thread
from guidedvd_ns.rasterization.spherical_harmonics import MAX_SH_DEGREE, sh_to_rgb

RenderMode = Literal["RGB", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]


def rasterize(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, 3] or [N, K, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    *,
    sh_degree: Optional[int] = None,
    render_mode: RenderMode = "RGB",
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    rasterize_mode: RasterizeMode = "classic",
    absgrad: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians from C pinhole cameras, differentiably, by the rules of `gsplat.rasterization` 1.4.0.

    On CUDA this is gsplat. Elsewhere projection and spherical harmonics run in torch and compositing in Numba, and
    gsplat is not imported. There is no background: composite with one as `image + (1 - opacity) * background`.

    Args:
        means: centres in world coordinates.
        quats: rotations as quaternions (w, x, y, z) of any length.
        scales: standard deviations along the own axes, in world units, after the exponential.
        opacities: in [0, 1], after the sigmoid.
        colors: RGB, or coefficients of spherical harmonics where sh_degree is given.
        viewmats: world-to-camera, rigid, OpenCV convention (see `camera_matrices`). Differentiable.
        Ks: intrinsics in pixels. Not differentiable on CUDA.
        width, height: of the images, in pixels.
        sh_degree: bands in use, 0 to 3, with (sh_degree + 1) ** 2 <= K.
        render_mode: "RGB+ED" appends the expected z-depth as a fourth channel, meaningless where opacity is near 0.
        near_plane, far_plane: Gaussians whose centre is nearer or farther along z are not rendered.
        rasterize_mode: "antialiased" scales opacities to undo the blur of small Gaussians (Mip-Splatting, eq. 6-9).
        absgrad: the backward pass also sets `info["means2d"].absgrad`.

    Returns:
        Image [C, height, width, 3 or 4], opacity [C, height, width, 1], and what gsplat's densification strategies
        read: width, height, n_cameras, gaussian_ids (None), radii [C, N] int32 in pixels (0 = not visible) and means2d
        [C, N, 2], which keeps its gradient where it has one.

    Raises:
        ValueError: for a tensor of the wrong shape, dtype or device, or an option out of range.
    """
    _check_shapes(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree)
    _check_options(width, height, render_mode, rasterize_mode)
    options: dict[str, Any] = {
        "sh_degree": sh_degree,
        "render_mode": render_mode,
        "near_plane": near_plane,
        "far_plane": far_plane,
        "rasterize_mode": rasterize_mode,
        "absgrad": absgrad,
    }
    if means.is_cuda and len(means) > 0:  # over nothing, gsplat has no kernel to launch
        from gsplat.rendering import rasterization as render

        options["packed"] = False
    else:
        render = _rasterize_on_cpu
    image, opacity, info = render(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options)
    if info["means2d"].requires_grad:
        info["means2d"].retain_grad()
    return image, opacity, info


def _rasterize_on_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: Optional[int],
    render_mode: RenderMode,
    near_plane: float,
    far_plane: float,
    rasterize_mode: RasterizeMode,
    absgrad: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`rasterize` without CUDA: the compositing runs on the CPU, all before it on the tensors' device."""
    means2d, conics, opacities, features, radii = on_single_thread(
        partial(
            _prepare,
            width=width,
            height=height,
            sh_degree=sh_degree,
            near_plane=near_plane,
            far_plane=far_plane,
            antialiased=rasterize_mode == "antialiased",
        ),
        *(means, quats, scales, opacities, colors, viewmats, Ks),
    )
    image, opacity = Composite.apply(means2d, conics, opacities, features, radii, width, height, absgrad)
    info = {
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
        "radii": radii,
        "gaussian_ids": None,
        "means2d": means2d,
    }
    if render_mode == "RGB":
        return image[..., :3], opacity, info
    (image,) = on_single_thread(_with_expected_depth, image, opacity)
    return image, opacity, info


def _prepare(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    *,
    width: int,
    height: int,
    sh_degree: Optional[int],
    near_plane: float,
    far_plane: float,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What compositing takes: means2d [C, N, 2], conics [C, N, 3], opacities [C, N], RGB and depth [C, N, 4], radii."""
    num_cameras = len(viewmats)
    with torch.no_grad():
        finite = torch.isfinite(means.sum(-1) + quats.sum(-1) + scales.sum(-1) + opacities)
    if not finite.all():
        # Replaced before the arithmetic: a NaN that is only masked after it still poisons the gradients.
        means, quats, scales = (torch.where(finite[:, None], tensor, 0.0) for tensor in (means, quats, scales))
        opacities = torch.where(finite, opacities, 0.0)
    splats = project(means, quats, scales, finite, viewmats, Ks, width, height, near_plane, far_plane)
    if sh_degree is None:
        rgb = colors.expand(num_cameras, -1, -1)
    else:
        camera_positions = -(viewmats[:, None, :3, 3] @ viewmats[:, :3, :3])[:, 0]
        rgb = sh_to_rgb(sh_degree, means, colors, camera_positions)
    opacities = opacities * splats.compensations if antialiased else opacities.expand(num_cameras, -1)
    features = torch.cat([rgb, splats.depths[..., None]], dim=-1)
    return splats.means2d, splats.conics, opacities, features, splats.radii


def _with_expected_depth(image: Tensor, opacity: Tensor) -> tuple[Tensor]:
    """Divide the accumulated depth, the last channel of image [C, H, W, 4], by the accumulated opacity [C, H, W, 1]."""
    return (torch.cat([image[..., :3], image[..., 3:] / opacity.clamp(min=1e-10)], dim=-1),)


def _check_shapes(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: Optional[int],
) -> None:
    n, c = len(means), len(viewmats)
    expected = {
        "means": (means, (n, 3)),
        "quats": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (c, 4, 4)),
        "Ks": (Ks, (c, 3, 3)),
    }
    if sh_degree is None:
        expected["colors"] = (colors, (n, 3))
    else:
        if not 0 <= sh_degree <= MAX_SH_DEGREE:
            raise ValueError(f"sh_degree is {sh_degree}; give 0 to {MAX_SH_DEGREE}, or None with RGB colors.")
        num_bases = colors.shape[1] if colors.dim() == 3 else 0
        if num_bases < (sh_degree + 1) ** 2:
            raise ValueError(
                f"colors has shape {tuple(colors.shape)}; sh_degree={sh_degree} needs [N, K, 3] coefficients with "
                f"K >= {(sh_degree + 1) ** 2}."
            )
        expected["colors"] = (colors, (n, num_bases, 3))
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; {shape} is needed for {n} Gaussians, {c} cameras."
            )
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; rasterize works in torch.float32, convert it with .float().")
        if tensor.device != means.device:
            raise ValueError(f"{name} is on {tensor.device} and means on {means.device}; move them to one device.")


def _check_options(width: int, height: int, render_mode: str, rasterize_mode: str) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"The image size is {width} x {height}; width and height must be at least 1 pixel.")
    if render_mode not in get_args(RenderMode):
        raise ValueError(f"render_mode is {render_mode!r}; give one of {get_args(RenderMode)}.")
    if rasterize_mode not in get_args(RasterizeMode):
        raise ValueError(f"rasterize_mode is {rasterize_mode!r}; give one of {get_args(RasterizeMode)}.")
