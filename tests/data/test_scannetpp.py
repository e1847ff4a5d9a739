"""The guidedvd-scannetpp dataparser: the paper's views of DSLR images, undistorted here or by the toolkit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_trees import (
    DOTS,
    FLOOR,
    ScanNetPPTree,
    expected_dots,
    fisheye_rays,
    found_dots,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.scannetpp_dataparser import ScanNetppDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from PIL import Image

from guidedvd_ns.data.scannetpp import ScanNetPPDataParser, ScanNetPPDataParserConfig, scored_views

SCENE = "8a20d62ac0"
INPUTS = [9, 85, 134, 172, 329, 380]
UNDISTORTED_FOLDERS = {
    "undistorted_images": "undistorted_anon_masks",
    "resized_undistorted_images": "resized_undistorted_masks",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As downloaded; tests that change anything copy it."""
    return ScanNetPPTree(tmp_path_factory.mktemp("scannetpp") / "data" / SCENE).write()


@pytest.fixture
def copy(scene: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scene, tmp_path / "scannetpp" / SCENE))  # without data/, as the reference has it


def make_parser(data: Path, **options) -> ScanNetPPDataParser:
    options = {"cache_dir": data.parent / "cache", "num_random_points": 50, **options}
    return ScanNetPPDataParserConfig(data=data, **options).setup()


def parse(data: Path, split: str = "train", **options) -> DataparserOutputs:
    return make_parser(data, **options).get_dataparser_outputs(split)


def numbers(outputs: DataparserOutputs) -> list[int]:
    return [int(path.name[3:8]) for path in outputs.image_filenames]


# Views


def test_views_are_the_papers(scene: Path) -> None:
    parser = make_parser(scene)
    assert numbers(parser.get_dataparser_outputs("train")) == INPUTS
    tests = parser.get_dataparser_outputs("test")
    available = list(ScanNetPPTree(scene).numbers)
    # DSC00009 is the third file, so the range begins at the first file and takes every sixth.
    assert available.index(9) == 2
    assert numbers(tests) == [number for number in available[::6] if number not in INPUTS]
    assert numbers(parser.get_dataparser_outputs("val")) == numbers(tests)


def test_test_views_reach_ten_positions_beyond_the_input_views() -> None:
    assert scored_views([20, 26, 40], 100) == [10, 16, 22, 28, 34, 46]  # 40 would be on the grid
    assert scored_views([3, 20], 25) == [0, 6, 12, 18, 24]


def test_official_split(scene: Path) -> None:
    available = list(ScanNetPPTree(scene).numbers)
    assert numbers(parse(scene, "test", views="official")) == available[3::8]
    assert numbers(parse(scene, views="official")) == [n for n in available if n not in available[3::8]]


def test_official_lists_stand_in_for_test_frames(copy: Path) -> None:
    path = copy / "dslr" / "nerfstudio" / "transforms.json"
    meta = json.loads(path.read_text())
    meta["frames"] += meta.pop("test_frames")
    path.write_text(json.dumps(meta))
    with pytest.raises(FileNotFoundError, match=r"train_test_lists\.json does not exist"):
        parse(copy, views="official")
    lists = copy / "dslr" / "train_test_lists.json"
    lists.write_text(json.dumps({"train": ["DSC00020.JPG", "DSC00005.JPG"], "test": ["DSC00030.JPG"]}))
    assert numbers(parse(copy, views="official")) == [5, 20]
    assert numbers(parse(copy, "test", views="official")) == [30]
    lists.write_text("{}")
    with pytest.raises(ValueError, match=r"train_test_lists\.json has no lists train and test"):
        parse(copy, views="official")


def test_other_scenes_take_input_frames(copy: Path) -> None:
    other = copy.rename(copy.with_name("0000000000"))
    with pytest.raises(ValueError, match="0000000000 is none of the paper's scenes .*; name .*--input-frames, or give"):
        parse(other)
    assert numbers(parse(other, input_frames=(100, 55))) == [55, 100]


# Poses and lenses


@pytest.mark.parametrize("max_width", [1600, 50])
def test_dots_of_fisheye_images_are_where_the_pinholes_say(scene: Path, max_width: int) -> None:
    outputs = parse(scene, max_width=max_width)
    assert outputs.cameras.distortion_params is None
    size = (72, 48) if max_width == 1600 else (50, 33)  # 48 * 50 / 72 = 33.3
    assert (int(outputs.cameras.width[0]), int(outputs.cameras.height[0])) == size
    assert float(outputs.cameras.camera_to_worlds[:, :, 3].abs().max()) <= 1
    for index, path in enumerate(outputs.image_filenames):
        with Image.open(path) as image:
            assert image.size == size
        np.testing.assert_allclose(found_dots(path), expected_dots(outputs, index), atol=0.25)


