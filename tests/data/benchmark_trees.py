"""Small trees in the layouts of Replica (Semantic-NeRF's renders) and of ScanNet++, with dots at known points.

Each image shows three dots, one a colour channel, where its camera sees the three `DOTS`. Projections are written down
here independently of the package and of OpenCV.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.utils import colmap_parsing_utils as colmap_io
from PIL import Image
from plyfile import PlyData, PlyElement

DOTS = np.array([[0.4, -0.2, 0.3], [-0.3, 0.4, 0.1], [0.1, 0.2, -0.4]])
"""World coordinates of the red, the green and the blue dot."""

FLOOR = -1.0
"""Height of the plane that depth maps show."""

Projection = Callable[[np.ndarray], np.ndarray]
"""From points [N, 3] in a camera's OpenCV axes to pixels [N, 2], (0, 0) being the corner of the first."""


def camera_on_circle(angle: float) -> np.ndarray:
    """Camera-to-world [4, 4] with OpenCV axes (right, down, forward), in a world with z up, looking near the origin."""
    eye = np.array([1.6 * np.cos(angle), 1.6 * np.sin(angle), 0.5 + 0.1 * np.sin(5 * angle)])
    forward = np.array([0.05, -0.05, 0.0]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
    return pose


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Projection:
    return lambda local: local[:, :2] / local[:, 2:] * [fx, fy] + [cx, cy]


def fisheye(fx: float, fy: float, cx: float, cy: float, k: Sequence[float]) -> Projection:
    """The Kannala-Brandt model: a ray at angle t from the axis lands t (1 + k1 t^2 + k2 t^4 + ..) from the centre."""

    def project(local: np.ndarray) -> np.ndarray:
        across = np.linalg.norm(local[:, :2], axis=1, keepdims=True)
        t = np.arctan2(across, local[:, 2:])
        radius = t * (1 + k[0] * t**2 + k[1] * t**4 + k[2] * t**6 + k[3] * t**8)
        return radius * local[:, :2] / np.maximum(across, 1e-12) * [fx, fy] + [cx, cy]

    return project


def draw_dots(pose: np.ndarray, project: Projection, size: tuple[int, int]) -> Image.Image:
    local = (DOTS - pose[:3, 3]) @ pose[:3, :3]
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    dots = [np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 1.5**2)) for u, v in project(local)]
    return Image.fromarray((250 * np.stack(dots, axis=-1)).round().astype(np.uint8))


