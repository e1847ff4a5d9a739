"""Anchors: where they lie, what they hold the scene to, and when there is none."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.anchors import Anchor, AnchorConfig, Anchors, between
from guidedvd_ns.free_space import SeenSpace
from guidedvd_ns.guide import Guide
from guidedvd_ns.orbits import Placement, trajectory_to
from guidedvd_ns.trajectory_pool import TrajectoryPool
from tests.scenes import cameras, turned_cameras, wall

NOWHERE = SeenSpace([], [], [])
"""No input view sees anything, so that nothing is hidden."""


def _guide() -> Guide:
    """Knows the left half of what `tests.scenes.cameras` see."""
    guide = Guide()
    guide.adopt(wall(), sh_degree=0)
    return guide


def _pool(views: Cameras) -> TrajectoryPool:
    placements = [Placement(view, 0.5, 1.0, azimuth, 0.0) for view in range(2) for azimuth in (-15.0, 15.0)]
    return TrajectoryPool(tuple(trajectory_to(placement, 0.1, views, 5) for placement in placements))


def _anchors(
    config: AnchorConfig,
    views: Cameras,
    pool: TrajectoryPool | None = None,
    space: SeenSpace = NOWHERE,
    seed: int = 0,
) -> Anchors:
    return Anchors(config, views, _guide(), pool or TrajectoryPool(), space, hole_threshold=0.9, seed=seed)


def _steps(anchors: Anchors, count: int) -> list[Anchor]:
    drawn = [anchors.at(step) for step in range(count)]
    return [anchor for anchor in drawn if anchor is not None]


def _poses(anchors: Anchors, count: int) -> set[tuple[float, ...]]:
    return {tuple(anchor.camera.camera_to_worlds.flatten().tolist()) for anchor in _steps(anchors, count)}


def _yaw(degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros(()), torch.ones(())
    return torch.stack([cosine, zero, sine, zero, one, zero, -sine, zero, cosine]).reshape(3, 3)


def test_between_two_cameras_turns_evenly_along_a_straight_line():
    views = cameras(2)
    views.camera_to_worlds[1] = torch.cat([_yaw(80.0), torch.tensor([[2.0], [4.0], [-6.0]])], dim=1)
    for share in (0.0, 0.25, 1.0):
        camera = between(views, 0, 1, share)
        expected = torch.cat([_yaw(80.0 * share), share * torch.tensor([[2.0], [4.0], [-6.0]])], dim=1)
        assert torch.allclose(camera.camera_to_worlds[0], expected, atol=1e-6)


def test_between_any_two_cameras_lies_a_rotation():
    views = turned_cameras(3)
    views.fx[1] = 70.0
    views.distortion_params, views.metadata = torch.full((3, 6), 0.1), {"cam_idx": 1}
    camera = between(views, 1, 2, 0.4)
    rotation = camera.camera_to_worlds[0, :, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1.0, abs=1e-5)
    assert float(camera.fx) == 70.0 and int(camera.width) == int(views.width[1])
    assert camera.metadata is None and camera.distortion_params is None


def test_an_anchor_is_the_guide_s_view_and_where_it_knows_it():
    views = cameras(2)
    anchor = _steps(_anchors(AnchorConfig(on_trajectories=0.0), views), 1)[0]
    view = _guide().render(anchor.camera)
    assert torch.equal(anchor.rgb, view.rgb[0])
    assert torch.equal(anchor.known, view.opacity[0] >= 0.9)
    assert 0.3 < float(anchor.known.float().mean()) < 0.7


def test_loss_is_the_mean_difference_where_the_guide_knows():
    known = torch.zeros(4, 5, 1, dtype=torch.bool)
    known[:2] = True
    rgb = torch.full((4, 5, 3), 0.5)
    render = rgb + torch.tensor([0.1, -0.2, 0.0])
    assert float(Anchor(cameras(1), rgb, known).loss(render)) == pytest.approx(0.5 * 0.1)
    render[:2] = rgb[:2]
    assert float(Anchor(cameras(1), rgb, known).loss(render)) == 0


def test_places_lie_on_trajectories_or_between_input_views():
    views = cameras(2)
    pool = _pool(views)
    on_paths = {tuple(pose.flatten().tolist()) for path in pool.trajectories for pose in path.cameras.camera_to_worlds}
    photographs = {tuple(pose.flatten().tolist()) for pose in views.camera_to_worlds}
    everywhere = AnchorConfig(places=200, on_trajectories=1.0, min_known=0.0)
    places = _poses(_anchors(everywhere, views, pool), 600)
    assert places == on_paths - photographs and len(places) == 16
    for anchor in _steps(_anchors(AnchorConfig(on_trajectories=0.0), views, pool), 20):
        position = anchor.camera.camera_to_worlds[0, :, 3]
        assert 0 < float(position[0]) < 0.1 and position[1:].tolist() == [0, 0]
    mixed = _poses(_anchors(AnchorConfig(places=40, min_known=0.0), views, pool), 400)
    assert 12 < len(mixed - on_paths) < 28


def test_every_place_is_looked_from_and_no_other():
    anchors = _anchors(AnchorConfig(places=5, on_trajectories=0.0), cameras(3))
    assert len(anchors) == 5 and len(_poses(anchors, 60)) == 5


def test_what_is_drawn_follows_from_seed_and_step_alone():
    views = cameras(3)
    config = AnchorConfig(places=20, min_known=0.0)
    first, again, other = (_anchors(config, views, _pool(views), seed=seed) for seed in (1, 1, 2))
    before = torch.get_rng_state()
    looks = [anchor.camera.camera_to_worlds for anchor in _steps(first, 30)]
    backwards = [again.at(step) for step in reversed(range(30))]
    assert all(
        anchor is not None and torch.equal(look, anchor.camera.camera_to_worlds)
        for look, anchor in zip(looks, reversed(backwards), strict=True)
    )
    assert not torch.equal(torch.cat(looks), torch.cat([a.camera.camera_to_worlds for a in _steps(other, 30)]))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_anchor_lies_behind_a_surface():
    """Two cameras on either side of a wall that the first one sees half way: only what is before it is free."""
    views = cameras(2)
    views.camera_to_worlds[1, :, 3] = torch.tensor([0.0, 0.0, -2.0])
    depth = torch.ones(24, 32, 1)
    space = SeenSpace([views[0:1]], [depth], [torch.ones_like(depth, dtype=torch.bool)])
    config = AnchorConfig(places=40, on_trajectories=0.0, min_known=0.0)
    free, everywhere = _anchors(config, views, space=space), _anchors(config, views)
    assert len(free) > 30
    assert min(float(anchor.camera.camera_to_worlds[0, 2, 3]) for anchor in _steps(free, 120)) > -1.06
    assert min(float(anchor.camera.camera_to_worlds[0, 2, 3]) for anchor in _steps(everywhere, 120)) < -1.5


def test_where_the_guide_knows_too_little_there_is_no_anchor():
    views = cameras(2)
    assert len(_steps(_anchors(AnchorConfig(min_known=0.3), views), 5)) == 5
    assert _steps(_anchors(AnchorConfig(min_known=0.8), views), 5) == []


def test_a_single_view_without_trajectories_has_no_anchor():
    anchors = _anchors(AnchorConfig(), cameras(1))
    assert len(anchors) == 0 and anchors.at(0) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": -0.1}, "anchors.weight must not be negative"),
        ({"places": 0}, "anchors.places must be at least 1"),
        ({"every": 0}, "anchors.every must be at least 1"),
        ({"on_trajectories": 1.5}, r"anchors.on_trajectories must lie in \[0, 1\]"),
        ({"min_known": -0.1}, r"anchors.min_known must lie in \[0, 1\]"),
    ],
)
def test_config_refuses_nonsense(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        AnchorConfig(**fields)
