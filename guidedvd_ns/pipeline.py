"""The run: fit the guide, freeze it, then train the scene on photographs and on what the prior imagines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from guidedvd_ns.anchors import AnchorConfig, Anchors
from guidedvd_ns.backdrop import Backdrop
from guidedvd_ns.datamanager import GuidedVDDataManager, GuidedVDDataManagerConfig
from guidedvd_ns.evidence import image_strip
from guidedvd_ns.free_space import SeenSpace
from guidedvd_ns.gaussians import PARAMETER_NAMES
from guidedvd_ns.guide import Guide, load_guide
from guidedvd_ns.metrics import masked_psnr
from guidedvd_ns.model import GuidedVDSplatModel, GuidedVDSplatModelConfig
from guidedvd_ns.run_folder import SequenceFolder
from guidedvd_ns.schedule import Schedule, follow_schedule
from guidedvd_ns.seeding import SeedingConfig, seeds_of
from guidedvd_ns.sequences import GeneratedSequence
from guidedvd_ns.viewer import GenerationPanel


@dataclass
class GuidedVDPipelineConfig(VanillaPipelineConfig):
    """Two phases in one run: the guide, then the scene that is trained on photographs and generated views."""

    _target: type = field(default_factory=lambda: GuidedVDPipeline)
    datamanager: GuidedVDDataManagerConfig = field(default_factory=GuidedVDDataManagerConfig)
    """Input views, trajectories, prior and generated views."""
    model: GuidedVDSplatModelConfig = field(default_factory=GuidedVDSplatModelConfig)
    """The Gaussians and their losses."""
    generate: bool = True
    """Whether to generate views at all; off trains the second phase on the photographs alone (an ablation)."""
    seeding: SeedingConfig = field(default_factory=SeedingConfig)
    """Gaussians that begin where a sequence shows what the scene does not have."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    """How the scene is held to what the guide knows, from places that no photograph was taken at."""
    scene_start: Literal["points", "guide"] = "guide"
    """Where the second phase begins: with the guide's fitted Gaussians, or afresh at the initial points (the
    paper's)."""
    backdrop: bool = True
    """Whether the scene of the second phase lies before a backdrop, soft colours that continue the photographs over all
    directions, and not before black (the paper's): what no sequence reaches then has about the colours around it. There
    is none with --pipeline.model.background-color white, nor where photographs are transparent, where open means
    empty."""
    guide_fraction: float = 0.5
    """Share of the run's steps that fit the guide; the paper's two phases are equally long."""
    guide_config: Optional[Path] = None
    """`config.yml` of a trained run to use as the guide; the first phase is left out. Used is its scene, or, where
    that has a backdrop, its guide."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read back a config.yml; a run older than these choices began at its points, over black, without anchors."""
        before = {"scene_start": "points", "backdrop": False, "anchors": AnchorConfig(weight=0.0)}
        self.__dict__.update({**before, **state})


