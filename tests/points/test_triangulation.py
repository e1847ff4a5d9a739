"""Matches and triangulated points, on walls whose places are known, in a procedural room and in the lounge."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

pytest.importorskip("pycolmap", reason="triangulation needs pycolmap (pip install 'pycolmap>=4.2')")

from guidedvd_ns.data.guidedvd_dataparser import GuidedVDDataParserConfig
from guidedvd_ns.points.matching import detect, fundamental_matrix, match, pairs_to_match, triangulate_pairs
from guidedvd_ns.points.sensor import read_depth
from guidedvd_ns.points.triangulation import MAX_REPROJECTION_ERROR, Triangulation, triangulate
from guidedvd_ns.points.views import InputViews, load_input_views
from tests.points.known_scenes import corner_views, distance_to_walls

LOUNGE = Path(os.environ.get("GUIDEDVD_DATA", "../shared/data")) / "rooms" / "lounge"


@pytest.fixture(scope="module")
def corner() -> tuple[InputViews, list[np.ndarray], Triangulation]:
    views, depths = corner_views()
    return views, depths, triangulate(views)


def depth_errors(views: InputViews, found: Triangulation, depths: list[np.ndarray]) -> np.ndarray:
    """Relative errors of all points' depths in all views that observe them."""
    errors = []
    for view, depth in enumerate(depths):
        pixels, distance = views.project(view, found.xyz[found.observed[:, view]].astype(np.float64))
        columns, rows = pixels.astype(int).T
        true = depth[rows.clip(0, depth.shape[0] - 1), columns.clip(0, depth.shape[1] - 1)]
        errors.append(np.abs(distance - true) / true)
    return np.concatenate(errors)


def test_points_of_two_views_are_on_epipolar_lines_and_found_again():
    views, _ = corner_views(2)
    xyz = np.random.default_rng(0).uniform(0, 1, size=(30, 3))
    first, second = (views.project(view, xyz)[0] for view in (0, 1))
    matrix = fundamental_matrix(views, (0, 1))
    p, q = (np.concatenate([pixels, np.ones((30, 1))], axis=1) for pixels in (first, second))
    lines = p @ matrix.T
    assert np.abs((lines * q).sum(axis=1) / np.linalg.norm(lines[:, :2], axis=1)).max() < 1e-3
    np.testing.assert_allclose(triangulate_pairs(views, (0, 1), (first, second)), xyz, atol=1e-4)


def test_pixel_centres_are_at_one_half():
    views, _ = corner_views(1)
    rows, columns = np.mgrid[:120, :160]
    blob = 200 * np.exp(-((columns + 0.5 - 70.5) ** 2 + (rows + 0.5 - 40.0) ** 2) / 18)
    views.images[0] = np.repeat(blob[..., None], 3, axis=2).astype(np.uint8)
    np.testing.assert_allclose(detect(views)[0].pixels[0], [70.5, 40.0], atol=0.05)


def test_no_feature_is_on_a_masked_pixel():
    views, _ = corner_views(1)
    everywhere = detect(views)[0]
    views.masks[0] = np.arange(160)[None].repeat(120, axis=0) >= 80
    kept = detect(views)[0]
    assert (kept.pixels[:, 0] >= 80).all()
    assert len(kept) == (everywhere.pixels[:, 0] >= 80).sum() > 20


def test_matches_show_the_same_place():
    views, depths = corner_views(2)
    features = detect(views)
    found = match(views, (0, 1), features)
    assert len(found.features) > 50
    start = features[0].pixels[found.features[:, 0]]
    columns, rows = start.astype(int).T
    true, _ = views.project(1, views.unproject(0, start, depths[0][rows, columns]))
    error = np.linalg.norm(true - features[1].pixels[found.features[:, 1]], axis=1)
    assert np.median(error) < 0.5
    assert (error > 3).mean() < 0.05
    assert (error[found.distinctive] > 3).mean() < 0.02


