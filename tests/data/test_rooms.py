"""Sampled rooms: seeds, views, and pictures that agree between views, batches and devices."""

import time

import pytest
import torch
from torch import Tensor

from guidedvd_ns.data.rooms import (
    HELD_OUT_SEEDS,
    Room,
    is_close_up,
    is_free,
    render,
    render_depth,
    sample_views,
    stack_rooms,
    training_seed,
)
from guidedvd_ns.data.rooms.views import free_views

H, W = 24, 32
LENS = (20.0, 20.0, 16.0, 12.0)


def test_the_seed_determines_the_room():
    first, again, other = Room.sample(3), Room.sample(3), Room.sample(4)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name
    assert not torch.equal(first.size, other.size)
    assert not torch.equal(first.frames, other.frames)


def test_rooms_are_the_same_on_every_machine():
    # Written down once: numpy's stream and our arithmetic must give them everywhere, or training data change silently.
    sizes = torch.cat([Room.sample(seed).size for seed in (0, 1, HELD_OUT_SEEDS)])
    expected = torch.tensor(
        [[6.203668, 5.696454, 2.794348], [3.374347, 4.008739, 2.311309], [6.499158, 3.472954, 2.396744]]
    )
    torch.testing.assert_close(sizes, expected, atol=1e-5, rtol=0)


def test_training_never_uses_a_held_out_seed():
    assert [training_seed(i) for i in (0, 5, HELD_OUT_SEEDS - 1, HELD_OUT_SEEDS)] == [0, 5, HELD_OUT_SEEDS - 1, 0]
    with pytest.raises(ValueError, match="numbered from 0"):
        training_seed(-1)
    with pytest.raises(ValueError, match="0 or more"):
        Room.sample(-1)


def test_a_room_is_sampled_in_milliseconds():
    start = time.process_time()
    for seed in range(20):
        Room.sample(seed)
    assert (time.process_time() - start) / 20 < 0.03


def test_furniture_stays_inside_the_room():
    for seed in range(30):
        room = Room.sample(seed).trimmed()
        rotation = room.frames[0, :, :, :3] * room.half[0, :, :, None]  # rows: the primitives' axes in the world
        centre = -torch.linalg.solve(room.frames[0, :, :, :3], room.frames[0, :, :, 3:])[..., 0]
        reach = (rotation.abs() * room.half[0, :, :, None]).sum(1)
        used = centre[:, 2] > -1
        half = room.size[0, :2] / 2
        assert ((centre.abs() + reach)[used][:, :2] < half + 0.3).all(), seed  # leaves may lean through a wall
        assert (centre.abs()[used][:, :2] < half + 0.05).all(), seed
        assert (centre[used][:, 2] < room.size[0, 2]).all(), seed


def test_views_stand_free_at_eye_height():
    for seed in (0, 1, 2, 3, 5, 6, 7, 8):
        room = Room.sample(seed)
        for poses in (sample_views(room, seed, 6), free_views(room, seed, 6)):
            assert poses.shape == (6, 3, 4)
            assert ((poses[:, 2, 3] >= 1.2 - 1e-6) & (poses[:, 2, 3] <= 1.7 + 1e-6)).all()
            assert is_free(room, poses[None, :, :, 3], 0.2).all()
            assert_level(poses)


def assert_level(poses: Tensor) -> None:
    rotation = poses[:, :, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(len(poses), 3, 3), atol=1e-5, rtol=0)
    assert rotation[:, 2, 0].abs().max() < 1e-5


def test_every_fifth_training_room_is_a_close_up_and_no_held_out_one():
    assert [seed for seed in range(10) if is_close_up(seed)] == [4, 9]
    assert not any(is_close_up(HELD_OUT_SEEDS + number) for number in range(10))
    assert Room.sample(3).subject[0, 3] == 0 and Room.sample(4).subject[0, 3] > 0


