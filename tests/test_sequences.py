"""Local sampling: which generated views a training step sees."""

from collections import Counter

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from guidedvd_ns.sequences import SequenceStore


def _cameras(count: int) -> Cameras:
    poses = torch.eye(4)[None, :3].repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count)
    return Cameras(poses, fx=10.0, fy=10.0, cx=4.0, cy=3.0, width=8, height=6)


def _frames(number: int, count: int) -> torch.Tensor:
    """Frames whose first value names sequence and frame."""
    frames = torch.zeros(count, 2, 2, 3)
    frames[:, 0, 0, 0] = number * 100 + torch.arange(count)
    return frames


def _store(**options) -> tuple[SequenceStore, torch.Generator]:
    generator = torch.Generator().manual_seed(1)
    store = SequenceStore(**options)
    for number in range(3):
        store.add(number, _cameras(26), _frames(number, 26), generator)
    return store, generator


def _draws(store: SequenceStore, generator: torch.Generator, count: int = 4000) -> Counter:
    drawn = Counter()
    for _ in range(count):
        view = store.draw(generator)
        drawn[divmod(int(view.frame[0, 0, 0]), 100)] += 1
        assert view.camera.camera_to_worlds[0, 0, 3] == int(view.frame[0, 0, 0]) % 100
    return drawn


def test_newest_sequence_has_half_of_the_draws_and_the_store_the_rest():
    drawn = _draws(*_store())
    newest = sum(count for (number, _), count in drawn.items() if number == 2)
    assert newest / 4000 == pytest.approx(0.5 + 0.5 / 3, abs=0.03)


def test_store_keeps_a_fifth_of_the_frames_of_each_older_sequence():
    drawn = _draws(*_store())
    for number in (0, 1):
        assert len({frame for n, frame in drawn if n == number}) == 5
    assert len({frame for n, frame in drawn if n == 2}) == 25


def test_only_frames_that_can_still_be_drawn_are_held():
    store, _ = _store()
    assert store.num_frames == 5 + 5 + 25
    older = {view.frame.untyped_storage().data_ptr() for number in (0, 1) for view in store._views[number].values()}
    assert len(older) == 10  # copies: none keeps the whole sequence alive
    assert _store(local_sampling=False)[0].num_frames == 3 * 25


def test_input_pose_is_never_drawn():
    assert all(frame > 0 for _, frame in _draws(*_store()))
    assert all(frame > 0 for _, frame in _draws(*_store(local_sampling=False)))


def test_without_local_sampling_every_frame_is_equally_likely():
    drawn = _draws(*_store(local_sampling=False), count=7500)
    assert len(drawn) == 75
    assert max(drawn.values()) < 1.5 * 100 and min(drawn.values()) > 0.5 * 100


def test_drawing_from_nothing_is_an_error():
    with pytest.raises(IndexError):
        SequenceStore().draw(torch.Generator())


def test_state_round_trip_draws_the_same_views():
    store, generator = _store()
    state, position = store.state_dict(), generator.get_state()
    expected = [store.draw(generator).frame[0, 0, 0].item() for _ in range(50)]
    restored = SequenceStore()
    assert state["numbers"] == [0, 1, 2]
    restored.restore(state, {number: (_cameras(26), _frames(number, 26)) for number in range(3)})
    again = torch.Generator()
    again.set_state(position)
    assert [restored.draw(again).frame[0, 0, 0].item() for _ in range(50)] == expected
    assert restored.num_frames == store.num_frames and restored.state_dict() == state


def test_lost_sequences_are_left_out():
    store, generator = _store()
    restored = SequenceStore()
    restored.restore(store.state_dict(), {0: (_cameras(26), _frames(0, 26))})
    assert len(restored) == 1
    assert all(number == 0 for number, _ in _draws(restored, generator, 100))
