"""The `guidedvd-replica` dataparser: Semantic-NeRF's renders of Replica as downloaded, with the paper's views.

    Replica/room_0/Sequence_2/rgb/rgb_0.png ..      numbers without leading zeros
                              depth/depth_0.png ..  millimetres in 16 bits, 0 where unknown; may be missing
                              traj_w_c.txt          a camera-to-world matrix a line, OpenCV axes, metres

Nerfstudio loads this module while its own datamanagers are being imported: nothing here may import them, nor our
datamanager, pipeline or model.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.data.capture_dataparser import CaptureDataParser, CaptureDataParserConfig
from guidedvd_ns.data.captures import Capture, Frame, checked_pose
from guidedvd_ns.data.image_cache import open_image, prepare_frames
from guidedvd_ns.data.splits import views_by_number

PAPER_INPUTS: dict[str, tuple[int, ...]] = {
    "office_2/Sequence_2": (244, 291, 436, 607, 760, 831),
    "office_3/Sequence_1": (22, 98, 315, 504, 581, 731),
    "office_4/Sequence_2": (233, 305, 440, 555, 759, 806),
    "room_0/Sequence_2": (5, 80, 187, 392, 497, 658),
    "room_1/Sequence_1": (17, 39, 125, 349, 449, 840),
    "room_2/Sequence_1": (61, 178, 323, 485, 526, 758),
}
"""The paper's scenes, the sequence of each, and its six input frames."""

_TEST_REACH = 50
_TEST_STEP = 10


@dataclass
class ReplicaDataParserConfig(CaptureDataParserConfig):
    """Replica as Semantic-NeRF rendered it, with the paper's sequences, six input views and test views."""

    _target: type = field(default_factory=lambda: ReplicaDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """A scene (Replica/room_0, of which the paper's sequence is taken) or one of its sequences (room_0/Sequence_1)."""
    input_frames: tuple[int, ...] = ()
    """Numbers of the input frames. If not set, the paper's six; a sequence that is not among the paper's needs them.
    Test views are every tenth frame of the 50 on either side of an input frame."""
    drop_shared_views: bool = False
    """Whether a test view that is an input view too is left out. The paper scores it (frame 526 of room_2)."""
    max_width: int = 1600
    """Images wider than this are scaled down to it."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "none"
    """How the scene is turned. Not at all, as in the paper: the world stays in metres. This and the next three follow
    from all frames, of whatever split."""
    center_method: Literal["poses", "focus", "none"] = "none"
    """Which point becomes the origin."""
    auto_scale_poses: bool = False
    """Whether the scene is scaled so that all cameras lie within +/- 1."""
    scene_scale: float = 10.0
    """Half the side of the scene box, in scene units."""


class ReplicaDataParser(CaptureDataParser):
    """Reads one sequence; depth maps, where they are there, are handed out but not needed."""

    config: ReplicaDataParserConfig

    def _read_capture(self) -> Capture:
        folder = _sequence_folder(self.config.data)
        return Capture(folder=folder, frames=_read_frames(folder))

    def _choose_views(self, capture: Capture) -> dict[str, list[int]]:
        name = _sequence_name(capture.folder)
        numbers = self.config.input_frames or PAPER_INPUTS.get(name)
        if numbers is None:
            raise ValueError(
                f"{name} is none of the paper's sequences ({', '.join(PAPER_INPUTS)}); name its input views with "
                "--input-frames."
            )
        inputs = views_by_number(numbers, range(len(capture.frames)), capture.folder)
        tests = scored_views(inputs, len(capture.frames))
        if self.config.drop_shared_views:
            dropped = sorted(set(tests).intersection(inputs))
            CONSOLE.log(f"Not scored, since they are input views: {', '.join(map(str, dropped)) or 'none'}")
            tests = [view for view in tests if view not in dropped]
        return {"train": inputs, "val": tests, "test": tests}

    def _prepare(self, frames: list[Frame]) -> list[Frame]:
        return prepare_frames(frames, self.capture.folder, self._cache, max_width=self.config.max_width)


def scored_views(inputs: Sequence[int], count: int) -> list[int]:
    """The paper's test views of a sequence of `count` frames: every tenth of the neighbours of each input view.

    The neighbours of t are t - 50 to t - 1 and then t + 1 to t + 49, as far as the sequence goes; so the phase of those
    after t depends on how many there are before it. An input view may be a neighbour of another, and stays.
    """
    chosen: set[int] = set()
    for view in inputs:
        before = range(max(view - _TEST_REACH, 0), view)
        after = range(view + 1, min(view + _TEST_REACH, count))
        chosen.update([*before, *after][::_TEST_STEP])
    return sorted(chosen)


def _sequence_folder(data: Path) -> Path:
    """The folder of a sequence, given itself or its scene's."""
    folder = Path(os.path.abspath(data))
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give a scene of Replica, such as Replica/room_0.")
    of_scene = [name.split("/")[1] for name in PAPER_INPUTS if name.split("/")[0] == folder.name]
    sequence = folder / of_scene[0] if of_scene else folder
    if not (sequence / "traj_w_c.txt").is_file():
        raise FileNotFoundError(
            f"{sequence / 'traj_w_c.txt'} does not exist; give one of the paper's scenes "
            f"({', '.join(sorted(name.split('/')[0] for name in PAPER_INPUTS))}) or the folder of a sequence."
        )
    return sequence


def _sequence_name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _read_frames(folder: Path) -> list[Frame]:
    """All frames in the order of their numbers, which is that of the poses."""
    images = _numbered(folder / "rgb", "rgb")
    if not images:
        raise FileNotFoundError(f"{folder / 'rgb' / 'rgb_0.png'} does not exist; download the sequence again.")
    poses = _read_poses(folder / "traj_w_c.txt")
    if len(poses) != len(images):
        raise ValueError(
            f"{folder / 'traj_w_c.txt'} has {len(poses)} poses for the {len(images)} images of {folder / 'rgb'}; "
            "download the sequence again."
        )
    with open_image(images[0][1]) as image:
        width, height = image.size
    depths = dict(_numbered(folder / "depth", "depth"))
    return [
        Frame(
            name=path.name,
            image_path=path,
            mask_path=None,
            camera_to_world=pose,
            width=width,
            height=height,
            # 90 degrees across. Semantic-NeRF's centre, (W - 1) / 2, counts from the middle of the first pixel.
            fx=width / 2,
            fy=width / 2,
            cx=width / 2,
            cy=height / 2,
            depth_path=depths.get(number),
        )
        for (number, path), pose in zip(images, poses, strict=True)
    ]


def _numbered(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """`prefix`_N.png of `folder` by N; none where there is no folder."""
    if not folder.is_dir():
        return []
    matches = ((re.fullmatch(rf"{prefix}_(\d+)\.png", path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _read_poses(path: Path) -> list[np.ndarray]:
    """Camera-to-world matrices [4, 4] with OpenGL axes."""
    poses = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"Line {number} of {path}"
        try:
            values = np.array([float(value) for value in line.split()])
        except ValueError as error:
            raise ValueError(f"{where} holds something else than numbers ({error}); download it again.") from error
        if values.size != 16:
            raise ValueError(f"{where} has {values.size} numbers instead of the 16 of a pose; download it again.")
        pose = checked_pose(values.reshape(4, 4), where)
        pose[:3, 1:3] *= -1
        poses.append(pose)
    return poses


guidedvd_replica = DataParserSpecification(
    config=ReplicaDataParserConfig(),
    description="Replica (Semantic-NeRF's renders) with the six input views and the test views of the paper.",
)
