"""Planning: which candidates see holes, which are kept, how large holes are counted."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.orbits import Trajectory
from guidedvd_ns.trajectories import (
    TrajectoryConfig,
    hole_fraction,
    is_inside_geometry,
    plan,
    scaled_erosion,
)
from guidedvd_ns.trajectory_pool import TrajectoryPool
from tests.scenes import offsets, turned_cameras

# The candidates and the limit of method.md stage 2, at which the numbers below were worked out; no erosion.
PAPER = TrajectoryConfig(
    azimuths=(-30.0, -15.0, 0.0, 15.0, 30.0), elevations=(-15.0, -7.5, 0.0, 7.5), max_hole_fraction=0.1, erosion=1
)


@dataclass(frozen=True)
class Seen:
    opacity: Tensor
    depth: Tensor


class FakeGuide:
    """A scene of constant depth whose holes are a strip as wide as the camera's azimuth from its input view asks."""

    def __init__(self, cameras: Cameras, columns_per_degree: float = 0.1, depth: float = 2.0) -> None:
        self.cameras, self.columns_per_degree, self.depth = cameras, columns_per_degree, depth
        self.sizes: set[tuple[int, int]] = set()

    def holes(self, pose: Tensor) -> int:
        cosine = (self.cameras.camera_to_worlds[:, :, 2] @ pose[:, 2]).max().clamp(max=1)
        return round(self.columns_per_degree * math.degrees(math.acos(cosine)))

    def __call__(self, cameras: Cameras) -> Seen:
        height, width = int(cameras.height[0]), int(cameras.width[0])
        self.sizes.add((height, width))
        opacity = torch.ones(len(cameras), height, width, 1)
        for image, pose in zip(opacity, cameras.camera_to_worlds, strict=True):
            image[:, : self.holes(pose)] = 0.0
        return Seen(opacity, torch.full_like(opacity, self.depth))


def make_plan(config: TrajectoryConfig = PAPER, seed: int = 0, **guide) -> tuple[TrajectoryPool, Cameras]:
    cameras = turned_cameras()
    generator = torch.Generator().manual_seed(seed)
    return plan(cameras, FakeGuide(cameras, **guide), config, generator), cameras


def test_radius_is_the_centre_depth_times_the_scale():
    pool, _ = make_plan(depth=3.0)
    assert {round(t.radius / t.scale, 5) for t in pool.trajectories} == {3.0}


def test_trajectory_cameras_have_the_input_intrinsics_and_no_camera_index():
    cameras = turned_cameras()
    cameras.metadata = {"cam_idx": torch.arange(2)[:, None]}
    pool = plan(cameras, FakeGuide(cameras), TrajectoryConfig(erosion=1), torch.Generator())
    camera = pool.trajectories[0].cameras
    assert camera.metadata is None
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert torch.equal(getattr(camera, name)[7], getattr(cameras, name)[pool.trajectories[0].view])


def test_hole_fraction_counts_pixels_below_the_threshold():
    opacity = torch.ones(2, 10, 20, 1)
    opacity[0, 2:5, 3:9] = 0.69
    opacity[1, 0, 0] = 0.7
    torch.testing.assert_close(hole_fraction(opacity, 0.7, erosion=1), torch.tensor([18 / 200, 0.0]))


def test_erosion_shrinks_holes_inside_the_image_but_not_from_its_border():
    opacity = torch.ones(3, 20, 20, 1)
    opacity[0, 5:12, 5:11] = 0.0  # 7 x 6 leaves 3 x 2
    opacity[1, 5:9, :] = 0.0  # 4 rows are eroded away
    opacity[2, :, 14:] = 0.0  # 6 columns at the border leave 4
    torch.testing.assert_close(hole_fraction(opacity, 0.7, erosion=5), torch.tensor([6.0, 0.0, 80.0]) / 400)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 5), (0.79, 3), (0.1, 3)])
def test_erosion_follows_the_resolution_down_to_three_pixels(scale: float, expected: int):
    assert scaled_erosion(5, scale) == expected
    assert scaled_erosion(1, scale) == 1


def test_inside_geometry_needs_known_close_pixels_over_most_of_the_image():
    config = TrajectoryConfig(inside_depth=0.2, inside_fraction=0.5)
    depth = torch.full((3, 10, 10, 1), 2.0)
    opacity = torch.ones_like(depth)
    depth[0, :6] = 0.39
    depth[1, :5] = 0.39
    depth[2] = 0.39
    opacity[2, :6] = 0.1
    assert is_inside_geometry(Seen(opacity, depth), 2.0, config).tolist() == [True, False, False]


