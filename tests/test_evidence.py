import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guidedvd_ns import evidence
from guidedvd_ns.evidence import frames_from_disk, frames_to_disk, image_strip, write_evidence


def sequence(length: int = 5, height: int = 24, width: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Plain colours, so that a video codec keeps them: guide red, result green getting lighter, left half a hole."""
    guide = torch.tensor([0.8, 0.2, 0.1]).expand(length, height, width, 3).clone()
    result = torch.tensor([0.1, 0.6, 0.2]) * torch.linspace(0.5, 1, length)[:, None, None, None]
    known = torch.ones(length, height, width, 1, dtype=torch.bool)
    known[:, :, : width // 2] = False
    return guide, known, result.expand(length, height, width, 3).clone()


def side_by_side(guide: Tensor, known: Tensor, result: Tensor) -> np.ndarray:
    return torch.cat([guide, (~known).float().expand_as(guide), result], dim=2).numpy() * 255


def test_mp4_shows_guide_holes_and_result(tmp_path: Path):
    av = pytest.importorskip("av")
    guide, known, result = sequence()
    paths = write_evidence(tmp_path / "new", "first", guide, known, result)
    assert paths.video == tmp_path / "new" / "first.mp4"
    with av.open(str(paths.video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    expected = side_by_side(guide, known, result)
    assert frames.shape == expected.shape
    # Chroma is halved, so only the columns away from the borders of the three parts are compared.
    middle = [5, 10, 20, 28, 36, 42, 54, 60, 70, 80, 90]
    assert np.abs(frames[:, :, middle] - expected[:, :, middle]).max() < 12


def test_mp4_of_odd_size_is_padded(tmp_path: Path):
    av = pytest.importorskip("av")
    paths = write_evidence(tmp_path, "odd", *sequence(length=3, height=23, width=31))
    with av.open(str(paths.video)) as container:
        sizes = {(frame.height, frame.width) for frame in container.decode(video=0)}
    assert sizes == {(24, 94)}


@pytest.mark.parametrize("missing", ["package", "encoder"])
def test_animated_webp_where_there_is_no_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str):
    if missing == "package":
        monkeypatch.setitem(sys.modules, "av", None)
    else:
        av = pytest.importorskip("av")
        monkeypatch.setattr(av, "codecs_available", {"h264"})
    guide, known, result = sequence()
    paths = write_evidence(tmp_path, "first", guide, known, result)
    assert paths.video == tmp_path / "first.webp"
    with Image.open(paths.video) as animation:
        assert animation.n_frames == 5
        expected = side_by_side(guide, known, result)
        for index in range(5):
            animation.seek(index)
            frame = np.asarray(animation.convert("RGB"), dtype=np.float64)
            assert frame.shape == expected[index].shape
            assert np.abs(frame[:, 70:90] - expected[index, :, 70:90]).max() < 12


def test_contact_sheet_has_three_rows_of_evenly_spaced_frames(tmp_path: Path):
    guide, known, result = sequence(length=25)
    paths = write_evidence(tmp_path, "first", guide, known, result)
    sheet = np.asarray(Image.open(paths.sheet))
    assert sheet.shape == (3 * 24 + evidence.LABEL_HEIGHT, 8 * 32, 3)
    # The lower right part of each tile carries no label.
    last = sheet[-4:, -4:].reshape(-1, 3)
    assert np.abs(last - np.array([0.1, 0.6, 0.2]) * 255).max() < 1
    rows = [sheet[evidence.LABEL_HEIGHT + row * 24 + 20, -2] for row in range(3)]
    np.testing.assert_allclose(rows, np.array([[0.8, 0.2, 0.1], [0, 0, 0], [0.1, 0.6, 0.2]]) * 255, atol=1)


def test_image_strip_places_evenly_spaced_frames_in_order():
    frames = (torch.arange(10) / 10)[:, None, None, None].expand(10, 4, 6, 3)
    strip = image_strip(frames, count=4)
    assert strip.shape == (4, 24, 3)
    torch.testing.assert_close(strip[0, ::6, 0], torch.tensor([0.0, 0.3, 0.6, 0.9]))


def test_image_strip_shows_all_of_a_short_sequence_and_shrinks_wide_frames():
    guide, _, _ = sequence(length=3, height=24, width=32)
    strip = image_strip(guide, max_width=16)
    assert strip.shape == (12, 3 * 16, 3)
    torch.testing.assert_close(strip[0, 0], guide[0, 0, 0])


def test_sequences_that_do_not_fit_together_are_refused(tmp_path: Path):
    guide, known, result = sequence()
    with pytest.raises(ValueError, match=r"known \[5, 24, 31, 1\]"):
        write_evidence(tmp_path, "first", guide, known[:, :, 1:], result)


def test_nothing_temporary_stays_and_old_files_are_replaced(tmp_path: Path):
    guide, known, result = sequence()
    write_evidence(tmp_path, "first", result, known, guide)
    old = (tmp_path / "first.png").read_bytes()
    paths = write_evidence(tmp_path, "first", guide, known, result)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([paths.video.name, paths.sheet.name])
    assert paths.sheet.read_bytes() != old


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "kept.png"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="disk full"), evidence._replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_frames_come_back_within_half_a_level(tmp_path: Path):
    frames = torch.rand(12, 9, 7, 3)
    folder = tmp_path / "generated" / "first"
    frames_to_disk(folder, frames)
    restored = frames_from_disk(folder)
    assert restored.shape == frames.shape
    assert float((restored - frames).abs().max()) <= 0.5 / 255 + 1e-6
    frames_to_disk(folder, restored)
    assert torch.equal(frames_from_disk(folder), restored)
    assert list(folder.parent.iterdir()) == [folder]


def test_shorter_sequence_replaces_a_longer_one(tmp_path: Path):
    frames_to_disk(tmp_path / "first", torch.zeros(5, 4, 4, 3))
    frames_to_disk(tmp_path / "first", torch.ones(2, 4, 4, 3))
    assert torch.equal(frames_from_disk(tmp_path / "first"), torch.ones(2, 4, 4, 3))


def test_interrupted_storage_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        frames_to_disk(tmp_path / "first", torch.zeros(2, 4, 4, 3))
    assert list(tmp_path.iterdir()) == []


def test_missing_frames_are_reported(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no generated frames"):
        frames_from_disk(tmp_path / "absent")
