"""Camera paths: spheres, angles, ends to the last bit, names."""

import itertools

import pytest
import torch

from guidedvd_ns.orbits import Placement, Trajectory, cameras_at, orbit, path_to, trajectory_to
from tests.scenes import offsets, random_pose, turned_cameras


def test_orbit_stays_on_the_sphere_points_at_its_centre_and_does_not_roll():
    pose = random_pose(torch.Generator().manual_seed(0))
    radius = 1.7
    azimuths, elevations = torch.tensor([-30.0, 10.0, 25.0]), torch.tensor([7.5, -15.0, 60.0])
    poses = orbit(pose, radius, azimuths, elevations)
    centre = pose[:, 3] - radius * pose[:, 2]
    to_centre = centre - poses[:, :, 3]
    torch.testing.assert_close(to_centre.norm(dim=-1), torch.full((3,), radius, dtype=torch.float64))
    torch.testing.assert_close(to_centre / radius, -poses[:, :, 2])  # OpenGL cameras look along -z
    rotations = poses[:, :, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(rotations[:, :, 0] @ pose[:, 1], torch.zeros(3, dtype=torch.float64))


def test_orbit_moves_right_and_up_by_the_angles_asked_for():
    cameras = turned_cameras(1)
    poses = orbit(cameras.camera_to_worlds[0], 2.5, torch.tensor([-30.0, 15.0]), torch.tensor([7.5, -15.0]))
    assert offsets(cameras, 0, poses[0], 2.5) == pytest.approx((-30.0, 7.5), abs=1e-4)
    assert offsets(cameras, 0, poses[1], 2.5) == pytest.approx((15.0, -15.0), abs=1e-4)


def test_orbit_of_zero_offsets_is_the_input_pose_to_the_last_bit():
    pose = turned_cameras(1).camera_to_worlds[0]
    assert torch.equal(orbit(pose, 3.3, torch.zeros(1), torch.zeros(1))[0], pose)


PLACEMENTS = [
    Placement(view, scale, 2.4 * scale, azimuth, elevation)
    for view, scale, azimuth, elevation in itertools.product((0, 1), (1.0, 1 / 3), (-30.0, 15.0), (-7.5, 0.0))
]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_trajectory_starts_at_the_input_pose_and_goes_evenly_to_its_end(placement: Placement):
    cameras = turned_cameras()
    trajectory = trajectory_to(placement, 0.07, cameras, num_frames=25)
    poses = trajectory.cameras.camera_to_worlds
    assert len(trajectory.cameras) == 25 and trajectory.hole_fraction == 0.07
    assert torch.equal(poses, path_to(placement, cameras, 25))
    assert torch.equal(poses[0], cameras.camera_to_worlds[placement.view])
    for frame in (12, 24):
        share = frame / 24
        expected = (share * placement.azimuth, share * placement.elevation)
        assert offsets(cameras, placement.view, poses[frame], placement.radius) == pytest.approx(expected, abs=1e-2)
    distances = (poses[:, :, 3] - trajectory.centre).norm(dim=-1)
    torch.testing.assert_close(distances, torch.full((25,), placement.radius))


def test_cameras_of_a_path_have_the_input_intrinsics_and_no_camera_index():
    cameras = turned_cameras()
    cameras.fx[1], cameras.metadata = 77.0, {"cam_idx": torch.arange(2)[:, None]}
    path = cameras_at(cameras, 1, cameras.camera_to_worlds[:1].expand(5, 3, 4))
    assert len(path) == 5 and path.metadata is None
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert torch.equal(getattr(path, name)[3], getattr(cameras, name)[1])
    path.rescale_output_resolution(0.5)
    assert cameras.fx[1] == 77.0


def test_names_are_unique_and_fit_for_file_names():
    trajectories: list[Trajectory] = [trajectory_to(placement, 0.0, turned_cameras(), 2) for placement in PLACEMENTS]
    names = {trajectory.name for trajectory in trajectories}
    assert len(names) == len(PLACEMENTS) and "view000_scale0.333_az-30_el-7.5" in names
    assert not {"/", "\\", " ", ":"} & set("".join(names))