def test_plan_keeps_the_top_k_of_each_scale_below_the_largest_hole():
    pool, cameras = make_plan()
    guide = FakeGuide(cameras)
    for view in range(2):
        for scale, count in ((1.0, 3), (1 / 3, 2), (0.1, 1)):
            kept = [t for t in pool.trajectories if t.view == view and t.scale == scale]
            assert len(kept) == count
            for trajectory in kept:
                holes = guide.holes(trajectory.cameras.camera_to_worlds[-1])
                assert trajectory.hole_fraction == pytest.approx(holes / 40)
    # Candidates see round(0.1 * angle) hole columns of 40; 3 at 25..34 degrees would be the largest below 10 % (4).
    assert {round(t.hole_fraction * 40) for t in pool.trajectories} == {3}


def test_holes_of_more_than_the_limit_are_left_out():
    config = replace(PAPER, max_hole_fraction=0.06)
    pool, _ = make_plan(config)
    assert {round(t.hole_fraction * 40) for t in pool.trajectories} == {2}


def test_by_default_paths_are_wider_than_the_paper_s_and_holes_may_be_larger():
    pool, _ = make_plan(TrajectoryConfig(erosion=1))
    # Nothing but the outermost candidates, 60 degrees and little more away, sees 6 hole columns of 40.
    assert {abs(t.azimuth) for t in pool.trajectories} == {60.0}
    assert {round(t.hole_fraction * 40) for t in pool.trajectories} == {6}
    # At 0.25 columns a degree 60 degrees are 15 columns: below 40 % of the image, far above the paper's 10 %.
    pool, _ = make_plan(TrajectoryConfig(erosion=1), columns_per_degree=0.25)
    assert {round(t.hole_fraction * 40) for t in pool.trajectories} == {15}


def test_scene_without_holes_gives_an_empty_pool():
    pool, _ = make_plan(columns_per_degree=0.0)
    assert pool.is_empty
    assert len(pool) == 0
    with pytest.raises(ValueError, match="pool is empty"):
        pool.draw(torch.Generator())


def test_candidates_inside_geometry_are_left_out():
    cameras = turned_cameras()
    guide = FakeGuide(cameras)

    def render(views: Cameras) -> Seen:
        seen = guide(views)
        to_the_right = torch.tensor([offsets(cameras, 0, pose, 2.0)[0] > 1 for pose in views.camera_to_worlds])
        seen.depth[to_the_right] = 0.1
        return seen

    pool = plan(cameras[:1], render, TrajectoryConfig(erosion=1, radius_scales=(1.0,), keep=(20,)), torch.Generator())
    assert not pool.is_empty
    assert max(t.azimuth for t in pool.trajectories) <= 0


def test_input_view_without_depth_at_its_centre_is_skipped():
    cameras = turned_cameras()
    guide = FakeGuide(cameras)

    def render(views: Cameras) -> Seen:
        seen = guide(views)
        blind = (views.camera_to_worlds - cameras.camera_to_worlds[0]).abs().amax(dim=(1, 2)) < 1e-6
        seen.opacity[blind, 12:18, 17:24] = 0.0
        return seen

    pool = plan(cameras, render, TrajectoryConfig(erosion=1), torch.Generator())
    assert {t.view for t in pool.trajectories} == {1}


def test_centre_depth_is_a_median_of_known_pixels():
    cameras = turned_cameras(1)

    def render(views: Cameras) -> Seen:
        opacity = torch.ones(len(views), 30, 40, 1)
        opacity[:, :, :3] = 0.0
        depth = torch.full_like(opacity, 2.0)
        depth[:, 15, 20] = 500.0  # one stray pixel at the very centre
        depth[:, 14], opacity[:, 14] = float("nan"), 0.0
        return Seen(opacity, depth)

    pool = plan(cameras, render, TrajectoryConfig(radius_scales=(1.0,), keep=(1,)), torch.Generator())
    assert pool.trajectories[0].radius == pytest.approx(2.0)


def test_planning_renders_at_most_at_the_plan_resolution():
    cameras = turned_cameras()
    guide = FakeGuide(cameras)
    plan(cameras, guide, TrajectoryConfig(plan_resolution=20), torch.Generator())
    assert guide.sizes == {(15, 20)}
    assert (int(cameras.height[0]), int(cameras.width[0])) == (30, 40)


