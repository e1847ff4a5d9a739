"""The run's `generated/` folder: frames, evidence and a manifest of every sequence, for resuming and for people."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.evidence import frames_from_disk, frames_to_disk, write_evidence
from guidedvd_ns.sequences import GeneratedSequence
from guidedvd_ns.trajectory_pool import TrajectoryPool

FOLDER_NAME = "generated"
"""Beside `nerfstudio_models/`, never inside it: nerfstudio takes every file name there for a training step."""


class SequenceFolder:
    """Where the sequences of one run lie: `NNN/` with lossless frames, `NNN_*.mp4|png` to look at, `manifest.json`."""

    def __init__(self, run: Path) -> None:
        self.path = run / FOLDER_NAME
        self._manifest: list[dict[str, Any]] = []
        if self._manifest_path.is_file():
            self._manifest = json.loads(self._manifest_path.read_text())

    @property
    def _manifest_path(self) -> Path:
        return self.path / "manifest.json"

    def bring_from(self, earlier_run: Path) -> None:
        """Copy the sequences of the run that this one resumes."""
        earlier = earlier_run / FOLDER_NAME
        if earlier.resolve() == self.path.resolve() or not (earlier / "manifest.json").is_file():
            return
        partial = self.path.with_name(FOLDER_NAME + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(earlier, partial)
        shutil.rmtree(self.path, ignore_errors=True)
        os.replace(partial, self.path)
        self._manifest = json.loads(self._manifest_path.read_text())
        CONSOLE.log(f"Generated sequences brought along from {earlier}: {len(self._manifest)}.")

    def forget_from(self, number: int) -> None:
        """Remove sequence `number` and all after it: leftovers of a run in the same folder or after its checkpoint."""
        gone = [entry["number"] for entry in self._manifest if entry["number"] >= number]
        if not gone:
            return
        for path in [path for each in gone for path in self.path.glob(f"{each:03d}*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._save_manifest([entry for entry in self._manifest if entry["number"] < number])

    def write(self, sequence: GeneratedSequence) -> None:
        """Write frames, evidence and the manifest's entry of a sequence."""
        self.path.mkdir(parents=True, exist_ok=True)
        frames_to_disk(self.path / f"{sequence.number:03d}", sequence.frames)
        name = f"{sequence.number:03d}_{sequence.trajectory.name}" + ("" if sequence.kept else "_rejected")
        write_evidence(self.path, name, sequence.guide, sequence.known.float(), sequence.frames)
        entry = {
            "number": sequence.number,
            "trajectory": sequence.trajectory.name,
            "kept": sequence.kept,
            "agreement_db": round(sequence.scores.agreement, 3),
            "hole_fraction": round(sequence.scores.hole_fraction, 4),
            "flicker": round(sequence.scores.flicker, 5),
            "seconds": round(sequence.seconds, 2),
        }
        self._save_manifest([old for old in self._manifest if old["number"] != sequence.number] + [entry])

    def _save_manifest(self, entries: list[dict[str, Any]]) -> None:
        self._manifest = entries
        partial = self._manifest_path.with_suffix(".partial")
        partial.write_text(json.dumps(self._manifest, indent=1))
        os.replace(partial, self._manifest_path)

    def read(self, numbers: list[int], pool: TrajectoryPool) -> dict[int, tuple[Cameras, Tensor]]:
        """Cameras [L] and frames [L, h, w, 3], in main memory, of those of `numbers` that are still on disk."""
        trajectories = {trajectory.name: trajectory for trajectory in pool.trajectories}
        names = {entry["number"]: entry["trajectory"] for entry in self._manifest}
        sequences = {}
        for number in numbers:
            frames = self.path / f"{number:03d}"
            if frames.is_dir() and names.get(number) in trajectories:
                sequences[number] = (trajectories[names[number]].cameras, frames_from_disk(frames))
        return sequences

    def counts(self) -> tuple[int, int]:
        """Number of sequences kept, and of all."""
        return sum(entry["kept"] for entry in self._manifest), len(self._manifest)
