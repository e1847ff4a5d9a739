"""Seeds of a sequence: on the guide's surfaces, in holes alone, with the colours of what was imagined there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.free_space import SeenSpace
from guidedvd_ns.guide import Guide, GuideRender
from guidedvd_ns.orbits import Trajectory
from guidedvd_ns.rasterization import camera_matrices
from guidedvd_ns.seeding import OpacityOf, SeedingConfig, Seeds, seeds_of
from guidedvd_ns.sequences import GeneratedSequence, SequenceScores
from guidedvd_ns.trajectory_pool import TrajectoryPool
from tests.scenes import cameras, random_pose

HEIGHT, WIDTH, LENGTH = 24, 32, 7
HOLE = (slice(8, 17), slice(10, 19))
EVERYWHERE = (slice(0, HEIGHT), slice(0, WIDTH))


class PlaneGuide(Guide):
    """Knows the depth of the plane `normal . x = offset`, except in a hole, where it claims nonsense."""

    def __init__(self, normal: Tensor, offset: float) -> None:
        super().__init__()
        self.normal, self.offset = normal, offset

    def render(self, cameras: Cameras) -> GuideRender:
        rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        depths = []
        for camera in cameras:
            right = (columns + 0.5 - camera.cx) / camera.fx
            up = (camera.cy - rows - 0.5) / camera.fy
            rays = torch.stack([right, up, -torch.ones_like(up)], dim=-1) @ camera.camera_to_worlds[:, :3].T
            distance = (self.offset - self.normal @ camera.camera_to_worlds[:, 3]) / (rays @ self.normal)
            distance[HOLE] = 77.0
            depths.append(distance[..., None])
        depth = torch.stack(depths)
        return GuideRender(rgb=depth.expand(-1, -1, -1, 3), opacity=torch.ones_like(depth), depth=depth)


def _world() -> Tensor:
    """Where the cameras of `tests.scenes` and what they look at are put, [3, 4]."""
    return random_pose(torch.Generator().manual_seed(5)).float()


def _plane(*normal: float) -> PlaneGuide:
    """The plane that goes through (0, 0, -2) before the cameras are put into the world."""
    world = _world()
    turned = world[:, :3] @ torch.tensor(normal)
    return PlaneGuide(turned, float(turned @ (world @ torch.tensor([0.0, 0.0, -2.0, 1.0]))))


def _sequence(hole: tuple[slice, slice] = HOLE) -> GeneratedSequence:
    """Colours drawn at random along seven cameras, whose own images are twice as wide and three times as high."""
    views = cameras(LENGTH, width=2 * WIDTH, height=3 * HEIGHT)
    world = torch.cat([_world(), torch.tensor([[0.0, 0, 0, 1]])])
    views.camera_to_worlds = (world @ torch.cat([views.camera_to_worlds, world[3:].expand(LENGTH, 1, 4)], dim=1))[:, :3]
    path = Trajectory(view=0, scale=1.0, radius=2.0, azimuth=15.0, elevation=0.0, hole_fraction=0.1, cameras=views)
    frames = torch.rand(LENGTH, HEIGHT, WIDTH, 3)
    known = torch.ones(LENGTH, HEIGHT, WIDTH, 1, dtype=torch.bool)
    known[:, hole[0], hole[1]] = False
    return GeneratedSequence(0, path, frames, frames, known, SequenceScores(30.0, 0.1, 0.0), 1.0, kept=True)


def _empty(camera: Cameras) -> Tensor:
    """A scene with nothing in it."""
    return torch.zeros(int(camera.height), int(camera.width), 1)


def _seeds(
    sequence: GeneratedSequence,
    guide: Guide,
    opacity_of: OpacityOf,
    config: SeedingConfig,
    space: SeenSpace | None = None,
    pool: TrajectoryPool | None = None,
) -> Seeds:
    """Without a space no input view sees anything, without a pool no camera goes anywhere."""
    return seeds_of(sequence, guide, opacity_of, config, space or SeenSpace([], [], []), pool or TrajectoryPool())


def _project(seeds: Seeds, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Columns and rows [N, 2] in the frame's pixels, and z-depth [N]."""
    viewmats, intrinsics = camera_matrices(camera)
    local = seeds.means @ viewmats[0, :3, :3].T + viewmats[0, :3, 3]
    pixels = (local @ intrinsics[0].T)[:, :2] / local[:, 2:]
    return pixels / torch.tensor([2.0, 3.0]), local[:, 2]


