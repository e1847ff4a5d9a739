"""The input views as points are made from them: images at full size, masks, and pinhole cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from PIL.Image import Resampling

from guidedvd_ns.data.image_cache import open_image


@dataclass(frozen=True)
class InputViews:
    """V photographs without distortion. Pixel centres are at whole numbers plus one half, as in COLMAP."""

    cameras: Cameras  # [V] pinholes, in scene units
    images: list[np.ndarray]  # [H, W, 3] uint8 each
    masks: list[Optional[np.ndarray]]  # [H, W] bool each, true where a pixel counts

    def __len__(self) -> int:
        return len(self.images)

    def intrinsics(self, view: int) -> np.ndarray:  # [3, 3]
        """The matrix of one camera, in pixels."""
        fx, fy, cx, cy = (float(getattr(self.cameras, name)[view, 0]) for name in ("fx", "fy", "cx", "cy"))
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    def world_to_camera(self, view: int) -> np.ndarray:  # [3, 4]
        """The pose of one camera with OpenCV axes: x right, y down, looking along +z."""
        pose = self.cameras.camera_to_worlds[view].cpu().double().numpy() * [1.0, -1.0, -1.0, 1.0]
        rotation = pose[:, :3].T
        return np.concatenate([rotation, -rotation @ pose[:, 3:]], axis=1)

    def project(
        self,
        view: int,
        xyz: np.ndarray,  # [N, 3]
    ) -> tuple[np.ndarray, np.ndarray]:  # [N, 2] pixels, x first, and [N] z-depths
        """Where points lie in one view; pixels mean nothing where the depth is not above zero."""
        pose = self.world_to_camera(view)
        local = xyz @ pose[:, :3].T + pose[:, 3]
        safe = np.where(local[:, 2:] > 0, local[:, 2:], 1.0)
        return ((local / safe) @ self.intrinsics(view).T)[:, :2], local[:, 2]

    def unproject(
        self,
        view: int,
        pixels: np.ndarray,  # [N, 2], x first
        depth: np.ndarray,  # [N] z-depths
    ) -> np.ndarray:  # [N, 3]
        """The points of one view's pixels."""
        ones = np.ones((len(pixels), 1))
        rays = np.concatenate([pixels, ones], axis=1) @ np.linalg.inv(self.intrinsics(view)).T
        pose = self.world_to_camera(view)
        return (rays * depth[:, None] - pose[:, 3]) @ pose[:, :3]

    def colours(
        self,
        view: int,
        pixels: np.ndarray,  # [N, 2], x first, inside the image
    ) -> np.ndarray:  # [N, 3] uint8
        """The image's colours at pixels."""
        image = self.images[view]
        columns = np.clip(pixels[:, 0].astype(int), 0, image.shape[1] - 1)
        return image[np.clip(pixels[:, 1].astype(int), 0, image.shape[0] - 1), columns]


def load_input_views(outputs: DataparserOutputs, chosen: Sequence[int]) -> InputViews:
    """Reads the images and masks of the views `chosen`; distortion is removed as nerfstudio's data manager does it.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a file is no image, or its size is not its camera's.
    """
    cameras = outputs.cameras[torch.tensor(list(chosen))]
    if cameras.distortion_params is not None:
        cameras = Cameras(**{**_arguments(cameras), "distortion_params": None, "camera_type": CameraType.PERSPECTIVE})
    images, masks = [], []
    for row, view in enumerate(chosen):
        image, mask = _read(outputs, view)
        image, mask, intrinsics = _without_distortion(outputs.cameras, view, image, mask)
        if intrinsics is not None:
            for name, value in intrinsics.items():
                getattr(cameras, name)[row] = float(value)
        images.append(np.ascontiguousarray(image))
        masks.append(mask)
    return InputViews(cameras, images, masks)


def _arguments(cameras: Cameras) -> dict:
    names = ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height")
    return {name: getattr(cameras, name).clone() for name in names}


def _read(outputs: DataparserOutputs, view: int) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Image [H, W, 3] uint8 and mask [H, W] bool; transparent pixels do not count either."""
    path: Path = outputs.image_filenames[view]
    with open_image(path) as file:
        rgba = np.array(file.convert("RGBA"))
    size = (int(outputs.cameras.width[view]), int(outputs.cameras.height[view]))
    if (rgba.shape[1], rgba.shape[0]) != size:
        raise ValueError(
            f"{path} is {rgba.shape[1]}x{rgba.shape[0]}, but its camera {size[0]}x{size[1]}; correct its w and h."
        )
    opaque = rgba[..., 3] > 0
    if outputs.mask_filenames is not None:
        with open_image(outputs.mask_filenames[view]) as file:
            opaque &= np.array(file.convert("L").resize(size, Resampling.NEAREST)) > 0
    return rgba[..., :3], None if opaque.all() else opaque


def _without_distortion(
    cameras: Cameras, view: int, image: np.ndarray, mask: Optional[np.ndarray]
) -> tuple[np.ndarray, Optional[np.ndarray], Optional[dict[str, float]]]:
    """Image, mask and intrinsics of the ideal pinhole; None for intrinsics that stay as they are."""
    from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

    camera = cameras[view].reshape(())
    if camera.distortion_params is None or not bool((camera.distortion_params != 0).any()):
        return image, mask, None
    data = {} if mask is None else {"mask": torch.from_numpy(mask)}
    distortion = camera.distortion_params.cpu().numpy()
    matrix = camera.get_intrinsics_matrices().cpu().numpy()
    matrix, image, straight = _undistort_image(camera, distortion, data, image, matrix)
    intrinsics = {"fx": matrix[0, 0], "fy": matrix[1, 1], "cx": matrix[0, 2], "cy": matrix[1, 2]}
    intrinsics |= {"width": image.shape[1], "height": image.shape[0]}
    return image, None if straight is None else straight[..., 0].numpy(), intrinsics
