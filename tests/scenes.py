"""Small Gaussian scenes and cameras that several tests share."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from PIL import Image
from plyfile import PlyData, PlyElement
from torch import Tensor

from guidedvd_ns.guide import Guide


def wall(
    count: int = 400, distance: float = 2.0, colour: tuple[float, float, float] = (0.8, 0.4, 0.2)
) -> dict[str, Tensor]:
    """A wall of opaque Gaussians in the plane z = -distance, x in [-1, 0]: the right half of the view is a hole."""
    generator = torch.Generator().manual_seed(3)
    means = torch.rand(count, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.0])
    means += torch.tensor([-1.0, -1.0, -distance])
    return {
        "means": means,
        "scales": torch.full((count, 3), 0.12).log(),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        "features_dc": torch.logit(torch.tensor(colour)).repeat(count, 1),
        "features_rest": torch.zeros(count, 0, 3),
        "opacities": torch.full((count, 1), 5.0),
    }


def cameras(count: int = 1, width: int = 32, height: int = 24) -> Cameras:
    """Cameras at the origin that look along -z (OpenGL), each a little further to the right."""
    poses = torch.eye(4)[None, :3].repeat(count, 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(count)
    return Cameras(poses, fx=float(width), fy=float(width), cx=width / 2, cy=height / 2, width=width, height=height)


def random_pose(generator: torch.Generator) -> Tensor:
    """A camera-to-world pose [3, 4], float64."""
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    rotation = rotation * torch.sign(torch.linalg.det(rotation))
    return torch.cat([rotation, torch.randn(3, 1, generator=generator, dtype=torch.float64)], dim=1)


def turned_cameras(count: int = 2, width: int = 40, height: int = 30) -> Cameras:
    """Cameras that stand and look anywhere."""
    generator = torch.Generator().manual_seed(3)
    poses = torch.stack([random_pose(generator) for _ in range(count)]).float()
    return Cameras(poses, fx=35.0, fy=36.0, cx=width / 2, cy=height / 2, width=width, height=height)


def offsets(cameras: Cameras, view: int, pose: Tensor, radius: float) -> tuple[float, float]:
    """Azimuth and elevation in degrees of a pose, measured from its position only."""
    own = cameras.camera_to_worlds[view].double()
    centre = own[:, 3] - radius * own[:, 2]
    right, up, back = ((pose[:, 3].double() - centre) @ own[:, :3]).tolist()
    return math.degrees(math.atan2(right, back)), math.degrees(math.asin(up / math.hypot(right, up, back)))


def write_capture(folder: Path, num_train: int = 3, num_test: int = 2) -> Path:
    """A capture of the coloured wall: photographs, poses, split and a point cloud."""
    views = cameras(num_train + num_test, width=48, height=32)
    images = Guide()
    images.adopt(wall(), sh_degree=0)
    (folder / "images").mkdir(parents=True)
    frames = []
    for index, rgb in enumerate(images.render(views).rgb):
        name = f"images/{index:02d}.png"
        Image.fromarray((rgb * 255).round().byte().numpy()).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": views.camera_to_worlds[index].tolist() + [[0, 0, 0, 1]]})
    names = [frame["file_path"] for frame in frames]
    split = {"train_filenames": names[:num_train], "test_filenames": names[num_train:]}
    lens = {"w": 48, "h": 32, "fl_x": 48.0, "fl_y": 48.0, "cx": 24.0, "cy": 16.0, "camera_model": "OPENCV"}
    document = {**lens, **(split if num_test else {}), "ply_file_path": "points.ply", "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(document))
    points = wall(200)["means"].numpy()
    vertices = [(*point, 204, 102, 51) for point in points.tolist()]
    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    PlyData([PlyElement.describe(np.array(vertices, dtype=kinds), "vertex")]).write(folder / "points.ply")
    return folder


def write_prior(folder: Path) -> Path:
    """An untrained prior of the bundled kind, a few thousand weights large."""
    from tests.priors.tiny import tiny_prior

    tiny_prior(num_frames=4, height=32, width=48, num_steps=3, eta=0.0, guidance_factor=0.05).save_pretrained(folder)
    return folder
