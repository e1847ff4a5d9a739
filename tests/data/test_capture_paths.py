"""Stretches of films and pans over photographs, on camera paths and angles that are known."""

import numpy as np
import pytest

from guidedvd_ns.data.capture_paths import CapturePoses, find_stretches, pan, pan_limits, views_near


def _poses(places: list[float], degrees: list[float] | None = None) -> CapturePoses:
    """Cameras on a line, turned about the vertical axis, in a scene of depth 2."""
    poses = np.stack([np.eye(4)[:3] for _ in places])
    poses[:, 0, 3] = places
    for pose, angle in zip(poses, np.deg2rad(degrees or []), strict=False):
        pose[:, :3] = pan((angle, 0), (angle, 0), 1)[0]
    return CapturePoses(poses, depth=2.0)


def test_motion_is_turn_and_shift():
    path = _poses([0.0, 0.3], [0.0, 6.0])
    first, second = np.array([0]), np.array([1])
    assert path.turn(first, second) == pytest.approx(6.0)
    assert path.shift(first, second) == pytest.approx(0.15)
    assert path.motion(first, second) == pytest.approx(6 / 12 + 0.15 / 0.3)


def test_stretches_stop_at_jumps():
    # 0.1 from frame to frame, but 5 between the sixth and the seventh.
    found = find_stretches(_poses([0.1 * i + 5 * (i > 5) for i in range(12)]), 4).tolist()
    assert [0, 1, 2, 3] in found and [8, 9, 10, 11] in found
    assert not [frames for frames in found if min(frames) <= 5 < max(frames)]


def test_stretches_may_leave_frames_out_but_not_stand_still():
    # 0.02 a frame: three steps of 1 are less than a clip has to move, three of 4 are enough.
    found = find_stretches(_poses([0.02 * i for i in range(16)]), 4)
    assert {int(stride) for stride in np.diff(found[:, :2], axis=1)[:, 0]} == {3, 4}
    assert len(find_stretches(_poses([0.0] * 16), 4)) == 0


def test_stretches_neither_turn_fast_nor_far():
    assert len(find_stretches(_poses([0.0] * 8, [13.0 * i for i in range(8)]), 4)) == 0
    assert len(find_stretches(_poses([0.0] * 8, [11.0 * i for i in range(8)]), 4)) == 5
    assert len(find_stretches(_poses([0.0] * 16, [11.0 * i for i in range(16)]), 8)) == 0


def test_other_views_stand_near_the_reference_but_away_from_the_path():
    path = _poses([0.2 * i for i in range(30)])
    # The clip goes from 2.0 to 3.2; 3 is how far other views may be.
    assert views_near(path, np.array([10, 12, 14, 16])).tolist() == [*range(10), *range(18, 26)]
    assert views_near(path, np.array([16, 14, 12, 10])).tolist() == [*range(1, 9), *range(17, 30)]
    assert views_near(path, np.array([0])).tolist() == list(range(1, 16))
    turned = _poses([0.0] * 3, [0.0, 60.0, 80.0])
    assert views_near(turned, np.array([0])).tolist() == [1]


def test_a_pan_turns_evenly_to_the_left_and_up():
    turns = pan((0.0, 0.0), (0.2, 0.1), 3)
    np.testing.assert_allclose(turns[0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-12)
    forward = -turns[..., 2]
    np.testing.assert_allclose(np.arctan2(-forward[:, 0], -forward[:, 2]), [0, 0.1, 0.2], atol=1e-12)
    np.testing.assert_allclose(np.arcsin(forward[:, 1]), [0, 0.05, 0.1], atol=1e-12)
    # Without roll: what is to the right stays level.
    np.testing.assert_allclose(turns[:, 1, 0], 0, atol=1e-12)


@pytest.mark.parametrize("window", [(0.4, 0.3), (0.7, 0.5), (0.2, 0.4)])
def test_a_pan_stays_in_its_photograph(window):
    photograph = (0.8, 0.6)
    left, up = pan_limits(photograph, window)
    assert left > 0 and up > 0
    corners = np.array([[x * window[0], y * window[1], -1] for x in (-1, 1) for y in (-1, 1)])
    for side in (-left, left):
        for height in (-up, up):
            x, y, z = (corners @ pan((side, height), (side, height), 1)[0].T).T
            assert (np.abs(x / z) <= photograph[0] + 1e-9).all() and (np.abs(y / z) <= photograph[1] + 1e-9).all()
