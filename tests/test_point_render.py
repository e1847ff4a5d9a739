"""Point clouds as cameras see them: where a point lands, which one is in front, what stays a hole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.point_render import MAX_RADIUS, RADIUS, PointCloud, closing_radius
from tests.scenes import cameras

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
SIZE = (24, 32)


def _cloud(*points: tuple[tuple[float, float, float], tuple[float, float, float]]) -> PointCloud:
    return PointCloud(torch.tensor([xyz for xyz, _ in points]), torch.tensor([rgb for _, rgb in points]))


def _in_pixel(column: float, row: float, depth: float) -> tuple[float, float, float]:
    """The point at image coordinates (column, row) of the first camera of `scenes.cameras()` (32x24, focal 32)."""
    return ((column - 16) / 32 * depth, -(row - 12) / 32 * depth, -depth)


def _plane(depth: float, colour: tuple[float, float, float], columns: range = range(32)) -> PointCloud:
    """One point in the centre of each pixel."""
    return _cloud(*((_in_pixel(c + 0.5, r + 0.5, depth), colour) for r in range(24) for c in columns))


def _join(*clouds: PointCloud) -> PointCloud:
    return PointCloud(torch.cat([cloud.xyz for cloud in clouds]), torch.cat([cloud.rgb for cloud in clouds]))


def _covered(cloud: PointCloud, view: Cameras, size: tuple[int, int] = SIZE, radius: float = 0.0) -> Tensor:
    """Columns and rows of the covered pixels of one camera, [M, 2]."""
    _, covered = replace(cloud, radius=radius).render(view, size)
    return covered[0, :, :, 0].nonzero().flip(-1)


def test_a_point_lands_in_the_pixel_of_its_projection():
    cloud = _cloud((_in_pixel(20.7, 5.2, 2.0), RED))
    image, covered = cloud.render(cameras(), SIZE)
    assert image.shape == (1, 24, 32, 3) and covered.dtype == torch.bool
    assert _covered(cloud, cameras()).tolist() == [[20, 5]]
    assert image[0, 5, 20].tolist() == [1, 0, 0] and image.sum() == 1


def test_each_camera_and_each_size_has_its_own_projection():
    cloud = _cloud((_in_pixel(20.5, 12.5, 2.0), RED))
    _, covered = cloud.render(cameras(3), SIZE)
    # Cameras stand 0.1 apart: at depth 2 and focal length 32 that is 1.6 pixels.
    assert covered[..., 0].nonzero()[:, 2].tolist() == [20, 18, 17]
    assert _covered(cloud, cameras(), (48, 32)).tolist() == [[20, 25]]
    assert _covered(cloud, cameras(), (12, 64)).tolist() == [[41, 6]]


def test_the_closest_point_wins_whatever_the_order():
    near, far = (_in_pixel(10.5, 10.5, 1.0), RED), (_in_pixel(10.5, 10.5, 3.0), GREEN)
    for cloud in (_cloud(near, far), _cloud(far, near)):
        assert cloud.render(cameras(), SIZE)[0][0, 10, 10].tolist() == [1, 0, 0]


def test_of_equally_close_points_the_first_wins():
    here = _in_pixel(10.5, 10.5, 1.0)
    assert _cloud((here, GREEN), (here, RED)).render(cameras(), SIZE)[0][0, 10, 10].tolist() == [0, 1, 0]


def test_a_point_is_a_disc():
    cloud = _cloud((_in_pixel(16.5, 12.5, 2.0), RED))
    pixels = _covered(cloud, cameras(), radius=2.3 / 24)
    distances = (pixels - torch.tensor([16, 12])).float().norm(dim=-1)
    assert distances.max() <= 2.3 and len(pixels) == 21  # the 5x5 square without its corners


def test_discs_reach_into_the_image_from_outside_and_end_at_its_border():
    pixels = _covered(_cloud((_in_pixel(-0.5, 12.5, 2.0), RED)), cameras(), radius=1.5 / 24)
    assert sorted(pixels.tolist()) == [[0, 11], [0, 12], [0, 13]]
    assert len(_covered(_cloud((_in_pixel(31.5, 23.5, 2.0), RED)), cameras(), radius=1.5 / 24)) == 4


def test_what_lies_behind_the_camera_or_at_it_is_not_seen():
    cloud = _cloud(((0.0, 0.0, 1.0), RED), ((0.0, 0.0, 0.0), RED), ((0.0, 0.0, -1.0), GREEN))
    image, covered = cloud.render(cameras(), SIZE)
    assert covered.sum() == 1 and image.sum() == 1 and image[..., 1].sum() == 1


def test_no_points_are_a_black_hole():
    image, covered = PointCloud(torch.zeros(0, 3), torch.zeros(0, 3)).render(cameras(2), SIZE)
    assert not image.any() and not covered.any() and image.shape == (2, 24, 32, 3)


def test_moving_sideways_uncovers_a_hole_of_the_width_that_parallax_says():
    """A near plane before a far one: where the second camera looks behind the near one there is no point."""
    scene = _join(_plane(1.0, RED, range(12, 20)), _plane(4.0, GREEN)).seen_from(cameras(), SIZE)
    image, covered = scene.render(cameras(3)[2:], SIZE)
    # Moved by 0.2: near points shift by 32 * 0.2 / 1 = 6.4 pixels, far ones by 1.6; 4.8 are uncovered.
    holes = (~covered[0, 12, :30, 0]).sum().item()
    assert math.floor(4.8) <= holes <= math.ceil(4.8)
    assert image[0, 12, 6:12, 0].sum() >= 5 and not image[~covered.expand_as(image)].any()


def test_only_points_that_the_view_sees_are_kept():
    near, far, outside = _plane(1.0, RED, range(16)), _plane(4.0, GREEN), _cloud((_in_pixel(40.0, 5.0, 2.0), RED))
    seen = _join(near, far, outside).seen_from(cameras(), SIZE)
    assert len(seen.xyz) == 24 * 32
    assert torch.equal(seen.xyz, torch.cat([near.xyz, far.xyz.reshape(24, 32, 3)[:, 16:].reshape(-1, 3)]))


def test_discs_of_points_at_random_places_close_the_image():
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(4000, 2, generator=generator) * torch.tensor([32.0, 24.0])
    xyz = torch.tensor([_in_pixel(x, y, 2.0) for x, y in places.tolist()])
    seen = PointCloud(xyz, torch.ones_like(xyz)).seen_from(cameras(), (240, 320))
    assert len(seen.xyz) == 4000 and RADIUS < seen.radius < MAX_RADIUS
    _, covered = seen.render(cameras(), (240, 320))
    assert covered.float().mean().item() == pytest.approx(1 - math.exp(-math.pi), abs=0.02)


def test_radius_follows_density_within_bounds():
    assert closing_radius(10, (320, 448)) == MAX_RADIUS and closing_radius(0, (320, 448)) == MAX_RADIUS
    assert closing_radius(320 * 448, (320, 448)) == RADIUS
    assert closing_radius(10_000, (320, 448)) * 320 == pytest.approx(math.sqrt(320 * 448 / 10_000))


def test_a_slanted_surface_does_not_hide_itself():
    row, column = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    depth = 1 + column / 32
    xyz = torch.stack([(column - 16) / 32 * depth, -(row - 12) / 32 * depth, -depth], dim=-1).reshape(-1, 3)
    seen = PointCloud(xyz, torch.ones_like(xyz)).seen_from(cameras(), SIZE)
    assert len(seen.xyz) > 0.98 * len(xyz)


@pytest.mark.gpu
def test_cuda_draws_the_same_images():
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(5000, 3, generator=generator) * torch.tensor([4.0, 3.0, -4.0]) - torch.tensor([2.0, 1.5, 0.0])
    cloud = PointCloud(xyz, torch.rand(5000, 3, generator=generator))
    on_gpu = PointCloud(cloud.xyz.cuda(), cloud.rgb.cuda())
    image, covered = cloud.render(cameras(3), (48, 64))
    image_gpu, covered_gpu = on_gpu.render(cameras(3), (48, 64))
    same = (image == image_gpu.cpu()).all(dim=-1, keepdim=True) & (covered == covered_gpu.cpu())
    assert same.float().mean() > 0.999  # projections differ in their last bit
    assert torch.equal(on_gpu.render(cameras(3), (48, 64))[0], image_gpu)
