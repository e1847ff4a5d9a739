"""Initial points where a capture has no point cloud: random ones where the input views look.

Splatfacto's own random start is a cube around the origin, which for a handful of views lies mostly outside all frusta:
Gaussians that no view sees never move, and the few that are seen start in front of the cameras as often as behind the
scene. Here points are drawn along rays of the input views, between depths at which the views overlap.
"""

from collections.abc import Sequence
from typing import Optional

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.rasterization import pixel_rays

_ROUNDS = 8
_RAYS_PER_SIDE = 12
_DEPTH_STEPS = 61


def random_points_in_frusta(
    cameras: Cameras,  # [C] pinhole cameras of the input views
    count: int,
    seed: int,
    *,
    near: float,
    far: float,
    images: Optional[Sequence[Tensor]] = None,  # [H, W, 3] uint8 each
    masks: Optional[Sequence[Optional[Tensor]]] = None,  # [H, W] bool each, or None
) -> tuple[Tensor, Tensor]:  # [count, 3] float32, [count, 3] uint8
    """Points on random pixels' rays, at z-depths from `near` to `far` (scene units), evenly spread in log-depth.

    No point is closer than `near` to a camera that sees it. Points that two or more views see come first; others are
    used only where `_ROUNDS` times `count` draws do not yield enough of those.

    Args:
        cameras: views whose distortion is already removed.
        count: how many points.
        seed: the same seed gives the same points, on any device.
        near: smallest depth, above zero.
        far: greatest depth.
        images: one per camera, of the camera's size; a point takes the colour of its ray's pixel. Without images,
            colours are random.
        masks: one per camera, true where its pixels count; rays go through those only.

    Returns:
        Positions and colours, on the CPU.

    Raises:
        ValueError: not 0 < near < far.
    """
    if not 0 < near < far:
        raise ValueError(f"near is {near} and far is {far}; random points need 0 < near < far.")
    generator = torch.Generator().manual_seed(seed)
    cameras = cameras.to("cpu")
    shared, single = [], []
    for _ in range(_ROUNDS):
        xyz, rgb = _draw(cameras, count, (near, far), images, masks, generator)
        views, too_close = _visibility(cameras, xyz, near)
        for kept, chosen in ((shared, (views >= 2) & ~too_close), (single, (views < 2) & ~too_close)):
            kept.append((xyz[chosen], rgb[chosen]))
        if sum(len(points) for points, _ in shared) >= count:
            break
    # The last resort keeps the promised number even where every ray passes close by another camera.
    kept = [*shared, *single, (xyz, rgb)]
    return torch.cat([points for points, _ in kept])[:count], torch.cat([colours for _, colours in kept])[:count]


def frusta_depth_range(
    cameras: Cameras,  # [C] pinhole cameras of the input views
) -> tuple[float, float]:
    """Depths between which the scene most probably lies: where the views look at the same things.

    For a depth z, the overlap is the number of other views that see a pixel's ray at z, averaged over all views'
    pixels. Views that are turned towards one subject overlap most at that subject and less beyond; for parallel views
    overlap grows with depth and levels out. The focus is the smallest depth at which the overlap comes to 95 % of its
    maximum, `near` the smallest at which it comes to 50 %, and `far` five times the focus. Views that do not overlap
    leave only their distances from one another to go by.
    """
    origins = cameras.camera_to_worlds[:, :3, 3].cpu()
    distances = torch.pdist(origins)
    spacing = float(distances[distances > 0].median()) if bool((distances > 0).any()) else 1.0
    depths = spacing * 2.0 ** torch.linspace(-6, 6, _DEPTH_STEPS)
    overlap = torch.stack([_overlap(cameras.to("cpu"), float(depth)) for depth in depths])
    most = overlap.max()
    if most <= 0:
        return spacing / 5, spacing * 5
    focus = float(depths[int((overlap >= 0.95 * most).nonzero()[0])])
    near = float(depths[int((overlap >= 0.5 * most).nonzero()[0])])
    return min(near, focus / 2), focus * 5


def _draw(
    cameras: Cameras,
    count: int,
    depths: tuple[float, float],
    images: Optional[Sequence[Tensor]],
    masks: Optional[Sequence[Optional[Tensor]]],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Points on random rays [count, 3] and their colours [count, 3]."""
    near, far = depths
    view = torch.randint(len(cameras), (count,), generator=generator)
    uniform = torch.rand(count, 3, generator=generator)
    x = uniform[:, 0] * cameras.width[view, 0]
    y = uniform[:, 1] * cameras.height[view, 0]
    for index, mask in enumerate(masks or []):
        if mask is None or not bool(mask.any()):
            continue
        mine = view == index
        pixels = mask.nonzero()
        picked = pixels[(uniform[mine, 0] * len(pixels)).long()]
        x[mine], y[mine] = picked[:, 1] + uniform[mine, 1], picked[:, 0] + 0.5
    depth = near * (far / near) ** uniform[:, 2]
    rgb = torch.randint(256, (count, 3), generator=generator).to(torch.uint8)
    if images is not None:
        for index, image in enumerate(images):
            mine = view == index
            rgb[mine] = image.cpu()[y[mine].long(), x[mine].long()]
    return _unproject(cameras, view, x, y, depth), rgb


def _unproject(
    cameras: Cameras,
    view: Tensor,  # [N] int
    x: Tensor,  # [N] pixels
    y: Tensor,  # [N] pixels
    depth: Tensor,  # [N]
) -> Tensor:  # [N, 3]
    chosen = cameras[view]
    return depth[:, None] * pixel_rays(chosen, x, y) + chosen.camera_to_worlds[..., 3]


def _visibility(cameras: Cameras, xyz: Tensor, near: float) -> tuple[Tensor, Tensor]:
    """How many cameras see each point at `near` or beyond [N], and whether any sees it closer than that [N]."""
    views = torch.zeros(len(xyz), dtype=torch.int64)
    too_close = torch.zeros(len(xyz), dtype=torch.bool)
    for index in range(len(cameras)):
        pose = cameras.camera_to_worlds[index]
        local = (xyz - pose[:, 3]) @ pose[:, :3]
        depth = -local[:, 2]
        x = cameras.fx[index] * local[:, 0] / depth + cameras.cx[index]
        y = -cameras.fy[index] * local[:, 1] / depth + cameras.cy[index]
        inside = (depth > 0) & (x >= 0) & (y >= 0) & (x <= cameras.width[index]) & (y <= cameras.height[index])
        # A point drawn at `near` itself comes back a rounding error closer.
        beyond = depth >= near * (1 - 1e-4)
        views += inside & beyond
        too_close |= inside & ~beyond
    return views, too_close


def _overlap(cameras: Cameras, depth: float) -> Tensor:
    """How many other views see a pixel's ray at `depth`, averaged over a grid of pixels of all views."""
    steps = (torch.arange(_RAYS_PER_SIDE) + 0.5) / _RAYS_PER_SIDE
    view, row, column = torch.cartesian_prod(torch.arange(float(len(cameras))), steps, steps).unbind(-1)
    view = view.long()
    x, y = column * cameras.width[view, 0], row * cameras.height[view, 0]
    views, _ = _visibility(cameras, _unproject(cameras, view, x, y, torch.full_like(x, depth)), near=1e-6)
    return views.float().mean() - 1
