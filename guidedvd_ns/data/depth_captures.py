"""Captures whose photographs have measured depth, as cameras see them that stand where they were taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guidedvd_ns.cache import cache_folder
from guidedvd_ns.data.capture_dataparser import CaptureDataParserConfig
from guidedvd_ns.data.captures import Capture, Frame
from guidedvd_ns.data.guidedvd_dataparser import GuidedVDDataParserConfig
from guidedvd_ns.data.image_cache import open_image, prepare_frames, read_depth
from guidedvd_ns.data.replica import ReplicaDataParserConfig
from guidedvd_ns.data.scannetpp import ScanNetPPDataParserConfig
from guidedvd_ns.data.visibility import Intrinsics

KEPT_FRAMES = 2000
"""Decoded frames that a capture keeps in memory, half a megabyte each at 320x240."""

_FRAMES_FOR_DEPTH = 8


def read_any_capture(folder: Path) -> Capture:
    """A scene of ScanNet++ or Replica, or a folder with transforms.json, told apart by what lies in it.

    Raises:
        FileNotFoundError: the folder is none of these, or one of its files is missing.
        ValueError: an entry of its files makes no sense.
    """
    config: CaptureDataParserConfig = GuidedVDDataParserConfig(data=folder)
    if (folder / "dslr").is_dir():
        config = ScanNetPPDataParserConfig(data=folder)
    elif (folder / "traj_w_c.txt").is_file() or any(folder.glob("Sequence_*/traj_w_c.txt")):
        config = ReplicaDataParserConfig(data=folder)
    return config.setup().capture


@dataclass(frozen=True)
class Look:
    """A look into a photograph: a camera at its place, perhaps turned."""

    frame: int
    """Number of the photograph."""
    turn: np.ndarray
    """[3, 3] rotation from the camera's axes to the photograph's, both OpenGL."""


class DepthCapture:
    """The frames of a capture that have depth, undistorted, in the order of their names and in the capture's units.

    Where nothing was measured the nearest measurement of the frame is taken: a guide shows something there, too.

    Args:
        folder: See `read_any_capture`.
        shorter_side: Frames whose shorter side has more pixels are made smaller, but keep at least as many.
        cache: Where undistorted and smaller images are kept; the user's cache folder by default.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no frame has a depth, or what there is cannot be read.
    """

    def __init__(self, folder: Path, shorter_side: int, cache: Path | None = None) -> None:
        capture = read_any_capture(folder)
        # Masks would be resized and written, but are not looked at.
        measured = [replace(frame, mask_path=None) for frame in capture.frames if _has_depth(frame)]
        if not measured:
            raise ValueError(
                f"{folder} has no depths to cut clips from; give its frames a depth_file_path in transforms.json, or "
                "leave the capture out."
            )
        downscale = max(1, min(min(frame.width, frame.height) for frame in measured) // shorter_side)
        self.folder = folder
        self.frames = prepare_frames(measured, capture.folder, cache or cache_folder(), downscale)
        poses = np.stack([frame.camera_to_world[:3] for frame in self.frames])
        self.poses: Tensor = torch.from_numpy(poses.astype(np.float32))
        """[F, 3, 4] OpenGL camera-to-world."""
        self._unit = capture.depth_unit
        self._pixels = lru_cache(KEPT_FRAMES)(self._read_pixels)
        self._depth = lru_cache(KEPT_FRAMES)(self._read_depth)

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def typical_depth(self) -> float:
        """Median over a few frames of their median depth."""
        some = np.unique(np.linspace(0, len(self) - 1, _FRAMES_FOR_DEPTH).round().astype(int))
        return float(np.median([np.median(self._depth(int(index))) for index in some]))

    def extent(self, indices: list[int]) -> tuple[float, float, float, float]:
        """What all of these frames see: tangents of the angles to the left, right, top and bottom of their axes."""
        chosen = [self.frames[index] for index in indices]
        return (
            min(frame.cx / frame.fx for frame in chosen),
            min((frame.width - frame.cx) / frame.fx for frame in chosen),
            min(frame.cy / frame.fy for frame in chosen),
            min((frame.height - frame.cy) / frame.fy for frame in chosen),
        )

    def images(self, looks: list[Look], intrinsics: Intrinsics, size: tuple[int, int]) -> np.ndarray:
        """What cameras with these intrinsics and this size (height, width) see, [n, h, w, 3] uint8."""
        height, width = size
        images = []
        for look in looks:
            # As many samples of a pixel as it covers of the photograph's.
            samples = max(1, round(self.frames[look.frame].fx / intrinsics[0]))
            lookup = self._lookup(look, intrinsics, samples)
            fine = cv2.warpPerspective(
                self._pixels(look.frame),
                lookup,
                (samples * width, samples * height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            images.append(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA))
        return np.stack(images)

    def depths(self, looks: list[Look], intrinsics: Intrinsics, size: tuple[int, int]) -> np.ndarray:
        """z-depths of these cameras' pixels, each from the nearest measurement, [n, h, w, 1] float32."""
        fx, fy, cx, cy = intrinsics
        x, y = np.meshgrid((np.arange(size[1]) + 0.5 - cx) / fx, (cy - np.arange(size[0]) - 0.5) / fy)
        depths = []
        for look in looks:
            measured = cv2.warpPerspective(
                self._depth(look.frame),
                self._lookup(look, intrinsics, 1),
                size[::-1],
                flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            # Measured along the photograph's axis: the length of the camera's ray (x, y, -1) along it.
            along_axis = -(look.turn[2, 0] * x + look.turn[2, 1] * y - look.turn[2, 2])
            depths.append((measured / along_axis).astype(np.float32))
        return np.stack(depths)[..., None]

    def looking(self, looks: list[Look]) -> Tensor:  # [n, 3, 4]
        """Poses of these cameras."""
        turned = [self.poses[look.frame][:, :3] @ torch.from_numpy(look.turn).float() for look in looks]
        places = self.poses[[look.frame for look in looks]][..., 3:]
        return torch.cat([torch.stack(turned), places], dim=-1)

    def _lookup(self, look: Look, intrinsics: Intrinsics, samples: int) -> np.ndarray:  # [3, 3]
        """From samples of the camera's pixels to pixels of the photograph, both numbered from 0 as OpenCV does."""
        frame = self.frames[look.frame]
        opencv = np.diag([1.0, -1.0, -1.0])
        to_ray = np.linalg.inv(_opencv_matrix(*(samples * value for value in intrinsics)))
        return _opencv_matrix(frame.fx, frame.fy, frame.cx, frame.cy) @ opencv @ look.turn @ opencv @ to_ray

    def _read_pixels(self, index: int) -> np.ndarray:  # [H, W, 3] uint8
        with open_image(self.frames[index].image_path) as image:
            return np.array(image.convert("RGB"))

    def _read_depth(self, index: int) -> np.ndarray:  # [H, W] float32, the size of the frame
        frame = self.frames[index]
        assert frame.depth_path is not None
        measured = read_depth(frame.depth_path)
        resized = cv2.resize(measured, (frame.width, frame.height), interpolation=cv2.INTER_NEAREST_EXACT)
        return _completed(self._unit * np.nan_to_num(np.asarray(resized), nan=0.0, posinf=0.0, neginf=0.0))


def _opencv_matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """Intrinsics [3, 3]; OpenCV counts the principal point from the centre of the first pixel."""
    return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])


def _has_depth(frame: Frame) -> bool:
    return frame.depth_path is not None and frame.depth_path.is_file()


def _completed(depth: np.ndarray) -> np.ndarray:  # [H, W] float32
    """`depth` with the nearest measurement where it is 0; as it is where there is no measurement at all."""
    missing = (depth <= 0).astype(np.uint8)
    if not missing.any() or missing.all():
        return depth
    nearest = cv2.distanceTransformWithLabels(missing, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1].astype(
        np.int64
    )
    # Each measured pixel has a label of its own, and lends it to the pixels that it is nearest to.
    of_label = np.zeros(nearest.max() + 1, dtype=np.float32)
    of_label[nearest[missing == 0]] = depth[missing == 0]
    return of_label[nearest]
