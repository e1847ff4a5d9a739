"""Photographs as training can use them: checked against their cameras, undistorted and resized once, kept on disk.

`downscale` resizes before the lens is undone, which is quick; `max_width` after it, which is how benchmarks do it.

Nothing is written into the user's folders, and an image that needs neither step is used where it lies.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Optional

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from guidedvd_ns.data.captures import Frame
from guidedvd_ns.data.undistort import undistort_depth, undistort_image, undistort_mask, undistorted_camera

_VERSION = 1
"""Part of every cached name: raised when what is written changes."""
_MODES = ("L", "RGB", "RGBA")
_WORKERS = 4


def prepare_frames(
    frames: Sequence[Frame], folder: Path, cache: Path, downscale: int = 1, max_width: Optional[int] = None
) -> list[Frame]:
    """`frames` as pinhole views without distortion, each of the size of its image.

    They are `downscale` times smaller, and once undistorted no wider than `max_width`. Images of `images_N` beside
    `images` are used for `downscale` N where they fit; others are resized here. Where any frame has a mask, those
    without one get a mask that excludes nothing, since nerfstudio wants all masks or none. Depths are undistorted, but
    keep their own size where there is nothing to undistort; one whose file does not exist becomes None.

    Raises:
        FileNotFoundError: an image or a mask is missing.
        ValueError: a file is no image, or its size is not its camera's.
    """
    masked = any(frame.mask_path is not None for frame in frames)
    cache = cache / f"{folder.resolve().name or 'capture'}-{_digest(folder.resolve())}"
    plans = [_Plan(frame, folder, cache, downscale, max_width) for frame in frames]
    writes = [write for plan in plans for write in plan.missing_files(masked)]
    if writes:
        cache.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            done = pool.map(lambda write: write(), writes)
            list(track(done, description="Undistorting and resizing images", total=len(writes), transient=True))
    return [plan.result(masked) for plan in plans]


def open_image(path: Path) -> Image.Image:
    """Opens an image lazily.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put the image there or remove the entry that names it.")
    try:
        return Image.open(path)
    except OSError as error:
        raise ValueError(f"{path} is not an image that can be read; replace it or remove its frame.") from error


def read_depth(path: Path) -> np.ndarray:  # [H, W] float32
    """The numbers of a file of depths, an image of one channel or an .npy, as they are.

    Raises:
        ValueError: it is neither.
    """
    depth = np.load(path) if path.suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_ANYDEPTH)
    if depth is None or depth.ndim != 2:
        raise ValueError(f"{path} holds no depths [H, W] that can be read; replace it or remove its entry.")
    return depth.astype(np.float32)


