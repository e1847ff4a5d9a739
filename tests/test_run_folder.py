"""The run's `generated/` folder: round trip, what is forgotten, what a resumed run brings along."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from guidedvd_ns.orbits import Trajectory
from guidedvd_ns.run_folder import SequenceFolder
from guidedvd_ns.sequences import GeneratedSequence, SequenceScores
from guidedvd_ns.trajectory_pool import TrajectoryPool
from tests.scenes import cameras


def _trajectory(view: int) -> Trajectory:
    return Trajectory(
        view=view, scale=1.0, radius=2.0, azimuth=15.0, elevation=0.0, hole_fraction=0.1, cameras=cameras(3)
    )


def _write(folder: SequenceFolder, number: int, kept: bool = True) -> torch.Tensor:
    frames = torch.randint(0, 256, (3, 16, 16, 3), generator=torch.Generator().manual_seed(number)) / 255
    known = torch.ones(3, 16, 16, 1, dtype=torch.bool)
    scores = SequenceScores(30.0, 0.1, 0.0)
    folder.write(GeneratedSequence(number, _trajectory(number), frames, frames, known, scores, 1.0, kept))
    return frames


def _files(run: Path) -> set[str]:
    return {path.name[:3] for path in (run / "generated").iterdir()}


def test_frames_come_back_from_disk(tmp_path):
    frames = [_write(SequenceFolder(tmp_path), number) for number in range(2)]
    again = SequenceFolder(tmp_path).read([0, 1, 7], TrajectoryPool((_trajectory(0), _trajectory(1))))
    assert set(again) == {0, 1}
    assert all(torch.equal(again[number][1], frames[number]) for number in again)
    assert set(SequenceFolder(tmp_path).read([0, 1], TrajectoryPool((_trajectory(1),)))) == {1}


def test_counts_tell_kept_from_rejected(tmp_path):
    folder = SequenceFolder(tmp_path)
    _write(folder, 0)
    _write(folder, 1, kept=False)
    assert folder.counts() == (1, 2) == SequenceFolder(tmp_path).counts()


def test_forgotten_sequences_leave_neither_entry_nor_file(tmp_path):
    folder = SequenceFolder(tmp_path)
    for number in range(3):
        _write(folder, number, kept=number != 2)
    folder.forget_from(1)
    assert _files(tmp_path) == {"000", "man"} and folder.counts() == (1, 1)
    assert [entry["number"] for entry in json.loads((tmp_path / "generated/manifest.json").read_text())] == [0]
    folder.forget_from(0)
    assert _files(tmp_path) == {"man"}


def test_forgetting_nothing_creates_nothing(tmp_path):
    SequenceFolder(tmp_path / "new").forget_from(0)
    assert not (tmp_path / "new").exists()


def test_earlier_run_is_brought_along_and_left_as_it_was(tmp_path):
    _write(SequenceFolder(tmp_path / "first"), 0)
    second = SequenceFolder(tmp_path / "second")
    (tmp_path / "second").mkdir()
    second.bring_from(tmp_path / "first")
    second.forget_from(0)
    assert SequenceFolder(tmp_path / "first").counts() == (1, 1) and _files(tmp_path / "first") == {"000", "man"}
    assert second.counts() == (0, 0)
