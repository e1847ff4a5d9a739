"""The `guidedvd-scannetpp` dataparser: a scene's DSLR images as downloaded, with the paper's views.

    data/8a20d62ac0/dslr/resized_images/DSC00009.JPG         fisheye
                        /resized_anon_masks/DSC00009.png     255 where a pixel counts
                        /nerfstudio/transforms.json          frames and test_frames
                        /colmap/{cameras,images,points3D}.txt
                   /scans/mesh_aligned_0.05.ply

Images that the data set's own toolkit has undistorted (transforms_undistorted.json) are used where they are; else the
fisheye images are undistorted here, with the same OpenCV model.

Nerfstudio loads this module while its own datamanagers are being imported: nothing here may import them, nor our
datamanager, pipeline or model.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from guidedvd_ns.data.capture_dataparser import CaptureDataParser, CaptureDataParserConfig
from guidedvd_ns.data.captures import Capture, Frame, sorted_frames
from guidedvd_ns.data.image_cache import prepare_frames
from guidedvd_ns.data.pointcloud_io import PointCloud, read_ply
from guidedvd_ns.data.splits import split_views, views_by_number
from guidedvd_ns.data.transforms_json import load_transforms, read_frame

PAPER_INPUTS: dict[str, tuple[int, ...]] = {
    "8a20d62ac0": (9, 85, 134, 172, 329, 380),
    "94ee15e8ba": (3057, 3107, 3177, 3184, 3274, 3302),
    "7831862f02": (3872, 3905, 3954, 3960, 3999, 4051),
    "a29cccc784": (848, 865, 928, 947, 1006, 1040),
}
"""The paper's scenes, and the DSC numbers of the six input frames of each."""

_TEST_MARGIN = 10
_TEST_STEP = 6

_MODEL = Path("dslr/colmap")
_SCAN = Path("scans/mesh_aligned_0.05.ply")

# Poses of one image in transforms.json and in the COLMAP model, in metres.
_POSE_TOLERANCE = 1e-2


