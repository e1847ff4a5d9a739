"""Runs spread over the machine: every one a process of its own, as many at once as there are slots."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Optional

from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from guidedvd_ns.scripts.benchmarks.scenes.plan import GUIDE, SPLATFACTO, Job
from guidedvd_ns.scripts.benchmarks.scenes.record import Result, RunFolder

POLL_SECONDS = 0.2


@dataclass
class _Running:
    job: Job
    folder: RunFolder
    slot: Optional[int]
    process: subprocess.Popen
    log: IO[str]


class Workers:
    """Starts what can be started, and reports every run as it ends."""

    def __init__(self, slots: list[Optional[int]], folder_of: Callable[[Job], RunFolder]) -> None:
        """Work on `slots`, each the number of a GPU, or None for the CPU; a GPU may stand there more than once."""
        self.slots = slots
        self.folder_of = folder_of
        self._running: list[_Running] = []

    def work(self, jobs: list[Job], done: set[str]) -> Iterator[tuple[Job, Result]]:
        """Do the runs in their order, each after its scene's guide; yields results, or errors, as they come.

        Args:
            jobs: what is left to do.
            done: names of runs that were done before.
        """
        waiting, failed = list(jobs), set[str]()
        with self._ended_with_us(), _progress(len(jobs)) as advance:
            while waiting or self._running:
                for job in [job for job in waiting if _guide_of(job) in failed or _cannot(job)]:
                    waiting.remove(job)
                    reason = _cannot(job) or f"The run {_guide_of(job)}, which it needs, failed."
                    advance(job)
                    yield job, self._fail(job, reason)
                self._start(waiting, done)
                for ended in [each for each in self._running if each.process.poll() is not None]:
                    self._running.remove(ended)
                    result = self._conclude(ended)
                    (failed if "error" in result else done).add(ended.job.name)
                    advance(ended.job)
                    yield ended.job, result
                time.sleep(POLL_SECONDS if self._running else 0)

    def _start(self, waiting: list[Job], done: set[str]) -> None:
        free = list(self.slots)
        for each in self._running:
            free.remove(each.slot)
        for job in [job for job in waiting if job.base == GUIDE or _guide_of(job) in done][: len(free)]:
            waiting.remove(job)
            self._running.append(self._launch(job, free.pop(0)))

    def _launch(self, job: Job, slot: Optional[int]) -> _Running:
        folder = self.folder_of(job)
        folder.begin(job)
        log = folder.log.open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "guidedvd_ns.scripts.benchmarks.scenes.run", str(folder.path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(slot, len(self.slots)),
        )
        return _Running(job, folder, slot, process, log)

    def _conclude(self, ended: _Running) -> Result:
        """What came of a run whose process has ended."""
        ended.log.close()
        result = ended.folder.read()
        if result is not None and ("error" in result or ended.process.returncode == 0):
            return result
        lines = ended.folder.log.read_text(errors="replace").strip().splitlines()
        last = f"; its last line: {lines[-1].strip()[:200]}" if lines else ""
        return self._fail(ended.job, f"The process ended with status {ended.process.returncode}{last}")

    def _fail(self, job: Job, reason: str) -> Result:
        folder = self.folder_of(job)
        folder.write(job, {"error": reason})
        result = folder.read()
        assert result is not None
        return result

    @contextmanager
    def _ended_with_us(self) -> Iterator[None]:
        """End the runs when this process is asked to end: nobody would know of them."""
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            yield
        finally:
            for each in self._running:
                each.process.terminate()
            for each in self._running:
                each.process.wait()
                each.log.close()
            self._running.clear()
            signal.signal(signal.SIGTERM, before)


def _interrupt(*given: Any) -> None:
    raise KeyboardInterrupt


def _guide_of(job: Job) -> str:
    """Name of the run that `job` waits for; a guide waits for none."""
    return f"{job.scene}/{GUIDE}" if job.base != GUIDE else ""


def _cannot(job: Job) -> str:
    """Why a run need not be tried."""
    if job.base == SPLATFACTO and job.device != "cuda":
        return "Splatfacto needs a CUDA device: nerfstudio's model moves itself there."
    return ""


def _environment(slot: Optional[int], processes: int) -> dict[str, str]:
    """The environment of a run: its GPU is the only one that it sees, and the cores are shared out."""
    environment = dict(os.environ)
    if slot is not None:
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot] if visible else str(slot)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Job], None]]:
    columns = (TextColumn("Runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        task = progress.add_task("Runs", total=total)
        yield lambda job: progress.advance(task)
