"""The backdrop: colours of directions that no photograph shows."""

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.backdrop import COARSE, Backdrop, _map_directions, view_directions
from tests.scenes import turned_cameras


def _facing(*directions: tuple[float, float, float], size: int = 8) -> Cameras:
    """Cameras that look along horizontal directions, z up, with a field of view of about 28 degrees."""
    poses = []
    for direction in directions:
        back = -torch.tensor(direction)
        up = torch.tensor([0.0, 0.0, 1.0])
        poses.append(torch.stack([torch.linalg.cross(up, back), up, back, torch.zeros(3)], dim=-1))
    return Cameras(torch.stack(poses), fx=2.0 * size, fy=2.0 * size, cx=size / 2, cy=size / 2, width=size, height=size)


def _centres(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(height) + 0.5, torch.arange(width) + 0.5


def _plain(*color: float, size: int = 8) -> torch.Tensor:
    return torch.tensor(color).expand(size, size, 3)


def test_directions_are_those_of_nerfstudio_s_rays():
    cameras = turned_cameras()
    cameras.cx, cameras.cy = cameras.cx + 3.0, cameras.cy - 5.0
    for view in range(len(cameras)):
        rays = cameras.generate_rays(camera_indices=view, keep_shape=True)
        torch.testing.assert_close(
            view_directions(cameras[view : view + 1], *_centres(30, 40)), rays.directions, atol=1e-5, rtol=0
        )


def test_map_is_read_where_directions_lie_also_across_its_seam():
    backdrop = Backdrop()
    backdrop.colors = (_map_directions() + 1) / 2
    anywhere = torch.nn.functional.normalize(torch.randn(50, 40, 3), dim=-1)
    seam = torch.nn.functional.normalize(
        torch.tensor([[[-1.0, 1e-4, 0.3], [-1.0, -1e-4, 0.3], [-1.0, 0.0, -0.7]]]), dim=-1
    )
    for directions in (anywhere, seam):
        # The middle of the outermost row is 2.8 degrees from the pole.
        torch.testing.assert_close(backdrop.seen_in(directions), (directions + 1) / 2, atol=0.03, rtol=0)


def test_what_is_photographed_stays_and_what_is_not_lies_between():
    backdrop = Backdrop()
    cameras = _facing((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
    backdrop.paint(cameras, [(_plain(1.0, 0.0, 0.0), None), (_plain(0.0, 0.0, 1.0), None)])
    wanted = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    red, blue, beside, above = backdrop.seen_in(wanted)[0]
    torch.testing.assert_close(red, torch.tensor([1.0, 0.0, 0.0]), atol=0.01, rtol=0)
    torch.testing.assert_close(blue, torch.tensor([0.0, 0.0, 1.0]), atol=0.01, rtol=0)
    for between in (beside, above):
        torch.testing.assert_close(between, torch.tensor([0.5, 0.0, 0.5]), atol=0.08, rtol=0)
    assert backdrop.is_painted


@pytest.mark.parametrize("axis", [0, 1])
def test_an_image_of_a_painted_camera_is_that_camera_s_photograph(axis):
    backdrop = Backdrop()
    cameras = _facing((0.0, 1.0, 0.0), size=48)
    gradient = torch.linspace(0.2, 0.8, 48).reshape((48, 1, 1) if axis == 0 else (1, 48, 1)).expand(48, 48, 3)
    backdrop.paint(cameras, [(gradient, None)])
    seen = backdrop.behind(cameras, (48, 48))
    assert seen.shape == (48, 48, 3)
    # The map is softer than a photograph, but what is above stays above, and what is left stays left.
    first, last = (seen.select(axis, end).mean() for end in (0, -1))
    assert (first - last).item() == pytest.approx(-0.6, abs=0.3)
    assert seen.mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_coarse_look_at_the_map_is_as_good_as_a_fine_one():
    backdrop = Backdrop()
    backdrop.colors = (_map_directions() + 1) / 2
    camera = turned_cameras(1, width=85, height=61)
    fine = backdrop.seen_in(view_directions(camera, *_centres(61, 85)))
    inner = (slice(COARSE, -COARSE), slice(COARSE, -COARSE))
    torch.testing.assert_close(backdrop.behind(camera, (61, 85))[inner], fine[inner], atol=0.02, rtol=0)
    # At the border half a step of the coarse grid is constant.
    torch.testing.assert_close(backdrop.behind(camera[0], (61, 85)), fine, atol=0.1, rtol=0)


def test_masked_pixels_do_not_count():
    cameras, mask = _facing((1.0, 0.0, 0.0)), torch.ones(8, 8, 1, dtype=torch.bool)
    mask[:, :4] = False
    image = torch.where(mask, _plain(0.2, 0.4, 0.6), _plain(1.0, 1.0, 1.0))
    backdrop = Backdrop()
    backdrop.paint(cameras, [(image, mask)])
    torch.testing.assert_close(backdrop.colors, torch.tensor([0.2, 0.4, 0.6]).expand_as(backdrop.colors))
    with pytest.raises(ValueError, match="masks"):
        backdrop.paint(cameras, [(image, torch.zeros_like(mask))])


def test_travels_in_a_state_dict():
    backdrop, cameras = Backdrop(), _facing((1.0, 0.0, 0.0))
    assert not backdrop.is_painted
    backdrop.paint(cameras, [(_plain(0.2, 0.4, 0.6), None)])
    state = {f"backdrop.{name}": value for name, value in backdrop.state_dict().items()}
    other = Backdrop()
    other.resize_like(state, prefix="backdrop.")
    other.load_state_dict(backdrop.state_dict())
    assert other.is_painted
    torch.testing.assert_close(other.behind(cameras, (8, 8)), backdrop.behind(cameras, (8, 8)))
    other.resize_like({}, prefix="backdrop.")
    assert other.is_painted
