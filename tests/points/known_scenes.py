"""Scenes whose geometry is known: two textured walls that meet in a corner, seen by pinhole cameras."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.points.views import InputViews

WIDTH, HEIGHT, FOCAL = 160, 120, 130.0


def look_at_cameras(eyes: list[tuple[float, float, float]], target: tuple[float, float, float]) -> Cameras:
    """OpenGL cameras with +z up."""
    poses = []
    for eye in eyes:
        backward = np.subtract(eye, target) / np.linalg.norm(np.subtract(eye, target))
        right = np.cross([0.0, 0.0, 1.0], backward)
        right /= np.linalg.norm(right)
        poses.append(np.stack([right, np.cross(backward, right), backward, eye], axis=1))
    return Cameras(
        camera_to_worlds=torch.tensor(np.stack(poses), dtype=torch.float32),
        fx=FOCAL,
        fy=FOCAL,
        cx=WIDTH / 2 + 3.0,
        cy=HEIGHT / 2 - 2.0,
        width=WIDTH,
        height=HEIGHT,
    )


def corner_views(count: int = 4) -> tuple[InputViews, list[np.ndarray]]:
    """Views of the walls y = 0 and x = 0 (the rooms's corner is the z axis), and their z-depths [H, W]."""
    angles = np.radians(np.linspace(30, 60, count))
    eyes = [(4 * math.cos(a), 4 * math.sin(a), 0.4 * math.sin(5 * a)) for a in angles]
    views = InputViews(look_at_cameras(eyes, (0.5, 0.5, 0.0)), [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * count, [])
    views.masks.extend([None] * count)
    images, depths = [], []
    for view in range(count):
        depth, wall, places = _cast(views, view)
        images.append(_paint(wall, places))
        depths.append(depth)
    views.images[:] = images
    return views, depths


def distance_to_walls(xyz: np.ndarray) -> np.ndarray:
    """Of points to the nearer wall."""
    return np.abs(xyz[:, :2]).min(axis=1)


def _cast(views: InputViews, view: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z-depth [H, W], which wall [H, W], and the place on it [H, W, 2]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    origin = views.cameras.camera_to_worlds[view, :, 3].double().numpy()
    rays = views.unproject(view, pixels, np.ones(len(pixels))) - origin
    reach = np.where(rays[:, :2] < 0, -origin[:2] / np.where(rays[:, :2] == 0, -1e-9, rays[:, :2]), np.inf)
    wall, depth = reach.argmin(axis=1), reach.min(axis=1)
    points = origin + depth[:, None] * rays
    places = np.stack([np.where(wall == 0, points[:, 1], -points[:, 0]), points[:, 2]], axis=1)
    shape = (HEIGHT, WIDTH)
    return depth.reshape(shape), wall.reshape(shape), places.reshape(*shape, 2)


def _paint(wall: np.ndarray, places: np.ndarray) -> np.ndarray:
    texture = _texture()
    pixels = (places + 5) * (len(texture) / 10)
    sample = cv2.remap(texture, *(pixels[..., axis].astype(np.float32) for axis in (0, 1)), cv2.INTER_LINEAR)
    return sample


def _texture(size: int = 640) -> np.ndarray:
    """Coloured blobs of several sizes, 10 scene units wide."""
    random = np.random.default_rng(5)
    texture = np.zeros((size, size, 3))
    for cell in (4, 8, 16, 48):
        coarse = random.normal(size=(size // cell, size // cell, 3))
        texture += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 42 * texture, 0, 255).astype(np.uint8)
