"""The demo scene: splits, points, cache, and that nerfstudio can load it from anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset

from guidedvd_ns.data import demo_dataparser
from guidedvd_ns.data.demo_dataparser import (
    DEMO_SEED,
    GuidedVDDemo,
    GuidedVDDemoDataParserConfig,
    GuidedVDRoomsDataParserConfig,
    guidedvd_demo,
    guidedvd_rooms,
)
from guidedvd_ns.data.rooms import HELD_OUT_SEEDS, Room
from guidedvd_ns.data.rooms.tracing import distance_to_primitives, distance_to_walls


def small(cache: Path, **changes) -> GuidedVDDemo:
    settings = {"width": 32, "height": 24, "num_input_views": 2, "num_points": 400, "cache_dir": cache, **changes}
    return GuidedVDDemoDataParserConfig(**settings).setup()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_splits_are_a_dataset_that_nerfstudio_reads(cache: Path):
    parser = small(cache)
    train, val, test = (parser.get_dataparser_outputs(split) for split in ("train", "val", "test"))
    assert [path.stem for path in train.image_filenames] == ["input_000", "input_001"]
    assert len(test.image_filenames) == 8 and val.image_filenames == test.image_filenames
    assert {path.stem.split("_")[0] for path in test.image_filenames} == {"path", "extra"}
    assert torch.equal(train.dataparser_transform, torch.eye(4)[:3]) and train.dataparser_scale == 1.0
    dataset = InputDataset(train)
    assert dataset[0]["image"].shape == (24, 32, 3)
    assert dataset.cameras.fx[0].item() == pytest.approx(20.85, abs=0.01)  # 75 degrees across 32 pixels
    assert 0.2 < dataset[1]["image"].mean() < 0.9
    low, high = train.scene_box.aabb
    positions = torch.cat([train.cameras.camera_to_worlds, test.cameras.camera_to_worlds])[..., 3]
    assert ((positions > low) & (positions < high)).all()


def test_points_lie_near_the_surfaces_by_the_depth_noise(cache: Path):
    metadata = small(cache).get_dataparser_outputs("train").metadata
    xyz, rgb = metadata["points3D_xyz"], metadata["points3D_rgb"]
    assert xyz.shape == rgb.shape == (400, 3) and xyz.dtype == torch.float32 and rgb.dtype == torch.uint8
    room = Room.sample(DEMO_SEED)
    gap = torch.minimum(distance_to_primitives(room, xyz[None]).abs(), distance_to_walls(room.size, xyz[None]).abs())
    assert 0.003 < gap.median() < 0.06
    assert "points3D_xyz" not in small(cache).get_dataparser_outputs("test").metadata


def test_pictures_are_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder = small(cache).folder
    monkeypatch.setattr(demo_dataparser, "_photograph", lambda seed, config: pytest.fail("photographed again"))
    assert small(cache).folder == folder
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".")]


def test_every_setting_but_the_place_of_the_cache_has_its_own_folder(tmp_path: Path):
    keys = {
        small(tmp_path, **change)._key()
        for change in ({}, {"room_seed": 10_000_005}, {"width": 48}, {"num_points": 10}, {"depth_noise": 0.0})
    }
    assert len(keys) == 5
    assert small(tmp_path)._key() == small(tmp_path / "elsewhere")._key()


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args):
        raise RuntimeError("disk full")

    monkeypatch.setattr(demo_dataparser, "_write", fail)
    monkeypatch.setattr(demo_dataparser, "_photograph", lambda seed, config: None)
    with pytest.raises(RuntimeError, match="disk full"):
        _ = small(tmp_path).folder
    assert list((tmp_path / "demo").iterdir()) == []


def test_test_views_hold_something_unseen(cache: Path):
    frames = json.loads((small(cache).folder / "transforms.json").read_text())["frames"]
    unseen = {frame["file_path"]: frame["unseen_by_inputs"] for frame in frames}
    assert max(share for file, share in unseen.items() if "input" in file) < 0.02
    assert all(share >= 0.1 for file, share in unseen.items() if "extra" in file)


def test_wrong_settings_are_named(tmp_path: Path, cache: Path):
    with pytest.raises(ValueError, match="no split 'all'"):
        small(cache).get_dataparser_outputs("all")
    with pytest.raises(ValueError, match="at least 2"):
        _ = small(tmp_path, num_input_views=1).folder
    with pytest.raises(ValueError, match="at least 16x16"):
        _ = small(tmp_path, width=8).folder


def test_a_run_is_never_scored_on_pictures_of_other_rooms(tmp_path: Path):
    with pytest.raises(ValueError, match="rooms of version 1 are no longer in"):
        _ = small(tmp_path, rooms_version=1).folder


def test_the_demo_room_is_held_out():
    assert DEMO_SEED >= HELD_OUT_SEEDS == demo_dataparser.HELD_OUT_SEEDS
    assert isinstance(guidedvd_demo.config, GuidedVDDemoDataParserConfig)


def test_rooms_are_numbered_past_those_trained_on(tmp_path: Path):
    settings = {"width": 32, "height": 24, "num_points": 400, "cache_dir": tmp_path}
    rooms = [GuidedVDRoomsDataParserConfig(room_seed=seed, **settings).setup() for seed in (3, HELD_OUT_SEEDS + 3)]
    assert [room.room_seed for room in rooms] == [HELD_OUT_SEEDS + 3] * 2
    assert rooms[0].folder == rooms[1].folder and rooms[0].folder.name.startswith("room-10000003-")
    train, test = (rooms[0].get_dataparser_outputs(split) for split in ("train", "test"))
    assert len(train.image_filenames) == 6 and len(test.image_filenames) == 24
    with pytest.raises(ValueError, match="numbered from 0"):
        _ = GuidedVDRoomsDataParserConfig(room_seed=-1, **settings).setup().folder


def test_the_rooms_come_with_their_own_defaults():
    config = guidedvd_rooms.config
    assert isinstance(config, GuidedVDRoomsDataParserConfig) and config.experiment_name == "room"
    assert config.num_input_views == 6 and config.room_seed == HELD_OUT_SEEDS
    assert isinstance(config.setup(), GuidedVDDemo)


def test_the_module_is_light_and_imports_no_part_of_the_method():
    code = (
        "import sys, guidedvd_ns.data.demo_dataparser; "
        "bad = [m for m in sys.modules if m.startswith(('guidedvd_ns.data.rooms', 'guidedvd_ns.datamanager', "
        "'guidedvd_ns.pipeline', 'guidedvd_ns.model', 'diffusers', 'nerfstudio.data.datamanagers'))]; "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
