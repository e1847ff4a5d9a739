"""The `guidedvd-demo` and `guidedvd-rooms` dataparsers: procedural rooms, photographed on the spot, so no data needed.

Nerfstudio loads this module while its own datamanagers are being imported: nothing here may import them, nor our
datamanager, pipeline or model; the rooms are imported only when one is made.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Optional

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.cache import cache_folder

if TYPE_CHECKING:
    from guidedvd_ns.data.rooms.capture import RoomCapture

# Raise it whenever the same settings give other pictures.
_VERSION = 3

HELD_OUT_SEEDS = 10_000_000
"""`rooms.HELD_OUT_SEEDS`, which is not worth importing the rooms for."""

DEMO_SEED = 10_000_009
"""The demo's room, one of those that are never trained on."""


@dataclass
class GuidedVDDemoDataParserConfig(DataParserConfig):
    """A furnished room made from a seed, with few input views, test views and a point cloud. Needs no `--data`."""

    _target: type = field(default_factory=lambda: GuidedVDDemo)
    """target class to instantiate"""
    experiment_name: ClassVar[str] = "demo"
    """Name of a run without a name of its own."""
    room_seed: int = DEMO_SEED
    """Which room. Seeds below 10 000 000 are for training; such an N stands for room 10 000 000 + N here."""
    num_input_views: int = 6
    """Input views along a walk of about 105 degrees; there are twice as many test views on this walk and off it."""
    width: int = 160
    """Width of the images in pixels."""
    height: int = 120
    """Height of the images in pixels."""
    field_of_view: float = 75.0
    """Horizontal field of view in degrees."""
    num_points: int = 15_000
    """Points of the cloud that comes with the input views."""
    depth_noise: float = 0.015
    """Noise of these points along the line of sight, as a share of their depth."""
    rooms_version: int = _VERSION
    """Which rooms; it stands in a run's config.yml so that the run is never scored on pictures of later ones."""
    cache_dir: Optional[Path] = None
    """Where the pictures are kept, so that they are made only once. If not set, guidedvd-ns in the user's cache
    folder."""


@dataclass
class GuidedVDRoomsDataParserConfig(GuidedVDDemoDataParserConfig):
    """The rooms that the method is measured on: six input views and twenty-four test views of room 0, 1, 2, ..."""

    experiment_name: ClassVar[str] = "room"
    room_seed: int = HELD_OUT_SEEDS
    """Which room. Seeds below 10 000 000 are for training; such an N stands for room 10 000 000 + N here."""
    width: int = 320
    """Width of the images in pixels; 640x480 suits a GPU."""
    height: int = 240
    """Height of the images in pixels."""
    num_points: int = 20_000
    """Points of the cloud that comes with the input views."""


