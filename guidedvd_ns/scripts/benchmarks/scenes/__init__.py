"""`gvd-benchmark scenes`: methods and ablations on scenes, trained, scored on the same pixels, in one table.

A run is a process of its own and a folder, `OUTPUT/SCENE/METHOD`; what is there already is not done again.

What the runs of a scene share: the dataparser with its input and test views, the images' size, the initial points (the
guide's run writes them, splatfacto starts from them too), the number of steps, and the holes: where the guide of the
scene's `guide` run is transparent in a test view. With `share_guide` the guided methods also share that guide itself.
Of N steps `guide` then takes the first phase's (N/2) and is scored as it is handed over; `guidedvd-splat` and its
ablations take the other N/2, so that both together are a whole run of N steps.
Splatfacto takes N steps with nerfstudio's own settings, its step counts scaled to N where that is less than its 30 000.
Seconds are those of training, start of the process and scoring left out; several runs on one GPU slow each other down.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional

import tyro
from nerfstudio.utils.rich_utils import CONSOLE


@dataclass(frozen=True)
class SceneBenchmark:
    """Train methods on scenes, score them on the same pixels, and write results.json, results.md and results.png."""

    scenes: tuple[str, ...]
    """Folders, or `DATAPARSER:FOLDER` or `guidedvd-rooms:SEED`; options of the dataparser may follow inside the quotes,
    as in 'guidedvd-data:fox --train-views 6'."""
    methods: tuple[str, ...] = ("splatfacto", "guide", "guidedvd-splat")
    """splatfacto, guide, guidedvd-splat, guidedvd-splat-reference; no-generation, no-guidance, random-trajectories,
    no-perceptual, no-local-sampling; telea, navier-stokes or sd-inpaint:MODEL in place of the prior; or a name of
    yours with switches, as in 'strong=--pipeline.datamanager.sampler.guidance-factor 0.1'."""
    ablations: bool = False
    """Add all ablations and both of OpenCV's inpaintings to the methods."""
    output: Path = Path("outputs/benchmark")
    """Folder of the runs and of results.json, results.md and results.png."""
    steps: int = 20_000
    """Steps of each method; the guide's, half of them, are among those of the guided ones."""
    against: str = "guidedvd-splat"
    """Method that the others are compared with, pair by pair."""
    prior: str = "bundled"
    """Prior of the guided methods."""
    options: str = ""
    """Further options of `ns-train guidedvd-splat` for the guide and all guided methods: --options='--pipeline...'."""
    share_guide: bool = True
    """Fit one guide a scene and hand it to all guided methods, which then train the second phase alone. Off makes every
    method fit its own, as needed where switches change how it is fitted."""
    seed: int = 42
    """Seed of every training."""
    hole_threshold: float = 0.9
    """Opacity of the guide below which a pixel is a hole."""
    max_image_side: Optional[int] = None
    """Longest side of the images, for all methods. Default: 1600 on CUDA, 256 elsewhere."""
    device: Optional[str] = None
    """cuda or cpu; the GPU by default if there is one."""
    gpus: tuple[int, ...] = (0,)
    """Numbers of the GPUs to use."""
    jobs_per_gpu: int = 1
    """Runs at a time on each of them (or on the CPU)."""
    figure_views: int = 1
    """Views of each scene in the figure, at most 3."""


