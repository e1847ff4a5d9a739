"""From photographs through a real lens to those of an ideal pinhole, as nerfstudio's full-image datamanager does it.

nerfstudio undistorts when an image is first used for training, which is too late here: random points, trajectories and
test views are planned with the cameras, and a camera's intrinsics and even its size change.
"""

from dataclasses import replace

import cv2
import numpy as np

from guidedvd_ns.data.captures import Frame

_VALID = 255


def undistorted_camera(frame: Frame) -> Frame:
    """The pinhole camera whose image `undistort_image` makes: only pixels that the lens saw, so often a smaller image.

    Raises:
        ValueError: the coefficients leave no image.
    """
    if not frame.distortion:
        return frame
    matrix, (x, y, width, height) = _pinhole(frame)
    if width <= 0 or height <= 0 or not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise ValueError(
            f"The distortion of {frame.image_path} leaves no image; check its coefficients {frame.distortion}."
        )
    return replace(
        frame,
        width=width,
        height=height,
        fx=float(matrix[0, 0]),
        fy=float(matrix[1, 1]),
        cx=float(matrix[0, 2]) - x + 0.5,
        cy=float(matrix[1, 2]) - y + 0.5,
        lens="perspective",
        distortion=(),
    )


def undistort_image(
    image: np.ndarray,  # [H, W] or [H, W, C]
    frame: Frame,
) -> np.ndarray:  # [h, w] or [h, w, C], the size of undistorted_camera(frame)
    """`image`, taken by `frame`, as its undistorted camera sees it (bilinear)."""
    if not frame.distortion:
        return image
    if frame.lens == "fisheye":
        maps, (x, y, width, height) = _maps(frame)
        undistorted = cv2.remap(image, *maps, interpolation=cv2.INTER_LINEAR)
    else:
        # Its maps are rounded to 1/32 pixel; nerfstudio calls it, and its pixels are wanted.
        pinhole, (x, y, width, height) = _pinhole(frame)
        matrix, coefficients = _opencv_matrix(frame), np.array(frame.distortion, dtype=np.float64)
        undistorted = cv2.undistort(image, matrix, coefficients, None, pinhole)
    return undistorted[y : y + height, x : x + width]


def undistort_depth(
    depth: np.ndarray,  # [h, w] of any size
    frame: Frame,
) -> np.ndarray:  # of the size of undistorted_camera(frame) where there is a distortion, else `depth`
    """z-depths as the undistorted camera sees them: those of the nearest pixels, 0 where the lens saw nothing.

    The camera only changes its lens, neither its place nor its axes, so the numbers stay what they are.
    """
    if not frame.distortion:
        return depth
    size = (frame.width, frame.height)
    maps, (x, y, width, height) = _maps(frame)
    resized = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    return cv2.remap(resized, *maps, interpolation=cv2.INTER_NEAREST)[y : y + height, x : x + width]


def undistort_mask(
    mask: np.ndarray,  # [H, W], non-zero: the pixel counts
    frame: Frame,
) -> np.ndarray:  # [h, w] uint8, 0 or 255
    """`mask` as the undistorted camera sees it; a pixel that any masked pixel flows into does not count."""
    valid = np.where(mask > 0, _VALID, 0).astype(np.uint8)
    return np.where(undistort_image(valid, frame) == _VALID, _VALID, 0).astype(np.uint8)


def _opencv_matrix(frame: Frame) -> np.ndarray:
    """Intrinsics [3, 3]; OpenCV counts the principal point from the centre of the first pixel."""
    return np.array([[frame.fx, 0.0, frame.cx - 0.5], [0.0, frame.fy, frame.cy - 0.5], [0.0, 0.0, 1.0]])


def _maps(frame: Frame) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, int, int, int]]:
    """Where each pixel of the undistorted image comes from, before the crop (x, y, width, height) that is returned."""
    pinhole, crop = _pinhole(frame)
    matrix, coefficients = _opencv_matrix(frame), np.array(frame.distortion, dtype=np.float64)
    make = cv2.fisheye.initUndistortRectifyMap if frame.lens == "fisheye" else cv2.initUndistortRectifyMap
    columns, rows = make(matrix, coefficients, np.eye(3), pinhole, (frame.width, frame.height), cv2.CV_32FC1)
    return (columns, rows), crop


def _pinhole(frame: Frame) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """OpenCV's matrix of the undistorted image before it is cropped, and the crop (x, y, width, height)."""
    matrix, coefficients = _opencv_matrix(frame), np.array(frame.distortion, dtype=np.float64)
    size = (frame.width, frame.height)
    if frame.lens == "fisheye":
        pinhole = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
            matrix, coefficients, size, np.eye(3), balance=0
        )
        return pinhole, (0, 0, *size)
    pinhole, crop = cv2.getOptimalNewCameraMatrix(matrix, coefficients, size, 0)
    return pinhole, (crop[0], crop[1], crop[2], crop[3])
