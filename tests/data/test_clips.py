"""Clips of real procedural rooms at tiny sizes: geometry, holes, seeds."""

from dataclasses import replace

import pytest
import torch

from guidedvd_ns.data.clips import ClipConfig, concatenate_clips
from guidedvd_ns.data.room_clips import RoomClips, _Paths, _poses, lay_out_rooms
from guidedvd_ns.data.rooms import HELD_OUT_SEEDS
from guidedvd_ns.orbits import orbit

TINY = ClipConfig(
    num_frames=3,
    height=24,
    width=32,
    other_sizes=(),
    rooms_per_batch=2,
    clips_per_room=2,
    views_per_room=3,
    supersample=1,
)


@pytest.fixture(scope="module")
def batch():
    return RoomClips(TINY, "cpu", seed=1).batch(0)


def test_shapes_ranges_and_reference(batch):
    assert batch.target.shape == batch.condition.shape == (len(batch), 3, 24, 32, 3)
    assert batch.known.shape == (len(batch), 3, 24, 32, 1)
    assert 0 < len(batch) <= 8
    assert batch.target.min() >= 0 and batch.target.max() <= 1
    assert torch.equal(batch.condition[:, 0], batch.target[:, 0])
    assert (batch.known[:, 0] == 1).all()


def test_matches_are_those_of_the_clips_that_are_kept():
    whole = RoomClips(replace(TINY, mirror=False), "cpu", seed=1)
    picky = RoomClips(replace(TINY, mirror=False, min_hole_fraction=0.12), "cpu", seed=1)
    clips, matches = whole.matched_batch(0, gap=1)
    assert torch.equal(clips.condition, whole.batch(0).condition)
    assert matches.grid.shape == (len(clips), 2, 24, 32, 2)
    picky._film = whole._film  # The same paths, of which it then keeps those with large holes only.
    fewer, their_matches = picky.matched_batch(0, gap=1)
    assert 0 < len(fewer) < len(clips)
    for clip, grid in zip(fewer.target, their_matches.grid, strict=True):
        place = next(index for index, other in enumerate(clips.target) if torch.equal(other, clip))
        assert torch.equal(matches.grid[place], grid)
    with pytest.raises(ValueError, match="mirror"):
        RoomClips(TINY, "cpu", seed=1).matched_batch(0, gap=1)


def test_holes_are_of_the_wanted_size(batch):
    holes = batch.hole_fraction()
    assert (holes >= TINY.min_hole_fraction).all() and (holes <= TINY.max_hole_fraction).all()
    assert 0.05 < float(holes.mean()) < 0.35


def test_known_pixels_show_the_truth_up_to_defects(batch):
    known = batch.known[:, 1:].bool().expand_as(batch.target[:, 1:])
    difference = (batch.condition - batch.target)[:, 1:][known].abs()
    assert 0 < float(difference.mean()) < 0.1


def test_a_batch_depends_on_its_number_and_seed_alone(batch):
    source = RoomClips(TINY, "cpu", seed=1)
    source.batch(1)
    again = source.batch(0)
    assert torch.equal(again.target, batch.target) and torch.equal(again.condition, batch.condition)
    other = RoomClips(TINY, "cpu", seed=2).batch(0)
    assert other.target.shape != batch.target.shape or not torch.equal(other.target, batch.target)


def test_some_batches_have_another_size():
    config = replace(TINY, other_sizes=((32, 16), (20, 28)), other_sizes_share=0.5, rooms_per_batch=1, num_frames=2)
    sizes = [tuple(RoomClips(config, "cpu").batch(number).target.shape[2:4]) for number in range(12)]
    assert set(sizes) == {(24, 32), (32, 16), (20, 28)}
    assert 3 <= sizes.count((24, 32)) <= 9


def test_training_never_meets_held_out_rooms():
    training, held_out = RoomClips(TINY, "cpu"), RoomClips(TINY, "cpu", held_out=True)
    assert max(training.room_seeds(HELD_OUT_SEEDS - 1)) < HELD_OUT_SEEDS
    assert held_out.room_seeds(0) == [HELD_OUT_SEEDS, HELD_OUT_SEEDS + 1]


def test_views_roll_about_their_optical_axis():
    level, rolled = (lay_out_rooms([0, 1], ClipConfig(views_per_room=8, tilt=tilt))[1] for tilt in (0.0, 3.0))
    assert level[..., 2, 0].abs().max() < 1e-5
    torch.testing.assert_close(level[..., 2:], rolled[..., 2:])
    cosine = (level[..., :, 0] * rolled[..., :, 0]).sum(-1).clamp(max=1)
    angle = torch.rad2deg(torch.acos(cosine))
    assert 1.0 < angle.square().mean().sqrt() < 5.0
    rotation = rolled[..., :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2, 8))


def test_poses_are_those_of_the_methods_trajectories():
    views = torch.eye(4)[:3][None, None].repeat(1, 2, 1, 1)
    views[0, :, :, 3] = torch.tensor([[0.1, 0.2, 0.3], [1.0, -2.0, 1.5]])
    paths = _Paths(
        reference=torch.tensor([[1]]),
        radius=torch.tensor([[2.5]]),
        azimuth=torch.tensor([[20.0]]),
        elevation=torch.tensor([[-10.0]]),
        uses_view=torch.ones(1, 1, 2, dtype=torch.bool),
    )
    progress = torch.linspace(0, 1, 4)
    expected = orbit(views[0, 1], 2.5, 20 * progress, -10 * progress)
    torch.testing.assert_close(_poses(paths, views, progress)[0, 0], expected)


def test_concatenation_keeps_order(batch):
    both = concatenate_clips([batch[:1], batch[1:2]])
    assert torch.equal(both.target, batch.target[:2])
