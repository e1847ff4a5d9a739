"""Sensor depth: units, files, and points on the walls that were measured."""

import numpy as np
import pytest
import torch

from guidedvd_ns.points.sensor import has_sensor_depth, read_depth, sensor_points
from guidedvd_ns.points.views import load_input_views
from tests.points.captures import corner_outputs
from tests.points.known_scenes import corner_views, distance_to_walls


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_depths_are_in_scene_units(tmp_path, kind):
    outputs = corner_outputs(tmp_path, depth=kind)
    _, depths = corner_views(3)
    for view in range(3):
        np.testing.assert_allclose(read_depth(outputs, view), depths[view], atol=3e-4)


def test_points_lie_on_the_walls(tmp_path):
    outputs = corner_outputs(tmp_path, depth="png")
    views = load_input_views(outputs, [0, 2])
    xyz, rgb = sensor_points(outputs, views, [0, 2], 400, seed=0)
    assert xyz.shape == rgb.shape == (400, 3)
    assert distance_to_walls(xyz).max() < 1e-3
    # The view in the middle sees them all too; points of a wrong view's depth would lie beside the walls.
    assert (views.project(1, xyz.astype(np.float64))[1] > 0).all()


def test_what_is_not_finite_is_unknown(tmp_path):
    outputs = corner_outputs(tmp_path, depth="npy")
    path = outputs.metadata["depth_filenames"][1]
    values = np.load(path)
    values[5, 7], values[6, 8] = np.nan, np.inf
    np.save(path, values)
    depth = read_depth(outputs, 1)
    assert depth[5, 7] == depth[6, 8] == 0 and (depth > 0).sum() == depth.size - 2


def test_all_views_or_none_have_depth(tmp_path):
    assert not has_sensor_depth(corner_outputs(tmp_path))
    outputs = corner_outputs(tmp_path, depth="png")
    assert has_sensor_depth(outputs)
    outputs.cameras.distortion_params = torch.tensor([[0.1, 0, 0, 0, 0, 0]]).repeat(3, 1)
    assert not has_sensor_depth(outputs)
    outputs.cameras.distortion_params.zero_()
    assert has_sensor_depth(outputs)
    outputs.metadata["depth_filenames"].pop()
    assert not has_sensor_depth(outputs)


def test_a_missing_file_is_named(tmp_path):
    outputs = corner_outputs(tmp_path, depth="png")
    outputs.metadata["depth_filenames"][1].unlink()
    with pytest.raises(FileNotFoundError, match=r"depth_1\.png does not exist"):
        read_depth(outputs, 1)


def test_a_file_that_is_no_depth_map_is_named(tmp_path):
    for kind in ("png", "npy"):
        outputs = corner_outputs(tmp_path, depth=kind)
        outputs.metadata["depth_filenames"][1].write_text("no depth")
        with pytest.raises(ValueError, match=rf"depth_1\.{kind} is not"):
            read_depth(outputs, 1)
