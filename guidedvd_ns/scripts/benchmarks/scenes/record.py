"""The files of a benchmark: a folder for each run, whose `result.json` says that it is done, and one file of all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from guidedvd_ns.scripts.benchmarks.scenes.plan import Job

JOB_FILE = "job.json"
RESULT_FILE = "result.json"

Result = dict[str, Any]
"""`job` and either `error`, one sentence, or `seconds`, `peak_gib`, `machine`, `gaussians`, `test_views`, `views`."""


@dataclass(frozen=True)
class RunFolder:
    """Where one run leaves its files."""

    path: Path

    @property
    def log(self) -> Path:
        """All that the run printed."""
        return self.path / "log.txt"

    @property
    def holes(self) -> Path:
        """Of a guide's run: the holes of the test views."""
        return self.path / "holes.npz"

    @property
    def points(self) -> Path:
        """Of a guide's run: the points that it started from."""
        return self.path / "points.pt"

    def image(self, kind: str, view: str) -> Path:
        """A test view as a picture, `render` or `truth`."""
        return self.path / "views" / f"{view}_{kind}.png"

    def begin(self, job: Job) -> None:
        """Make the folder ready for a run, without what an earlier one that failed says."""
        (self.path / "views").mkdir(parents=True, exist_ok=True)
        (self.path / RESULT_FILE).unlink(missing_ok=True)
        _write(self.path / JOB_FILE, job.record())

    def write(self, job: Job, result: Result) -> None:
        """Record how the run ended."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write(self.path / RESULT_FILE, {"job": job.record(), **result})

    def read(self) -> Optional[Result]:
        """How the run ended, if it did."""
        file = self.path / RESULT_FILE
        return json.loads(file.read_text()) if file.is_file() else None


def finished(job: Job, folder: RunFolder) -> Optional[Result]:
    """The result of a run that was done before; a failed one does not count.

    Raises:
        ValueError: the folder holds a result with other settings.
    """
    result = folder.read()
    if result is None or "error" in result:
        return None
    before, now = result["job"], job.record()
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        told = "; ".join(f"{name}: {before.get(name)!r}, now {now[name]!r}" for name in changed)
        raise ValueError(
            f"{folder.path} holds a run with other settings ({told}): give another --output, or delete that folder."
        )
    return result


def write_results(path: Path, command: str, results: dict[str, Result]) -> None:
    """Write the file of all runs."""
    _write(path, {"command": command, "runs": results})


def _write(path: Path, content: Any) -> None:
    from guidedvd_ns.training.files import write_text

    write_text(path, json.dumps(content, indent=1) + "\n")