def _last(sequence: GeneratedSequence) -> Cameras:
    return sequence.trajectory.cameras[LENGTH - 1 : LENGTH]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_seeds_are_the_hole_s_pixels_with_their_colours(stride: int):
    sequence = _sequence()
    seeds = _seeds(sequence, _plane(0.0, 0.0, 1.0), _empty, SeedingConfig(frames=1, stride=stride))
    pixels, depth = _project(seeds, _last(sequence))
    columns, rows = (pixels - 0.5).unbind(dim=1)
    torch.testing.assert_close(columns, columns.round(), atol=1e-3, rtol=0)
    torch.testing.assert_close(rows, rows.round(), atol=1e-3, rtol=0)
    at = rows.round().long(), columns.round().long()
    torch.testing.assert_close(seeds.colors, sequence.frames[-1][at])
    wanted = {
        (row, column)
        for row in range(stride // 2, HEIGHT, stride)
        for column in range(stride // 2, WIDTH, stride)
        if row in range(8, 17) and column in range(10, 19)
    }
    assert set(zip(at[0].tolist(), at[1].tolist(), strict=True)) == wanted and len(depth) == len(wanted)
    # The plane is parallel to the images: nothing but its one depth can come out.
    torch.testing.assert_close(depth, torch.full_like(depth, 2.0), atol=1e-4, rtol=0)


def test_seeds_of_a_tilted_plane_lie_on_it():
    sequence, guide = _sequence(), _plane(0.5, -0.3, 1.0)
    seeds = _seeds(sequence, guide, _empty, SeedingConfig(frames=3, stride=1))
    assert len(seeds.means) == 3 * 81
    beside = (seeds.means @ guide.normal - guide.offset).abs() / guide.normal.norm()
    assert beside.max() < 0.05 and beside.mean() < 0.025  # at a depth of 2
    # Across the hole the plane's own depth varies by far more than that.
    _, depth = _project(seeds, _last(sequence))
    assert depth.max() - depth.min() > 0.3


def test_neighbours_are_two_standard_deviations_apart():
    for stride in (1, 3):
        config = SeedingConfig(frames=1, stride=stride)
        sequence = _sequence()
        # The frame's pixels are as high as wide.
        views = sequence.trajectory.cameras
        views.fy = views.fx * 1.5
        seeds = _seeds(sequence, _plane(0.0, 0.0, 1.0), _empty, config)
        apart = torch.cdist(seeds.means, seeds.means).fill_diagonal_(math.inf).amin(dim=1)
        torch.testing.assert_close(apart, 2 * seeds.sizes, atol=1e-4, rtol=1e-3)


def test_only_where_the_scene_has_nothing():
    sequence = _sequence()

    def opacity_of(camera: Cameras) -> Tensor:
        opacity = torch.full((int(camera.height), int(camera.width), 1), 0.39)
        opacity[:, :14] = 0.41
        return opacity

    config = SeedingConfig(frames=1, stride=1, max_opacity=0.4)
    pixels, _ = _project(_seeds(sequence, _plane(0.0, 0.0, 1.0), opacity_of, config), _last(sequence))
    assert len(pixels) == 9 * 5 and pixels[:, 0].min() > 14
    assert len(_seeds(sequence, _plane(0.0, 0.0, 1.0), opacity_of, replace(config, max_opacity=0.2)).means) == 0


@pytest.mark.parametrize("surface", [2.05, 1.0, 5.0])
def test_nothing_begins_where_an_input_view_sees_past(surface: float):
    sequence, guide = _sequence(), _plane(0.0, 0.0, 1.0)
    view = cameras(1)
    view.camera_to_worlds = _world()[None]
    depth = torch.full((HEIGHT, WIDTH, 1), 2.0)
    depth[:, 25:] = surface
    space = SeenSpace([view], [depth], [torch.ones_like(depth, dtype=torch.bool)])
    seeds = _seeds(sequence, guide, _empty, SeedingConfig(frames=1, stride=1), space)
    columns = _project(seeds, _last(sequence))[0][:, 0].floor().int()
    # The last camera stands 0.6 to the right of the view: at depth 2 that is 9.6 pixels.
    assert sorted(set(columns.tolist())) == list(range(10, 15 if surface == 5.0 else 19))
    assert len(seeds.means) == len(seeds.colors) == len(seeds.sizes) == 9 * len(columns.unique())


def test_nothing_begins_close_to_where_a_camera_may_go():
    sequence, guide = _sequence(), _plane(0.0, 0.0, 1.0)
    every = _seeds(sequence, guide, _empty, SeedingConfig(frames=1, stride=1))
    # A camera of another trajectory stands in the plane, at one of the seeds; its view looks 2 / 0.5 = 4 far.
    other = cameras(2)
    other.camera_to_worlds[1, :, 3] = every.means[40]
    other.camera_to_worlds[0, :, 3] = 100.0
    pool = TrajectoryPool((replace(sequence.trajectory, cameras=other, scale=0.5),))
    apart = (every.means - every.means[40]).norm(dim=1)
    for clearance in (0.0, 0.05, 0.1):
        config = SeedingConfig(frames=1, stride=1, clearance=clearance)
        seeds = _seeds(sequence, guide, _empty, config, pool=pool)
        rest = apart >= 4 * clearance
        assert int(rest.sum()) < 81 or clearance == 0
        for name in ("means", "colors", "sizes"):
            assert torch.equal(getattr(seeds, name), getattr(every, name)[rest])
    assert len(_seeds(sequence, guide, _empty, SeedingConfig(frames=1, stride=1, clearance=1.0), pool=pool).means) == 0


@pytest.mark.parametrize(("frames", "expected"), [(1, [6]), (2, [3, 6]), (3, [2, 4, 6]), (50, [1, 2, 3, 4, 5, 6])])
def test_frames_are_spread_over_the_sequence_and_never_the_first(frames: int, expected: list[int]):
    sequence, seen = _sequence(), []

    def opacity_of(camera: Cameras) -> Tensor:
        poses = sequence.trajectory.cameras.camera_to_worlds
        seen.append(int((poses - camera.camera_to_worlds).abs().sum(dim=(1, 2)).argmin()))
        assert (int(camera.height), int(camera.width)) == (HEIGHT, WIDTH)
        return _empty(camera)

    seeds = _seeds(sequence, _plane(0.0, 0.0, 1.0), opacity_of, SeedingConfig(frames=frames, stride=1))
    assert seen == expected and len(seeds.means) == 81 * len(expected)
    assert len(seeds.means) == len(seeds.colors) == len(seeds.sizes)


def test_a_frame_of_which_nothing_is_known_brings_nothing():
    seeds = _seeds(_sequence(EVERYWHERE), _plane(0.0, 0.0, 1.0), _empty, SeedingConfig(frames=2))
    assert seeds.means.shape == (0, 3) and seeds.colors.shape == (0, 3) and seeds.sizes.shape == (0,)


def test_known_pixels_at_which_the_guide_hits_nothing_are_neither_seeds_nor_depths():
    class Pierced(PlaneGuide):
        def render(self, cameras: Cameras) -> GuideRender:
            view = super().render(cameras)
            view.depth[:, 6:8, 10:19] = 0.0
            return view

    plane, sequence = _plane(0.0, 0.0, 1.0), _sequence()
    pierced = Pierced(plane.normal, plane.offset)
    whole, rest = (_seeds(sequence, guide, _empty, SeedingConfig(frames=1)) for guide in (plane, pierced))
    torch.testing.assert_close(rest.means, whole.means, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("frames", -1), ("stride", 0), ("max_opacity", 0.0), ("max_opacity", 50.0), ("clearance", -0.1)],
)
def test_config_refuses_nonsense(field: str, value: float):
    with pytest.raises(ValueError, match=f"seeding.{field} must"):
        SeedingConfig(**{field: value})