class GuidedVDDemo(DataParser):
    """Makes a room at its first use and hands out its views, in metres with z up.

    Nothing is centred or scaled: the world is the room's own, its origin in the middle of the floor, so
    `dataparser_transform` is the identity and `dataparser_scale` is 1. The splits val and test are the same views: two
    for each input view on the path (`path_*`, nearly all of it seen) and two off it (`extra_*`, partly unseen).

    The metadata of the split `train` holds the initial points: `points3D_xyz` [P, 3] float32 and `points3D_rgb`
    [P, 3] uint8, made from the input views' noisy depth alone, and `points3D_source`, "capture".

    The folder in the cache is an ordinary capture (transforms.json, images, points3D.ply) that other programs read.
    """

    config: GuidedVDDemoDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """The views of `split`: train, val or test.

        Raises:
            ValueError: an unknown split or unusable settings.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f"There is no split {split!r}; choose train, val or test.")
        capture = json.loads((self.folder / "transforms.json").read_text(encoding="utf-8"))
        wanted = set(capture[f"{split}_filenames"])
        frames = [frame for frame in capture["frames"] if frame["file_path"] in wanted]
        poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float32)
        cameras = Cameras(
            camera_to_worlds=poses[:, :3],
            fx=capture["fl_x"],
            fy=capture["fl_y"],
            cx=capture["cx"],
            cy=capture["cy"],
            width=capture["w"],
            height=capture["h"],
            camera_type=CameraType.PERSPECTIVE,
        )
        return DataparserOutputs(
            image_filenames=[self.folder / frame["file_path"] for frame in frames],
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor(capture["room_box"], dtype=torch.float32)),
            metadata=self._initial_points() if split == "train" else {},
            dataparser_scale=1.0,
        )

    @cached_property
    def folder(self) -> Path:
        """The capture in the cache, made now if it is not there yet."""
        folder = (self.config.cache_dir or cache_folder()) / "demo" / self._key()
        if not (folder / "transforms.json").is_file():
            self._make(folder)
        return folder

    @property
    def room_seed(self) -> int:
        """The room's seed, never one that is trained on.

        Raises:
            ValueError: the seed of the config is negative.
        """
        seed = self.config.room_seed
        if seed < 0:
            raise ValueError(f"--room-seed is {seed}; rooms are numbered from 0.")
        return seed if seed >= HELD_OUT_SEEDS else HELD_OUT_SEEDS + seed

    def _settings(self) -> dict[str, Any]:
        """All that the pictures depend on."""
        ignored = ("_target", "data", "cache_dir")
        settings = {name: value for name, value in vars(self.config).items() if name not in ignored}
        return {**settings, "room_seed": self.room_seed}

    def _key(self) -> str:
        text = json.dumps(self._settings(), sort_keys=True)
        return f"room-{self.room_seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _initial_points(self) -> dict[str, Any]:
        from guidedvd_ns.data.pointcloud_io import read_ply

        points = read_ply(self.folder / "points3D.ply")
        return {
            "points3D_xyz": torch.from_numpy(points.xyz),
            "points3D_rgb": torch.from_numpy(points.rgb),
            "points3D_source": "capture",
        }

    def _make(self, folder: Path) -> None:
        """Photographs the room into a folder beside its final place and moves it there when it is whole."""
        config = self.config
        if config.rooms_version != _VERSION:
            raise ValueError(
                f"The pictures of rooms of version {config.rooms_version} are no longer in {folder.parent}, and this"
                f" program makes version {_VERSION}: train anew, or install the program that the run was made with."
            )
        if config.width < 16 or config.height < 16:
            raise ValueError(f"Images of {config.width}x{config.height} pixels were asked for; use at least 16x16.")
        if config.room_seed != self.room_seed:
            CONSOLE.log(f"Seed {config.room_seed} is one of those trained on; room {self.room_seed} takes its place")
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            _write(_photograph(self.room_seed, config), config, temporary)
            os.replace(temporary, folder)
        except OSError:
            # Another process may have put the same folder there first.
            if not (folder / "transforms.json").is_file():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _photograph(seed: int, config: GuidedVDDemoDataParserConfig) -> "RoomCapture":
    from rich.progress import Progress

    from guidedvd_ns.data.rooms.capture import make_capture

    with Progress(console=CONSOLE, transient=True) as progress:
        task = progress.add_task(f"Photographing room {seed}", total=None)
        return make_capture(
            seed,
            num_inputs=config.num_input_views,
            height=config.height,
            width=config.width,
            field_of_view=config.field_of_view,
            num_points=config.num_points,
            depth_noise=config.depth_noise,
            device="cuda" if torch.cuda.is_available() else "cpu",
            on_view=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _write(capture: "RoomCapture", config: GuidedVDDemoDataParserConfig, folder: Path) -> None:
    """Writes the capture as transforms.json, images and points3D.ply."""
    import numpy as np
    from PIL import Image
    from plyfile import PlyData, PlyElement

    (folder / "images").mkdir(exist_ok=True)
    files = [f"images/{name}.png" for name in capture.names]
    for file, image in zip(files, capture.images, strict=True):
        Image.fromarray(image.numpy()).save(folder / file)

    columns = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.empty(len(capture.points_xyz), dtype=columns)
    for values in (capture.points_xyz.numpy().T, capture.points_rgb.numpy().T):
        for (name, _), column in zip(columns[:3] if values.dtype == np.float32 else columns[3:], values, strict=True):
            vertices[name] = column
    PlyData([PlyElement.describe(vertices, "vertex")]).write(str(folder / "points3D.ply"))

    fx, fy, cx, cy = capture.intrinsics
    bottom = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]).expand(len(files), 1, 4)
    poses = torch.cat([capture.poses, bottom], 1).tolist()
    inputs, tests = files[: config.num_input_views], files[config.num_input_views :]
    width, depth, height = capture.room_size
    transforms = {
        "camera_model": "OPENCV",
        "w": config.width,
        "h": config.height,
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "room_box": [[-width / 2, -depth / 2, 0.0], [width / 2, depth / 2, height]],
        "frames": [
            {"file_path": file, "transform_matrix": pose, "unseen_by_inputs": round(unseen, 4)}
            for file, pose, unseen in zip(files, poses, capture.unseen.tolist(), strict=True)
        ],
        "train_filenames": inputs,
        "val_filenames": tests,
        "test_filenames": tests,
        "ply_file_path": "points3D.ply",
    }
    (folder / "transforms.json").write_text(json.dumps(transforms, indent=1), encoding="utf-8")


guidedvd_demo = DataParserSpecification(
    config=GuidedVDDemoDataParserConfig(),
    description="A procedural room with six input views, made on the spot: no data and no download needed.",
)

guidedvd_rooms = DataParserSpecification(
    config=GuidedVDRoomsDataParserConfig(),
    description="Procedural rooms that are never trained on, by number: six input views and twenty-four test views.",
)
