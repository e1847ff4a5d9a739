"""Reading a capture from a COLMAP model, binary or text."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from nerfstudio.data.utils import colmap_parsing_utils as colmap_io

from guidedvd_ns.data.captures import (
    Capture,
    Frame,
    checked_distortion,
    checked_lens,
    checked_pose,
    sorted_frames,
)
from guidedvd_ns.data.pointcloud_io import PointCloud

# https://colmap.github.io/cameras.html
_PARAMETERS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k1"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
}

# COLMAP's world has gravity near +y, nerfstudio's has up along +z: (x, y, z) -> (x, z, -y), as nerfstudio does it.
_COLMAP_TO_NERFSTUDIO = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])

# A point that a single input view sees owes its depth to views that are not to be known.
_MIN_INPUT_VIEWS = 2


def read_colmap(folder: Path, model: Path, images: Path) -> Capture:
    """Reads the COLMAP model in `model`, whose photographs are in `images`; `folder` is the capture's own.

    `train_list.txt`, `val_list.txt` (or `validation_list.txt`) and `test_list.txt` in `folder` name the images of the
    splits, one a line, as nerfstudio's own COLMAP dataparser reads them. Points are those whose track has two or more
    input views, so that nothing is known of the test views; a model without tracks gives all of its points.

    Raises:
        FileNotFoundError: a file of the model is missing.
        ValueError: a camera model or a pose cannot be used, or a file cannot be read.
    """
    cameras = _read_table(model, "cameras", colmap_io.read_cameras_binary, colmap_io.read_cameras_text)
    views = _read_table(model, "images", colmap_io.read_images_binary, colmap_io.read_images_text)
    for view in views.values():
        if view.camera_id not in cameras:
            raise ValueError(f"The COLMAP model {model} has no camera {view.camera_id}, which {view.name} names.")
    frames = [_frame(view, cameras[view.camera_id], model, images) for view in views.values()]
    names = {image_id: view.name for image_id, view in views.items()}
    return Capture(
        folder=folder,
        frames=sorted_frames(frames, model),
        split_names=_read_split_lists(folder),
        load_points=lambda input_names: _read_points(model, names, input_names),
        applied_transform=_COLMAP_TO_NERFSTUDIO[:3],
    )


def _read_table(model: Path, name: str, read_binary: Callable, read_text: Callable) -> dict[int, Any]:
    for path, read in ((model / f"{name}.bin", read_binary), (model / f"{name}.txt", read_text)):
        if not path.is_file():
            continue
        try:
            return read(path)
        except KeyError as error:
            raise ValueError(
                f"{path} has a camera model that is not known (id {error}); undistort the images."
            ) from error
        except Exception as error:
            raise ValueError(f"{path} is not a file of a COLMAP model ({error}); export the model again.") from error
    raise FileNotFoundError(f"The COLMAP model {model} has neither {name}.bin nor {name}.txt.")


def _frame(view: Any, camera: Any, model: Path, images: Path) -> Frame:
    where = f"The image {view.name} of {model}"
    lens = checked_lens(camera.model, where)
    values = dict(zip(_PARAMETERS[camera.model], map(float, camera.params), strict=True))
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = colmap_io.qvec2rotmat(view.qvec)
    world_to_camera[:3, 3] = view.tvec
    checked_pose(world_to_camera, where)
    camera_to_world = _COLMAP_TO_NERFSTUDIO @ np.linalg.inv(world_to_camera)
    camera_to_world[:3, 1:3] *= -1  # OpenCV's camera axes to OpenGL's
    return Frame(
        name=view.name,
        image_path=images / view.name,
        mask_path=None,
        camera_to_world=camera_to_world,
        width=int(camera.width),
        height=int(camera.height),
        fx=values["f"] if "f" in values else values["fx"],
        fy=values["f"] if "f" in values else values["fy"],
        cx=values["cx"],
        cy=values["cy"],
        lens=lens,
        distortion=checked_distortion(lens, values),
    )


def _read_split_lists(folder: Path) -> dict[str, list[str]]:
    lists = {"train": "train_list.txt", "val": "validation_list.txt", "test": "test_list.txt"}
    if (folder / "val_list.txt").is_file():
        lists["val"] = "val_list.txt"
    return {
        split: [line.strip() for line in (folder / name).read_text(encoding="utf-8").splitlines() if line.strip()]
        for split, name in lists.items()
        if (folder / name).is_file()
    }


def _read_points(model: Path, names: dict[int, str], input_names: Sequence[str]) -> Optional[PointCloud]:
    if not any((model / f"points3D.{suffix}").is_file() for suffix in ("bin", "txt")):
        return None
    table = _read_table(model, "points3D", colmap_io.read_points3D_binary, colmap_io.read_points3D_text)
    points = list(table.values())
    tracked = any(len(point.image_ids) for point in points)
    if tracked:
        inputs = {image_id for image_id, name in names.items() if name in set(input_names)}
        points = [point for point in points if len(inputs.intersection(point.image_ids.tolist())) >= _MIN_INPUT_VIEWS]
    if not points:
        return None
    xyz = np.stack([point.xyz for point in points]) @ _COLMAP_TO_NERFSTUDIO[:3, :3].T
    return PointCloud(xyz.astype(np.float32), np.stack([point.rgb for point in points]).astype(np.uint8), tracked)