@dataclass
class ScanNetPPDataParserConfig(CaptureDataParserConfig):
    """A scene of ScanNet++ (DSLR), with the paper's six input views and test views or with the official split."""

    _target: type = field(default_factory=lambda: ScanNetPPDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """Folder of the scene, such as scannetpp/data/8a20d62ac0."""
    views: Literal["paper", "official"] = "paper"
    """`paper`: six input views, and every sixth frame from ten before the first to ten after the last for the test.
    `official`: the data set's own training and test frames."""
    input_frames: tuple[int, ...] = ()
    """DSC numbers of the input frames, for views `paper`. If not set, the paper's six; a scene that is not among the
    paper's needs them."""
    undistorted_path: Optional[Path] = None
    """Folder of the images of dslr/nerfstudio/transforms_undistorted.json, relative to the scene. If not set,
    dslr/undistorted_images or dslr/resized_undistorted_images; where there is neither, the fisheye images are
    undistorted into the cache."""
    use_masks: bool = False
    """Whether anonymised pixels are ignored. The paper uses and scores them."""
    masks_path: Optional[Path] = None
    """Folder of the masks that belong to the images, relative to the scene, if it is not where the toolkit puts it."""
    depths_path: Optional[Path] = None
    """Folder of depth maps that belong to the images (DSC00009.png, millimetres), relative to the scene. If not set,
    dslr/render_depth beside fisheye images, where the toolkit renders them from the scan."""
    point_cloud: Literal["colmap", "scan", "none"] = "colmap"
    """Initial points: `colmap`, those of dslr/colmap that two input views saw; `scan`, all vertices of the laser scan,
    seen by an input view or not."""
    max_width: int = 1600
    """Undistorted images wider than this are scaled down to it, as in the paper."""
    scene_scale: float = 1.5
    """Half the side of the scene box, in scene units: the cameras are inside the room."""


class ScanNetPPDataParser(CaptureDataParser):
    """Reads `frames` and `test_frames` of one scene.

    Orientation, centre and scale follow from all of them, as in nerfstudio's `scannetpp`, whatever the split. Points
    come into this world by way of the images that it shares with COLMAP's, whose axes are others. The metadata's
    `points3D_source` is "scan" for points that input views need not see.
    """

    config: ScanNetPPDataParserConfig

    def _read_capture(self) -> Capture:
        config, folder = self.config, Path(os.path.abspath(self.config.data))
        files = _find_files(folder, config)
        meta = load_transforms(files.transforms)
        return Capture(
            folder=folder,
            frames=_read_frames(meta, files, config.use_masks),
            split_names=_official_split(meta, folder) if config.views == "official" else {},
            load_points=lambda input_names: self._load_points(folder, input_names),
            points_source="scan" if config.point_cloud == "scan" else "capture",
            orientation_override=meta.get("orientation_override"),
        )

    def _choose_views(self, capture: Capture) -> dict[str, list[int]]:
        if self.config.views == "official":
            return split_views([frame.name for frame in capture.frames], capture.split_names, None)
        scene = capture.folder.name
        numbers = self.config.input_frames or PAPER_INPUTS.get(scene)
        if numbers is None:
            raise ValueError(
                f"{scene} is none of the paper's scenes ({', '.join(PAPER_INPUTS)}); name its input views with "
                "--input-frames, or give --views official."
            )
        available = [_dsc_number(frame.name) for frame in capture.frames]
        inputs = views_by_number(numbers, available, capture.folder)
        tests = scored_views(inputs, len(capture.frames))
        return {"train": inputs, "val": tests, "test": tests}

    def _prepare(self, frames: list[Frame]) -> list[Frame]:
        return prepare_frames(frames, self.capture.folder, self._cache, max_width=self.config.max_width)

    def _load_points(self, folder: Path, input_names: Sequence[str]) -> Optional[PointCloud]:
        """Points in the world of `transforms.json`; None where they are not wanted or COLMAP's model is missing."""
        from guidedvd_ns.data.colmap import read_colmap

        wanted = self.config.point_cloud
        if wanted == "none" or (wanted == "colmap" and not (folder / _MODEL).is_dir()):
            return None
        reconstruction = read_colmap(folder, folder / _MODEL, folder)
        if wanted == "scan":
            points = _moved(read_ply(folder / _SCAN), reconstruction.applied_transform)
        else:
            points = reconstruction.load_points(input_names)
        return None if points is None else _moved(points, _alignment(self.capture, reconstruction))


def scored_views(inputs: Sequence[int], count: int) -> list[int]:
    """The paper's test views: every sixth position near the input views, without these themselves."""
    first, last = max(min(inputs) - _TEST_MARGIN, 0), min(max(inputs) + _TEST_MARGIN, count - 1)
    return [view for view in range(first, last + 1, _TEST_STEP) if view not in inputs]


@dataclass(frozen=True)
class _Files:
    """Where one set of images, undistorted or not, and what belongs to it is."""

    transforms: Path
    images: Path
    masks: Path
    depths: Optional[Path]


def _find_files(folder: Path, config: ScanNetPPDataParserConfig) -> _Files:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give a scene of ScanNet++, such as data/8a20d62ac0.")
    dslr = folder / "dslr"
    undistorted, fisheye = (dslr / "nerfstudio" / f"transforms{suffix}.json" for suffix in ("_undistorted", ""))
    sets = [
        _Files(undistorted, dslr / "undistorted_images", dslr / "undistorted_anon_masks", None),
        _Files(undistorted, dslr / "resized_undistorted_images", dslr / "resized_undistorted_masks", None),
        _Files(fisheye, dslr / "resized_images", dslr / "resized_anon_masks", dslr / "render_depth"),
    ]
    if config.undistorted_path is not None:
        sets = [replace(sets[0], images=folder / config.undistorted_path)]
    found = next((files for files in sets if files.transforms.is_file() and files.images.is_dir()), None)
    if found is None:
        missing = sets[-1].images if sets[-1].transforms.is_file() else sets[-1].transforms
        raise FileNotFoundError(
            f"{missing} does not exist; give a scene's folder, with its DSLR images as downloaded or undistorted."
        )
    masks = found.masks if config.masks_path is None else folder / config.masks_path
    if config.use_masks and not masks.is_dir():
        raise FileNotFoundError(f"The folder of masks {masks} does not exist; give another with --masks-path.")
    depths = found.depths if config.depths_path is None else folder / config.depths_path
    return replace(found, masks=masks, depths=depths)


def _read_frames(meta: dict[str, Any], files: _Files, use_masks: bool) -> list[Frame]:
    """All frames, each once: the toolkit lists the test frames of undistorted images twice."""
    frames: dict[str, Frame] = {}
    for entry in [*meta["frames"], *meta.get("test_frames", [])]:
        frame = read_frame(entry, meta, files.transforms, files.images, files.masks)
        depth_path = None if files.depths is None else (files.depths / frame.name).with_suffix(".png")
        mask_path = frame.mask_path if use_masks else None
        frames.setdefault(frame.name, replace(frame, mask_path=mask_path, depth_path=depth_path))
    return sorted_frames(list(frames.values()), files.transforms)


def _official_split(meta: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    if "test_frames" in meta:
        return {"test": [entry["file_path"] for entry in meta["test_frames"]]}
    path = folder / "dslr" / "train_test_lists.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, nor does transforms.json list test_frames; download it again.")
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        return {"train": list(lists["train"]), "test": list(lists["test"])}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no lists train and test ({error}); download it again.") from error


def _dsc_number(name: str) -> int:
    digits = re.findall(r"\d+", Path(name).stem)
    return int(digits[-1]) if digits else -1


def _alignment(capture: Capture, reconstruction: Capture) -> np.ndarray:  # [4, 4]
    """The motion that takes the COLMAP model's world to that of `capture`, from the images that both have.

    Raises:
        ValueError: they share no image, or disagree about one.
    """
    poses = {frame.name: frame.camera_to_world for frame in capture.frames}
    shared = [(poses[frame.name], frame) for frame in reconstruction.frames if frame.name in poses]
    model = capture.folder / _MODEL
    if not shared:
        raise ValueError(
            f"{model} and transforms.json share no image; download both again, or give --point-cloud none."
        )
    motion = shared[0][0] @ np.linalg.inv(shared[0][1].camera_to_world)
    for pose, frame in shared:
        if np.abs(motion @ frame.camera_to_world - pose).max() > _POSE_TOLERANCE:
            raise ValueError(
                f"{model} and transforms.json disagree about the pose of {frame.name}; download both again, or give "
                "--point-cloud none."
            )
    return motion


def _moved(
    points: PointCloud,
    motion: Optional[np.ndarray],  # [3 or 4, 4]
) -> PointCloud:
    if motion is None:
        return points
    xyz = points.xyz @ motion[:3, :3].T + motion[:3, 3]
    return replace(points, xyz=xyz.astype(np.float32))


guidedvd_scannetpp = DataParserSpecification(
    config=ScanNetPPDataParserConfig(),
    description="ScanNet++ (DSLR), undistorted, with the six input views and the test views of the paper.",
)
