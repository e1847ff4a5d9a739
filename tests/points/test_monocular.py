"""Monocular depth: the alignment's scale and shift, points from a model whose affine error is known, loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guidedvd_ns.points.monocular import (
    MIN_SUPPORT,
    aligned_depth,
    fit_scale_and_shift,
    is_at_hand,
    load_depth_model,
    monocular_points,
)
from guidedvd_ns.points.triangulation import Triangulation
from guidedvd_ns.points.views import InputViews
from tests.points.known_scenes import corner_views, distance_to_walls


class KnownAffine:
    """A model that is right up to a scale and a shift of inverse depth, other ones for each view."""

    def __init__(self, views: InputViews, depths: list[np.ndarray]) -> None:
        self._answers = dict(zip((image.tobytes() for image in views.images), enumerate(depths), strict=True))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        view, depth = self._answers[image.tobytes()]
        return (1 / depth - 0.05 * (view - 1)) * (3.0 + view)


def anchors(views: InputViews, depths: list[np.ndarray], outliers: float = 0.0, count: int = 60) -> Triangulation:
    """Points at random pixels of each view, some of them at wrong depths."""
    random = np.random.default_rng(3)
    xyz, observed = [], []
    for view, depth in enumerate(depths):
        columns, rows = random.integers(160, size=count), random.integers(120, size=count)
        true = depth[rows, columns] * np.where(random.random(count) < outliers, random.uniform(0.3, 3, count), 1.0)
        xyz.append(views.unproject(view, np.stack([columns, rows], axis=1) + 0.5, true))
        observed += [np.arange(len(depths)) == view] * count
    rgb = np.zeros((len(observed), 3), dtype=np.uint8)
    return Triangulation(np.concatenate(xyz).astype(np.float32), rgb, np.array(observed))


def test_the_fit_is_exact_without_noise():
    depth = np.random.default_rng(0).uniform(1, 6, size=30)
    fitted = fit_scale_and_shift((1 / depth + 0.3) * 20, depth, seed=0)
    assert fitted == pytest.approx((1 / 20, -0.3), rel=1e-6)


def test_the_fit_ignores_outliers():
    random = np.random.default_rng(1)
    depth = random.uniform(1, 6, size=200)
    inverse = (1 / depth - 0.1) / 0.4 * (1 + 0.002 * random.normal(size=200))
    depth[:80] *= random.uniform(1.5, 4, size=80)
    scale, shift = fit_scale_and_shift(inverse, depth, seed=0) or (0.0, 0.0)
    assert scale == pytest.approx(0.4, rel=0.02) and shift == pytest.approx(0.1, abs=0.005)


def test_no_fit_without_support():
    random = np.random.default_rng(2)
    depth = random.uniform(1, 6, size=100)
    assert fit_scale_and_shift(random.uniform(0, 1, size=100), depth, seed=0) is None
    assert fit_scale_and_shift(np.ones(100), depth, seed=0) is None
    # A model that tells depth in place of its inverse.
    assert fit_scale_and_shift(-1 / depth, depth, seed=0) is None
    few = depth[: MIN_SUPPORT - 1]
    assert fit_scale_and_shift(1 / few, few, seed=0) is None


def test_depths_are_aligned_in_each_view():
    views, depths = corner_views(3)
    model = KnownAffine(views, depths)
    for view, depth in enumerate(depths):
        found = aligned_depth(views, view, anchors(views, depths, outliers=0.2), model(views.images[view]), seed=0)
        assert found is not None
        assert np.abs(found / depth - 1).max() < 0.005


def test_depths_of_another_size_are_aligned():
    views, depths = corner_views(3)
    small = KnownAffine(views, depths)(views.images[0]).reshape(60, 2, 80, 2).mean(axis=(1, 3))
    found = aligned_depth(views, 0, anchors(views, depths), small, seed=0)
    assert found is not None and found.shape == (60, 80)
    assert np.abs(found / depths[0].reshape(60, 2, 80, 2).mean(axis=(1, 3)) - 1).max() < 0.02


def test_far_and_negative_depths_are_unknown():
    views, depths = corner_views(1)
    inverse = 1 / depths[0]
    inverse[:10, :10], inverse[20:30, :10] = -0.01, 1e-3
    found = aligned_depth(views, 0, anchors(views, depths), inverse, seed=0)
    assert found is not None
    assert (found[:10, :10] == 0).all() and (found[20:30, :10] == 0).all() and (found[40:] > 0).all()


def test_points_lie_on_the_walls():
    views, depths = corner_views(3)
    xyz, rgb = monocular_points(
        views, anchors(views, depths, outliers=0.1), KnownAffine(views, depths), count=500, seed=0
    )
    assert xyz.shape == rgb.shape == (500, 3)
    assert distance_to_walls(xyz).max() < 0.03


def test_a_view_without_support_is_left_out():
    views, depths = corner_views(3)
    known = anchors(views, depths)
    known.observed[:, 1] = False
    model = KnownAffine(views, depths)
    assert aligned_depth(views, 1, known, model(views.images[1]), seed=0) is None
    xyz, _ = monocular_points(views, known, model, count=300, seed=0)
    assert len(xyz) == 300 and distance_to_walls(xyz).max() < 0.03


def test_what_the_model_gets_wrong_is_dropped():
    views, depths = corner_views(3)
    model = KnownAffine(views, depths)

    def with_a_ghost(image: np.ndarray) -> np.ndarray:
        inverse = model(image)
        if image is views.images[0]:
            inverse[50:70, 70:90] *= 2.5
        return inverse

    xyz, _ = monocular_points(views, anchors(views, depths), with_a_ghost, count=100_000, seed=0)
    assert distance_to_walls(xyz).max() < 0.1


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    """An untrained Depth Anything of a few thousand weights, with its image processor."""
    transformers = pytest.importorskip("transformers")
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14
    ).save_pretrained(folder)
    return folder


def test_a_folder_is_a_model(tiny_model):
    assert is_at_hand(str(tiny_model))
    image = np.random.default_rng(0).integers(256, size=(24, 40, 3), dtype=np.uint8)
    found = load_depth_model(str(tiny_model), "cpu")(image)
    assert found.shape == (24, 40) and np.isfinite(found).all()


def test_metric_models_tell_depth(tiny_model, tmp_path):
    import json
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "metric"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"depth_estimation_type": "metric", "max_depth": 20}
    (folder / "config.json").write_text(json.dumps(settings))
    image = np.random.default_rng(0).integers(256, size=(28, 28, 3), dtype=np.uint8)
    found = load_depth_model(str(folder), "cpu")(image)
    # Depths of an untrained model are about half of the greatest one.
    assert 1 / 20 < found.min() <= found.max() < 1.0


def test_a_model_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not is_at_hand("no-one/no-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="The depth model .*empty cannot be loaded"):
        load_depth_model(str(tmp_path / "empty"), "cpu")
