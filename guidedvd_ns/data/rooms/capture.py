"""A room as a sparse capture: a few input views, test views on and off their path, and points from noisy depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guidedvd_ns.data.rooms.rendering import render
from guidedvd_ns.data.rooms.room import Room
from guidedvd_ns.data.rooms.views import free_views, sample_views
from guidedvd_ns.data.visibility import Sight, visible_from_views

_UNSEEN_OFF_PATH = (0.1, 0.5)
"""Share of an off-path test view that no input view sees."""

_CANDIDATES_PER_VIEW = 5
_PREVIEW_WIDTH = 48


@dataclass(frozen=True)
class RoomCapture:
    """V views of a room: N input views, then 2 N test views on their path, then 2 N test views off it."""

    room_size: tuple[float, float, float]
    """Inner width (x), depth (y) and height (z) of the room in metres; the origin is in the middle of its floor."""
    names: list[str]
    """`input_000`, ..., `path_000`, ..., `extra_000`, ..."""
    poses: Tensor
    """[V, 3, 4] OpenGL camera-to-world, metres, z up."""
    intrinsics: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels, for all views."""
    images: Tensor
    """[V, H, W, 3] uint8."""
    depth: Tensor
    """[V, H, W, 1] float32 z-depth, metres, without noise."""
    unseen: Tensor
    """[V] share of each view's pixels whose surface no input view sees."""
    points_xyz: Tensor
    """[P, 3] float32, metres: as a learned stereo method would give them for the input views."""
    points_rgb: Tensor
    """[P, 3] uint8."""


@torch.no_grad()
def make_capture(
    seed: int,
    *,
    num_inputs: int,
    height: int,
    width: int,
    field_of_view: float = 75.0,
    num_points: int = 15_000,
    depth_noise: float = 0.015,
    device: torch.device | str = "cpu",
    on_view: Callable[[int, int], None] = lambda done, total: None,
) -> RoomCapture:
    """Photographs one room; fully determined by the arguments (up to the rounding of another device).

    Args:
        seed: of the room, the views and the noise.
        num_inputs: N input views, at least 2; there are 4 N test views.
        height: pixels.
        width: pixels.
        field_of_view: horizontal, degrees.
        num_points: points kept of all the input views' pixels.
        depth_noise: standard deviation of a point's depth, as a share of it: half of the variance is smooth over the
            image. Besides, a tenth of the pixels is missing, in blobs.
        device: where views are rendered; the capture is on the CPU.
        on_view: called after each rendered view with the number done and the total.

    Raises:
        ValueError: if there are fewer than two input views.
    """
    if num_inputs < 2:
        raise ValueError(f"A capture of {num_inputs} input views was asked for; it needs at least 2.")
    room = Room.sample(seed)
    focal = width / 2 / math.tan(math.radians(field_of_view) / 2)
    intrinsics = (focal, focal, width / 2, height / 2)
    walk = sample_views(room, seed, 3 * num_inputs)
    is_input = torch.arange(3 * num_inputs) % 3 == 1
    inputs, on_path = walk[is_input], walk[~is_input]
    off_path = _off_path_views(room, seed, inputs, 2 * num_inputs, intrinsics)
    poses = torch.cat([inputs, on_path, off_path])

    images, depths = [], []
    studio = room.to(device)
    for number, pose in enumerate(poses):
        view = render(studio, pose[None, None], intrinsics, height, width, supersample=2)
        images.append((view.rgb[0, 0] * 255).round().byte().cpu())
        depths.append(view.depth[0, 0].cpu())
        on_view(number + 1, len(poses))
    image, depth = torch.stack(images), torch.stack(depths)
    generator = torch.Generator().manual_seed(seed)
    xyz, rgb = _noisy_points(
        image[:num_inputs], depth[:num_inputs], inputs, intrinsics, num_points, depth_noise, generator
    )
    groups = (("input", num_inputs), ("path", len(on_path)), ("extra", len(off_path)))
    size_x, size_y, size_z = room.size[0].tolist()
    return RoomCapture(
        room_size=(size_x, size_y, size_z),
        names=[f"{group}_{number:03d}" for group, count in groups for number in range(count)],
        poses=poses,
        intrinsics=intrinsics,
        images=image,
        depth=depth,
        unseen=_unseen(depth, poses, depth[:num_inputs], inputs, intrinsics),
        points_xyz=xyz,
        points_rgb=rgb,
    )


def _off_path_views(
    room: Room,
    seed: int,
    inputs: Tensor,  # [N, 3, 4]
    count: int,
    intrinsics: tuple[float, float, float, float],
) -> Tensor:  # [count, 3, 4]
    """Views from anywhere in the room that are partly unseen by the input views, judged on small previews."""
    candidates = free_views(room, seed, _CANDIDATES_PER_VIEW * count)
    shrink = _PREVIEW_WIDTH / (2 * intrinsics[2])
    small = tuple(shrink * value for value in intrinsics)
    lens = (small[0], small[1], small[2], small[3])
    height = round(2 * lens[3])
    poses = torch.cat([inputs, candidates])
    depth = render(room, poses[None], lens, height, _PREVIEW_WIDTH).depth[0]
    unseen = _unseen(depth[len(inputs) :], candidates, depth[: len(inputs)], inputs, lens)
    low, high = _UNSEEN_OFF_PATH
    # How far outside the wanted range; a stable sort keeps the random order among those inside it.
    excess = torch.relu(low - unseen) + torch.relu(unseen - high)
    return candidates[torch.sort(excess, stable=True).indices[:count]]


def _unseen(
    depth: Tensor,  # [V, H, W, 1]
    poses: Tensor,  # [V, 3, 4]
    input_depth: Tensor,  # [N, H, W, 1]
    inputs: Tensor,  # [N, 3, 4]
    intrinsics: tuple[float, float, float, float],
) -> Tensor:  # [V]
    """Share of each view's pixels whose surface no input view sees."""
    sight = Sight(inputs[None], input_depth[None], intrinsics)
    uses = torch.ones(1, 1, len(inputs), dtype=torch.bool)
    visible = visible_from_views(depth[None, None], poses[None, None], intrinsics, sight, uses)[0, 0]
    return 1 - visible.float().mean(dim=(1, 2, 3))


def _noisy_points(
    images: Tensor,  # [N, H, W, 3] uint8
    depth: Tensor,  # [N, H, W, 1]
    poses: Tensor,  # [N, 3, 4]
    intrinsics: tuple[float, float, float, float],
    num_points: int,
    depth_noise: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Coloured points [P, 3] of the pixels, with the noise that `make_capture` describes."""
    count, height, width, _ = depth.shape
    fx, fy, cx, cy = intrinsics

    def smooth(cells: int) -> Tensor:
        grid = torch.randn(count, 1, cells, cells, generator=generator)
        field = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)[:, 0]
        return field / field.std().clamp_min(1e-6)

    fine = torch.randn(count, height, width, generator=generator)
    noisy = depth[..., 0] * (1 + depth_noise * math.sqrt(0.5) * (smooth(6) + fine))
    blobs = smooth(9)
    kept = blobs < torch.quantile(blobs.flatten()[:: max(1, blobs.numel() // 100_000)], 0.9)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack([(x - cx) / fx, (cy - y) / fy, -torch.ones_like(x)], -1)
    local = rays * noisy[..., None]
    world = (poses[:, None, None, :, :3] * local[..., None, :]).sum(-1) + poses[:, None, None, :, 3]
    xyz, rgb = world[kept], images[kept]
    chosen = torch.randperm(len(xyz), generator=generator)[:num_points]
    return xyz[chosen], rgb[chosen]
