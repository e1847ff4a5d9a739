"""Photographs as training can use them: checked against their cameras, undistorted and resized once, kept on disk.

Nothing is written into the user's folders, and an image that needs neither step is used where it lies.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image
from rich.progress import track

from guidedvd_ns.data.captures import Frame
from guidedvd_ns.data.undistort import undistort_image, undistort_mask, undistorted_camera

_VERSION = 1
"""Part of every cached name: raised when what is written changes."""
_MODES = ("L", "RGB", "RGBA")
_WORKERS = 4


def prepare_frames(frames: Sequence[Frame], folder: Path, cache: Path, downscale: int) -> list[Frame]:
    """`frames` as pinhole views without distortion, each of the size of its image, `downscale` times smaller.

    Images of `images_N` beside `images` are used for `downscale` N where they fit; others are resized here. Where any
    frame has a mask, those without one get a mask that excludes nothing, since nerfstudio wants all masks or none.

    Raises:
        FileNotFoundError: an image or a mask is missing.
        ValueError: a file is no image, or its size is not its camera's.
    """
    masked = any(frame.mask_path is not None for frame in frames)
    cache = cache / f"{folder.resolve().name or 'capture'}-{_digest(folder.resolve())}"
    plans = [_Plan(frame, folder, cache, downscale) for frame in frames]
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


class _Plan:
    """What has to be done to one frame, and where its results are."""

    def __init__(self, frame: Frame, folder: Path, cache: Path, downscale: int) -> None:
        self._source = frame
        image_path, size, mode = _choose_image(frame, folder, downscale)
        self._sampled = replace(frame.resized(*size), image_path=image_path)
        self._camera = undistorted_camera(self._sampled)
        self._reshaped = bool(frame.distortion) or size != (frame.width, frame.height)
        rewritten = bool(frame.distortion) or mode not in _MODES or image_path == frame.image_path and self._reshaped
        self._image_path = self._cached(cache, image_path) if rewritten else image_path
        self._mask_path = self._mask_target(cache)

    def result(self, masked: bool) -> Frame:
        return replace(self._camera, image_path=self._image_path, mask_path=self._mask_path if masked else None)

    def missing_files(self, masked: bool) -> list[Callable[[], None]]:
        writes = []
        if not self._image_path.is_file():
            writes.append(self._write_image)
        if masked and not self._mask_path.is_file():
            writes.append(self._write_mask)
        return writes

    def _cached(self, cache: Path, source: Path) -> Path:
        camera, status = self._sampled, source.stat()
        lens = (camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, camera.lens, camera.distortion)
        key = _digest(source.resolve(), status.st_mtime_ns, status.st_size, *lens)
        return cache / f"{source.stem}-{key}.png"

    def _mask_target(self, cache: Path) -> Path:
        path = self._source.mask_path
        if path is None:
            return cache / f"no-mask-{_VERSION}-{self._camera.width}x{self._camera.height}.png"
        with open_image(path) as mask:
            _check_size(path, mask.size, self._source)
            usable = mask.mode in ("1", "L") and not self._reshaped
        return path if usable else self._cached(cache, path)

    def _write_image(self) -> None:
        with open_image(self._sampled.image_path) as image:
            usable = image if image.mode in _MODES else image.convert("RGB")
            size = (self._sampled.width, self._sampled.height)
            pixels = np.asarray(usable if image.size == size else usable.resize(size, Image.Resampling.LANCZOS))
        _write_png(undistort_image(pixels, self._sampled), self._image_path)

    def _write_mask(self) -> None:
        camera = self._sampled
        if self._source.mask_path is None:
            _write_png(np.full((self._camera.height, self._camera.width), 255, np.uint8), self._mask_path)
            return
        with open_image(self._source.mask_path) as mask:
            # Any non-zero colour counts, as in a mask of one channel.
            counts = np.asarray(mask.convert("RGB")).any(axis=-1)
        resized = Image.fromarray(counts).resize((camera.width, camera.height), Image.Resampling.NEAREST)
        _write_png(undistort_mask(np.asarray(resized), camera), self._mask_path)


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


def _write_png(pixels: np.ndarray, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    Image.fromarray(pixels).save(temporary, format="PNG", compress_level=1)
    os.replace(temporary, path)
