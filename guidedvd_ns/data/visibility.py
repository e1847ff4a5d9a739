"""Which pixels of a clip show a surface that another view sees too, and where in it, from their depths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTH_TOLERANCE = 0.025
"""A surface is the one that a view sees if its depth there differs by at most this share."""

Intrinsics = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels."""


@dataclass(frozen=True)
class Sight:
    """What the V input views of each of R rooms see."""

    poses: Tensor
    """[R, V, 3, 4] OpenGL."""
    depth: Tensor
    """[R, V, H, W, 1] z-depth."""
    intrinsics: Intrinsics
    """Those of every view."""


def visible_from_views(
    depth: Tensor,  # [R, K, T, h, w, 1]
    poses: Tensor,  # [R, K, T, 3, 4]
    intrinsics: Intrinsics,
    sight: Sight,
    uses_view: Tensor,  # [R, K, V] bool
    tolerance: float = DEPTH_TOLERANCE,
) -> Tensor:  # [R, K, T, h, w, 1] bool
    """Whether one of a clip's input views sees the surface at each pixel.

    A surface point is projected into each view and its z-depth compared with the view's own, to within
    `tolerance`: with the interpolated inverse depth (exact on planes) and the nearest pixel's (at depth edges).

    Args:
        depth: z-depth of the pixels of K clips in each room.
        poses: OpenGL poses of the clips' frames.
        intrinsics: Those of the clips' frames.
        sight: The input views.
        uses_view: The views that count for each clip.
        tolerance: Largest difference, as a share of the depth; measured depths need more than exact ones.
    """
    points = _unproject(depth, poses, intrinsics)
    visible = torch.zeros_like(depth, dtype=torch.bool)
    for view in range(sight.poses.shape[1]):
        seen, _ = _seen_by(points, sight.poses[:, view], sight.depth[:, view], sight.intrinsics, tolerance)
        visible |= seen & uses_view[:, :, view, None, None, None, None]
    return visible


@dataclass(frozen=True)
class Matches:
    """For every frame of B clips but the last `gap`, where its surfaces are in the frame `gap` later."""

    gap: int
    """Distance of the two frames."""
    grid: Tensor
    """[B, T - gap, H, W, 2] places in the later frame, as `grid_sample` takes them."""
    visible: Tensor
    """[B, T - gap, H, W, 1] bool: the later frame sees the surface."""

    def __getitem__(self, item: slice | Tensor) -> Matches:
        return Matches(self.gap, self.grid[item], self.visible[item])


def concatenate_matches(parts: list[Matches]) -> Matches:
    """The matches of all clips of several batches, in order."""
    grid, visible = torch.cat([part.grid for part in parts]), torch.cat([part.visible for part in parts])
    return Matches(parts[0].gap, grid, visible)


def match_frames(
    depth: Tensor,  # [B, T, H, W, 1]
    poses: Tensor,  # [B, T, 3, 4]
    intrinsics: Intrinsics,
    gap: int,
) -> Matches:
    """Match each frame with the one `gap` later by true depth (z-depth) and OpenGL poses; see `visible_from_views`."""
    pairs = (len(depth), depth.shape[1] - gap)
    points = _unproject(
        depth[:, :-gap, None].flatten(0, 1)[:, None], poses[:, :-gap].flatten(0, 1)[:, None, None], intrinsics
    )
    later_poses, later_depth = poses[:, gap:].flatten(0, 1), depth[:, gap:].flatten(0, 1)
    visible, grid = _seen_by(points, later_poses, later_depth, intrinsics, DEPTH_TOLERANCE)
    return Matches(gap, grid[:, 0, 0].unflatten(0, pairs), visible[:, 0, 0].unflatten(0, pairs))


def covisible_difference(
    frames: Tensor,  # [T, H, W, 3]
    matches: Matches,  # of one clip: [1, T - gap, ...]
) -> float:
    """Mean absolute difference in colour of surfaces that two frames of a clip show, whatever they ought to look like.

    How far a clip is from showing one rigid scene. Resampling the later frame adds a little to it, even for true clips.
    Not a number where no two frames show the same.
    """
    later = frames[matches.gap :].movedim(-1, 1)
    found = F.grid_sample(later, matches.grid[0].to(later), mode="bilinear", padding_mode="border", align_corners=False)
    difference = (found.movedim(1, -1) - frames[: -matches.gap]).abs()
    return float(difference[matches.visible[0].expand_as(difference)].mean())


def _unproject(depth: Tensor, poses: Tensor, intrinsics: Intrinsics) -> Tensor:  # [R, K, T, h, w, 3]
    fx, fy, cx, cy = intrinsics
    height, width = depth.shape[3:5]
    columns = (torch.arange(width, device=depth.device) + 0.5 - cx) / fx
    rows = (torch.arange(height, device=depth.device) + 0.5 - cy) / fy
    x, y = torch.meshgrid(columns, -rows, indexing="xy")
    rays = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    world = torch.einsum("rktij,hwj->rkthwi", poses[..., :3], rays)
    return depth * world + poses[..., None, None, :, 3]


def _seen_by(
    points: Tensor,  # [R, K, T, h, w, 3]
    view: Tensor,  # [R, 3, 4]
    view_depth: Tensor,  # [R, H, W, 1]
    intrinsics: Intrinsics,
    tolerance: float,
) -> tuple[Tensor, Tensor]:  # [R, K, T, h, w, 1] bool and, as `grid_sample` wants it, where: [R, K, T, h, w, 2]
    fx, fy, cx, cy = intrinsics
    height, width = view_depth.shape[1:3]
    flat = (points.flatten(1, 4) - view[:, None, :, 3]) @ view[:, :, :3]
    distance = -flat[..., 2]
    in_front = distance > 1e-3
    safe = torch.where(in_front, distance, 1.0)
    column, row = fx * flat[..., 0] / safe + cx, cy - fy * flat[..., 1] / safe
    inside = in_front & (column >= 0) & (column <= width) & (row >= 0) & (row <= height)
    grid = torch.stack([2 * column / width - 1, 2 * row / height - 1], dim=-1)[:, None]
    inverse = 1 / view_depth.permute(0, 3, 1, 2).clamp(min=1e-3)

    def agrees(mode: str) -> Tensor:
        own = F.grid_sample(inverse, grid, mode=mode, padding_mode="border", align_corners=False)[:, 0, 0]
        return (own * distance - 1).abs() < tolerance

    seen = inside & (agrees("bilinear") | agrees("nearest"))
    return seen.reshape(*points.shape[:-1], 1), grid.reshape(*points.shape[:-1], 2)
