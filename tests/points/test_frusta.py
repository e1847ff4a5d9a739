"""Random points in frusta: where they lie, what colour they have, and from which depths they come."""

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.points.frusta import frusta_depth_range, random_points_in_frusta

SIZE = 64


def make_cameras(eyes: Tensor, targets: Tensor) -> Cameras:
    """Cameras with a 90 degree field of view, +z up."""
    backward = torch.nn.functional.normalize(eyes - targets, dim=-1)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor([0.0, 0, 1]).expand_as(eyes), backward), dim=-1
    )
    poses = torch.stack([right, torch.linalg.cross(backward, right), backward, eyes], dim=-1)
    half = SIZE / 2
    return Cameras(camera_to_worlds=poses, fx=half, fy=half, cx=half, cy=half, width=SIZE, height=SIZE)


def ring(count: int = 8, radius: float = 2.0) -> Cameras:
    angles = torch.arange(count) * (2 * math.pi / count)
    eyes = radius * torch.stack([angles.cos(), angles.sin(), torch.zeros(count)], dim=-1)
    return make_cameras(eyes, torch.zeros_like(eyes))


def row(count: int = 4, spacing: float = 0.1) -> Cameras:
    """Parallel cameras side by side, looking along +y."""
    eyes = torch.stack([spacing * torch.arange(count), torch.zeros(count), torch.zeros(count)], dim=-1)
    return make_cameras(eyes, eyes + torch.tensor([0.0, 1.0, 0.0]))


def image_coordinates(cameras: Cameras, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [C, N, 2] and depths [C, N]."""
    poses = cameras.camera_to_worlds
    local = torch.einsum("cni,cij->cnj", xyz[None] - poses[:, None, :, 3], poses[:, :, :3])
    depth = -local[..., 2]
    pixels = torch.stack([local[..., 0], -local[..., 1]], dim=-1) / depth[..., None] * SIZE / 2 + SIZE / 2
    return pixels, depth


@pytest.mark.parametrize("cameras", [ring(), row()], ids=["ring", "row"])
def test_points_are_seen_by_two_views_and_close_to_none(cameras: Cameras) -> None:
    xyz, rgb = random_points_in_frusta(cameras, 500, seed=1, near=0.5, far=4.0)
    assert xyz.shape == (500, 3) and rgb.shape == (500, 3) and rgb.dtype == torch.uint8
    pixels, depth = image_coordinates(cameras, xyz)
    seen = (depth > 0) & ((pixels > -1e-3) & (pixels < SIZE + 1e-3)).all(-1)
    assert (seen.sum(0) >= 2).all()
    assert depth[seen].min() > 0.499
    assert (depth.masked_fill(~seen, 99).min(0).values < 4.001).all()


def test_depths_are_even_in_their_logarithm() -> None:
    # Two views at almost the same place see the same points: nothing is rejected.
    xyz, _ = random_points_in_frusta(row(2, spacing=1e-4), 4000, seed=0, near=1.0, far=16.0)
    logarithm = xyz[:, 1].log2()
    counts = torch.histc(logarithm, bins=4, min=0, max=4)
    assert (counts - 1000).abs().max() < 120


def test_the_seed_decides() -> None:
    first, again, other = (random_points_in_frusta(ring(), 50, seed, near=0.5, far=4.0) for seed in (3, 3, 4))
    assert first[0].equal(again[0]) and first[1].equal(again[1])
    assert not first[0].equal(other[0])


def test_a_point_has_the_colour_of_its_pixel() -> None:
    # Colours name view, row and column, so each point says from where it was drawn.
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images = [torch.stack([torch.full_like(x, view), y, x], dim=-1).to(torch.uint8) for view in range(4)]
    cameras = row()
    xyz, rgb = random_points_in_frusta(cameras, 300, seed=0, near=0.5, far=4.0, images=images)
    pixels, _ = image_coordinates(cameras, xyz)
    drawn = pixels[rgb[:, 0].long(), torch.arange(300)]
    error = drawn - (rgb[:, [2, 1]].float() + 0.5)
    assert error.abs().max() < 0.51


def test_no_ray_goes_through_a_masked_pixel() -> None:
    cameras = row()
    image = torch.full((SIZE, SIZE, 3), 100, dtype=torch.uint8)
    image[:, :20] = 255
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    mask[:, :20] = False
    options = {"near": 0.5, "far": 5.0, "images": [image] * 4}
    _, unmasked = random_points_in_frusta(cameras, 500, 0, **options)
    assert (unmasked == 255).any()
    xyz, rgb = random_points_in_frusta(cameras, 500, 0, **options, masks=[mask, mask, None, mask])
    assert len(xyz) == 500
    pixels, depths = image_coordinates(cameras, xyz)
    from_masked_view = (rgb == 255).all(dim=-1)
    # Only the third view's rays may have the masked colour.
    columns = pixels[2, from_masked_view, 0]
    assert (columns < 20.5).all() and from_masked_view.float().mean() < (unmasked == 255).float().mean()


def test_the_count_is_kept_where_no_two_views_overlap() -> None:
    eyes = torch.tensor([[0.0, 0, 0], [0.0, 1, 0]])
    away = make_cameras(eyes, eyes + torch.tensor([[0.0, -1, 0], [0.0, 1, 0]]))
    near, far = frusta_depth_range(away)
    assert (near, far) == pytest.approx((0.2, 5.0))
    assert len(random_points_in_frusta(away, 100, seed=0, near=near, far=far)[0]) == 100


def test_the_range_of_a_ring_holds_its_centre() -> None:
    near, far = frusta_depth_range(ring(radius=2.0))
    assert 0 < near < 2.0 < far < 12.0


def test_the_range_follows_the_scale_of_the_scene() -> None:
    small, large = frusta_depth_range(ring(radius=1.0)), frusta_depth_range(ring(radius=50.0))
    assert large == pytest.approx([50 * depth for depth in small], rel=1e-3)


def test_the_range_of_parallel_views_starts_where_they_overlap() -> None:
    # Two 90 degree views at a distance b share half of their pixels at the depth b.
    near, far = frusta_depth_range(row(2, spacing=0.1))
    assert near == pytest.approx(0.1, rel=0.2)
    assert far > 1.0


def test_depths_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="0 < near < far"):
        random_points_in_frusta(ring(), 10, seed=0, near=2.0, far=1.0)
