"""Clips cut from a capture of a procedural room, whose poses and depths on disk are compared with the room itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_trees import write_replica
from PIL import Image

from guidedvd_ns.data.capture_clips import CaptureClips, visible_pixels
from guidedvd_ns.data.clips import ClipConfig, draw_size, keyed_generator
from guidedvd_ns.data.depth_captures import DepthCapture, Look, read_any_capture
from guidedvd_ns.data.rooms import Room, render, sample_views
from guidedvd_ns.data.visibility import Sight, visible_from_views
from guidedvd_ns.training.mixture import MixedClips

COUNT = 18
HEIGHT, WIDTH = 60, 80
INTRINSICS = (52.0, 50.0, 42.0, 29.0)
UNIT = 2e-3
"""Metres of 1 in the files of depths: not the usual millimetre."""
TINY = ClipConfig(
    num_frames=4,
    height=24,
    width=32,
    other_sizes=((32, 24),),
    other_sizes_share=0.5,
    rooms_per_batch=2,
    clips_per_room=2,
    views_per_room=3,
)


@pytest.fixture(scope="module")
def room() -> Room:
    return Room.sample(3)


@pytest.fixture(scope="module")
def folder(room, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("filmed")
    poses = sample_views(room, 3, COUNT)
    seen = render(room, poses[None], INTRINSICS, HEIGHT, WIDTH)
    frames = []
    for index, (pose, rgb, depth) in enumerate(zip(poses, seen.rgb[0], seen.depth[0], strict=True)):
        files = {"file_path": f"frame_{index}.png", "depth_file_path": f"depth_{index}.png"}
        Image.fromarray((255 * rgb).round().byte().numpy()).save(folder / files["file_path"])
        measured = (depth[..., 0] / UNIT).round().numpy().astype(np.uint16)
        # What the sensor missed: a corner of every frame.
        measured[-6:, -8:] = 0
        Image.fromarray(measured).save(folder / files["depth_file_path"])
        frames.append({**files, "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]})
    # Not in the order of the walk, which that of the names is.
    _write(folder, frames[::-1])
    return folder


def _write(folder: Path, frames: list[dict], **more) -> None:
    lens = dict(zip(("fl_x", "fl_y", "cx", "cy"), INTRINSICS, strict=True))
    meta = {"w": WIDTH, "h": HEIGHT, **lens, "depth_unit_scale_factor": UNIT, "frames": frames, **more}
    (folder / "transforms.json").write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def clips(folder, tmp_path_factory) -> CaptureClips:
    return CaptureClips([folder], TINY, "cpu", seed=1, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def batches(clips):
    return [clips.batch(index) for index in range(4)]


@pytest.fixture(scope="module")
def pans(folder) -> CaptureClips:
    """Clips of the same frames as if they were no film."""
    clips = CaptureClips([folder], TINY, "cpu", seed=1)
    clips._stretches = [np.zeros((0, TINY.num_frames), dtype=np.int64)]
    return clips


@pytest.fixture(params=["clips", "pans"])
def cuts(request):
    draws = torch.Generator().manual_seed(0)
    return [request.getfixturevalue(request.param)._draw_cut((24, 32), draws) for _ in range(6)]


def test_looks_show_what_the_room_shows_through_their_intrinsics(cuts, room):
    cut = cuts[0]
    images = torch.from_numpy(cut.capture.images(cut.frames, cut.intrinsics, (24, 32))) / 255
    poses, (fx, fy, cx, cy) = cut.capture.looking(cut.frames)[None], cut.intrinsics

    def difference(right: float, down: float) -> float:
        shown = render(room, poses, (fx, fy, cx + right, cy + down), 24, 32, supersample=2)
        return float((images - shown.rgb[0]).square().mean())

    exact = difference(0, 0)
    assert exact < 0.9 * min(difference(0.5, 0), difference(-0.5, 0), difference(0, 0.5), difference(0, -0.5))
    depth = torch.from_numpy(cut.capture.depths(cut.frames, cut.intrinsics, (24, 32)))
    ratio = depth / render(room, poses, cut.intrinsics, 24, 32).depth[0]
    assert ((ratio - 1).abs() < 0.02).float().mean() > 0.85
    assert abs(ratio.median() - 1) < 2e-3


def test_visibility_is_the_rooms_own(cuts, room):
    for cut in cuts:
        views, poses = cut.capture.looking(cut.views), cut.capture.looking(cut.frames)
        seen = render(room, torch.cat([views, poses])[None], cut.intrinsics, 24, 32).depth[0]
        sight = Sight(views[None], seen[None, : len(views)], cut.intrinsics)
        every = torch.ones(1, 1, len(views), dtype=torch.bool)
        depth = seen[None, None, len(views) :]
        expected = visible_from_views(depth, poses[None, None], cut.intrinsics, sight, every)[0, 0]
        found = visible_pixels(cut, cut.frames, (24, 32))
        assert found[0].float().mean() > 0.98
        # Depths of nearest pixels are off at silhouettes and on surfaces seen from the side.
        assert (found == expected).float().mean() > 0.93


def test_pans_have_holes_of_the_wanted_size(pans):
    batch = pans.batch(0)
    assert len(batch) >= 4
    assert 0.03 < float(batch.hole_fraction().mean()) < 0.4


def test_shapes_ranges_and_reference(batches):
    assert {tuple(batch.target.shape[2:4]) for batch in batches} == {(24, 32), (32, 24)}
    for batch in batches:
        assert 0 < len(batch) <= 8 and batch.target.shape[1] == 4
        assert batch.condition.shape == batch.target.shape and batch.known.shape == (*batch.target.shape[:4], 1)
        assert batch.target.min() >= 0 and batch.target.max() <= 1
        assert torch.equal(batch.condition[:, 0], batch.target[:, 0]) and (batch.known[:, 0] == 1).all()
        holes = batch.hole_fraction()
        assert (holes >= TINY.min_hole_fraction).all() and (holes <= TINY.max_hole_fraction).all()


def test_clips_differ_and_come_mirrored_too(clips):
    config = replace(TINY, min_hole_fraction=0.0, max_hole_fraction=1.0)
    mirrored = CaptureClips([clips._captures[0].folder], config, "cpu", seed=1).batch(0)
    first, second = mirrored.target.chunk(2)
    assert torch.equal(first, second.flip(3))
    assert len({float(clip.mean()) for clip in first}) == len(first)


def test_a_batch_depends_on_its_number_and_seed_alone(batches, folder):
    again = CaptureClips([folder], TINY, "cpu", seed=1)
    for index in (2, 0):
        assert torch.equal(again.batch(index).condition, batches[index].condition)
    other = CaptureClips([folder], TINY, "cpu", seed=2).batch(0)
    assert other.target.shape != batches[0].target.shape or not torch.equal(other.target, batches[0].target)


def test_missing_depths_are_those_of_the_nearest_pixels(clips):
    depth = clips._captures[0]._depth(0)
    assert (depth > 0).all()
    # Left of the corner that the sensor missed, and in its middle row the nearest pixel is that on its left.
    np.testing.assert_array_equal(depth[-1, -8:-6], depth[-1, -9])


def test_larger_frames_are_kept_smaller(clips, tmp_path):
    capture = clips._captures[0]
    smaller = DepthCapture(capture.folder, 24, tmp_path)
    assert (smaller.frames[0].width, smaller.frames[0].height) == (40, 30)
    np.testing.assert_allclose(smaller.extent([1, 2]), capture.extent([1, 2]))
    window = ([Look(5, np.eye(3))], (8.0, 8.0, 7.0, 5.0), (8, 12))
    fine, coarse = (each.images(*window).astype(float) for each in (capture, smaller))
    assert np.abs(fine - coarse).mean() < 5
    fine, coarse = (each.depths(*window) for each in (capture, smaller))
    assert np.median(np.abs(fine / coarse - 1)) < 0.02


def test_captures_of_other_layouts_are_told_apart(tmp_path):
    sequence = write_replica(tmp_path / "room_0" / "Sequence_1", drawn=(3, 4), count=6)
    capture = read_any_capture(sequence)
    assert len(capture.frames) == 6 and capture.depth_unit == 1e-3
    assert len(DepthCapture(sequence, 24, tmp_path / "cache")) == 2


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match="No capture"):
        CaptureClips([], TINY, "cpu")
    with pytest.raises(FileNotFoundError, match="no capture at"):
        CaptureClips([tmp_path / "nowhere"], TINY, "cpu")
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    for number, frame in enumerate(frames):
        frame["file_path"] = str(folder / frame["file_path"])
        depth = folder / frame.pop("depth_file_path")
        if not number:
            _write(tmp_path, [{**frame, "depth_file_path": str(depth)}])
            with pytest.raises(ValueError, match="one frame with depth"):
                CaptureClips([tmp_path], TINY, "cpu")
    _write(tmp_path, frames)
    with pytest.raises(ValueError, match="no depths to cut clips from.*depth_file_path"):
        CaptureClips([tmp_path], TINY, "cpu")
    with pytest.raises(ValueError, match="no clip with holes between 98% and 99%"):
        CaptureClips([folder], replace(TINY, min_hole_fraction=0.98, max_hole_fraction=0.99), "cpu").batch(0)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def batch(self, index: int):
        return self.name, index


def test_mixed_clips_keep_their_share_and_numbers():
    mixed = MixedClips(_Named("room"), _Named("capture"), 0.3, seed=4)
    drawn = [mixed.batch(index) for index in range(1000)]
    assert [index for _, index in drawn] == list(range(1000))
    assert 250 < sum(name == "capture" for name, _ in drawn) < 350
    assert drawn[:50] == [MixedClips(_Named("room"), _Named("capture"), 0.3, seed=4).batch(i) for i in range(50)]
    numbers = [
        i for i in range(4000) if MixedClips(_Named("room"), _Named("capture"), 0.03, seed=4).batch(i)[0] != "room"
    ]
    sizes = [draw_size(TINY, keyed_generator("cpu", 4, number)) for number in numbers]
    # Which batches are the captures' has nothing to do with what they look like.
    assert 0.3 < sizes.count((32, 24)) / len(sizes) < 0.7
    with pytest.raises(ValueError, match="between 0 and 1"):
        MixedClips(_Named("room"), _Named("capture"), 1.5)
