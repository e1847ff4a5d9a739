"""Input views: conventions of pixels and poses, masks, and lenses undone as nerfstudio undoes them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from PIL import Image

from guidedvd_ns.points.views import load_input_views
from guidedvd_ns.rasterization import camera_matrices
from tests.points.known_scenes import corner_views

SIZE = (48, 32)


def capture(folder: Path, mode: str = "RGB", **camera) -> DataparserOutputs:
    """Two views, whose images are of random pixels."""
    random = np.random.default_rng(0)
    files = []
    for index in range(2):
        pixels = random.integers(256, size=(SIZE[1], SIZE[0], len(mode)), dtype=np.uint8)
        files.append(folder / f"{index}.png")
        Image.fromarray(pixels, mode=mode).save(files[-1])
    poses = torch.eye(4)[None, :3].repeat(2, 1, 1)
    lens = {"fx": 40.0, "fy": 42.0, "cx": 25.0, "cy": 15.0, "width": SIZE[0], "height": SIZE[1], **camera}
    return DataparserOutputs(files, Cameras(poses, **lens), scene_box=SceneBox(torch.zeros(2, 3)))


def test_projection_is_that_of_the_rasterizer():
    views, _ = corner_views(2)
    xyz = np.random.default_rng(0).uniform(0, 1, size=(20, 3))
    viewmats, matrices = camera_matrices(views.cameras)
    for view in range(2):
        local = xyz @ viewmats[view, :3, :3].double().numpy().T + viewmats[view, :3, 3].double().numpy()
        expected = local @ matrices[view].double().numpy().T
        pixels, depth = views.project(view, xyz)
        np.testing.assert_allclose(depth, local[:, 2], atol=1e-5)
        np.testing.assert_allclose(pixels, expected[:, :2] / expected[:, 2:], atol=1e-3)


def test_unprojection_undoes_projection():
    views, _ = corner_views(3)
    xyz = np.random.default_rng(1).uniform(0, 1, size=(20, 3))
    for view in range(3):
        np.testing.assert_allclose(views.unproject(view, *views.project(view, xyz)), xyz, atol=1e-5)


def test_images_are_read_in_the_order_that_is_asked_for(tmp_path):
    outputs = capture(tmp_path)
    views = load_input_views(outputs, [1, 0])
    np.testing.assert_array_equal(views.images[0], np.array(Image.open(tmp_path / "1.png")))
    assert views.masks == [None, None] and len(views) == 2


def test_masked_and_transparent_pixels_do_not_count(tmp_path):
    outputs = capture(tmp_path, "RGBA")
    mask = np.full((SIZE[1], SIZE[0]), 255, dtype=np.uint8)
    mask[:, :10] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    outputs.mask_filenames = [tmp_path / "mask.png"] * 2
    views = load_input_views(outputs, [0])
    expected = (np.array(Image.open(tmp_path / "0.png"))[..., 3] > 0) & (mask > 0)
    np.testing.assert_array_equal(views.masks[0], expected)


@pytest.mark.parametrize("kind", [CameraType.PERSPECTIVE, CameraType.FISHEYE])
def test_lenses_are_undone_as_in_training(tmp_path, kind):
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
    from nerfstudio.data.datasets.base_dataset import InputDataset

    lens = torch.tensor([0.1, -0.05, 0.0, 0.0, 0.01, 0.0])
    outputs = capture(tmp_path, distortion_params=lens, camera_type=kind)
    given = outputs.cameras.fx.clone()
    views = load_input_views(outputs, [0, 1])
    assert outputs.cameras.fx.equal(given) and views.cameras.distortion_params is None

    manager = FullImageDatamanager.__new__(FullImageDatamanager)
    torch.nn.Module.__init__(manager)
    manager.config = type("Config", (), {"cache_images_type": "uint8"})()
    manager.device, manager.train_dataset = "cpu", InputDataset(outputs)
    trained = manager._load_images("train", "gpu")
    for view in range(2):
        np.testing.assert_array_equal(views.images[view], trained[view]["image"].numpy())
        assert views.images[view].shape[:2] == (int(views.cameras.height[view]), int(views.cameras.width[view]))
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert getattr(views.cameras, name).equal(getattr(manager.train_dataset.cameras, name)), name


def test_an_image_of_another_size_is_refused(tmp_path):
    outputs = capture(tmp_path, width=50)
    with pytest.raises(ValueError, match=r"0\.png is 48x32, but its camera 50x32"):
        load_input_views(outputs, [0])
