"""From a capture on disk to what nerfstudio's dataparsers return: the part that all our dataparsers of data share.

Nerfstudio loads this module while its own datamanagers are being imported: nothing here may import them, nor our
datamanager, pipeline or model.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import torch
from nerfstudio.cameras import camera_utils
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.cache import cache_folder
from guidedvd_ns.data.captures import Capture, Frame
from guidedvd_ns.data.image_cache import open_image, prepare_frames
from guidedvd_ns.points import frusta_depth_range, random_points_in_frusta

# Random points are drawn from at most this many evenly spaced input views: each is one decoded image.
_MAX_VIEWS_FOR_RANDOM_POINTS = 64


@dataclass
class CaptureDataParserConfig(DataParserConfig):
    """Where a capture's world is placed, and what its Gaussians start from."""

    _target: type = field(default_factory=lambda: CaptureDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """Folder of the capture."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How the scene is turned. As in nerfstudio, this and the next three follow from all frames, of whatever split."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """Which point becomes the origin."""
    auto_scale_poses: bool = True
    """Whether the scene is scaled so that all cameras lie within +/- 1."""
    scale_factor: float = 1.0
    """By how much the scene is scaled, after the automatic scaling."""
    scene_scale: float = 1.0
    """Half the side of the scene box, in scene units."""
    num_random_points: int = 30_000
    """How many points are drawn inside the frusta of the input views where the capture has no point cloud."""
    random_seed: int = 42
    """Seed of the random points."""
    cache_dir: Optional[Path] = None
    """Where undistorted and resized images are kept. If not set, guidedvd-ns in the user's cache folder."""


class CaptureDataParser(DataParser):
    """Hands out the views of a capture that a subclass reads and splits.

    Distortion is removed here, so all cameras that leave are pinholes of their images' sizes and any geometry may be
    computed from them at once; `Cameras.distortion_params` is None. A split without views has an empty list of images
    and no cameras: nerfstudio's trainer then leaves evaluation out.

    The metadata of a split whose views all have measured depths holds `depth_filenames`, one a view, which nerfstudio's
    `get_depth_image_from_path` reads, and `depth_unit_scale_factor`: as in nerfstudio, a number in these files times
    this factor and `dataparser_scale` is a z-depth in scene units, and 0 is no measurement.

    The metadata of the split `train` also holds the initial points: `points3D_xyz` [N, 3] float32 (scene units),
    `points3D_rgb` [N, 3] uint8, and `points3D_source`: "random", "tracks" for points that features of input views made,
    else where the capture has them from.
    """

    config: CaptureDataParserConfig

    @abstractmethod
    def _read_capture(self) -> Capture:
        """All frames of the capture."""

    @abstractmethod
    def _choose_views(self, capture: Capture) -> dict[str, list[int]]:
        """Indices of the frames of train, val and test."""

    def _prepare(self, frames: list[Frame]) -> list[Frame]:
        """`frames` as undistorted views of the size at which they are used."""
        return prepare_frames(frames, self.capture.folder, self._cache)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """The views of `split`: train, val or test.

        Raises:
            FileNotFoundError: a file of the capture is missing.
            ValueError: the capture cannot be used; the sentence says why and what to do.
        """
        if split not in self._views:
            raise ValueError(f"There is no split {split!r}; choose train, val or test.")
        poses, transform, scale = self._normalised
        indices = self._views[split]
        frames = self._prepare([self.capture.frames[index] for index in indices])
        cameras = _pinhole_cameras(frames, poses[indices])
        half = self.config.scene_scale
        return DataparserOutputs(
            image_filenames=[frame.image_path for frame in frames],
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-half, -half, -half], [half, half, half]], dtype=torch.float32)),
            mask_filenames=[frame.mask_path for frame in frames if frame.mask_path is not None] or None,
            metadata={
                **self._depths(frames),
                **(self._initial_points(frames, cameras, transform, scale) if split == "train" else {}),
            },
            dataparser_transform=_from_original(transform, self.capture.applied_transform),
            dataparser_scale=scale * self.capture.applied_scale,
        )

    @cached_property
    def capture(self) -> Capture:
        """The capture as it lies on disk.

        Raises:
            FileNotFoundError: a file of the capture is missing.
            ValueError: an entry of its files makes no sense.
        """
        return self._read_capture()

    @cached_property
    def _views(self) -> dict[str, list[int]]:
        capture = self.capture
        views = self._choose_views(capture)
        CONSOLE.log(f"{capture.folder}: {len(views['train'])} input views, {len(views['test'])} test views")
        both = sorted(set(views["train"]).intersection([*views["val"], *views["test"]]))
        if both:
            CONSOLE.log(f"[yellow]{capture.frames[both[0]].name} is both an input view and a test view")
        return views

    @property
    def _cache(self) -> Path:
        return self.config.cache_dir or cache_folder()

    @cached_property
    def _normalised(self) -> tuple[Tensor, Tensor, float]:
        """Poses of all frames [F, 3, 4], the transform [3, 4] that turned and moved them, the scale applied after."""
        original = np.stack([frame.camera_to_world for frame in self.capture.frames]).astype(np.float32)
        method: Any = self.capture.orientation_override or self.config.orientation_method
        poses, transform = camera_utils.auto_orient_and_center_poses(
            torch.from_numpy(original), method=method, center_method=self.config.center_method
        )
        scale = self.config.scale_factor
        if self.config.auto_scale_poses:
            reach = float(poses[:, :3, 3].abs().max())
            if reach == 0:
                raise ValueError(f"All cameras of {self.capture.folder} stand at one point; depth needs a second one.")
            scale /= reach
        poses[:, :3, 3] *= scale
        return poses[:, :3], transform, scale

    def _depths(self, frames: list[Frame]) -> dict[str, Any]:
        paths = [frame.depth_path for frame in frames if frame.depth_path is not None]
        if not paths or len(paths) < len(frames):
            return {}
        return {"depth_filenames": paths, "depth_unit_scale_factor": self.capture.depth_unit}

    def _initial_points(self, frames: list[Frame], cameras: Cameras, transform: Tensor, scale: float) -> dict[str, Any]:
        points = self.capture.load_points([self.capture.frames[index].name for index in self._views["train"]])
        if points is not None and len(points):
            xyz = (torch.from_numpy(points.xyz) @ transform[:, :3].T + transform[:, 3]) * scale
            source = "tracks" if points.tracked else self.capture.points_source
            return {"points3D_xyz": xyz, "points3D_rgb": torch.from_numpy(points.rgb), "points3D_source": source}
        if self.config.num_random_points < 1:
            return {}
        step = -(-len(frames) // _MAX_VIEWS_FOR_RANDOM_POINTS)
        near, far = frusta_depth_range(cameras[::step])
        xyz, rgb = random_points_in_frusta(
            cameras[::step],
            self.config.num_random_points,
            self.config.random_seed,
            near=near,
            far=far,
            images=[_load_rgb(frame.image_path) for frame in frames[::step]],
            masks=[_load_mask(frame.mask_path) for frame in frames[::step]],
        )
        CONSOLE.log(
            f"No point cloud: {len(xyz)} random points in the frusta of the input views, depths {near:.2f} to {far:.2f}"
        )
        return {"points3D_xyz": xyz, "points3D_rgb": rgb, "points3D_source": "random"}


def _pinhole_cameras(
    frames: list[Frame],
    poses: Tensor,  # [F, 3, 4]
) -> Cameras:
    def column(name: str) -> Tensor:
        return torch.tensor([getattr(frame, name) for frame in frames]).reshape(-1, 1)

    return Cameras(
        camera_to_worlds=poses,
        fx=column("fx").float(),
        fy=column("fy").float(),
        cx=column("cx").float(),
        cy=column("cy").float(),
        width=column("width").long(),
        height=column("height").long(),
    )


def _from_original(transform: Tensor, applied: Optional[np.ndarray]) -> Tensor:
    """Takes coordinates of the original reconstruction to the scene's, before scaling [3, 4]."""
    if applied is None:
        return transform
    return transform @ torch.from_numpy(np.concatenate([applied, [[0.0, 0.0, 0.0, 1.0]]])).to(transform)


def _load_rgb(path: Path) -> Tensor:
    with open_image(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def _load_mask(path: Optional[Path]) -> Optional[Tensor]:
    if path is None:
        return None
    with open_image(path) as image:
        return torch.from_numpy(np.array(image.convert("L")) > 0)
