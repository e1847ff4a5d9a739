"""Clips from other processes equal those rendered here."""

import torch

from guidedvd_ns.data.clips import ClipConfig
from guidedvd_ns.data.room_clips import RoomClips
from guidedvd_ns.training.remote import RemoteClips

TINY = ClipConfig(
    num_frames=2,
    height=16,
    width=24,
    rooms_per_batch=1,
    clips_per_room=1,
    views_per_room=2,
    supersample=1,
    other_sizes=(),
)


def test_remote_clips_are_those_of_the_source_to_half_a_grey_level():
    with RemoteClips(TINY, "cpu", "cpu", seed=3, renderers=1) as remote:
        # Begun at batch 5, as by a training that is resumed; then in the renderer's order.
        batches = [remote.batch(5), remote.batch(6)]
    source = RoomClips(TINY, "cpu", seed=3)
    for number, clips in enumerate(batches, start=5):
        expected = source.batch(number)
        torch.testing.assert_close(clips.target, expected.target, atol=0.5 / 255 + 1e-6, rtol=0)
        torch.testing.assert_close(clips.known, expected.known, atol=0.5 / 255 + 1e-6, rtol=0)