class GuidedVDPipeline(VanillaPipeline):
    """Advances phases and generation a little in each trainer step, so that viewer and step table stay true."""

    config: GuidedVDPipelineConfig
    datamanager: GuidedVDDataManager
    _started: float

    def __init__(
        self, config: GuidedVDPipelineConfig, device: str, *args: Any, world_size: int = 1, **kwargs: Any
    ) -> None:
        self.__dict__["_started"] = time.perf_counter()
        if world_size > 1:
            raise ValueError(
                f"guidedvd-splat trains on one device, got {world_size}: leave --machine.num-devices at 1 "
                "(Splatfacto's Gaussians cannot be sharded)."
            )
        super().__init__(config, device, *args, world_size=world_size, **kwargs)
        self.guide = Guide().to(device)
        self.backdrop = Backdrop().to(device)
        self.gaussians.__dict__.update(guide=self.guide, backdrop=self.backdrop)
        self.schedule: Schedule | None = None
        self._begun = False
        self._space: SeenSpace | None = None
        self._anchors: Anchors | None = None
        # What is shown as a hole is what is left to the prior.
        self.gaussians.hole_threshold = config.datamanager.hole_threshold
        self.generation = GenerationPanel()

    @property
    def gaussians(self) -> GuidedVDSplatModel:
        """The model under its own type."""
        model = self.model
        assert isinstance(model, GuidedVDSplatModel)
        return model

    # The life of a run: state, callbacks, phases.

    def get_extra_state(self) -> dict[str, Any]:
        schedule = self.schedule
        return {
            "guide_steps": schedule.guide_steps if schedule is not None else 0,
            "scene_steps": schedule.scene_steps if schedule is not None else 0,
            "begun": self._begun,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["scene_steps"] > 0:
            self.schedule = Schedule(guide_steps=state["guide_steps"], scene_steps=state["scene_steps"])
        self._begun = state["begun"]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: Optional[bool] = None) -> None:  # type: ignore
        """Make room for the checkpoint's guide and backdrop, then load as nerfstudio does."""
        self.guide.resize_like(state_dict, prefix="guide.")
        self.backdrop.resize_like(state_dict, prefix="backdrop.")
        super().load_state_dict(state_dict, strict=strict)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Called once, after a checkpoint was loaded and before the first step."""
        trainer, optimizers = training_callback_attributes.trainer, training_callback_attributes.optimizers
        assert trainer is not None and optimizers is not None
        self._prepare_run(trainer, optimizers)
        own = [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step, args=[trainer]),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._report),
        ]
        # After the model's own callback, which tells it the step and the optimizers.
        return super().get_training_callbacks(training_callback_attributes) + own

    def _prepare_run(self, trainer: Trainer, optimizers: Optimizers) -> None:
        """Settle phases, learning rates and, on a fresh run, the given guide."""
        config = trainer.config
        if self.schedule is None:
            fraction = 0.0 if self.config.guide_config is not None else self.config.guide_fraction
            self.schedule = Schedule.split(config.max_num_iterations, fraction)
            if self.config.guide_config is not None:
                self._take_given_guide(self.config.guide_config)
        if config.max_num_iterations is None:  # a resumed run goes on to its planned end
            config.max_num_iterations = self._steps_left(trainer._start_step)
        schedule, extent = self.schedule, self.datamanager.scene_extent()
        self.gaussians.follow(schedule, extent)
        follow_schedule(optimizers.schedulers, schedule)
        _scale_learning_rate(optimizers, "means", extent)
        self.folder = SequenceFolder(trainer.base_dir)
        resumed = config.load_dir or (config.load_checkpoint.parent if config.load_checkpoint is not None else None)
        if resumed is not None:
            self.datamanager.check_resumed_views()
            self.folder.bring_from(resumed.parent)
        if self._generates(schedule):
            background = self.gaussians.config.background_color
            if background == "white":
                raise ValueError(
                    "--pipeline.model.background-color is white, but generated views are over black: "
                    "choose random or black, or switch generation off with --pipeline.generate False."
                )
            self.datamanager.prepare_generation(self.guide, self.folder)
            self.gaussians.prepare_generated_loss()
        CONSOLE.log(
            f"{schedule.guide_steps} steps fit the guide, {schedule.scene_steps} the scene, "
            f"on {self.device}; {self._generation_plan(schedule)}."
        )

    def _steps_left(self, start: int) -> int:
        total = self._settled_schedule().total_steps
        if start >= total:
            raise ValueError(
                f"The run to resume has reached its planned end of {total} steps: "
                "give --max-num-iterations N for N further steps."
            )
        return total - start

    def _generates(self, schedule: Schedule) -> bool:
        return self.config.generate and self.datamanager.generation_interval(schedule)[1] > 0

    def _generation_plan(self, schedule: Schedule) -> str:
        interval, count = self.datamanager.generation_interval(schedule)
        if not self._generates(schedule):
            return "nothing is generated"
        return f"up to {count} sequences, one every {interval} steps"

    def _take_given_guide(self, config_path: Path) -> None:
        outputs = self.datamanager.train_dataparser_outputs
        given = load_guide(config_path, outputs.dataparser_transform, outputs.dataparser_scale, self.device)
        gaussians = {name: given.get_buffer(name) for name in PARAMETER_NAMES}
        self.guide.adopt(gaussians, int(given.sh_degree), bool(given.antialiased))
        CONSOLE.log(f"The guide is the scene of {config_path.parent}.")

    def _before_step(self, trainer: Trainer, step: int) -> None:
        """Move on to the second phase when it is time; there, do this step's share of generation."""
        schedule = self._settled_schedule()
        if step == trainer._start_step:
            # The step table counts from the run's first step, nerfstudio's limit from this session's.
            writer.GLOBAL_BUFFER["max_iter"] = step + trainer.config.max_num_iterations
        self.gaussians.training_infos.clear()
        if schedule.fits_guide(step):
            return
        if not self._begun:
            self._begin_scene(trainer.optimizers)
        if not self._generates(schedule):
            return
        if self.datamanager.pool is None:
            for number, (cameras, frames) in self.datamanager.begin_generation().items():
                self._show(number, cameras, frames, kept=True)
        finished = self.datamanager.advance_generation(schedule.phase_step(step), schedule)
        if finished is not None:
            if finished.kept and self.config.seeding.frames > 0:
                self._seed(finished, trainer.optimizers)
            _write_to_tensorboard(finished, step)
            self._show(finished.number, finished.trajectory.cameras, finished.frames, finished.kept)

    def _seed(self, sequence: GeneratedSequence, optimizers: Optimizers) -> None:
        """Begin Gaussians where the sequence shows surfaces and the scene has nothing yet."""
        pool = self.datamanager.pool
        assert pool is not None
        space, opacity_of = self._seen_space(), self.gaussians.opacity_of
        seeds = seeds_of(sequence, self.guide, opacity_of, self.config.seeding, space, pool)
        self.gaussians.add(seeds, optimizers.optimizers)
        CONSOLE.log(f"Sequence {sequence.number} begins {len(seeds.means)} Gaussians.")

    def _seen_space(self) -> SeenSpace:
        """What the input views see of the guide, looked at once."""
        if self._space is None:
            cameras = self.datamanager.input_cameras
            views = [cameras[number : number + 1] for number in range(len(cameras))]
            masks = [self.datamanager.photograph(number)[1] for number in range(len(cameras))]
            self._space = SeenSpace.of(views, self.guide.render, self.config.datamanager.hole_threshold, masks)
        return self._space

    def _show(self, number: int, cameras: Cameras, frames: Tensor, kept: bool) -> None:
        self.generation.show(number, cameras, frames, kept)
        count, tried = self.folder.counts()
        self.generation.say(f"{count} of {tried} sequences kept")

    def _begin_scene(self, optimizers: Optimizers) -> None:
        """Freeze the guide, and start the scene where the configuration says."""
        if not self.guide.is_fitted:
            model = self.gaussians
            self.guide.adopt(
                {name: model.gauss_params[name] for name in PARAMETER_NAMES},
                sh_degree=model.config.sh_degree,
                antialiased=model.config.rasterize_mode == "antialiased",
            )
        from_guide = self.config.scene_start == "guide"
        self.gaussians.restart(optimizers.optimizers, self.guide if from_guide else None)
        self._paint_backdrop()
        self._begun = True
        self.generation.say("fitting the scene")
        count, start = len(self.guide.get_buffer("means")), "a copy of it" if from_guide else "the initial points"
        CONSOLE.log(f"The guide is frozen ({count} Gaussians); the scene begins with {start}.")

    def _paint_backdrop(self) -> None:
        if not self.config.backdrop or self.gaussians.config.background_color == "white":
            return
        if self.datamanager.has_cutouts():
            CONSOLE.log("Photographs are transparent somewhere, so the scene gets no backdrop.")
            return
        cameras = self.datamanager.input_cameras
        self.backdrop.paint(cameras, map(self.datamanager.photograph, range(len(cameras))))

    def _settled_schedule(self) -> Schedule:
        # A method: the viewer reads every property of a pipeline, before there is a schedule.
        if self.schedule is None:
            raise RuntimeError(
                "the schedule is settled by get_training_callbacks, which the trainer calls before training"
            )
        return self.schedule

    # Training.

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        """Losses of one input view and, in the second phase, of one generated view and, now and then, an anchor."""
        outputs, losses, metrics = super().get_train_loss_dict(step)
        schedule = self._settled_schedule()
        if not self.config.generate or schedule.fits_guide(step):
            return outputs, losses, metrics
        view = self.datamanager.next_generated(schedule.phase_step(step), schedule)
        if view is not None:
            render = self.model(view.camera)
            losses.update(self.gaussians.get_generated_loss_dict(render["rgb"], view.frame.to(self.device)))
        losses.update(self._anchor_loss_dict(step))
        return outputs, losses, metrics

    def _anchor_loss_dict(self, step: int) -> dict[str, Tensor]:
        """The difference of the scene to the guide, from a random place."""
        config, datamanager = self.config.anchors, self.datamanager
        if config.weight == 0 or step % config.every != 0 or datamanager.pool is None:
            return {}
        if self._anchors is None:
            self._anchors = Anchors(
                config,
                datamanager.input_cameras,
                self.guide,
                datamanager.pool,
                self._seen_space(),
                hole_threshold=datamanager.config.hole_threshold,
                seed=datamanager.config.generation_seed,
            )
        anchor = self._anchors.at(step)
        if anchor is None:
            return {}
        render = self.model(anchor.camera)["rgb"]
        # Not for densification: what the guide does not know would count as seen without a gradient.
        self.gaussians.training_infos.pop()
        return {"anchor": config.weight * anchor.loss(render)}

    # Evaluation.

    def get_average_eval_image_metrics(
        self, step: Optional[int] = None, output_path: Optional[Path] = None, get_std: bool = False
    ) -> dict[str, float]:
        """Metrics over the test views; ends the program with one sentence where there are none."""
        if len(self.datamanager.eval_dataset) == 0:
            sys.exit(
                "This capture has no test views, so there is nothing to evaluate: "
                "train with `guidedvd-data --train-views N` to hold some images out."
            )
        return super().get_average_eval_image_metrics(step, output_path, get_std)

    @torch.no_grad()
    def _report(self, step: int) -> None:
        """The run's last line: what was gained, what it took."""
        kept, tried = self.folder.counts()
        text = f"{kept} of {tried} sequences kept, {time.perf_counter() - self._started:.0f} s."
        if len(self.datamanager.eval_dataset) == 0:
            CONSOLE.print(f"No test views to score; {text}")
            return
        guide, scene = self._test_psnr()
        if guide is not None:
            text = f"guide {guide:.2f} dB, result {scene:.2f} dB ({scene - guide:+.2f} dB); {text}"
        else:
            text = f"result {scene:.2f} dB; {text}"
        CONSOLE.print(f"Test PSNR: {text}")

    def _test_psnr(self) -> tuple[float | None, float]:
        """Mean PSNR over the test views, of the guide (None without one) and of the scene."""
        self.eval()
        guide_scores, scores = [], []
        loader = self.datamanager.fixed_indices_eval_dataloader
        for camera, batch in track(loader, description="Scoring test views", transient=True, console=CONSOLE):
            outputs = self.gaussians.get_outputs_for_camera(camera)
            image = self.gaussians.get_gt_img(batch["image"])
            target = self.gaussians.composite_with_background(image, outputs["background"])
            mask = batch["mask"].to(self.device) if "mask" in batch else None
            scores.append(masked_psnr(outputs["rgb"], target, mask))
            if self.guide.is_fitted:
                guide_scores.append(masked_psnr(self.guide.render(camera).rgb[0], target, mask))
        self.train()
        guide = float(torch.stack(guide_scores).mean()) if guide_scores else None
        return guide, float(torch.stack(scores).mean())