def test_random_strategy_draws_the_same_number_blindly_and_by_seed():
    config = replace(PAPER, strategy="random")
    names = [[t.name for t in make_plan(config, seed)[0].trajectories] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert len(set(names[0])) == 12
    fractions = [t.hole_fraction for seed in range(4) for t in make_plan(config, seed)[0].trajectories]
    assert min(fractions) < 3 / 40  # the planned ones all have 3 / 40


class Corner:
    """Walls at z = -4 and at x = 0.6. View 0 looks at the first, view 1 along the first at the second.

    Cameras that are no input views see a strip of holes. What view 1 sees within `blind` of its image's middle (as a
    share of the depth) is unknown.
    """

    def __init__(self, blind: float = 0.0) -> None:
        self.blind = blind
        ahead, to_the_right = torch.eye(3), torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])
        poses = torch.stack(
            [
                torch.cat([ahead, torch.zeros(3, 1)], dim=1),
                torch.cat([to_the_right, torch.tensor([[-2.0], [0.0], [-0.5]])], dim=1),
            ]
        )
        self.cameras = Cameras(poses, fx=40.0, fy=40.0, cx=20.0, cy=15.0, width=40, height=30)

    def __call__(self, cameras: Cameras) -> Seen:
        depths, opacities = [], []
        for pose in cameras.camera_to_worlds:
            rows, columns = torch.meshgrid(torch.arange(30), torch.arange(40), indexing="ij")
            rays = torch.stack([(columns - 19.5) / 40, (14.5 - rows) / 40, -torch.ones(30, 40)], dim=-1)
            rays = rays @ pose[:, :3].T
            depth = torch.full((30, 40), torch.inf)
            for axis, place in ((2, -4.0), (0, 0.6)):
                distance = (place - pose[axis, 3]) / rays[..., axis]
                depth = torch.where((distance > 0) & (distance < depth), distance, depth)
            opacity = depth.isfinite().float()
            if torch.equal(pose, self.cameras.camera_to_worlds[1]):
                opacity[((columns - 19.5) / 40).abs() < self.blind] = 0
            elif not torch.equal(pose, self.cameras.camera_to_worlds[0]):
                opacity[:, :2] = 0
            depths.append(depth[..., None])
            opacities.append(opacity[..., None])
        return Seen(torch.stack(opacities), torch.stack(depths))


def _corner_plan(scene: Corner, **options) -> list[Trajectory]:
    config = replace(PAPER, radius_scales=(1.0, 0.1), keep=(19, 19), **options)
    pool = plan(scene.cameras, scene, config, torch.Generator().manual_seed(0))
    return [trajectory for trajectory in pool.trajectories if trajectory.view == 0]


def _furthest_right(trajectories: list[Trajectory], scale: float) -> float:
    return max(float(t.cameras.camera_to_worlds[:, 0, 3].max()) for t in trajectories if t.scale == scale)


def test_no_path_leads_through_a_wall():
    anywhere = _corner_plan(Corner(), keep_in_free_space=False)
    assert len(anywhere) == 38 and _furthest_right(anywhere, 1.0) == pytest.approx(2.0)
    free = _corner_plan(Corner())
    # What is left out is what goes to the right by 4 sin(15 deg) and more; pans of a tenth of that stay.
    kept = {(t.scale, t.azimuth, t.elevation) for t in free}
    assert kept == {(t.scale, t.azimuth, t.elevation) for t in anywhere if t.scale < 1 or t.azimuth <= 0}
    assert _furthest_right(free, 1.0) == 0 and _furthest_right(free, 0.1) == pytest.approx(0.2)


def test_a_path_that_only_ends_where_nobody_looks_is_left_out():
    # View 1 does not see the end of the path to (30, 0), but a wall before its middle.
    assert max(t.azimuth for t in _corner_plan(Corner(blind=0.05))) == 30
    assert max(t.azimuth for t in _corner_plan(Corner(blind=0.05)) if t.scale == 1) <= 0


def test_the_random_strategy_is_blind_to_walls():
    names = [
        [t.name for t in _corner_plan(Corner(), strategy="random", keep_in_free_space=keep)] for keep in (True, False)
    ]
    assert names[0] == names[1] and len(names[0]) == 38


def test_without_a_candidate_there_is_nothing_to_plan():
    assert _corner_plan(Corner(), azimuths=(0.0,), elevations=(0.0,)) == []


def test_erosion_scales_with_the_planning_resolution():
    cameras = turned_cameras(width=160, height=120)
    config = replace(PAPER, erosion=5, plan_resolution=40)
    pool = plan(cameras, FakeGuide(cameras), config, torch.Generator())
    # Five pixels of 160 are the smallest window, three, of 40: it takes one of the three columns at the border.
    assert max(t.hole_fraction for t in pool.trajectories) == pytest.approx(2 / 40)


def test_trajectories_are_as_long_as_asked():
    cameras = turned_cameras()
    pool = plan(cameras, FakeGuide(cameras), TrajectoryConfig(erosion=1), torch.Generator(), num_frames=7)
    assert {len(t.cameras) for t in pool.trajectories} == {7}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": (1, 2)}, "2 numbers for 3 radius_scales"),
        ({"erosion": 4}, "odd number"),
        ({"radius_scales": (1.0, 0.0), "keep": (1, 1)}, "positive"),
        ({"plan_resolution": 0}, "at least 1 pixel"),
        ({"min_hole_fraction": 0.5, "max_hole_fraction": 0.4}, "no candidate lies between"),
        ({"max_hole_fraction": 40.0}, r"max_hole_fraction must lie in \[0, 1\], got 40"),
    ],
)
def test_config_refuses_nonsense(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TrajectoryConfig(**fields)