def test_close_ups_look_at_their_subject_from_near():
    for seed in range(4, 44, 5):
        room = Room.sample(seed)
        centre, radius = room.subject[0, :3], room.subject[0, 3]
        poses = sample_views(room, seed, 6)
        away = poses[:, :, 3] - centre
        distance = away.norm(dim=-1)
        assert (distance > 1.4 * radius).all() and (distance < 4.0 * radius).all(), seed
        # The optical axis passes within 0.4 radii of the subject's centre.
        miss = torch.linalg.cross(away, poses[:, :, 2], dim=-1).norm(dim=-1)
        assert (miss < 0.4 * radius).all(), seed
        assert is_free(room, poses[None, :, :, 3], 0.02).all(), seed
        assert_level(poses)


def test_more_views_divide_the_same_walk():
    room = Room.sample(2)
    torch.testing.assert_close(sample_views(room, 5, 16)[::3], sample_views(room, 5, 6), atol=1e-5, rtol=1e-5)
    assert torch.equal(sample_views(room, 5, 6), sample_views(room, 5, 6))
    assert not torch.equal(sample_views(room, 5, 6), sample_views(room, 6, 6))
    with pytest.raises(ValueError, match="takes one room"):
        sample_views(stack_rooms([room, room]), 0, 6)


def _depth_and_color_at(points: Tensor, pose: Tensor, depth: Tensor, rgb: Tensor) -> tuple[Tensor, ...]:
    """Bilinear samples of another view's depth and colour where the points [N, 3] fall, with their own depth there."""
    local = (points - pose[:, 3]) @ pose[:, :3]
    z = -local[:, 2]
    u, v = LENS[0] * local[:, 0] / z + LENS[2], LENS[3] - LENS[1] * local[:, 1] / z
    grid = torch.stack([2 * u / W - 1, 2 * v / H - 1], -1)[None, None]
    maps = torch.cat([depth, rgb], -1).permute(2, 0, 1)[None]
    values = torch.nn.functional.grid_sample(maps, grid, align_corners=False)[0, :, 0].T
    inside = (z > 0) & (u > 1) & (u < W - 1) & (v > 1) & (v < H - 1)
    return z, values[:, 0], values[:, 1:], inside


def test_two_views_agree_on_what_both_see():
    room = Room.sample(1)
    poses = sample_views(room, 1, 16)[:2]
    out = render(room, poses[None], LENS, H, W, supersample=2)
    depth, rgb = out.depth[0], out.rgb[0]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    rays = torch.stack([(x - LENS[2]) / LENS[0], (LENS[3] - y) / LENS[1], -torch.ones_like(x)], -1)
    points = ((rays * depth[0]) @ poses[0, :, :3].T + poses[0, :, 3]).reshape(-1, 3)
    z, other_depth, other_rgb, inside = _depth_and_color_at(points, poses[1], depth[1], rgb[1])
    same = inside & ((z - other_depth).abs() < 0.02 * z)
    assert same.float().mean() > 0.4
    difference = (rgb[0].reshape(-1, 3) - other_rgb)[same].abs().mean(-1)
    assert difference.median() < 0.03


def test_pictures_are_well_exposed_and_shapes_as_promised():
    rooms = stack_rooms([Room.sample(seed) for seed in (0, 1)])
    poses = torch.stack([sample_views(rooms[i], i, 3) for i in range(2)])
    out = render(rooms, poses, LENS, H, W)
    assert out.rgb.shape == (2, 3, H, W, 3) and out.depth.shape == (2, 3, H, W, 1) and out.normal.shape == out.rgb.shape
    assert out.rgb.min() >= 0 and out.rgb.max() <= 1
    assert 0.25 < out.rgb.mean() < 0.8 and out.rgb.std() > 0.1
    assert (out.depth > 0).all() and (out.depth < 12).all()
    torch.testing.assert_close(out.normal.norm(dim=-1), torch.ones(2, 3, H, W), atol=1e-4, rtol=0)


