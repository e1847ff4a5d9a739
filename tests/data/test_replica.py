"""The guidedvd-replica dataparser: the paper's views, poses and depths of Semantic-NeRF's renders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_trees import FLOOR, expected_dots, found_dots, write_replica
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.depth_dataset import DepthDataset
from PIL import Image

from guidedvd_ns.data.replica import PAPER_INPUTS, ReplicaDataParser, ReplicaDataParserConfig, scored_views

ROOM_0 = [5, 80, 187, 392, 497, 658]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Replica") / "room_0"
    write_replica(folder / "Sequence_2", [*ROOM_0, *scored_views(ROOM_0, 900)])
    return folder


def make_parser(data: Path, **options) -> ReplicaDataParser:
    options = {"cache_dir": data.parent / "cache", "num_random_points": 50, **options}
    return ReplicaDataParserConfig(data=data, **options).setup()


def numbers(outputs: DataparserOutputs) -> list[int]:
    return [int(path.stem.split("_")[1]) for path in outputs.image_filenames]


# The paper's views


@pytest.mark.parametrize(
    ("sequence", "count"),
    [
        ("office_2/Sequence_2", 57),
        ("office_3/Sequence_1", 58),
        ("office_4/Sequence_2", 60),
        ("room_0/Sequence_2", 56),
        ("room_1/Sequence_1", 51),
        ("room_2/Sequence_1", 56),
    ],
)
def test_each_sequence_has_as_many_test_views_as_the_paper(sequence: str, count: int) -> None:
    inputs = PAPER_INPUTS[sequence]
    tests = scored_views(inputs, 900)
    assert len(tests) == count and tests == sorted(set(tests))
    assert set(tests) & set(inputs) == ({526} if sequence == "room_2/Sequence_1" else set())


def test_neighbours_are_every_tenth_and_skip_the_input_view() -> None:
    assert scored_views([100], 900) == [50, 60, 70, 80, 90, 101, 111, 121, 131, 141]
    # Five neighbours before 5: the tenth of the joined list is the sixth after it.
    assert scored_views([5], 900) == [0, 11, 21, 31, 41, 51]
    assert scored_views([41], 900) == [0, 10, 20, 30, 40, 51, 61, 71, 81]  # 91 is too far
    assert scored_views([897], 900) == [847, 857, 867, 877, 887, 898]


def test_a_scene_gives_the_papers_sequence_in_the_order_of_numbers(scene: Path) -> None:
    parser = make_parser(scene)
    train, val, test = (parser.get_dataparser_outputs(split) for split in ("train", "val", "test"))
    assert numbers(train) == ROOM_0
    assert {path.parent for path in train.image_filenames} == {scene / "Sequence_2" / "rgb"}  # as they are
    assert numbers(test) == numbers(val) == scored_views(ROOM_0, 900)
    assert train.metadata["points3D_source"] == "random" and "points3D_xyz" not in test.metadata


def test_any_sequence_takes_input_frames(tmp_path: Path) -> None:
    sequence = write_replica(tmp_path / "office_0" / "Sequence_1", [3, 20], count=30)
    with pytest.raises(ValueError, match=r"office_0/Sequence_1 is none of the paper's .*; name .* --input-frames"):
        make_parser(sequence).get_dataparser_outputs("train")
    parser = make_parser(sequence, input_frames=(20, 3))
    assert numbers(parser.get_dataparser_outputs("train")) == [3, 20]
    assert numbers(parser.get_dataparser_outputs("test")) == [0, 10, 11, 21]


@pytest.mark.parametrize(("drop", "tests"), [(False, [0, 10, 11, 21]), (True, [0, 11, 21])])
def test_shared_views_are_scored_unless_told_otherwise(tmp_path: Path, drop: bool, tests: list[int]) -> None:
    sequence = write_replica(tmp_path / "office_0" / "Sequence_1", [10, 20], count=30)
    parser = make_parser(sequence, input_frames=(10, 20), drop_shared_views=drop)
    assert numbers(parser.get_dataparser_outputs("test")) == tests


# Poses, sizes, depths


@pytest.mark.parametrize("normalised", [False, True])
def test_dots_are_where_the_cameras_say(scene: Path, normalised: bool) -> None:
    options = {"orientation_method": "up", "center_method": "poses", "auto_scale_poses": True} if normalised else {}
    outputs = make_parser(scene, **options).get_dataparser_outputs("train")
    assert (outputs.dataparser_scale == 1.0) is not normalised
    for index, path in enumerate(outputs.image_filenames):
        np.testing.assert_allclose(found_dots(path), expected_dots(outputs, index), atol=0.1)


def test_the_world_stays_in_metres(scene: Path) -> None:
    outputs = make_parser(scene).get_dataparser_outputs("train")
    assert torch.equal(outputs.dataparser_transform, torch.eye(4)[:3])
    lines = (scene / "Sequence_2" / "traj_w_c.txt").read_text().splitlines()
    pose = torch.tensor([float(value) for value in lines[5].split()]).reshape(4, 4)
    # OpenCV's axes to OpenGL's: right stays, down becomes up, forward becomes backward.
    torch.testing.assert_close(outputs.cameras.camera_to_worlds[0], pose[:3] * torch.tensor([1.0, -1.0, -1.0, 1.0]))


def test_the_field_of_view_is_90_degrees(scene: Path) -> None:
    cameras = make_parser(scene).get_dataparser_outputs("train").cameras
    lens = [float(getattr(cameras, name)[0]) for name in ("fx", "fy", "cx", "cy", "width", "height")]
    assert lens == [24, 24, 24, 18, 48, 36]
    assert cameras.distortion_params is None


def test_wide_images_are_scaled_down(scene: Path) -> None:
    outputs = make_parser(scene, max_width=32).get_dataparser_outputs("train")
    with Image.open(outputs.image_filenames[0]) as image:
        assert image.size == (32, 24) == (int(outputs.cameras.width[0]), int(outputs.cameras.height[0]))
    np.testing.assert_allclose(found_dots(outputs.image_filenames[2]), expected_dots(outputs, 2), atol=0.15)


def test_depths_are_metres_along_the_axis(scene: Path) -> None:
    """nerfstudio's own reader gives depths that put the floor where it is, in the scaled scene."""
    outputs = make_parser(scene, auto_scale_poses=True).get_dataparser_outputs("train")
    dataset = DepthDataset(outputs)
    for index in (0, 3):
        depth = dataset[index]["depth_image"].squeeze(-1)
        rows, columns = (depth > 0).nonzero(as_tuple=True)
        camera = outputs.cameras[index]
        local = torch.stack([(columns + 0.5 - camera.cx) / camera.fx, (camera.cy - rows - 0.5) / camera.fy], -1)
        local = torch.cat([local, -torch.ones(len(local), 1)], -1) * depth[rows, columns, None]
        height = (local @ camera.camera_to_worlds[:, :3].T + camera.camera_to_worlds[:, 3])[:, 2]
        assert len(height) > 200
        torch.testing.assert_close(height, torch.full_like(height, FLOOR * outputs.dataparser_scale), atol=2e-3, rtol=0)