def test_every_pixel_shows_the_ray_that_its_pinhole_looks_along(copy: Path) -> None:
    """A pattern of the ray's direction, photographed through the analytic fisheye, is that of the pinhole's rays."""

    def pattern(rays: np.ndarray) -> np.ndarray:
        return 127 + 50 * (np.sin(3 * rays[..., :1]) + np.cos(4 * rays[..., 1:])).repeat(3, -1)

    tree = ScanNetPPTree(copy)
    photographed = pattern(fisheye_rays(tree)).round().astype(np.uint8)
    Image.fromarray(photographed).save(copy / "dslr" / "resized_images" / "DSC00009.JPG", quality=100, subsampling=0)
    outputs = parse(copy)
    camera = outputs.cameras[0]
    x, y = np.meshgrid(np.arange(72) + 0.5, np.arange(48) + 0.5)
    fx, fy, cx, cy = (float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy))
    expected = pattern(np.stack([(x - cx) / fx, (y - cy) / fy], axis=-1))
    with Image.open(outputs.image_filenames[0]) as image:
        error = np.abs(np.asarray(image).astype(float) - expected)
    assert np.median(error) < 1.5 and np.quantile(error[1:-1, 1:-1], 0.99) < 8
    assert abs(cx - 36) > 0.1  # the principal point is not the middle, and is kept


@pytest.mark.parametrize("images", UNDISTORTED_FOLDERS)
def test_undistorted_images_are_used_where_they_are(copy: Path, images: str) -> None:
    tree = ScanNetPPTree(copy)
    tree.write_undistorted(images, UNDISTORTED_FOLDERS[images])
    outputs = parse(copy)
    assert {path.parent for path in outputs.image_filenames} == {copy / "dslr" / images}
    assert numbers(outputs) == INPUTS  # though test frames are listed twice
    lens = [float(getattr(outputs.cameras, name)[0]) for name in ("fx", "fy", "cx", "cy")]
    np.testing.assert_allclose(lens, [*tree.focal, *tree.centre], rtol=1e-6)
    for index, path in enumerate(outputs.image_filenames):
        np.testing.assert_allclose(found_dots(path), expected_dots(outputs, index), atol=0.1)


def test_undistorted_images_may_lie_elsewhere(copy: Path) -> None:
    ScanNetPPTree(copy).write_undistorted("mine", "my_masks")
    assert parse(copy).image_filenames[0].is_relative_to(copy.parent / "cache")  # mine is not looked for
    outputs = parse(copy, undistorted_path=Path("dslr/mine"), masks_path=Path("dslr/my_masks"), use_masks=True)
    assert outputs.image_filenames[0].parent == copy / "dslr" / "mine"
    assert outputs.mask_filenames is not None and outputs.mask_filenames[0].parent == copy / "dslr" / "my_masks"


def test_the_world_is_that_of_nerfstudios_own_parser(scene: Path) -> None:
    ours, theirs = parse(scene, views="official"), ScanNetppDataParserConfig(data=scene).setup()
    theirs = theirs.get_dataparser_outputs("train")
    assert [path.name[:8] for path in ours.image_filenames] == [path.stem for path in theirs.image_filenames]
    torch.testing.assert_close(ours.cameras.camera_to_worlds, theirs.cameras.camera_to_worlds)
    torch.testing.assert_close(ours.dataparser_transform, theirs.dataparser_transform)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale)


# Masks, depths, points


def test_masks_are_used_on_request(scene: Path) -> None:
    assert parse(scene).mask_filenames is None
    dataset = InputDataset(parse(scene, use_masks=True, max_width=50))
    mask = dataset[0]["mask"]
    assert mask.shape == (33, 50, 1)
    boundary = float(dataset.cameras.cx[0]) - 37.0 * 50 / 72 + 25  # the fisheye's column 36, nearly its centre
    counts = mask.float().mean(dim=(0, 2))
    assert counts[: int(boundary) - 1].max() == 0 and counts[int(boundary) + 3 :].min() > 0.9


def test_rendered_depths_follow_the_undistorted_images(copy: Path) -> None:
    assert "depth_filenames" not in parse(copy).metadata
    ScanNetPPTree(copy).write_depths()
    outputs = parse(copy)
    dataset = DepthDataset(outputs)
    for index in (0, 4):
        depth = dataset[index]["depth_image"].squeeze(-1).double()
        rows, columns = (depth > 0).nonzero(as_tuple=True)
        assert len(rows) > 300
        pose = outputs.cameras.camera_to_worlds[index].double()
        camera = outputs.cameras[index]
        local = torch.stack([(columns + 0.5 - camera.cx) / camera.fx, (camera.cy - rows - 0.5) / camera.fy], -1)
        local = torch.cat([local, -torch.ones(len(local), 1)], -1) * depth[rows, columns, None]
        scene = local @ pose[:, :3].T + pose[:, 3]
        transform = outputs.dataparser_transform.double()
        world = (scene / outputs.dataparser_scale - transform[:, 3]) @ transform[:, :3]
        # The nearest pixel is up to half a pixel off, which at a grazing angle is some centimetres.
        assert (world[:, 2] - FLOOR).abs().median() < 0.03
        assert abs(float((world[:, 2] - FLOOR).median())) < 0.01


