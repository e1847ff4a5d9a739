"""Reading a capture from nerfstudio's transforms.json."""

import json
import math
from pathlib import Path
from typing import Any, Optional

from guidedvd_ns.data.captures import (
    Capture,
    Frame,
    Lens,
    checked_distortion,
    checked_lens,
    checked_pose,
    sorted_frames,
)
from guidedvd_ns.data.image_cache import open_image
from guidedvd_ns.data.pointcloud_io import PointCloud, read_ply

_SPLITS = ("train", "val", "test")
_INTRINSICS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
_NERFSTUDIO_ORDER = ("k1", "k2", "k3", "k4", "p1", "p2")
"""What the numbers of `distortion_params` are."""


def read_transforms_json(path: Path) -> Capture:
    """Reads poses, lenses, masks, splits and the point cloud's place; opens no image whose size the file gives.

    A frame's own intrinsics come before those of the whole file.

    Raises:
        ValueError: the file is not JSON, or an entry is missing or makes no sense; the sentence names it.
    """
    meta = load_transforms(path)
    applied_transform = meta.get("applied_transform")
    return Capture(
        folder=path.parent,
        frames=sorted_frames([read_frame(entry, meta, path) for entry in meta["frames"]], path),
        split_names={
            split: [Path(name).as_posix() for name in meta[f"{split}_filenames"]]
            for split in _SPLITS
            if f"{split}_filenames" in meta
        },
        load_points=lambda input_names: _read_points(path.parent, meta),
        applied_transform=None
        if applied_transform is None
        else checked_pose(applied_transform, f"applied_transform in {path}")[:3],
        applied_scale=float(meta.get("applied_scale", 1.0)),
        orientation_override=meta.get("orientation_override"),
        depth_unit=float(meta.get("depth_unit_scale_factor", 1e-3)),
    )


def load_transforms(path: Path) -> dict[str, Any]:
    """The file as it is.

    Raises:
        ValueError: it is not JSON, or lists no frames.
    """
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); correct it or write it again.") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("frames"), list):
        raise ValueError(f"{path} has no list called frames; it does not describe a capture.")
    return meta


def _read_points(folder: Path, meta: dict[str, Any]) -> Optional[PointCloud]:
    return read_ply(folder / meta["ply_file_path"]) if meta.get("ply_file_path") else None


def read_frame(
    entry: Any, meta: dict[str, Any], path: Path, images: Optional[Path] = None, masks: Optional[Path] = None
) -> Frame:
    """One of the frames that `meta`, read from `path`, lists.

    Its files are relative to the folders `images` and `masks`, or to that of `path`.

    Raises:
        ValueError: the entry is incomplete or makes no sense; the sentence names it.
    """
    if not isinstance(entry, dict) or "file_path" not in entry:
        raise ValueError(f"{path} has a frame without file_path; name its image or remove the frame.")
    name = Path(entry["file_path"]).as_posix()
    where = f"The frame {name} of {path}"
    merged = {**meta, **entry}
    numbers = _numbers(merged, where)
    image_path = (images or path.parent) / name

    width, height = _size(numbers, image_path)
    fx = _focal_length(numbers, "fl_x", "camera_angle_x", width)
    fy = _focal_length(numbers, "fl_y", "camera_angle_y", height, default=fx)
    if min(fx, fy) <= 0:
        raise ValueError(f"{where} has no positive focal length; give fl_x and fl_y in pixels.")
    lens = checked_lens(str(merged.get("camera_model", "OPENCV")), where)
    return Frame(
        name=name,
        image_path=image_path,
        mask_path=(masks or path.parent) / entry["mask_path"] if entry.get("mask_path") else None,
        camera_to_world=checked_pose(entry.get("transform_matrix"), where),
        width=width,
        height=height,
        fx=fx,
        fy=fy,
        cx=numbers.get("cx", width / 2),
        cy=numbers.get("cy", height / 2),
        lens=lens,
        distortion=_distortion(numbers, merged, lens, where),
        depth_path=(images or path.parent) / entry["depth_file_path"] if entry.get("depth_file_path") else None,
    )


def _numbers(merged: dict[str, Any], where: str) -> dict[str, float]:
    """The intrinsics and coefficients that an entry gives."""
    given = {key: merged[key] for key in (*_INTRINSICS, *_COEFFICIENTS) if key in merged}
    if "distortion_params" in merged:
        params = merged["distortion_params"]
        if not isinstance(params, list) or len(params) != len(_NERFSTUDIO_ORDER):
            raise ValueError(f"{where} needs six distortion_params, {', '.join(_NERFSTUDIO_ORDER)}; got {params}.")
        given.update(zip(_NERFSTUDIO_ORDER, params, strict=True))
    for key, value in given.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{where} has {value!r} for {key}; it must be a finite number.")
    return {key: float(value) for key, value in given.items()}


def _size(numbers: dict[str, float], image_path: Path) -> tuple[int, int]:
    if "w" in numbers and "h" in numbers:
        return int(numbers["w"]), int(numbers["h"])
    with open_image(image_path) as image:
        return image.size


def _focal_length(numbers: dict[str, float], key: str, angle_key: str, pixels: int, default: float = 0.0) -> float:
    """In pixels, from itself or from the field of view in radians."""
    if key in numbers:
        return numbers[key]
    if angle_key in numbers:
        return 0.5 * pixels / math.tan(0.5 * numbers[angle_key])
    return default


def _distortion(numbers: dict[str, float], merged: dict[str, Any], lens: Lens, where: str) -> tuple[float, ...]:
    # For a perspective lens k4 means one thing to nerfstudio (a radial term) and another to OpenCV (a denominator).
    higher_orders = any(numbers.get(name, 0.0) for name in ("k4", "k5", "k6"))
    if higher_orders and lens == "perspective" and merged.get("camera_model") != "FULL_OPENCV":
        raise ValueError(
            f"{where} has k4, k5 or k6, which its camera model does not define; undistort its image first."
        )
    return checked_distortion(lens, numbers)
