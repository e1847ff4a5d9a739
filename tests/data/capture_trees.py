"""Small captures on disk, in nerfstudio's and in COLMAP's layout, with cameras whose projections are known."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils import colmap_parsing_utils as colmap_io
from PIL import Image

from guidedvd_ns.data.guidedvd_dataparser import GuidedVDDataParser, GuidedVDDataParserConfig

POINTS = np.array([[0.1, -0.2, 0.3], [-0.3, 0.2, 0.1], [0.2, 0.3, -0.2]])
"""Around the origin, at which all cameras look."""


def look_at_origin(eye: np.ndarray) -> np.ndarray:
    """Camera-to-world [4, 4], OpenGL, with +z up."""
    backward = eye / np.linalg.norm(eye)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(backward, right), backward, eye], axis=1)
    return pose


def ring_of_poses(count: int) -> list[np.ndarray]:
    """Cameras on an arc of 90 degrees, 3 away from the origin and a little above it."""
    angles = np.linspace(0, np.pi / 2, count)
    return [look_at_origin(np.array([2.8 * np.cos(a), 2.8 * np.sin(a), 1.0 + 0.1 * i])) for i, a in enumerate(angles)]


@dataclass
class Tree:
    """What to write; change it before writing."""

    folder: Path
    size: tuple[int, int] = (40, 30)
    focal: float = 36.0
    names: list[str] = field(default_factory=lambda: [f"view_{i}.png" for i in range(1, 13)])
    poses: list[np.ndarray] = field(default_factory=list)
    extra: dict = field(default_factory=dict)
    """More entries of the whole transforms.json."""
    frame_extra: dict[str, dict] = field(default_factory=dict)
    """More entries of single frames, by name."""

    def __post_init__(self) -> None:
        self.poses = self.poses or ring_of_poses(len(self.names))
        (self.folder / "images").mkdir(parents=True, exist_ok=True)

    def write_images(self) -> None:
        for index, name in enumerate(self.names):
            Image.fromarray(pattern(*self.size, index)).save(self.folder / "images" / name)

    def write_transforms(self) -> Path:
        self.write_images()
        width, height = self.size
        intrinsics = {
            "w": width,
            "h": height,
            "fl_x": self.focal,
            "fl_y": self.focal,
            "cx": width / 2,
            "cy": height / 2,
        }
        frames = [
            {"file_path": f"images/{name}", "transform_matrix": pose.tolist(), **self.frame_extra.get(name, {})}
            for name, pose in zip(self.names, self.poses, strict=True)
        ]
        # Written last first: the parser has to sort.
        meta = {"camera_model": "OPENCV", **intrinsics, "frames": frames[::-1], **self.extra}
        path = self.folder / "transforms.json"
        path.write_text(json.dumps(meta))
        return path

    def write_colmap(
        self,
        model: str = "sparse/0",
        binary: bool = True,
        camera: tuple[str, list[float]] | None = None,
        tracks: list[list[int]] | None = None,  # image ids (from 1) of each of POINTS
    ) -> Path:
        self.write_images()
        width, height = self.size
        camera_model, params = camera or ("PINHOLE", [self.focal, self.focal, width / 2, height / 2])
        cameras = {1: colmap_io.Camera(1, camera_model, width, height, np.array(params))}
        images = {}
        for index, (name, pose) in enumerate(zip(self.names, self.poses, strict=True), start=1):
            opencv = pose.copy()
            opencv[:3, 1:3] *= -1
            world_to_camera = np.linalg.inv(opencv)
            quaternion = colmap_io.rotmat2qvec(world_to_camera[:3, :3])
            observations = np.array([[1.0, 2.0]])
            images[index] = colmap_io.Image(
                index, quaternion, world_to_camera[:3, 3], 1, name, observations, np.array([-1])
            )
        points = {
            i: colmap_io.Point3D(i, xyz, np.array([10 * i, 20, 30]), 0.5, np.array(track), np.zeros(len(track), int))
            for i, (xyz, track) in enumerate(zip(POINTS, tracks or [[1, 2]] * len(POINTS), strict=True), start=1)
        }
        path = self.folder / model
        path.mkdir(parents=True)
        colmap_io.write_model(cameras, images, points, str(path), ext=".bin" if binary else ".txt")
        return path


def pattern(width: int, height: int, seed: int = 0) -> np.ndarray:  # [height, width, 3] uint8
    """A smooth coloured image."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [np.sin(x / (4 + c) + seed) + np.cos(y / (5 + c) + c) for c in range(3)]
    return np.clip(127 + 60 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def project(
    pose: np.ndarray,  # [3 or 4, 4] OpenGL camera-to-world
    intrinsics: tuple[float, float, float, float],  # fx, fy, cx, cy
    xyz: np.ndarray,  # [N, 3]
) -> np.ndarray:  # [N, 2] pixels
    """Pinhole projection, written down independently of the package."""
    local = (xyz - pose[:3, 3]) @ pose[:3, :3]
    fx, fy, cx, cy = intrinsics
    return np.stack([fx * local[:, 0] / -local[:, 2] + cx, fy * local[:, 1] / local[:, 2] + cy], axis=-1)


def make_parser(data: Path, **options) -> GuidedVDDataParser:
    options.setdefault("cache_dir", data.parent / "cache")
    options.setdefault("num_random_points", 200)
    return GuidedVDDataParserConfig(data=data, **options).setup()


def parse(data: Path, split: str = "train", **options) -> DataparserOutputs:
    return make_parser(data, **options).get_dataparser_outputs(split)
