"""Undistortion: analytic lenses, nerfstudio's own result, masks."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from capture_trees import pattern
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

from guidedvd_ns.data.captures import Frame, Lens
from guidedvd_ns.data.undistort import undistort_depth, undistort_image, undistort_mask, undistorted_camera

WIDTH, HEIGHT = 96, 72
LENSES: dict[str, tuple[Lens, tuple[float, ...]]] = {
    "barrel": ("perspective", (-0.2, 0.05, 0.002, -0.003, 0.01, 0.0, 0.0, 0.0)),
    "pincushion": ("perspective", (0.15, -0.03, -0.002, 0.001, 0.0, 0.0, 0.0, 0.0)),
    "rational": ("perspective", (0.1, 0.02, 0.001, 0.0, 0.01, 0.2, 0.03, 0.01)),
    "fisheye": ("fisheye", (0.03, -0.01, 0.002, 0.001)),
    "equidistant": ("fisheye", (0.0, 0.0, 0.0, 0.0)),
}


def make_frame(lens: str, tmp_path) -> Frame:
    kind, coefficients = LENSES[lens]
    return Frame("a", tmp_path / "a.png", None, np.eye(4), WIDTH, HEIGHT, 70.0, 71.0, 47.0, 37.0, kind, coefficients)


def distort(frame: Frame, local: np.ndarray) -> np.ndarray:
    """Pixels [N, 2] (corner convention) of points in front of an OpenCV camera [N, 3], by OpenCV's projection."""
    matrix = np.array([[frame.fx, 0, frame.cx - 0.5], [0, frame.fy, frame.cy - 0.5], [0, 0, 1]])
    points, zero, k = local[:, None], np.zeros(3), np.array(frame.distortion)
    project = cv2.fisheye.projectPoints if frame.lens == "fisheye" else cv2.projectPoints
    return project(points, zero, zero, matrix, k)[0].reshape(-1, 2) + 0.5


@pytest.mark.parametrize("lens", LENSES)
def test_a_point_is_where_the_pinhole_camera_projects_it(lens: str, tmp_path) -> None:
    """A blob drawn where the lens images a point is found where the pinhole camera images the same point."""
    frame = make_frame(lens, tmp_path)
    camera = undistorted_camera(frame)
    for local in np.array([[0.2, -0.15, 1.0], [-0.35, 0.1, 1.0], [0.05, 0.25, 1.0]]):
        u, v = distort(frame, local[None])[0]
        x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
        blob = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 2.0**2)).astype(np.float32)
        moved = undistort_image(blob, frame)
        assert moved.shape == (camera.height, camera.width)
        x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        found = np.array([(moved * x).sum(), (moved * y).sum()]) / moved.sum()
        expected = np.array([camera.fx * local[0] + camera.cx, camera.fy * local[1] + camera.cy])
        np.testing.assert_allclose(found, expected, atol=0.15)


@pytest.mark.parametrize("lens", ["barrel", "pincushion", "fisheye"])
def test_equals_nerfstudios_own_undistortion(lens: str, tmp_path) -> None:
    frame = make_frame(lens, tmp_path)
    if frame.lens == "fisheye":
        parameters, camera_type = [*frame.distortion, 0.0, 0.0], CameraType.FISHEYE
    else:
        k1, k2, p1, p2, k3, *_ = frame.distortion
        parameters, camera_type = [k1, k2, k3, 0.0, p1, p2], CameraType.PERSPECTIVE
    camera = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=frame.fx,
        fy=frame.fy,
        cx=frame.cx,
        cy=frame.cy,
        width=WIDTH,
        height=HEIGHT,
        distortion_params=torch.tensor(parameters),
        camera_type=camera_type,
    )[0]
    image = pattern(WIDTH, HEIGHT)
    matrix = camera.get_intrinsics_matrices().numpy().astype(np.float64)
    matrix, theirs, _ = _undistort_image(camera, np.array(parameters), {}, image, matrix)
    ours, pinhole = undistort_image(image, frame), undistorted_camera(frame)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    np.testing.assert_allclose([pinhole.fx, pinhole.fy, pinhole.cx, pinhole.cy], matrix[[0, 1, 0, 1], [0, 1, 2, 2]])


@pytest.mark.parametrize("lens", LENSES)
def test_the_result_has_no_black_border(lens: str, tmp_path) -> None:
    frame = make_frame(lens, tmp_path)
    assert undistort_image(np.full((HEIGHT, WIDTH), 200, np.uint8), frame)[1:-1, 1:-1].min() > 150


def test_masked_pixels_never_flow_into_valid_ones(tmp_path) -> None:
    frame = make_frame("barrel", tmp_path)
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    mask[20:40, 30:50] = 0
    valid = undistort_mask(mask, frame)
    assert set(np.unique(valid)) == {0, 255}
    assert 200 < (valid == 0).sum() < 800
    poisoned = np.where(mask > 0, 0.0, 1.0).astype(np.float32)
    assert undistort_image(poisoned, frame)[valid == 255].max() < 1 / 255


@pytest.mark.parametrize("lens", ["barrel", "fisheye"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_depths_are_those_of_the_nearest_pixels(lens: str, shrink: int, tmp_path) -> None:
    frame = make_frame(lens, tmp_path)
    camera = undistorted_camera(frame)
    # Two surfaces, at 1 and 3, and an edge between them where the lens images x = 0.1.
    column = distort(frame, np.array([[0.1, 0.0, 1.0]]))[0, 0]
    depth = np.where(np.arange(WIDTH // shrink) * shrink + 0.5 < column, 1.0, 3.0).astype(np.float32)
    moved = undistort_depth(np.tile(depth, (HEIGHT // shrink, 1)), frame)
    assert moved.shape == (camera.height, camera.width)
    assert set(np.unique(moved[1:-1, 1:-1])) == {1.0, 3.0}  # nothing is mixed at the edge
    edge = int((moved[int(camera.cy)] == 1.0).sum())
    assert abs(edge - (camera.fx * 0.1 + camera.cx)) <= shrink


def test_an_impossible_lens_is_refused(tmp_path) -> None:
    broken = replace(make_frame("barrel", tmp_path), distortion=(0.0, 0.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"a\.png leaves no image"):
        undistorted_camera(broken)
