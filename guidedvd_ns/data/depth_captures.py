"""Captures whose photographs have measured depth, read to be looked at in pieces: any window of any frame, quickly."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
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

    def images(self, indices: list[int], intrinsics: Intrinsics, size: tuple[int, int]) -> np.ndarray:
        """The frames as pinholes of these intrinsics and this size (height, width) see them, [n, h, w, 3] uint8."""
        height, width = size
        return np.stack(
            [
                np.asarray(
                    Image.fromarray(self._pixels(index)).resize(
                        (width, height), Image.Resampling.HAMMING, box=self._window(index, intrinsics, size)
                    )
                )
                for index in indices
            ]
        )

    def depths(self, indices: list[int], intrinsics: Intrinsics, size: tuple[int, int]) -> np.ndarray:
        """z-depths of these pinholes' pixels, each the nearest one's, [n, h, w, 1] float32."""
        return np.stack([self._cut_depth(index, intrinsics, size) for index in indices])[..., None]

    def _cut_depth(self, index: int, intrinsics: Intrinsics, size: tuple[int, int]) -> np.ndarray:
        left, top, right, bottom = self._window(index, intrinsics, size)
        depth = self._depth(index)
        rows = top + (bottom - top) * (np.arange(size[0]) + 0.5) / size[0]
        columns = left + (right - left) * (np.arange(size[1]) + 0.5) / size[1]
        rows = rows.astype(int).clip(0, depth.shape[0] - 1)
        columns = columns.astype(int).clip(0, depth.shape[1] - 1)
        return depth[rows[:, None], columns]

    def _window(
        self, index: int, intrinsics: Intrinsics, size: tuple[int, int]
    ) -> tuple[float, float, float, float]:  # left, top, right, bottom
        frame = self.frames[index]
        fx, fy, cx, cy = intrinsics
        left, top = frame.cx - cx * frame.fx / fx, frame.cy - cy * frame.fy / fy
        right, bottom = left + size[1] * frame.fx / fx, top + size[0] * frame.fy / fy
        return max(left, 0.0), max(top, 0.0), min(right, float(frame.width)), min(bottom, float(frame.height))

    def _read_pixels(self, index: int) -> np.ndarray:  # [H, W, 3] uint8
        with open_image(self.frames[index].image_path) as image:
            return np.array(image.convert("RGB"))

    def _read_depth(self, index: int) -> np.ndarray:  # [H, W] float32, the size of the frame
        frame = self.frames[index]
        assert frame.depth_path is not None
        measured = read_depth(frame.depth_path)
        resized = cv2.resize(measured, (frame.width, frame.height), interpolation=cv2.INTER_NEAREST_EXACT)
        return _completed(self._unit * np.nan_to_num(np.asarray(resized), nan=0.0, posinf=0.0, neginf=0.0))


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