def test_a_batch_renders_like_its_rooms_one_by_one():
    rooms = [Room.sample(seed) for seed in (5, 6)]
    poses = torch.stack([sample_views(room, 0, 2) for room in rooms])
    together = render(stack_rooms(rooms), poses, LENS, H, W)
    for i, room in enumerate(rooms):
        alone = render(room, poses[i : i + 1], LENS, H, W)
        torch.testing.assert_close(together.depth[i], alone.depth[0], atol=1e-4, rtol=1e-4)
        # A matrix product of another size may round a hit over an edge of a pattern, in a few pixels.
        assert ((together.rgb[i] - alone.rgb[0]).abs().amax(-1) > 0.01).float().mean() < 0.005


def test_rendering_is_deterministic_and_supersampling_leaves_geometry_alone():
    room = Room.sample(8)
    poses = sample_views(room, 0, 1)[None]
    once, again = render(room, poses, LENS, H, W), render(room, poses, LENS, H, W)
    assert torch.equal(once.rgb, again.rgb) and torch.equal(once.depth, again.depth)
    fine = render(room, poses, LENS, H, W, supersample=2)
    assert torch.equal(once.depth, fine.depth) and torch.equal(once.normal, fine.normal)
    assert 0.001 < (once.rgb - fine.rgb).abs().mean() < 0.08


def test_intrinsics_may_differ_between_views():
    room = Room.sample(8)
    poses = sample_views(room, 0, 2)[None]
    lenses = torch.tensor([[LENS, (40.0, 40.0, 16.0, 12.0)]])
    both = render(room, poses, lenses, H, W)
    torch.testing.assert_close(both.depth[:, :1], render(room, poses[:, :1], LENS, H, W).depth, atol=1e-4, rtol=1e-4)
    narrow = render(room, poses[:, 1:], (40.0, 40.0, 16.0, 12.0), H, W)
    torch.testing.assert_close(both.depth[:, 1:], narrow.depth, atol=1e-4, rtol=1e-4)


def test_depth_alone_is_that_of_the_picture():
    rooms = stack_rooms([Room.sample(3), Room.sample(4)])
    poses = torch.stack([sample_views(Room.sample(seed), seed, 2) for seed in (3, 4)])
    assert torch.equal(render_depth(rooms, poses, LENS, H, W), render(rooms, poses, LENS, H, W).depth)


def test_wrong_arguments_are_named():
    room = Room.sample(0)
    with pytest.raises(ValueError, match="pass one"):
        render(room, sample_views(room, 0, 2), LENS, H, W)
    with pytest.raises(ValueError, match="supersample is 0"):
        render(room, sample_views(room, 0, 1)[None], LENS, H, W, supersample=0)
    with pytest.raises(ValueError, match="empty list"):
        stack_rooms([])


@pytest.mark.gpu
def test_cpu_and_gpu_agree():
    rooms = stack_rooms([Room.sample(seed) for seed in range(3)])
    poses = torch.stack([sample_views(rooms[i], 0, 2) for i in range(3)])
    cpu = render(rooms, poses, LENS, H, W, supersample=2)
    gpu = render(rooms.to("cuda"), poses.cuda(), LENS, H, W, supersample=2)
    for a, b, tolerance in zip(cpu, gpu, (0.02, 0.01, 0.01), strict=True):
        assert ((a - b.cpu()).abs().amax(-1) > tolerance).float().mean() < 0.005


@pytest.mark.gpu
def test_compiled_rendering_agrees():
    rooms = stack_rooms([Room.sample(seed) for seed in range(2)]).to("cuda")
    poses = torch.stack([sample_views(rooms[i], 0, 2) for i in range(2)]).cuda()
    plain = render(rooms, poses, LENS, H, W, supersample=2)
    fused = render(rooms, poses, LENS, H, W, supersample=2, compile=True)
    assert ((plain.rgb - fused.rgb).abs().amax(-1) > 0.02).float().mean() < 0.005
