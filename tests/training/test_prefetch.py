"""Rooms from worker processes are those that would be laid out on demand."""

import torch

from guidedvd_ns.data.clips import ClipConfig
from guidedvd_ns.data.room_clips import RoomClips
from guidedvd_ns.training.prefetch import PrefetchedRooms

TINY = ClipConfig(num_frames=2, height=16, width=16, rooms_per_batch=1, clips_per_room=1, supersample=1, other_sizes=())


def test_workers_change_nothing():
    expected = RoomClips(TINY, "cpu", seed=1)
    with PrefetchedRooms(TINY, "cpu", seed=1, workers=1, ahead=2) as source:
        for index in (0, 1, 0):
            assert torch.equal(source.batch(index).target, expected.batch(index).target)