def test_depths_are_not_needed(scene: Path, tmp_path: Path) -> None:
    copy = tmp_path / "room_0"
    shutil.copytree(scene, copy)
    (copy / "Sequence_2" / "depth" / "depth_187.png").unlink()
    assert "depth_filenames" not in make_parser(copy).get_dataparser_outputs("train").metadata
    assert len(make_parser(copy).get_dataparser_outputs("test").metadata["depth_filenames"]) == 56
    shutil.rmtree(copy / "Sequence_2" / "depth")
    assert "depth_filenames" not in make_parser(copy).get_dataparser_outputs("train").metadata


# What is refused


def cut_line(sequence: Path) -> None:
    path = sequence / "traj_w_c.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))


def spoil_line(text: str):
    def spoil(sequence: Path) -> None:
        path = sequence / "traj_w_c.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], text, *lines[2:]]))

    return spoil


REFUSALS = [
    (
        shutil.rmtree,
        {},
        FileNotFoundError,
        r"room_0/Sequence_2/traj_w_c\.txt does not exist",
    ),
    (lambda sequence: (sequence / "traj_w_c.txt").unlink(), {}, FileNotFoundError, r"traj_w_c\.txt does not exist"),
    (lambda sequence: shutil.rmtree(sequence / "rgb"), {}, FileNotFoundError, r"rgb/rgb_0\.png does not exist"),
    (lambda sequence: (sequence / "rgb/rgb_9.png").unlink(), {}, ValueError, "has 30 poses for the 29 images of"),
    (cut_line, {}, ValueError, r"traj_w_c\.txt has 29 poses for the 30 images of"),
    (spoil_line("1 2 3"), {}, ValueError, r"Line 2 of .*traj_w_c\.txt has 3 numbers instead of the 16"),
    (spoil_line("a " * 16), {}, ValueError, r"Line 2 of .*traj_w_c\.txt holds something else than numbers"),
    (spoil_line("nan " * 16), {}, ValueError, r"Line 2 of .*traj_w_c\.txt has a pose that is not finite"),
    (lambda sequence: None, {"input_frames": (3, 30)}, ValueError, "has no frame 30, which is to be an input view"),
    (lambda sequence: None, {"input_frames": (3,)}, ValueError, "Only 1 input view is named"),
]


@pytest.mark.parametrize(("spoil", "options", "error", "sentence"), REFUSALS, ids=[case[3] for case in REFUSALS])
def test_refusals_are_one_sentence(tmp_path: Path, spoil, options, error, sentence) -> None:
    spoil(write_replica(tmp_path / "room_0" / "Sequence_2", [3], count=30))
    with pytest.raises(error, match=sentence) as caught:
        make_parser(tmp_path / "room_0", **{"input_frames": (3, 20), **options}).get_dataparser_outputs("train")
    assert "\n" not in str(caught.value)


def test_wrong_folders_name_the_file_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder .*missing; give a scene of Replica"):
        make_parser(tmp_path / "missing").get_dataparser_outputs("train")
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/traj_w_c\.txt does not exist; give .* \(office_2, "):
        make_parser(tmp_path).get_dataparser_outputs("train")