def _scale_learning_rate(optimizers: Optimizers, group: str, factor: float) -> None:
    """Set a group's learning rate to `factor` times the configured one, for optimizer and scheduler alike."""
    rate = optimizers.config[group]["optimizer"].lr * factor
    for parameters in optimizers.optimizers[group].param_groups:
        parameters["initial_lr"] = rate
    scheduler = optimizers.schedulers[group]
    scheduler.base_lrs = [rate]
    for parameters in optimizers.optimizers[group].param_groups:
        parameters["lr"] = rate * scheduler.lr_lambdas[0](scheduler.last_epoch)


def _write_to_tensorboard(sequence: GeneratedSequence, step: int) -> None:
    rows = {"render": sequence.guide, "mask": sequence.known.float().expand_as(sequence.guide)}
    for key, frames in {**rows, "generated": sequence.frames}.items():
        writer.put_image(name=f"Guided Video/{key}", image=image_strip(frames), step=step)
    scores = {
        "agreement": sequence.scores.agreement,
        "hole fraction": sequence.scores.hole_fraction,
        "flicker": sequence.scores.flicker,
        "seconds": sequence.seconds,
        "kept": float(sequence.kept),
    }
    writer.put_dict(name="Guided Video Metrics", scalar_dict=scores, step=step)