def benchmark_scenes(config: Annotated[SceneBenchmark, tyro.conf.arg(name="")]) -> None:
    """Do the runs that are not done yet and write table and figure; what failed is done again.

    Raises:
        ValueError: a method, scene or GPU is not there, or the folder holds runs with other settings.
        FileNotFoundError: a scene is not there.
    """
    import torch

    from guidedvd_ns.config import DEFAULT_MAX_IMAGE_SIDE
    from guidedvd_ns.scripts.benchmarks.scenes.configuration import configure
    from guidedvd_ns.scripts.benchmarks.scenes.plan import ABLATIONS, GUIDE, Job, plan_jobs
    from guidedvd_ns.scripts.benchmarks.scenes.record import Result, RunFolder, finished
    from guidedvd_ns.scripts.benchmarks.scenes.workers import Workers

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and max(config.gpus) >= torch.cuda.device_count():
        raise ValueError(f"--gpus names {max(config.gpus)}, but there are {torch.cuda.device_count()}, counted from 0.")
    root = config.output.resolve()
    methods = [*config.methods, *(ABLATIONS if config.ablations else ())]
    jobs = plan_jobs(
        config.scenes,
        methods,
        options=f"--pipeline.datamanager.prior {shlex.quote(config.prior)} {config.options}".strip(),
        share_guide=config.share_guide,
        steps=config.steps,
        seed=config.seed,
        hole_threshold=config.hole_threshold,
        max_image_side=config.max_image_side or DEFAULT_MAX_IMAGE_SIDE["cuda" if device == "cuda" else "other"],
        device=device,
    )

    def folder_of(job: Job) -> RunFolder:
        return RunFolder(root / job.scene / job.method)

    results: dict[str, Result] = {}
    for job in jobs:
        # A wrong switch or scene must not show after hours.
        configure(job, folder_of(job).path, root / job.scene / GUIDE)
        before = finished(job, folder_of(job))
        if before is not None:
            results[job.name] = before
    left = [job for job in jobs if job.name not in results]
    CONSOLE.print(f"{len(left)} runs to do, {len(results)} done before; {root}")
    report = _Report(root, jobs, config)
    slots: list[Optional[int]] = list(config.gpus) if device == "cuda" else [None]
    try:
        for job, result in Workers(slots * config.jobs_per_gpu, folder_of).work(left, set(results)):
            results[job.name] = result
            CONSOLE.print(_line(job.name, result), highlight=False)
            report.write(results)
    except KeyboardInterrupt:
        sys.exit(f"Interrupted after {len(results)} of {len(jobs)} runs; the same command does the others.")
    report.write(results)
    report.draw()
    failed = sum("error" in result for result in results.values())
    told = f"; {failed} of {len(jobs)} runs failed, results.md says why" if failed else ""
    CONSOLE.print(f"Written to {root}: results.json, results.md, results.png{told}")


class _Report:
    """The files that a benchmark leaves."""

    def __init__(self, root: Path, jobs: list, config: SceneBenchmark) -> None:
        self.root = root
        self.config = config
        self.scenes = list(dict.fromkeys(job.scene for job in jobs))
        # As the user ordered them, and the guide first if it was not asked for.
        names = {job.method for job in jobs}
        asked = [text.partition("=")[0].partition(":")[0] for text in config.methods]
        self.methods = [name for name in asked if name in names]
        self.methods += sorted(names.difference(self.methods), key=[job.method for job in jobs].index)
        self.command = shlex.join(["gvd-benchmark", *sys.argv[1:]])

    def write(self, results: dict) -> None:
        """Write results.json and results.md from what there is."""
        from guidedvd_ns.scripts.benchmarks.scenes.record import write_results
        from guidedvd_ns.scripts.benchmarks.scenes.table import markdown
        from guidedvd_ns.training.files import write_text

        self.root.mkdir(parents=True, exist_ok=True)
        write_results(self.root / "results.json", self.command, results)
        nested = {scene: self._of_scene(results, scene) for scene in self.scenes}
        nested = {scene: runs for scene, runs in nested.items() if runs}
        if nested:
            text = markdown(nested, self.methods, self.config.against, self.command)
            write_text(self.root / "results.md", text)

    def _of_scene(self, results: dict, scene: str) -> dict:
        found = {method: results.get(f"{scene}/{method}") for method in self.methods}
        return {method: result for method, result in found.items() if result is not None}

    def draw(self) -> None:
        """Write results.png."""
        from guidedvd_ns.scripts.benchmarks.scenes.figure import draw_figure

        draw_figure(self.root / "results.png", self.root, self.scenes, self.methods, self.config.figure_views)


def _line(name: str, result: dict) -> str:
    from guidedvd_ns.scripts.benchmarks.scenes.summary import scene_value

    if "error" in result:
        return f"{name}: failed. {result['error']}"
    psnr, inside = (scene_value(result, region, "psnr") for region in ("whole", "holes"))
    holes = "" if inside is None else f", {inside:.2f} dB in holes"
    return f"{name}: {psnr:.2f} dB{holes}, {result['seconds']:.0f} s, {result['peak_gib']:.1f} GiB"
