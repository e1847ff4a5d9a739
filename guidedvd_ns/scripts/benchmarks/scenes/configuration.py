"""A run's trainer configuration: the registered method, the scene's dataparser, the switches, nothing that idles."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import tyro
from nerfstudio.engine.trainer import TrainerConfig

from guidedvd_ns.config import GuidedVDTrainerConfig, guidedvd_splat, guidedvd_splat_reference
from guidedvd_ns.pipeline import GuidedVDPipelineConfig
from guidedvd_ns.schedule import Schedule
from guidedvd_ns.scripts.benchmarks.scenes.plan import GUIDE, REFERENCE, SPLATFACTO, Job, parse_scene
from guidedvd_ns.scripts.benchmarks.scenes.record import RunFolder

NEVER = 10**9
_SPLATFACTO_STEPS = (
    "warmup_length",
    "refine_every",
    "resolution_schedule",
    "sh_degree_interval",
    "stop_split_at",
    "stop_screen_size_at",
)


def configure(job: Job, folder: Path, guide_folder: Path) -> TrainerConfig:
    """The configuration of a run that lies in `folder`; `guide_folder` is the run that fitted the scene's guide.

    Raises:
        SystemExit: a switch is not understood (with tyro's explanation).
        ValueError: the run is too short for two phases.
    """
    dataparser = parse_scene(job.data)[1]
    config = (
        _splatfacto(job, dataparser, guide_folder) if job.base == SPLATFACTO else _guided(job, dataparser, guide_folder)
    )
    config.machine.seed = job.seed
    config.machine.device_type = job.device  # type: ignore[assignment]
    # <output_dir>/<experiment_name>/<method_name>/<timestamp> is the run's folder.
    config.output_dir = folder.parent.parent
    config.experiment_name, config.method_name, config.timestamp = folder.parent.name, folder.name, ""
    _quieten(config)
    return config


def _splatfacto(job: Job, dataparser: Any, guide_folder: Path) -> TrainerConfig:
    from nerfstudio.configs.method_configs import all_methods

    from guidedvd_ns.scripts.benchmarks.scenes.baseline import SharedStartDataManagerConfig

    config = copy.deepcopy(all_methods["splatfacto"])
    own: Any = config.pipeline.datamanager
    shared = SharedStartDataManagerConfig(**{**vars(own), "_target": SharedStartDataManagerConfig()._target})
    shared.dataparser = dataparser
    shared.max_image_side, shared.points = job.max_image_side, RunFolder(guide_folder).points
    config.pipeline.datamanager = shared
    _shorten(config, job.steps)
    return config


def _shorten(config: TrainerConfig, steps: int) -> None:
    """Scale what happens at certain steps of splatfacto to a run of `steps`.

    Unscaled, its settings spend the first 3000 steps at a quarter of the images' resolution: all of a short run.
    """
    share = min(1.0, steps / config.max_num_iterations)
    model: Any = config.pipeline.model
    for name in _SPLATFACTO_STEPS:
        setattr(model, name, max(1, round(share * getattr(model, name))))
    scheduler: Any = config.optimizers["means"]["scheduler"]
    scheduler.max_steps = max(1, round(share * scheduler.max_steps))
    config.max_num_iterations = steps


def _guided(job: Job, dataparser: Any, guide_folder: Path) -> GuidedVDTrainerConfig:
    registered = guidedvd_splat_reference if job.base == REFERENCE else guidedvd_splat
    default: Any = copy.deepcopy(registered.config)
    default.pipeline.datamanager.dataparser = dataparser
    default.pipeline.datamanager.max_image_side = job.max_image_side
    default.pipeline.datamanager.hole_threshold = job.hole_threshold
    if job.base == GUIDE:
        default.pipeline.generate = False
    config = tyro.cli(
        tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[GuidedVDTrainerConfig]],
        prog=f"method {job.method}",
        default=default,
        args=shlex.split(job.switches),
    )
    pipeline = config.pipeline
    assert isinstance(pipeline, GuidedVDPipelineConfig)
    config.max_num_iterations = job.steps
    schedule = Schedule.split(job.steps, pipeline.guide_fraction)
    if job.shares_guide:
        pipeline.guide_config = guide_folder / "config.yml"
        config.max_num_iterations = schedule.scene_steps
    return config


def _quieten(config: TrainerConfig) -> None:
    """No viewer, no evaluation and no checkpoint before the end."""
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.logging.profiler = "none"
    config.logging.steps_per_log = 1000
    config.steps_per_eval_batch = config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.steps_per_save = NEVER
