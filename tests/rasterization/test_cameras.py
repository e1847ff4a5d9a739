"""From nerfstudio's cameras to a rasterizer's matrices and to rays."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.rasterization import camera_matrices, pixel_rays
from tests.scenes import turned_cameras


def make_cameras() -> Cameras:
    """Two cameras: one at the origin, one at (1, 2, 3) turned by 90 degrees about y so that it looks along -x."""
    turned = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 2.0], [-1.0, 0.0, 0.0, 3.0]])
    return Cameras(
        camera_to_worlds=torch.stack([torch.eye(4)[:3], turned]),
        fx=torch.tensor([[30.0], [31.0]]),
        fy=torch.tensor([[32.0], [33.0]]),
        cx=torch.tensor([[10.0], [11.0]]),
        cy=torch.tensor([[8.0], [9.0]]),
        width=20,
        height=16,
    )


def test_points_go_where_nerfstudio_sends_rays() -> None:
    """A point on the ray of a pixel, t metres along it, projects back to that pixel."""
    cameras = make_cameras()
    viewmats, Ks = camera_matrices(cameras)
    assert viewmats.shape == (2, 4, 4) and Ks.shape == (2, 3, 3)
    row, column = 3, 14
    for index in range(2):
        rays = cameras.generate_rays(camera_indices=index, coords=torch.tensor([[row + 0.5, column + 0.5]]))
        point = (rays.origins + 2.5 * rays.directions)[0]
        x, y, z = Ks[index] @ (viewmats[index, :3, :3] @ point + viewmats[index, :3, 3])
        torch.testing.assert_close(torch.stack([x / z, y / z]), torch.tensor([column + 0.5, row + 0.5]))
        assert z > 0


def test_a_single_camera_is_a_batch_of_one_and_poses_have_gradients() -> None:
    camera = make_cameras()[1]
    camera.camera_to_worlds = camera.camera_to_worlds.clone().requires_grad_()
    viewmats, Ks = camera_matrices(camera)
    assert viewmats.shape == (1, 4, 4) and Ks.shape == (1, 3, 3)
    torch.testing.assert_close(viewmats[0, 3], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    viewmats.sum().backward()
    assert camera.camera_to_worlds.grad.abs().sum() > 0


@pytest.mark.parametrize("one_each", [False, True])
def test_points_on_pixel_rays_project_to_their_pixels(one_each):
    cameras = turned_cameras(5)
    each = torch.arange(5.0)[:, None]
    cameras.fx, cameras.fy = cameras.fx + 2 * each, cameras.fy + 3 * each
    cameras.cx, cameras.cy = cameras.cx - each, cameras.cy + each / 2
    if not one_each:
        cameras = cameras[3:4]
    x, y, depth = torch.rand(3, 5) * torch.tensor([[40.0], [30.0], [4.0]]) + torch.tensor([[0.0], [0.0], [1.0]])
    points = depth[:, None] * pixel_rays(cameras, x, y) + cameras.camera_to_worlds[..., 3]
    viewmats, intrinsics = camera_matrices(cameras)
    local = (viewmats[:, :3, :3] @ points[..., None])[..., 0] + viewmats[:, :3, 3]
    pixels = (intrinsics @ local[..., None])[..., 0]
    torch.testing.assert_close(pixels / pixels[:, 2:], torch.stack([x, y, torch.ones(5)], dim=-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels[:, 2], depth, atol=1e-5, rtol=0)
