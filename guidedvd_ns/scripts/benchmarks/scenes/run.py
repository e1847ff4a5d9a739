"""One run in a process of its own: train, score the test views, leave `result.json` in the run's folder.

    python -m guidedvd_ns.scripts.benchmarks.scenes.run RUN_FOLDER        # reads RUN_FOLDER/job.json

A run that fails leaves its reason there; one that is killed leaves nothing, which says enough.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.trainer import Trainer

from guidedvd_ns.model import without_lpips
from guidedvd_ns.pipeline import GuidedVDPipeline
from guidedvd_ns.scripts.benchmarks.scenes.baseline import points_of
from guidedvd_ns.scripts.benchmarks.scenes.configuration import configure
from guidedvd_ns.scripts.benchmarks.scenes.plan import GUIDE, SPLATFACTO, Job
from guidedvd_ns.scripts.benchmarks.scenes.record import JOB_FILE, RunFolder
from guidedvd_ns.scripts.benchmarks.scenes.scoring import (
    Holes,
    find_holes,
    render_test_views,
    score,
    use_test_split,
    views_digest,
)
from guidedvd_ns.training.files import write_png, write_torch


def run(job: Job, folder: Path) -> dict[str, Any]:
    """Train and score; the guide's run also leaves what the scene's other runs need.

    Raises:
        ValueError: the scene has no test views, or others than when its guide was fitted; and what a training raises.
    """
    guide_folder = folder.with_name(GUIDE)
    own, shared = RunFolder(folder), RunFolder(guide_folder)
    config = configure(job, folder, guide_folder)
    config.save_config()
    random.seed(job.seed)
    np.random.seed(job.seed)
    torch.manual_seed(job.seed)
    started = time.perf_counter()
    trainer: Trainer = config.setup(local_rank=0, world_size=1)
    with without_lpips() if job.base == SPLATFACTO else contextlib.nullcontext():
        trainer.setup()
    use_test_split(trainer.pipeline)
    if not len(trainer.pipeline.datamanager.eval_dataset):  # type: ignore[arg-type]
        raise ValueError("The scene has no test views: hold some out, with `--train-views N` for instance.")
    digest = views_digest(trainer.pipeline)
    if job.base == GUIDE:
        _stop_after_the_guide(trainer)
    else:
        _check_same_views(digest, shared)
    trainer.train()
    seconds, peak = time.perf_counter() - started, _peak_gib(job.device)
    if job.base == GUIDE:
        find_holes(render_test_views(trainer.pipeline), job.hole_threshold).save(shared.holes)
        points = points_of(trainer.pipeline.model.seed_points)  # type: ignore[arg-type]
        if points is not None:
            write_torch(shared.points, points)
    return {
        "seconds": seconds,
        "peak_gib": peak,
        "machine": torch.cuda.get_device_name() if job.device == "cuda" else "cpu",
        "gaussians": len(trainer.pipeline.model.means),  # type: ignore[arg-type]
        "test_views": digest,
        "views": _score_views(trainer, own, Holes.load(shared.holes), with_truth=job.base == GUIDE),
    }


def _score_views(trainer: Trainer, folder: RunFolder, holes: Holes, with_truth: bool) -> list[dict[str, Any]]:
    """Scores of all test views; those for the figure are left as pictures."""
    shown, scores = holes.shown(), []
    for view in render_test_views(trainer.pipeline):
        scores.append(score(view, holes.of(view)))
        if view.name in shown:
            write_png(folder.image("render", view.name), view.render)
            if with_truth:
                write_png(folder.image("truth", view.name), view.truth)
    return scores


def _check_same_views(digest: str, guide: RunFolder) -> None:
    """Raise ValueError unless the scene is still the one that its guide was fitted to."""
    result = guide.read()
    if result is None or result["test_views"] != digest:
        raise ValueError(
            f"The scene's test views are not those of {guide.path}: it changed since then, so delete the scene's"
            " folder, or give another --output."
        )


def _stop_after_the_guide(trainer: Trainer) -> None:
    """End with the first phase: what the checkpoint then holds is the guide that a whole run would freeze."""
    pipeline = trainer.pipeline
    assert isinstance(pipeline, GuidedVDPipeline) and pipeline.schedule is not None
    trainer.config.max_num_iterations = pipeline.schedule.guide_steps


def _peak_gib(device: str) -> float:
    """Most memory that was in use at once: of the GPU what torch allocated, else of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    # Kilobytes, but bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10) / 2**30


def main() -> None:
    """Do the run of the folder that the command line names."""
    folder = RunFolder(Path(sys.argv[1]).resolve())
    job = Job(**json.loads((folder.path / JOB_FILE).read_text()))
    try:
        result = run(job, folder.path)
    except (Exception, SystemExit) as failure:  # whatever ends a run early is what came of it
        traceback.print_exc()
        reason = str(failure).strip() or type(failure).__name__
        folder.write(job, {"error": reason.splitlines()[0][:400]})
        sys.exit(1)
    folder.write(job, result)


if __name__ == "__main__":
    main()
