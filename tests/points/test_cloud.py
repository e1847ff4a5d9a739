"""A data set's own cloud: what no input view has in its image, or sees for what is before it, is left out."""

import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.points.cloud import seen_points


def row_of_cameras(count: int, size: int = 64) -> Cameras:
    """At the origin and a little to the right, looking along -z."""
    poses = torch.eye(4)[None, :3].repeat(count, 1, 1)
    poses[:, 0, 3] = 0.2 * torch.arange(count)
    half = size / 2
    return Cameras(poses, fx=half, fy=half, cx=half, cy=half, width=size, height=size)


def wall(depth: float, half: float, steps: int = 60) -> torch.Tensor:
    line = torch.linspace(-half, half, steps)
    x, y = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, -depth)], dim=-1).reshape(-1, 3)


def test_points_outside_all_images_are_left_out():
    inside = torch.tensor([[0.0, 0.0, -2.0], [1.9, 0.0, -2.0], [2.1, 0.0, -2.0]])
    outside = torch.tensor([[0.0, 0.0, 2.0], [-2.1, 0.0, -2.0], [0.0, 2.1, -2.0]])
    xyz = torch.cat([outside[:1], inside, outside[1:]])
    # The second camera, at x = 0.2, has the third point in its image.
    assert seen_points(row_of_cameras(2), xyz, may_be_hidden=True).tolist() == [1, 2, 3]
    assert seen_points(row_of_cameras(1), xyz, may_be_hidden=True).tolist() == [1, 2]


def test_points_behind_a_wall_are_left_out_where_they_may_be_hidden():
    near, far = wall(1.0, 0.5), wall(2.0, 1.8)
    xyz = torch.cat([near, far])
    seen = seen_points(row_of_cameras(1), xyz, may_be_hidden=True)
    expected_far = (far[:, :2].abs() > 1.0).any(dim=1)
    beside = (far[:, :2].abs().max(dim=1).values - 1.0).abs() > 0.1
    found = torch.isin(torch.arange(len(far)) + len(near), seen)
    assert torch.isin(torch.arange(len(near)), seen).all()
    assert torch.equal(found[beside], expected_far[beside])
    assert len(seen_points(row_of_cameras(1), xyz, may_be_hidden=False)) == len(xyz)


def test_one_view_that_sees_a_point_is_enough():
    near, far = wall(1.0, 0.5), wall(2.0, 1.8)
    xyz = torch.cat([near, far])
    alone = seen_points(row_of_cameras(1), xyz, may_be_hidden=True)
    together = seen_points(row_of_cameras(4), xyz, may_be_hidden=True)
    assert set(alone.tolist()) < set(together.tolist())


def test_noise_on_a_surface_hides_nothing():
    xyz = wall(2.0, 1.5)
    xyz *= 1 + 0.01 * torch.randn(len(xyz), 1, generator=torch.Generator().manual_seed(0))
    assert len(seen_points(row_of_cameras(1), xyz, may_be_hidden=True)) > 0.97 * len(xyz)
