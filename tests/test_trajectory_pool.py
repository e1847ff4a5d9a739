"""The pool: the order of draws, and what a checkpoint brings back."""

import io

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.orbits import Placement, trajectory_to
from guidedvd_ns.trajectory_pool import TrajectoryPool
from tests.scenes import turned_cameras


def _pool() -> tuple[TrajectoryPool, Cameras]:
    """Six trajectories of each of two input views."""
    cameras = turned_cameras()
    placements = [
        Placement(view, 0.5, 1.2, azimuth, elevation)
        for view in range(2)
        for azimuth in (-30.0, 15.0, 30.0)
        for elevation in (0.0, 7.5)
    ]
    trajectories = [trajectory_to(end, 0.01 * index, cameras, 9) for index, end in enumerate(placements)]
    return TrajectoryPool(tuple(trajectories)), cameras


def test_draws_come_in_shuffled_rounds_of_views_and_of_trajectories():
    pool, _ = _pool()
    generator = torch.Generator().manual_seed(0)
    drawn = [pool.draw(generator) for _ in range(24)]
    for start in range(0, 24, 2):
        assert {t.view for t in drawn[start : start + 2]} == {0, 1}
    for view in range(2):
        names = [t.name for t in drawn if t.view == view]
        assert set(names[:6]) == set(names[6:]) == {t.name for t in pool.trajectories if t.view == view}
        assert names[:6] != names[6:]
    assert len({tuple(t.view for t in drawn[start : start + 2]) for start in range(0, 24, 2)}) == 2


def test_restored_pool_has_the_same_cameras_and_draws():
    pool, cameras = _pool()
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        pool.draw(generator)
    file = io.BytesIO()
    torch.save({"pool": pool.state_dict(), "generator": generator.get_state()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    restored, restored_generator = TrajectoryPool(), torch.Generator()
    restored.load_state_dict(state["pool"], cameras)
    restored_generator.set_state(state["generator"])
    for before, after in zip(pool.trajectories, restored.trajectories, strict=True):
        assert (before.name, before.hole_fraction) == (after.name, after.hole_fraction)
        assert torch.equal(before.cameras.camera_to_worlds, after.cameras.camera_to_worlds)
    for _ in range(20):
        assert pool.draw(generator).name == restored.draw(restored_generator).name


def test_restoring_with_fewer_input_views_says_so():
    pool, cameras = _pool()
    with pytest.raises(ValueError, match="only 1 input views"):
        TrajectoryPool().load_state_dict(pool.state_dict(), cameras[:1])


def test_an_empty_pool_has_nothing_to_draw():
    assert TrajectoryPool().is_empty and len(TrajectoryPool()) == 0
    with pytest.raises(ValueError, match="pool is empty"):
        TrajectoryPool().draw(torch.Generator())


def test_near_is_what_is_close_to_a_camera_for_how_far_its_view_looks():
    # Radius 1.2 at scale 0.5: the surface in the middle of the image is 2.4 away.
    pool, cameras = _pool()
    start = cameras.camera_to_worlds[0, :, 3]
    assert pool.comes_near(start[None], 0.0).tolist() == [False]
    behind = cameras.camera_to_worlds[0, :, 2]
    positions = torch.stack([start + distance * behind for distance in (0.0, 0.2, 0.23, 0.25, 0.3)])
    ends = torch.cat([trajectory.cameras.camera_to_worlds[:, :, 3] for trajectory in pool.trajectories])
    # Behind the photograph's camera no other is closer.
    torch.testing.assert_close(torch.cdist(positions[1:], ends).amin(dim=1), torch.tensor([0.2, 0.23, 0.25, 0.3]))
    assert pool.comes_near(positions, 0.1).tolist() == [True, True, True, False, False]
    assert pool.comes_near(ends, 0.001).all() and not pool.comes_near(ends + 50, 1.0).any()


def test_nothing_is_near_an_empty_pool():
    assert not TrajectoryPool().comes_near(torch.zeros(3, 3), 100.0).any()