def test_points_lie_on_the_walls(corner):
    views, depths, found = corner
    assert len(found) > 150
    assert np.median(depth_errors(views, found, depths)) < 0.003
    assert (distance_to_walls(found.xyz) > 0.1).mean() < 0.03
    assert np.ptp(found.xyz[:, 2]) > 1.0


def test_points_are_observed_by_two_views_within_the_error(corner):
    views, _, found = corner
    assert found.observed.shape == (len(found), 4) and (found.observed.sum(axis=1) >= 2).all()
    assert (found.observed.sum(axis=1) >= 3).mean() > 0.2
    for view in range(4):
        pixels, depth = views.project(view, found.xyz[found.observed[:, view]].astype(np.float64))
        margin = MAX_REPROJECTION_ERROR
        assert (depth > 0).all()
        assert (pixels > -margin).all() and (pixels < np.array([160, 120]) + margin).all()


def test_points_have_the_colours_of_the_walls(corner):
    views, _, found = corner
    pixels, _ = views.project(0, found.xyz[found.observed[:, 0]].astype(np.float64))
    seen = views.colours(0, pixels).astype(float)
    assert np.abs(seen - found.rgb[found.observed[:, 0]]).mean() < 12


def test_the_result_is_always_the_same(corner):
    views, _, found = corner
    again = triangulate(views)
    np.testing.assert_array_equal(again.xyz, found.xyz)
    np.testing.assert_array_equal(again.rgb, found.rgb)


def test_images_without_features_give_no_points():
    views, _ = corner_views(2)
    views.images[:] = [np.full((120, 160, 3), 90, dtype=np.uint8)] * 2
    found = triangulate(views)
    assert found.xyz.shape == (0, 3) and found.rgb.shape == (0, 3) and found.observed.shape == (0, 2)


def test_of_many_views_only_close_pairs_are_matched():
    count = 30
    poses = torch.eye(4)[None, :3].repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count) * 0.1
    cameras = Cameras(poses, fx=50.0, fy=50.0, cx=24.0, cy=16.0, width=48, height=32)
    views = InputViews(cameras, [np.zeros((32, 48, 3), np.uint8)] * count, [None] * count)
    pairs = pairs_to_match(views)
    assert len(pairs) < count * 12 and all(first < second for first, second in pairs)
    assert {(view, view + 1) for view in range(count - 1)} <= set(pairs)
    few = InputViews(cameras[:6], views.images[:6], views.masks[:6])
    assert len(pairs_to_match(few)) == 15


def test_points_of_a_procedural_room():
    from guidedvd_ns.data.rooms import HELD_OUT_SEEDS, Room, render, sample_views

    room = Room.sample(HELD_OUT_SEEDS + 9)
    poses = sample_views(room, 9, 18)[4:10:2]
    lens = (165.0, 165.0, 120.0, 90.0)
    shown = render(room, poses[None], lens, 180, 240)
    cameras = Cameras(poses, fx=lens[0], fy=lens[1], cx=lens[2], cy=lens[3], width=240, height=180)
    images = [(image * 255).round().byte().numpy() for image in shown.rgb[0]]
    views = InputViews(cameras, images, [None] * 3)
    found = triangulate(views)
    assert len(found) > 80
    assert np.median(depth_errors(views, found, list(shown.depth[0, ..., 0].double().numpy()))) < 0.03


@pytest.mark.skipif(not LOUNGE.is_dir(), reason="needs ../shared/data/rooms/lounge")
def test_points_of_the_lounge(tmp_path):
    outputs = GuidedVDDataParserConfig(data=LOUNGE, cache_dir=tmp_path).setup().get_dataparser_outputs("train")
    views = load_input_views(outputs, range(6))
    found = triangulate(views)
    errors = depth_errors(views, found, [read_depth(outputs, view) for view in range(6)])
    assert len(found) > 1000
    assert np.median(errors) < 0.005  # the issue asks for 2 %
    assert (errors > 0.1).mean() < 0.03
