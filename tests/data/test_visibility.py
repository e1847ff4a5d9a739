"""Known masks against brute force: a point is visible if nothing lies between it and a view."""

import math

import pytest
import torch

from guidedvd_ns.data.rooms import look_at
from guidedvd_ns.data.visibility import Sight, covisible_difference, match_frames, visible_from_views

HEIGHT, WIDTH = 24, 32
INTRINSICS = (28.0, 28.0, 16.0, 12.0)
WALL = 4.0
"""The scene: a wall at y = WALL and, in front of it, a square of half side 0.5 at y = 2, centred on the y axis."""


def _rays(pose: torch.Tensor) -> torch.Tensor:  # [H, W, 3], z-depth 1
    fx, fy, cx, cy = INTRINSICS
    columns, rows = torch.meshgrid(torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT) + 0.5, indexing="xy")
    local = torch.stack([(columns - cx) / fx, (cy - rows) / fy, -torch.ones_like(columns)], dim=-1)
    return local @ pose[:, :3].T


def _depth(pose: torch.Tensor) -> torch.Tensor:  # [H, W, 1]
    rays, origin = _rays(pose), pose[:, 3]
    to_square = (2 - origin[1]) / rays[..., 1]
    hit = origin + to_square[..., None] * rays
    on_square = (hit[..., 0].abs() <= 0.5) & (hit[..., 2].abs() <= 0.5)
    return torch.where(on_square, to_square, (WALL - origin[1]) / rays[..., 1])[..., None]


def _sees(view: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Brute force: inside the view's image, and the segment from view to point does not cross the square."""
    fx, fy, cx, cy = INTRINSICS
    local = (points - view[:, 3]) @ view[:, :3]
    column, row = fx * local[..., 0] / -local[..., 2] + cx, cy - fy * local[..., 1] / -local[..., 2]
    inside = (local[..., 2] < 0) & (column > 0) & (column < WIDTH) & (row > 0) & (row < HEIGHT)
    share = (2 - view[1, 3]) / (points[..., 1] - view[1, 3])
    crossing = view[:, 3] + share[..., None] * (points - view[:, 3])
    blocked = (crossing[..., 0].abs() <= 0.5) & (crossing[..., 2].abs() <= 0.5) & (share < 0.999)
    return inside & ~blocked


def _pose(x: float, z: float, yaw: float = 0.0) -> torch.Tensor:
    position = torch.tensor([x, 0.0, z])
    return look_at(position, position + torch.tensor([math.sin(yaw), math.cos(yaw), 0.0]))


@pytest.mark.parametrize("uses", [(True, False), (False, True), (True, True)])
def test_known_pixels_are_those_that_a_view_really_sees(uses):
    views = torch.stack([_pose(-0.6, 0.0), _pose(0.9, 0.2, -0.25)])
    poses = torch.stack([_pose(-0.6, 0.0), _pose(0.0, 0.1, 0.1), _pose(0.7, 0.0, 0.2)])
    depth = torch.stack([_depth(pose) for pose in poses])
    sight = Sight(views[None], torch.stack([_depth(view) for view in views])[None], INTRINSICS)
    found = visible_from_views(depth[None, None], poses[None, None], INTRINSICS, sight, torch.tensor([[uses]]))
    expected = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    for frame, pose in enumerate(poses):
        points = pose[:, 3] + depth[frame] * _rays(pose)
        for view, used in zip(views, uses, strict=True):
            expected[frame] |= used & _sees(view, points)
    disagreement = (found[0, 0, ..., 0] != expected).float().mean(dim=(1, 2))
    # Only pixels at the silhouette of the square may differ: a view knows its depth there to a pixel.
    assert disagreement.max() < 0.04
    assert 0.2 < expected.float().mean() < 0.98


def test_a_view_knows_all_of_itself():
    view = _pose(0.3, 0.1, 0.1)
    depth = _depth(view)[None, None, None]
    sight = Sight(view[None, None], depth[:, 0], INTRINSICS)
    uses = torch.ones(1, 1, 1, dtype=torch.bool)
    assert visible_from_views(depth, view[None, None, None], INTRINSICS, sight, uses).all()


def test_matched_frames_show_the_same_colours():
    poses = torch.stack([_pose(-0.6, 0.0), _pose(0.0, 0.1, 0.1), _pose(0.7, 0.0, 0.2)])
    depth = torch.stack([_depth(pose) for pose in poses])
    points = poses[:, None, None, :, 3] + depth * torch.stack([_rays(pose) for pose in poses])
    # Colours that change slowly over the scene's two planes, so that resampling errs little.
    frames = 0.5 + 0.1 * points
    matches = match_frames(depth[None], poses[None], INTRINSICS, gap=2)
    assert matches.grid.shape == (1, 1, HEIGHT, WIDTH, 2)
    seen = matches.visible[0, 0]
    disagreement = (seen[..., 0] != _sees(poses[2], points[0])).float().mean()
    assert 0.2 < float(seen.float().mean()) < 0.95 and float(disagreement) < 0.05
    truth = covisible_difference(frames, matches)
    assert truth < 0.005
    # What flickers differs by as much as it flickers; where it lies does not matter.
    flickering = frames + torch.tensor([0.0, 0.3, 0.2])[:, None, None, None]
    assert covisible_difference(flickering, matches) == pytest.approx(0.2, abs=0.01)
