"""The choice of initial points: order, sentences, cache; and that only training makes them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.points import choice
from guidedvd_ns.points.choice import InitialPoints, PointSettings, initial_points
from tests.points.captures import corner_outputs
from tests.points.known_scenes import corner_views, distance_to_walls
from tests.scenes import write_capture

needs_pycolmap = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason="needs pycolmap (pip install 'pycolmap>=4.2')"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GUIDEDVD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "points"


def choose(outputs, source="auto", **settings) -> tuple[InitialPoints, str]:
    """The points, and what was said about them."""
    with CONSOLE.capture() as said:
        points = initial_points(outputs, PointSettings(source, **settings))
    return points, " ".join(re.sub(r"choice\.py:\d+", "", said.get()).split())


def without(monkeypatch, module: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else real(name, *rest))


def known_model(name: str, device: str):
    """In place of load_depth_model: right up to scale and shift."""
    views, depths = corner_views(3)
    answers = {image.tobytes(): 7 / depth + 2 for image, depth in zip(views.images, depths, strict=True)}
    return lambda image: answers[image.tobytes()]


@needs_pycolmap
def test_auto_takes_the_best_that_is_at_hand(tmp_path, monkeypatch):
    all_of_it = corner_outputs(tmp_path / "all", depth="png", points=300)
    points, said = choose(all_of_it)
    assert points.source == "dataset" and "from the data set's own cloud." in said

    del all_of_it.metadata["points3D_xyz"]
    points, said = choose(all_of_it)
    assert points.source == "sensor" and "from the sensor's depth." in said

    images = corner_outputs(tmp_path / "images")
    points, said = choose(images)
    assert points.source == "triangulate" and f"Initial points: {len(points)} from triangulation." in said

    monkeypatch.setattr(choice, "is_at_hand", lambda name: True)
    monkeypatch.setattr(choice, "load_depth_model", known_model)
    points, said = choose(images)
    assert points.source == "depth" and "from monocular depth." in said


def test_auto_says_why_points_are_random(tmp_path, monkeypatch):
    without(monkeypatch, "pycolmap")
    points, said = choose(corner_outputs(tmp_path))
    assert points.source == "random" and len(points) == 30_000
    assert "pip install 'pycolmap>=4.2'" in said


def test_random_points_of_the_dataparser_are_taken_as_they_are(tmp_path):
    outputs = corner_outputs(tmp_path, points=50)
    outputs.metadata["points3D_source"] = "random"
    points, _ = choose(outputs, "random")
    assert points.xyz.equal(outputs.metadata["points3D_xyz"]) and points.rgb.equal(outputs.metadata["points3D_rgb"])


@needs_pycolmap
def test_auto_passes_over_sources_that_give_little(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "MIN_POINTS", 10_000)
    points, said = choose(corner_outputs(tmp_path, points=300))
    assert points.source == "random"
    assert "the data set's own cloud gave only 300; triangulation gave only" in said


@pytest.mark.parametrize(
    "source", ["dataset", "sensor", "random", *(pytest.param(name, marks=needs_pycolmap) for name in ("triangulate",))]
)
def test_each_source_can_be_asked_for(tmp_path, source):
    points, _ = choose(corner_outputs(tmp_path, depth="npy", points=300), source, max_points=200)
    assert points.source == source
    assert points.xyz.dtype == torch.float32 and points.rgb.dtype == torch.uint8
    assert points.xyz.shape == points.rgb.shape == (len(points), 3)
    if source != "random":
        assert np.median(distance_to_walls(points.xyz.numpy())) < 0.01
    if source == "sensor":
        assert len(points) == 200


@needs_pycolmap
def test_depth_takes_the_model_that_is_named(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(choice, "load_depth_model", lambda *named: asked.append(named) or known_model(*named))
    points, _ = choose(corner_outputs(tmp_path), "depth", depth_model="some/model", max_points=400, device="cpu")
    assert asked == [("some/model", "cpu")]
    assert len(points) == 400 and np.quantile(distance_to_walls(points.xyz.numpy()), 0.95) < 0.05


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    outputs = corner_outputs(tmp_path)
    with pytest.raises(ValueError, match="points dataset: this capture has no point cloud.*ply_file_path"):
        choose(outputs, "dataset")
    with pytest.raises(ValueError, match="points sensor: not every input view has a depth map"):
        choose(outputs, "sensor")
    without(monkeypatch, "pycolmap")
    for source in ("triangulate", "depth"):
        with pytest.raises(ModuleNotFoundError, match=rf"points {source}: .*pip install 'pycolmap>=4.2'"):
            choose(outputs, source)


def test_a_cloud_that_no_view_sees_is_refused(tmp_path):
    outputs = corner_outputs(tmp_path, points=300)
    outputs.metadata["points3D_xyz"] += 100
    with pytest.raises(ValueError, match="points dataset gives no points"):
        choose(outputs, "dataset")


def test_points_of_tracks_are_not_taken_for_hidden(tmp_path):
    outputs = corner_outputs(tmp_path, points=3000)
    behind = outputs.metadata["points3D_xyz"] - torch.tensor([0.5, 0.0, 0.0])
    outputs.metadata["points3D_xyz"] = torch.cat([outputs.metadata["points3D_xyz"], behind])
    outputs.metadata["points3D_rgb"] = outputs.metadata["points3D_rgb"].repeat(2, 1)
    assert len(choose(outputs)[0]) < 5000
    outputs.metadata["points3D_source"] = "tracks"
    assert len(choose(outputs)[0]) > 5500


@needs_pycolmap
def test_points_are_made_once(tmp_path, cache, monkeypatch):
    outputs = corner_outputs(tmp_path, depth="png")
    first = {source: choose(outputs, source)[0] for source in ("triangulate", "sensor")}
    assert len(list(cache.iterdir())) == 2 and not list(cache.glob(".*"))
    for name in ("triangulate", "sensor_points"):
        monkeypatch.setattr(choice, name, lambda *_: pytest.fail("it was made again"))
    for source, points in first.items():
        again, _ = choose(outputs, source)
        assert again.xyz.equal(points.xyz) and again.rgb.equal(points.rgb)


def test_other_views_depths_or_settings_are_not_mixed_up(tmp_path, cache):
    def files_after(change) -> int:
        outputs = corner_outputs(tmp_path, depth="npy")
        settings = change(outputs) or {}
        choose(outputs, "sensor", **settings)
        return len(list(cache.iterdir()))

    def move(outputs) -> None:
        outputs.cameras.camera_to_worlds[0, 0, 3] += 0.01

    def refocus(outputs) -> None:
        outputs.cameras.fx[1] += 1

    def repaint(outputs) -> None:
        outputs.image_filenames[0].write_bytes(outputs.image_filenames[1].read_bytes())

    def remeasure(outputs) -> None:
        path = outputs.metadata["depth_filenames"][0]
        np.save(path, np.load(path) + 1)

    def rescale(outputs) -> None:
        outputs.metadata["depth_unit_scale_factor"] *= 1.01

    changes = [lambda outputs: None, move, refocus, repaint, remeasure, rescale, lambda outputs: {"max_points": 99}]
    assert [files_after(change) for change in changes] == list(range(1, 8))
    assert files_after(lambda outputs: {"seed": 1}) == 8
    assert files_after(lambda outputs: None) == 8


def test_only_training_makes_points(tmp_path, monkeypatch):
    from guidedvd_ns import datamanager
    from guidedvd_ns.datamanager import GuidedVDDataManagerConfig

    made = []
    monkeypatch.setattr(
        datamanager, "initial_points", lambda *given: made.append(given[1]) or choice.initial_points(*given)
    )
    config = GuidedVDDataManagerConfig(points="random", data=write_capture(tmp_path / "capture"))
    for mode in ("test", "inference"):
        assert (
            config.setup(device="cpu", test_mode=mode).train_dataparser_outputs.metadata["points3D_source"] == "capture"
        )
    assert not made
    trained = config.setup(device="cpu", test_mode="val").train_dataparser_outputs.metadata
    assert [settings.source for settings in made] == ["random"]
    assert trained["points3D_source"] == "random" and len(trained["points3D_xyz"]) == 30_000