def found_dots(path: Path) -> np.ndarray:  # [3, 2] pixels
    """Where the three dots of an image are."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    pixels = np.where(pixels > 12, pixels, 0)
    x, y = np.meshgrid(np.arange(pixels.shape[1]) + 0.5, np.arange(pixels.shape[0]) + 0.5)
    return np.stack([(pixels * grid[..., None]).sum((0, 1)) / pixels.sum((0, 1)) for grid in (x, y)], axis=-1)


def expected_dots(outputs: DataparserOutputs, index: int, points: np.ndarray = DOTS) -> np.ndarray:  # [N, 2] pixels
    """Where the camera that left the dataparser sees `points` of the world that the poses on disk are in."""
    transform = outputs.dataparser_transform.double().numpy()
    scene = (points @ transform[:, :3].T + transform[:, 3]) * outputs.dataparser_scale
    camera = outputs.cameras[index]
    pose = camera.camera_to_worlds.double().numpy()
    local = (scene - pose[:, 3]) @ pose[:, :3] * [1, -1, -1]
    return pinhole(*(float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy)))(local)


def floor_depth(pose: np.ndarray, project: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """z-depth [H, W] of the plane z = FLOOR through a pinhole, 0 where it is not seen."""
    fx, fy, cx, cy = project
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    rays = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        depth = (FLOOR - pose[2, 3]) / rays[..., 2]
    return np.where((depth > 0) & (depth < 10), depth, 0)


def write_millimetres(depth: np.ndarray, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((depth * 1000).round().astype(np.uint16)).save(path)


def write_replica(sequence: Path, drawn: Sequence[int], count: int = 900, size: tuple[int, int] = (48, 36)) -> Path:
    """A sequence of which the frames `drawn` show dots and have depths, and all others are one black image."""
    (sequence / "rgb").mkdir(parents=True)
    poses = [camera_on_circle(0.01 * i) for i in range(count)]
    (sequence / "traj_w_c.txt").write_text("\n".join(" ".join(map(repr, pose.ravel().tolist())) for pose in poses))
    black = sequence / "black.png"
    Image.new("RGB", size).save(black)
    lens = (size[0] / 2, size[0] / 2, size[0] / 2, size[1] / 2)  # 90 degrees across
    for index, pose in enumerate(poses):
        path = sequence / "rgb" / f"rgb_{index}.png"
        if index in drawn:
            draw_dots(pose, pinhole(*lens), size).save(path)
            write_millimetres(floor_depth(pose, lens, size), sequence / "depth" / f"depth_{index}.png")
        else:
            os.link(black, path)
    return sequence


# COLMAP's axes are not those of transforms.json: one world is the other turned.
TO_COLMAP = np.array([[0.0, 1, 0, 0.3], [1, 0, 0, -0.2], [0, 0, -1, 0.1], [0, 0, 0, 1]])


@dataclass
class ScanNetPPTree:
    """One scene; its numbers are the paper's for 8a20d62ac0 and every fifth in between."""

    folder: Path
    size: tuple[int, int] = (72, 48)
    focal: tuple[float, float] = (40.0, 40.5)
    centre: tuple[float, float] = (37.0, 23.5)
    k: tuple[float, float, float, float] = (0.03, -0.01, 0.002, 0.001)
    numbers: tuple[int, ...] = tuple(sorted({*range(0, 400, 5), 9, 85, 134, 172, 329, 380}))

    @property
    def names(self) -> list[str]:
        return [f"DSC{number:05d}.JPG" for number in self.numbers]

    @property
    def poses(self) -> list[np.ndarray]:
        return [camera_on_circle(0.015 * number) for number in self.numbers]

    @property
    def fisheye(self) -> Projection:
        return fisheye(*self.focal, *self.centre, self.k)

    def write(self) -> Path:
        """What is downloaded: fisheye images, masks, transforms.json, COLMAP's model and the scan."""
        lens = {"camera_model": "OPENCV_FISHEYE", **dict(zip(("k1", "k2", "k3", "k4"), self.k, strict=True))}
        self._write_images("resized_images", "resized_anon_masks", self.fisheye)
        frames, tests = self._entries()
        self._write_transforms("transforms.json", lens, frames, tests)
        self._write_colmap()
        (self.folder / "scans").mkdir()
        rows = [(*point, 200, 100, 50) for point in self.in_colmap(DOTS)]
        kinds = [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
        ply = PlyData([PlyElement.describe(np.array(rows, dtype=kinds), "vertex")])
        ply.write(str(self.folder / "scans" / "mesh_aligned_0.05.ply"))
        return self.folder

    def write_undistorted(self, images: str, masks: str) -> None:
        """What the toolkit adds: pinhole images, and test frames in both lists."""
        self._write_images(images, masks, pinhole(*self.focal, *self.centre))
        frames, tests = self._entries()
        lens = {"camera_model": "PINHOLE", "k1": 0.0, "k2": 0.0, "k3": 0.0, "k4": 0.0}
        self._write_transforms("transforms_undistorted.json", lens, [*frames, *tests], tests)

    def write_depths(self) -> None:
        """Depth through the fisheye, as rendered from the scan: `floor_depth` at each fisheye pixel's ray."""
        rays = fisheye_rays(self)
        for name, pose in zip(self.names, self.poses, strict=True):
            depth = (FLOOR - pose[2, 3]) / (np.concatenate([rays, np.ones_like(rays[..., :1])], -1) @ pose[2, :3])
            depth = np.where((depth > 0) & (depth < 10), depth, 0)
            write_millimetres(depth, (self.folder / "dslr" / "render_depth" / name).with_suffix(".png"))

    def in_colmap(self, xyz: np.ndarray) -> np.ndarray:
        return xyz @ TO_COLMAP[:3, :3].T + TO_COLMAP[:3, 3]

    def _entries(self) -> tuple[list[dict], list[dict]]:
        """Training and test frames, neither in order."""
        entries = []
        for name, pose in zip(self.names, self.poses, strict=True):
            opengl = (pose * [1, -1, -1, 1]).tolist()
            entries.append({"file_path": name, "mask_path": f"{name[:-4]}.png", "transform_matrix": opengl})
        tests = entries[3::8]
        return [entry for entry in entries if entry not in tests][::-1], tests

    def _write_images(self, images: str, masks: str, project: Projection) -> None:
        for folder in (images, masks):
            (self.folder / "dslr" / folder).mkdir(parents=True)
        for name, pose in zip(self.names, self.poses, strict=True):
            path = self.folder / "dslr" / images / name
            draw_dots(pose, project, self.size).save(path, quality=100, subsampling=0)
            mask = np.full(self.size[::-1], 255, np.uint8)
            mask[:, : self.size[0] // 2] = 0
            Image.fromarray(mask).save(self.folder / "dslr" / masks / f"{name[:-4]}.png")

    def _write_transforms(self, name: str, lens: dict, frames: list[dict], tests: list[dict]) -> None:
        intrinsics = dict(
            zip(("w", "h", "fl_x", "fl_y", "cx", "cy"), (*self.size, *self.focal, *self.centre), strict=True)
        )
        path = self.folder / "dslr" / "nerfstudio" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**intrinsics, **lens, "frames": frames, "test_frames": tests}))

    def _write_colmap(self) -> None:
        """The first dot was seen by the input views 9 and 85, the others by one of them or none."""
        parameters = np.array([*self.focal, *self.centre, *self.k])
        cameras = {1: colmap_io.Camera(1, "OPENCV_FISHEYE", *self.size, parameters)}
        images, point = {}, (np.array([[1.0, 2.0]]), np.array([-1]))
        for number, name, pose in zip(self.numbers, self.names, self.poses, strict=True):
            world_to_camera = np.linalg.inv(TO_COLMAP @ pose)
            # The model's world is turned by a rotation, so the camera's own axes are a rotation again.
            turn = colmap_io.rotmat2qvec(world_to_camera[:3, :3])
            images[number] = colmap_io.Image(number, turn, world_to_camera[:3, 3], 1, name, *point)
        tracks = ([9, 10, 85], [9, 10, 15], [20, 25])
        points = {
            i: colmap_io.Point3D(i, xyz, np.array([10 * i, 20, 30]), 0.5, np.array(track), np.zeros(len(track), int))
            for i, (xyz, track) in enumerate(zip(self.in_colmap(DOTS), tracks, strict=True), start=1)
        }
        path = self.folder / "dslr" / "colmap"
        path.mkdir()
        colmap_io.write_model(cameras, images, points, str(path), ext=".txt")


def fisheye_rays(tree: ScanNetPPTree) -> np.ndarray:  # [H, W, 2]
    """x/z and y/z of the ray behind each pixel of the tree's fisheye images, by Newton's method."""
    x, y = np.meshgrid(np.arange(tree.size[0]) + 0.5, np.arange(tree.size[1]) + 0.5)
    distorted = (np.stack([x, y], axis=-1) - tree.centre) / tree.focal
    radius = np.linalg.norm(distorted, axis=-1, keepdims=True)
    t = radius.copy()
    for _ in range(20):
        powers = [t ** (2 * i) for i in range(5)]
        terms = (1.0, *tree.k)
        value = t * sum(k * power for k, power in zip(terms, powers, strict=True))
        slope = sum((2 * i + 1) * k * power for i, (k, power) in enumerate(zip(terms, powers, strict=True)))
        t = t - (value - radius) / slope
    return np.tan(t) * distorted / np.maximum(radius, 1e-12)