def to_scene(outputs: DataparserOutputs, xyz: np.ndarray) -> np.ndarray:
    transform = outputs.dataparser_transform.double().numpy()
    return (xyz @ transform[:, :3].T + transform[:, 3]) * outputs.dataparser_scale


def test_colmap_points_that_two_input_views_saw_come_into_the_cameras_world(scene: Path) -> None:
    outputs = parse(scene)
    assert outputs.metadata["points3D_source"] == "tracks"
    np.testing.assert_allclose(outputs.metadata["points3D_xyz"].numpy(), to_scene(outputs, DOTS[:1]), atol=1e-5)
    assert outputs.metadata["points3D_rgb"].tolist() == [[10, 20, 30]]
    assert "points3D_xyz" not in parse(scene, "test").metadata


def test_points_may_be_the_scans_or_none(scene: Path) -> None:
    scan = parse(scene, point_cloud="scan")
    assert scan.metadata["points3D_source"] == "scan"
    np.testing.assert_allclose(scan.metadata["points3D_xyz"].numpy(), to_scene(scan, DOTS), atol=1e-5)
    assert scan.metadata["points3D_rgb"].tolist() == [[200, 100, 50]] * 3
    assert parse(scene, point_cloud="none").metadata["points3D_source"] == "random"


def test_without_a_model_points_are_random(copy: Path) -> None:
    shutil.rmtree(copy / "dslr" / "colmap")
    assert parse(copy).metadata["points3D_source"] == "random"


# What is refused


def edit_transforms(change):
    def edit(folder: Path) -> None:
        path = folder / "dslr" / "nerfstudio" / "transforms.json"
        meta = json.loads(path.read_text())
        change(meta)
        path.write_text(json.dumps(meta))

    return edit


def remove(name: str):
    def edit(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def move_camera(meta: dict) -> None:
    meta["frames"][2]["transform_matrix"][0][3] += 0.1


TRANSFORMS, MASKS = "dslr/nerfstudio/transforms.json", {"use_masks": True}
ELSEWHERE = {"undistorted_path": Path("dslr/none")}
REFUSALS = [
    (remove("dslr"), {}, FileNotFoundError, rf"{SCENE}/{TRANSFORMS} does not exist; give a scene's folder"),
    (remove(TRANSFORMS), {}, FileNotFoundError, rf"{TRANSFORMS} does not exist"),
    (remove("dslr/resized_images"), {}, FileNotFoundError, "dslr/resized_images does not exist"),
    (remove("dslr/resized_images/DSC00134.JPG"), {}, FileNotFoundError, r"DSC00134\.JPG does not exist"),
    (remove("dslr/resized_anon_masks"), MASKS, FileNotFoundError, "folder of masks .*resized_anon_masks does not"),
    (remove("dslr/resized_anon_masks/DSC00134.png"), MASKS, FileNotFoundError, r"DSC00134\.png does not exist"),
    (remove("dslr/colmap/images.txt"), {}, FileNotFoundError, r"neither images\.bin nor images\.txt"),
    (remove("dslr/colmap"), {"point_cloud": "scan"}, FileNotFoundError, r"neither cameras\.bin nor cameras\.txt"),
    (remove("scans"), {"point_cloud": "scan"}, FileNotFoundError, r"scans/mesh_aligned_0\.05\.ply does not exist"),
    (lambda folder: None, ELSEWHERE, FileNotFoundError, r"transforms_undistorted\.json does not exist"),
    (lambda folder: None, {"input_frames": (5, 6)}, ValueError, "has no frame 6, which is to be an input view"),
    (edit_transforms(move_camera), {}, ValueError, r"colmap and transforms\.json disagree about the pose of DSC"),
    (edit_transforms(lambda meta: meta.pop("frames")), {}, ValueError, r"transforms\.json has no list called frames"),
    (edit_transforms(lambda meta: meta.update(w=99)), {}, ValueError, r"JPG has 72x48 pixels but its camera has 99x48"),
]


@pytest.mark.parametrize(("spoil", "options", "error", "sentence"), REFUSALS, ids=[case[3] for case in REFUSALS])
def test_refusals_are_one_sentence(copy: Path, spoil, options, error, sentence) -> None:
    spoil(copy)
    with pytest.raises(error, match=sentence) as caught:
        parse(copy, **options)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder .*missing; give a scene of ScanNet"):
        parse(tmp_path / "missing")
