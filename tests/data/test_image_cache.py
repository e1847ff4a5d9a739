"""The cache of undistorted and resized images: written once, whole, and again when its source changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from capture_trees import pattern
from PIL import Image

from guidedvd_ns.data.captures import Frame
from guidedvd_ns.data.image_cache import prepare_frames
from guidedvd_ns.data.undistort import undistort_depth, undistort_image

DISTORTION = (-0.1, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def make_frame(folder: Path, mode: str = "RGB", distorted: bool = True) -> Frame:
    folder.mkdir(exist_ok=True)
    path = folder / f"{mode}.png"
    Image.fromarray(pattern(40, 30)).convert(mode).save(path)
    distortion = DISTORTION if distorted else ()
    return Frame(path.name, path, None, np.eye(4), 40, 30, 36.0, 36.0, 20.0, 15.0, "perspective", distortion)


def test_an_image_that_needs_nothing_is_used_where_it_lies(tmp_path: Path) -> None:
    frame = make_frame(tmp_path / "in", distorted=False)
    (prepared,) = prepare_frames([frame], tmp_path / "in", tmp_path / "cache", 1)
    assert prepared == frame
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_cached_image_is_the_undistorted_one(tmp_path: Path, mode: str) -> None:
    frame = make_frame(tmp_path / "in", mode)
    (prepared,) = prepare_frames([frame], tmp_path / "in", tmp_path / "cache", 1)
    with Image.open(prepared.image_path) as image:
        assert image.mode == mode and image.size == (prepared.width, prepared.height)
        source = np.asarray(Image.fromarray(pattern(40, 30)).convert(mode))
        np.testing.assert_array_equal(np.asarray(image), undistort_image(source, frame))


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_modes_that_nerfstudio_misreads_are_converted(tmp_path: Path, mode: str) -> None:
    frame = make_frame(tmp_path / "in", "RGB", distorted=False)
    path = tmp_path / "in" / f"{mode}.{'png' if mode == 'P' else 'tif'}"
    Image.fromarray(pattern(40, 30)).convert(mode).save(path)
    (prepared,) = prepare_frames([replace(frame, image_path=path)], tmp_path / "in", tmp_path / "cache", 1)
    with Image.open(prepared.image_path) as image:
        assert image.mode == "RGB"


def test_the_cache_is_written_once_and_again_when_the_source_or_the_lens_changes(tmp_path: Path) -> None:
    frame = make_frame(tmp_path / "in")

    def prepare(frame: Frame) -> Path:
        return prepare_frames([frame], tmp_path / "in", tmp_path / "cache", 1)[0].image_path

    first = prepare(frame)
    stamp = first.stat().st_mtime_ns
    assert prepare(frame) == first and first.stat().st_mtime_ns == stamp
    assert prepare(replace(frame, fx=37.0)) != first
    Image.fromarray(255 - pattern(40, 30)).save(frame.image_path)
    assert prepare(frame) != first
    assert not list((tmp_path / "cache").rglob(".*"))  # no temporary file is left


def test_masks_follow_their_images(tmp_path: Path) -> None:
    frame = make_frame(tmp_path / "in")
    counts = np.full((30, 40), 255, np.uint8)
    counts[10:20, 10:30] = 0
    mask_path = tmp_path / "in" / "mask.png"
    Image.fromarray(counts).save(mask_path)
    frames = [replace(frame, mask_path=mask_path), frame, frame]
    prepared = prepare_frames(frames, tmp_path / "in", tmp_path / "cache", 2)
    masks = [np.asarray(Image.open(one.mask_path)) for one in prepared if one.mask_path is not None]
    assert [mask.shape for mask in masks] == [(one.height, one.width) for one in prepared]
    assert 0.1 < (masks[0] == 0).mean() < 0.5 and (masks[1] == 255).all()


def test_a_limit_of_width_applies_to_the_undistorted_image(tmp_path: Path) -> None:
    frame = make_frame(tmp_path / "in")
    (whole,) = prepare_frames([frame], tmp_path / "in", tmp_path / "cache")
    width = whole.width // 2
    (half,) = prepare_frames([frame], tmp_path / "in", tmp_path / "cache", max_width=width)
    assert (half.width, half.height) == (width, whole.height * width // whole.width)
    assert half.fx / half.width == pytest.approx(whole.fx / whole.width)
    assert half.cy / half.height == pytest.approx(whole.cy / whole.height)
    with Image.open(whole.image_path) as large, Image.open(half.image_path) as small:
        expected = large.resize((half.width, half.height), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(np.asarray(small), np.asarray(expected))
    (same,) = prepare_frames([frame], tmp_path / "in", tmp_path / "cache", max_width=whole.width)
    assert same == whole


def test_depths_are_undistorted_where_there_is_a_distortion(tmp_path: Path) -> None:
    frame = make_frame(tmp_path / "in")
    depth = (np.arange(30 * 40).reshape(30, 40) + 1).astype(np.uint16)
    path = tmp_path / "in" / "depth.png"
    Image.fromarray(depth).save(path)
    np.save(path.with_suffix(".npy"), depth)
    for source in (path, path.with_suffix(".npy")):
        (prepared,) = prepare_frames([replace(frame, depth_path=source)], tmp_path / "in", tmp_path / "cache")
        assert prepared.depth_path is not None and prepared.depth_path.is_relative_to(tmp_path / "cache")
        np.testing.assert_array_equal(np.load(prepared.depth_path), undistort_depth(depth.astype(np.float32), frame))
    straight = replace(make_frame(tmp_path / "in", "L", distorted=False), depth_path=path)
    (prepared,) = prepare_frames([straight], tmp_path / "in", tmp_path / "cache")
    assert prepared.depth_path == path
    gone = replace(frame, depth_path=tmp_path / "gone.png")
    assert prepare_frames([gone], tmp_path / "in", tmp_path / "cache")[0].depth_path is None
    path.write_text("no depth")
    with pytest.raises(ValueError, match=r"depth\.png holds no depths \[H, W\] that can be read"):
        prepare_frames([replace(frame, depth_path=path)], tmp_path / "in", tmp_path / "cache")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    frame = make_frame(tmp_path / "in")
    Image.new("L", (20, 30)).save(tmp_path / "in" / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png has 20x30 pixels but its camera has 40x30"):
        prepare_frames([replace(frame, mask_path=tmp_path / "in" / "mask.png")], tmp_path / "in", tmp_path / "cache", 1)
