"""Fused depth maps: points on the walls, without edges, masked pixels and what other views see through."""

import numpy as np
import pytest

from guidedvd_ns.points.fusion import fuse
from tests.points.known_scenes import corner_views, distance_to_walls


@pytest.fixture(scope="module")
def corner():
    return corner_views(3)


def test_points_lie_on_the_walls_and_have_their_colours(corner):
    views, depths = corner
    xyz, rgb = fuse(views, depths, 500, seed=0, tolerance=0.02)
    assert xyz.shape == (500, 3) and xyz.dtype == np.float32 and rgb.dtype == np.uint8
    assert distance_to_walls(xyz).max() < 1e-4
    pixels, _ = views.project(0, xyz.astype(np.float64))
    inside = ((pixels > 1) & (pixels < [159, 119])).all(axis=1)
    error = np.abs(views.colours(0, pixels[inside]).astype(float) - rgb[inside])
    assert inside.sum() > 200 and np.median(error) < 6


def test_maps_may_be_smaller_than_images(corner):
    views, depths = corner
    # Every other pixel: the centre of a small map's pixel lies a quarter of it beside that of the large one's.
    xyz, _ = fuse(views, [depth[::2, ::2] for depth in depths], 300, seed=0, tolerance=0.05)
    assert len(xyz) == 300 and distance_to_walls(xyz).max() < 0.03


def test_the_seed_decides(corner):
    views, depths = corner
    first, again, other = (fuse(views, depths, 100, seed, 0.02) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_a_surface_is_taken_once(corner):
    views, depths = corner
    enough = 200_000
    alone, _ = fuse(views, [depths[0], None, None], enough, 0, 0.02)
    twice, _ = fuse(views, [depths[0], depths[0] * 0, depths[2]], enough, 0, 0.02)
    added = twice[len(alone) :]
    pixels, _ = views.project(0, added.astype(np.float64))
    outside = ((pixels < 0) | (pixels > [160, 120])).any(axis=1)
    assert np.array_equal(twice[: len(alone)], alone) and outside.mean() > 0.95


def test_what_two_views_see_through_is_dropped(corner):
    views, depths = corner
    wrong = depths[0].copy()
    wrong[40:80, 60:100] *= 0.6
    kept, _ = fuse(views, [wrong, depths[1], depths[2]], 100_000, 0, 0.02)
    assert distance_to_walls(kept).max() < 1e-4
    alone, _ = fuse(views, [wrong, None, None], 100_000, 0, 0.02)
    assert (distance_to_walls(alone) > 0.3).sum() > 500


def test_what_is_hidden_from_others_stays(corner):
    views, depths = corner
    near = [depths[0], depths[1] * 0.5, depths[2] * 0.5]
    kept, _ = fuse(views, near, 200_000, 0, 0.02)
    assert (distance_to_walls(kept) < 1e-4).sum() > 0.8 * depths[0].size


def test_no_point_comes_from_masked_pixels_unknown_ones_or_edges(corner):
    views, depths = corner
    step = np.full((120, 160), 2.0)
    step[:, 80:] = 3.0
    step[50, 20] = 0.0
    mask = np.ones((120, 160), dtype=bool)
    mask[:30] = False
    views.masks[0] = mask
    xyz, _ = fuse(views, [step, None, None], 100_000, 0, 0.02)
    views.masks[0] = None
    pixels = np.round(views.project(0, xyz.astype(np.float64))[0] - 0.5).astype(int)
    used = np.zeros((120, 160), dtype=bool)
    used[pixels[:, 1], pixels[:, 0]] = True
    expected = mask.copy()
    expected[:, 79:81] = False
    expected[49:52, 19:22] = False
    assert np.array_equal(used, expected)


def test_no_depth_gives_no_points(corner):
    views, depths = corner
    for empty in ([None] * 3, [np.zeros_like(depth) for depth in depths]):
        xyz, rgb = fuse(views, empty, 10, 0, 0.02)
        assert xyz.shape == (0, 3) and rgb.shape == (0, 3)
