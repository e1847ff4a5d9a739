"""The guidedvd-data dataparser: poses, splits, points, lenses and masks, in both layouts."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from capture_trees import POINTS, Tree, make_parser, parse, project
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from plyfile import PlyData, PlyElement

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def names(outputs: DataparserOutputs) -> list[str]:
    return [path.name for path in outputs.image_filenames]


def to_scene(outputs: DataparserOutputs, xyz: np.ndarray) -> np.ndarray:
    transform = outputs.dataparser_transform.double().numpy()
    return (xyz @ transform[:, :3].T + transform[:, 3]) * outputs.dataparser_scale


def projections(outputs: DataparserOutputs, index: int, xyz: np.ndarray) -> np.ndarray:
    camera = outputs.cameras[index]
    intrinsics = [float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy)]
    return project(camera.camera_to_worlds.double().numpy(), (*intrinsics,), xyz)


def write_ply(path: Path, xyz: np.ndarray) -> None:
    rows = np.array(
        [(*point, 10, 20, 30) for point in xyz],
        dtype=[*((a, "f4") for a in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))],
    )
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


# Poses


@pytest.mark.parametrize("layout", ["transforms.json", "sparse/0 bin", "colmap/sparse/0 txt"])
def test_known_points_keep_their_pixels(tmp_path: Path, layout: str) -> None:
    tree = Tree(tmp_path / "scene")
    if layout == "transforms.json":
        tree.write_transforms()
    else:
        model, form = layout.split()
        tree.write_colmap(model, binary=form == "bin")
    outputs = parse(tree.folder)
    assert len(outputs.image_filenames) == len(outputs.cameras) == 12
    for index, pose in enumerate(tree.poses):
        before = project(pose, (36.0, 36.0, 20.0, 15.0), POINTS)
        np.testing.assert_allclose(projections(outputs, index, to_scene(outputs, POINTS)), before, atol=1e-3)
    assert float(outputs.cameras.camera_to_worlds[:, :, 3].abs().max()) == pytest.approx(1.0)


def test_poses_and_scale_are_those_of_nerfstudios_own_parser(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_transforms()
    ours = parse(tree.folder, train_views=4)
    theirs = NerfstudioDataParserConfig(data=tree.folder, eval_mode="all").setup().get_dataparser_outputs("train")
    order = {path.name: i for i, path in enumerate(theirs.image_filenames)}
    rows = [order[name] for name in names(ours)]
    torch.testing.assert_close(ours.cameras.camera_to_worlds, theirs.cameras.camera_to_worlds[rows])
    torch.testing.assert_close(ours.dataparser_transform, theirs.dataparser_transform)
    assert ours.dataparser_scale == pytest.approx(theirs.dataparser_scale)


def test_transform_does_not_depend_on_the_split(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_transforms()
    parser = make_parser(tree.folder, train_views=3)
    train, test = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("test")
    torch.testing.assert_close(train.dataparser_transform, test.dataparser_transform)
    assert train.dataparser_scale == test.dataparser_scale
    assert parse(tree.folder, train_views=7).dataparser_scale == train.dataparser_scale


def test_applied_transform_and_scale_reach_the_original_coordinates(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    swap = [[0.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    tree.extra = {"applied_transform": swap}
    tree.write_transforms()
    outputs = parse(tree.folder)
    rotation, offset = np.array(swap)[:, :3], np.array(swap)[:, 3]
    original = (POINTS - offset) @ np.linalg.inv(rotation).T
    before = project(tree.poses[3], (36.0, 36.0, 20.0, 15.0), POINTS)
    np.testing.assert_allclose(projections(outputs, 3, to_scene(outputs, original)), before, atol=1e-3)


# Splits


@pytest.mark.parametrize("layout", ["json", "colmap"])
def test_train_views_are_evenly_spaced_in_natural_order(tmp_path: Path, layout: str) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_transforms() if layout == "json" else tree.write_colmap()
    parser = make_parser(tree.folder, train_views=3)
    assert names(parser.get_dataparser_outputs("train")) == ["view_1.png", "view_7.png", "view_12.png"]
    assert len(names(parser.get_dataparser_outputs("test"))) == 9
    assert names(parser.get_dataparser_outputs("val")) == names(parser.get_dataparser_outputs("test"))


def test_lists_of_the_capture_are_honoured(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    tree.extra = {
        "train_filenames": ["images/view_10.png", "./images/view_2.png"],
        "test_filenames": ["images/view_5.png"],
    }
    tree.write_transforms()
    parser = make_parser(tree.folder)
    assert names(parser.get_dataparser_outputs("train")) == ["view_2.png", "view_10.png"]
    assert names(parser.get_dataparser_outputs("test")) == ["view_5.png"]
    assert names(parser.get_dataparser_outputs("val")) == ["view_5.png"]


def test_lists_of_a_colmap_capture_are_honoured(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_colmap()
    (tree.folder / "test_list.txt").write_text("view_3.png\nview_4.png\n")
    parser = make_parser(tree.folder)
    assert names(parser.get_dataparser_outputs("val")) == ["view_3.png", "view_4.png"]
    assert len(names(parser.get_dataparser_outputs("train"))) == 10


@pytest.mark.parametrize("split", ["val", "test"])
def test_without_test_views_a_dataset_is_empty_and_falsy(tmp_path: Path, split: str) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_transforms()
    outputs = parse(tree.folder, split)
    dataset = InputDataset(outputs, scale_factor=0.5)
    assert not dataset  # nerfstudio's trainer evaluates only where the dataset is truthy
    assert dataset.cameras.shape == (0,)
    assert dataset.cameras.to("cpu").get_intrinsics_matrices().shape == (0, 3, 3)
    assert len(parse(tree.folder).image_filenames) == 12


# Points


def test_ply_points_move_with_the_cameras(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", extra={"ply_file_path": "points.ply"})
    tree.write_transforms()
    write_ply(tree.folder / "points.ply", POINTS)
    outputs = parse(tree.folder)
    assert outputs.metadata["points3D_source"] == "capture"
    assert outputs.metadata["points3D_xyz"].dtype == torch.float32
    np.testing.assert_allclose(outputs.metadata["points3D_xyz"].numpy(), to_scene(outputs, POINTS), atol=1e-5)
    assert outputs.metadata["points3D_rgb"].tolist() == [[10, 20, 30]] * 3
    assert "points3D_xyz" not in parse(tree.folder, "val").metadata


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_points_are_those_that_two_input_views_saw(tmp_path: Path, binary: bool) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_colmap(binary=binary, tracks=[[1, 12, 5], [1, 2, 3], [2, 3]])
    outputs = parse(tree.folder, train_views=2)  # images 1 and 12
    np.testing.assert_allclose(outputs.metadata["points3D_xyz"].numpy(), to_scene(outputs, POINTS[:1]), atol=1e-5)
    assert outputs.metadata["points3D_rgb"].tolist() == [[10, 20, 30]]
    assert len(parse(tree.folder).metadata["points3D_xyz"]) == 3


def test_without_points_random_ones_lie_in_the_frusta(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_transforms()
    outputs = parse(tree.folder, train_views=3)
    xyz, rgb = outputs.metadata["points3D_xyz"], outputs.metadata["points3D_rgb"]
    assert outputs.metadata["points3D_source"] == "random"
    assert xyz.shape == rgb.shape == (200, 3) and rgb.dtype == torch.uint8
    pixels = np.stack([projections(outputs, view, xyz.double().numpy()) for view in range(3)])
    inside = ((pixels > -0.01) & (pixels < np.array([40.01, 30.01]))).all(-1)
    assert inside.any(0).all()
    assert (inside.sum(0) >= 2).mean() > 0.9
    torch.testing.assert_close(parse(tree.folder, train_views=3).metadata["points3D_xyz"], xyz)
    assert not torch.equal(parse(tree.folder, train_views=3, random_seed=1).metadata["points3D_xyz"], xyz)
    assert "points3D_xyz" not in parse(tree.folder, num_random_points=0).metadata


# Lenses, sizes and masks


LENSES = {
    "OPENCV": {"camera_model": "OPENCV", "k1": 0.12, "k2": -0.05, "p1": 0.004, "p2": -0.003, "k3": 0.01},
    "OPENCV_FISHEYE": {"camera_model": "OPENCV_FISHEYE", "k1": 0.03, "k2": -0.01, "k3": 0.002, "k4": 0.001},
}


@pytest.mark.parametrize("lens", LENSES)
def test_distorted_views_leave_as_pinholes_of_their_images_sizes(tmp_path: Path, lens: str) -> None:
    tree = Tree(tmp_path / "scene", size=(60, 40), extra=LENSES[lens])
    tree.write_transforms()
    outputs = parse(tree.folder, train_views=2)
    assert outputs.cameras.distortion_params is None
    assert (outputs.cameras.camera_type == CameraType.PERSPECTIVE.value).all()
    assert all(path.is_relative_to(tmp_path / "cache") for path in outputs.image_filenames)
    dataset = InputDataset(outputs)
    for index in range(2):
        height, width = int(outputs.cameras.height[index]), int(outputs.cameras.width[index])
        assert dataset[index]["image"].shape == (height, width, 3)
    assert sorted(path.name for path in tree.folder.iterdir()) == ["images", "transforms.json"]


@pytest.mark.parametrize("lens", LENSES)
def test_a_known_point_is_imaged_where_the_parsed_camera_projects_it(tmp_path: Path, lens: str) -> None:
    tree = Tree(tmp_path / "scene", size=(60, 40), focal=50.0, names=["a.png", "b.png"], extra=LENSES[lens])
    tree.write_transforms()
    matrix = np.array([[50.0, 0, 29.5], [0, 50.0, 19.5], [0, 0, 1]])
    k = [LENSES[lens].get(name, 0.0) for name in ("k1", "k2", "p1", "p2", "k3")]
    if lens == "OPENCV_FISHEYE":
        k = [LENSES[lens][name] for name in ("k1", "k2", "k3", "k4")]
    project_lens = cv2.fisheye.projectPoints if lens == "OPENCV_FISHEYE" else cv2.projectPoints
    y, x = np.mgrid[:40, :60]
    for name, pose in zip(tree.names, tree.poses, strict=True):
        local = (POINTS[:1] - pose[:3, 3]) @ pose[:3, :3] * [1, -1, -1]
        (u, v) = project_lens(local[:, None], np.zeros(3), np.zeros(3), matrix, np.array(k))[0].ravel()
        blob = 250 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 1.5**2))
        Image.fromarray(blob.astype(np.uint8)).save(tree.folder / "images" / name)
    outputs = parse(tree.folder)
    for index in range(2):
        image = InputDataset(outputs)[index]["image"][..., 0].numpy()
        rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        found = np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()
        np.testing.assert_allclose(found, projections(outputs, index, to_scene(outputs, POINTS[:1]))[0], atol=0.2)


def test_colmap_lens_equals_the_same_lens_in_transforms_json(tmp_path: Path) -> None:
    one, two = Tree(tmp_path / "json", extra=LENSES["OPENCV"] | {"k3": 0.0}), Tree(tmp_path / "colmap")
    one.write_transforms()
    two.write_colmap(camera=("OPENCV", [36.0, 36.0, 20.0, 15.0, 0.12, -0.05, 0.004, -0.003]))
    ours, theirs = parse(one.folder).cameras, parse(two.folder).cameras
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


def test_intrinsics_and_sizes_may_differ_between_frames(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", names=["a.png", "b.png"])
    tree.frame_extra = {"b.png": {"w": 20, "h": 24, "fl_x": 18.0, "fl_y": 19.0, "cx": 9.0, "cy": 11.0}}
    tree.write_transforms()
    Image.new("RGB", (20, 24)).save(tree.folder / "images" / "b.png")
    cameras = parse(tree.folder).cameras
    assert cameras.width.flatten().tolist() == [40, 20] and cameras.height.flatten().tolist() == [30, 24]
    assert cameras.fx.flatten().tolist() == [36.0, 18.0] and cameras.cy.flatten().tolist() == [15.0, 11.0]


def test_camera_angle_gives_the_focal_length(tmp_path: Path) -> None:
    path = Tree(tmp_path / "scene").write_transforms()
    meta = json.loads(path.read_text())
    for key in ("fl_x", "fl_y", "w", "h", "cx", "cy"):
        del meta[key]
    path.write_text(json.dumps(meta | {"camera_angle_x": np.pi / 2}))
    cameras = parse(path).cameras
    torch.testing.assert_close(cameras.fx[0], torch.tensor([20.0]))
    torch.testing.assert_close(cameras.fy[0], torch.tensor([20.0]))
    assert cameras.cx[0] == 20 and cameras.cy[0] == 15


def test_downscaling_needs_no_folders_and_no_question(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", size=(41, 30))
    tree.write_transforms()
    outputs = parse(tree.folder, downscale_factor=2)
    assert (int(outputs.cameras.width[0]), int(outputs.cameras.height[0])) == (20, 15)
    assert InputDataset(outputs)[0]["image"].shape == (15, 20, 3)
    before = project(tree.poses[5], (36.0 * 20 / 41, 18.0, 10.0, 7.5), POINTS)
    np.testing.assert_allclose(projections(outputs, 5, to_scene(outputs, POINTS)), before, atol=1e-3)


def test_downscaled_folders_are_used_where_they_exist(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", size=(41, 30))
    tree.write_colmap()
    (tree.folder / "images_2").mkdir()
    for name in tree.names:
        Image.new("RGB", (21, 15)).save(tree.folder / "images_2" / name)
    outputs = parse(tree.folder, downscale_factor=2)
    assert {path.parent.name for path in outputs.image_filenames} == {"images_2"}
    assert int(outputs.cameras.width[0]) == 21
    assert float(outputs.cameras.fx[0]) == pytest.approx(36.0 * 21 / 41)


def test_large_images_are_made_smaller_unless_told_otherwise(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", size=(1602, 8), names=["a.png", "b.png"])
    tree.write_transforms()
    assert int(parse(tree.folder).cameras.width[0]) == 801
    assert int(parse(tree.folder, downscale_factor=1).cameras.width[0]) == 1602


def test_frames_without_a_mask_count_fully(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "scene", names=["a.png", "b.png"])
    tree.frame_extra = {"a.png": {"mask_path": "masks/a.png"}}
    tree.write_transforms()
    half = np.zeros((30, 40), np.uint8)
    half[:, 20:] = 255
    (tree.folder / "masks").mkdir()
    Image.fromarray(half).save(tree.folder / "masks" / "a.png")
    dataset = InputDataset(parse(tree.folder))
    assert dataset[0]["mask"].squeeze(-1).equal(torch.from_numpy(half > 0))
    assert dataset[1]["mask"].shape == (30, 40, 1) and dataset[1]["mask"].all()


@pytest.mark.parametrize("mask_name", ["view_1.png.png", "view_1.png"])
def test_masks_folder_serves_colmap_captures(tmp_path: Path, mask_name: str) -> None:
    tree = Tree(tmp_path / "scene")
    tree.write_colmap()
    (tree.folder / "masks").mkdir()
    Image.new("RGB", (40, 30), (0, 0, 0)).save(tree.folder / "masks" / mask_name)  # of three channels
    dataset = InputDataset(parse(tree.folder, masks_path=Path("masks")))
    assert not dataset[0]["mask"].any() and dataset[1]["mask"].all()
    assert parse(tree.folder).mask_filenames is None


# Living inside nerfstudio


def run_python(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_never_asks_at_the_terminal(tmp_path: Path) -> None:
    # Everything that makes nerfstudio's own parsers ask: large images, a COLMAP model, no ply_file_path.
    tree = Tree(tmp_path / "scene", size=(1700, 4), names=["a.png", "b.png"])
    tree.write_transforms()
    tree.write_colmap("colmap/sparse/0")
    run_python(
        "from pathlib import Path; from guidedvd_ns.data.guidedvd_dataparser import GuidedVDDataParserConfig as C\n"
        "for model in (None, Path('colmap/sparse/0')):\n"
        f"    p = C(data=Path({str(tree.folder)!r}), colmap_path=model, cache_dir=Path({str(tmp_path)!r})).setup()\n"
        "    assert len(p.get_dataparser_outputs('train').image_filenames) == 2"
    )


@pytest.mark.parametrize(
    "modules",
    [
        ("guidedvd_ns.data.guidedvd_dataparser", "nerfstudio.data.datamanagers.base_datamanager"),
        ("nerfstudio.data.datamanagers.base_datamanager", "guidedvd_ns.data.guidedvd_dataparser"),
    ],
)
def test_imports_in_any_order_and_lightly(modules: tuple[str, str]) -> None:
    run_python(
        f"import sys, {modules[0]}, {modules[1]}\n"
        "from nerfstudio.plugins.registry_dataparser import DataParserSpecification\n"
        "from guidedvd_ns.data.guidedvd_dataparser import guidedvd_data\n"
        "from guidedvd_ns.data.replica import guidedvd_replica\n"
        "from guidedvd_ns.data.scannetpp import guidedvd_scannetpp\n"
        "for specification in (guidedvd_data, guidedvd_replica, guidedvd_scannetpp):\n"
        "    assert isinstance(specification, DataParserSpecification)\n"
        "heavy = {'diffusers', 'transformers', 'lpips', 'numba', 'plyfile'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )


@pytest.mark.skipif(not (SHARED / "fox").is_dir(), reason="needs ../shared/data/fox")
def test_fox(tmp_path: Path) -> None:
    parser = make_parser(SHARED / "fox", cache_dir=tmp_path)
    train, test = parser.get_dataparser_outputs("train"), parser.get_dataparser_outputs("test")
    assert len(train.image_filenames) == 6 and len(test.image_filenames) == 44
    assert train.metadata["points3D_source"] == "random"
    assert InputDataset(train)[0]["image"].shape == (640, 360, 3)


@pytest.mark.skipif(not (SHARED / "rooms" / "lounge").is_dir(), reason="needs ../shared/data/rooms/lounge")
def test_lounge_points_lie_where_its_depth_maps_say(tmp_path: Path) -> None:
    folder = SHARED / "rooms" / "lounge"
    train = make_parser(folder, cache_dir=tmp_path).get_dataparser_outputs("train")
    assert len(train.image_filenames) == 6
    local = (train.metadata["points3D_xyz"] - train.cameras.camera_to_worlds[0, :, 3]) @ train.cameras.camera_to_worlds[
        0, :, :3
    ]
    pixels = projections(train, 0, train.metadata["points3D_xyz"].double().numpy())
    inside = ((pixels >= 0) & (pixels < (448, 320))).all(-1) & (local[:, 2] < 0).numpy()
    depth = np.asarray(Image.open(folder / "depth" / f"{train.image_filenames[0].stem}.png")) * 1e-3
    x, y = pixels[inside].astype(int).T
    measured = -local[inside, 2].numpy() / train.dataparser_scale
    # Points behind something else in this view are deeper than the depth map; most are not.
    assert np.median(np.abs(measured - depth[y, x])) < 0.1