class _Plan:
    """What has to be done to one frame, and where its results are."""

    def __init__(self, frame: Frame, folder: Path, cache: Path, downscale: int, max_width: Optional[int]) -> None:
        self._source = frame
        image_path, size, mode = _choose_image(frame, folder, downscale)
        self._sampled = replace(frame.resized(*size), image_path=image_path)
        self._camera = _no_wider(undistorted_camera(self._sampled), max_width)
        final_size = (self._camera.width, self._camera.height)
        self._reshaped = bool(frame.distortion) or final_size != (frame.width, frame.height)
        rewritten = bool(frame.distortion) or mode not in _MODES or final_size != size
        rewritten |= image_path == frame.image_path and self._reshaped
        self._image_path = self._cached(cache, image_path) if rewritten else image_path
        self._mask_path = self._mask_target(cache)
        self._depth_path = self._depth_target(cache)

    def result(self, masked: bool) -> Frame:
        mask_path = self._mask_path if masked else None
        return replace(self._camera, image_path=self._image_path, mask_path=mask_path, depth_path=self._depth_path)

    def missing_files(self, masked: bool) -> list[Callable[[], None]]:
        writes = []
        if not self._image_path.is_file():
            writes.append(self._write_image)
        if masked and not self._mask_path.is_file():
            writes.append(self._write_mask)
        if self._depth_path is not None and not self._depth_path.is_file():
            writes.append(self._write_depth)
        return writes

    def _cached(self, cache: Path, source: Path, suffix: str = ".png") -> Path:
        camera, status = self._sampled, source.stat()
        lens = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, camera.lens, camera.distortion)
        final_size = (self._camera.width, self._camera.height)
        key = _digest(source.resolve(), status.st_mtime_ns, status.st_size, *lens, *final_size)
        return cache / f"{source.stem}-{key}{suffix}"

    def _mask_target(self, cache: Path) -> Path:
        path = self._source.mask_path
        if path is None:
            return cache / f"no-mask-{_VERSION}-{self._camera.width}x{self._camera.height}.png"
        with open_image(path) as mask:
            _check_size(path, mask.size, self._source)
            usable = mask.mode in ("1", "L") and not self._reshaped
        return path if usable else self._cached(cache, path)

    def _depth_target(self, cache: Path) -> Optional[Path]:
        path = self._source.depth_path
        if path is None or not path.is_file():
            return None
        return self._cached(cache, path, ".npy") if self._source.distortion else path

    def _write_image(self) -> None:
        with open_image(self._sampled.image_path) as image:
            usable = image if image.mode in _MODES else image.convert("RGB")
            size = (self._sampled.width, self._sampled.height)
            pixels = np.asarray(usable if image.size == size else usable.resize(size, Image.Resampling.LANCZOS))
        undistorted = Image.fromarray(undistort_image(pixels, self._sampled))
        final_size = (self._camera.width, self._camera.height)
        if undistorted.size != final_size:
            undistorted = undistorted.resize(final_size, Image.Resampling.BICUBIC)
        _write_png(undistorted, self._image_path)

    def _write_mask(self) -> None:
        camera = self._sampled
        if self._source.mask_path is None:
            _write_png(Image.new("L", (self._camera.width, self._camera.height), 255), self._mask_path)
            return
        with open_image(self._source.mask_path) as mask:
            # Any non-zero colour counts, as in a mask of one channel.
            counts = np.asarray(mask.convert("RGB")).any(axis=-1)
        resized = Image.fromarray(counts).resize((camera.width, camera.height), Image.Resampling.NEAREST)
        mask = Image.fromarray(undistort_mask(np.asarray(resized), camera))
        final_size = (self._camera.width, self._camera.height)
        if mask.size != final_size:
            mask = mask.resize(final_size, Image.Resampling.BOX).point(lambda value: 255 if value == 255 else 0)
        _write_png(mask, self._mask_path)

    def _write_depth(self) -> None:
        source, target = self._source.depth_path, self._depth_path
        assert source is not None and target is not None
        depth = undistort_depth(read_depth(source), self._sampled)
        _write(target, lambda file: np.save(file, depth))


def _no_wider(frame: Frame, max_width: Optional[int]) -> Frame:
    """`frame` scaled down to `max_width`, its height rounded down."""
    if max_width is None or frame.width <= max_width:
        return frame
    return frame.resized(max_width, max(frame.height * max_width // frame.width, 1))


def _choose_image(frame: Frame, folder: Path, downscale: int) -> tuple[Path, tuple[int, int], str]:
    """Path of the image to read, the size (width, height) at which to use it, and its mode."""
    smaller = _downscaled_path(frame.image_path, folder, downscale)
    wanted = (max(frame.width // downscale, 1), max(frame.height // downscale, 1))
    if smaller is not None and smaller.is_file():
        with open_image(smaller) as image:
            # Tools round an uneven size up or down.
            if max(abs(image.width - wanted[0]), abs(image.height - wanted[1])) <= 1:
                return smaller, image.size, image.mode
    with open_image(frame.image_path) as image:
        _check_size(frame.image_path, image.size, frame)
        return frame.image_path, wanted, image.mode


def _downscaled_path(path: Path, folder: Path, downscale: int) -> Optional[Path]:
    """`images_4/a.jpg` for `images/a.jpg`, as ns-process-data names the copies that it makes."""
    if downscale == 1 or not path.is_relative_to(folder):
        return None
    first, *rest = path.relative_to(folder).parts
    return folder.joinpath(f"{first}_{downscale}", *rest) if rest else None


def _check_size(path: Path, size: tuple[int, int], frame: Frame) -> None:
    if size != (frame.width, frame.height):
        raise ValueError(
            f"{path} has {size[0]}x{size[1]} pixels but its camera has {frame.width}x{frame.height}; use the image "
            "that the camera was calibrated with, or correct the width, height and intrinsics of the camera."
        )


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr((_VERSION, *map(str, parts))).encode()).hexdigest()[:16]


def _write_png(image: Image.Image, path: Path) -> None:
    _write(path, lambda file: image.save(file, format="PNG", compress_level=1))


def _write(path: Path, save: Callable[[BinaryIO], None]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with temporary.open("wb") as file:
        save(file)
    os.replace(temporary, path)
