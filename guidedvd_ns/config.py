"""The registered methods, `guidedvd-splat` and `guidedvd-splat-reference`; nothing but configuration."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.anchors import AnchorConfig
from guidedvd_ns.compat import allow_numpy_scalars
from guidedvd_ns.datamanager import GuidedVDDataManagerConfig
from guidedvd_ns.model import GuidedVDSplatModelConfig
from guidedvd_ns.pipeline import GuidedVDPipelineConfig
from guidedvd_ns.priors.base import authors_sampling
from guidedvd_ns.schedule import PhaseDecaySchedulerConfig
from guidedvd_ns.seeding import SeedingConfig
from guidedvd_ns.trajectories import TrajectoryConfig

allow_numpy_scalars()

DEFAULT_STEPS = {"cuda": 20_000, "other": 4_000}
DEFAULT_MAX_IMAGE_SIDE = {"cuda": 1600, "other": 256}
DEFAULT_MAX_SEQUENCES = {"cuda": None, "other": 10}


@dataclass
class GuidedVDTrainerConfig(TrainerConfig):
    """Trainer configuration whose unset lengths and sizes follow the device."""

    max_num_iterations: Optional[int] = None  # type: ignore[assignment]
    """Length of the run, guide and scene together; every step count of the method scales with it. Default: 20 000 on
    CUDA, 4000 elsewhere. When a run is resumed, the number of further steps; default: what was left of it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read back a config.yml; a run that was made before a setting existed has its default."""
        self.__dict__.update(state)
        _fill_in(self)

    def resolve_defaults(self) -> None:
        """Fill in what the user left open, by device; a second call changes nothing."""
        kind = "cuda" if self.machine.device_type == "cuda" else "other"
        resumes = self.load_dir is not None or self.load_checkpoint is not None
        if self.max_num_iterations is None and not resumes:
            self.max_num_iterations = DEFAULT_STEPS[kind]
        pipeline = self.pipeline
        assert isinstance(pipeline, GuidedVDPipelineConfig)
        datamanager = pipeline.datamanager
        if datamanager.max_image_side is None:
            datamanager.max_image_side = DEFAULT_MAX_IMAGE_SIDE[kind]
        if datamanager.max_sequences is None:
            datamanager.max_sequences = DEFAULT_MAX_SEQUENCES[kind]

    def set_experiment_name(self) -> None:
        """Name a run without the method's `--data` after the dataparser's own data folder, or as it asks for (demo)."""
        if self.experiment_name is None and self.pipeline.datamanager.data is None:
            dataparser = getattr(self.pipeline.datamanager, "dataparser", None)
            folder = getattr(dataparser, "data", Path()).resolve()
            named = getattr(dataparser, "experiment_name", None)
            self.experiment_name = named or (folder.parent if folder.is_file() else folder).stem or None
        super().set_experiment_name()

    def save_config(self) -> None:
        """Save the configuration as it will be used, so that evaluation elsewhere sees the same images."""
        self.resolve_defaults()
        super().save_config()

    def setup(self, **kwargs: Any) -> Any:
        """Build the trainer.

        Raises:
            FileNotFoundError: if there is no checkpoint to resume from.
        """
        self.resolve_defaults()
        if self.load_dir is not None and not any(self.load_dir.glob("step-*.ckpt")):
            raise FileNotFoundError(
                f"--load-dir: {self.load_dir} holds no checkpoint (step-*.ckpt): name the nerfstudio_models folder "
                "of a run that got as far as its first one."
            )
        if self.machine.device_type != "cuda":
            self._announce_small_defaults()
        return super().setup(**kwargs)

    def _announce_small_defaults(self) -> None:
        pipeline = self.pipeline
        assert isinstance(pipeline, GuidedVDPipelineConfig)
        length = f"{self.max_num_iterations} steps" if self.max_num_iterations is not None else "the steps left of it"
        CONSOLE.log(
            f"No CUDA device in use, so the run is small: {length}, images of at most "
            f"{pipeline.datamanager.max_image_side} pixels, at most {pipeline.datamanager.max_sequences} sequences."
        )


def _fill_in(config: Any) -> None:
    """Give `config` and the configurations in it the fields that they lack; plain defaults are the class's anyway."""
    for field in fields(config):
        if field.name not in vars(config) and field.default_factory is not MISSING:
            object.__setattr__(config, field.name, field.default_factory())
        value = getattr(config, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            _fill_in(value)


def _adam(lr: float, scheduler: Any = None) -> dict[str, Any]:
    return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def _method(
    name: str, description: str, pipeline: GuidedVDPipelineConfig, max_num_iterations: Optional[int] = None
) -> MethodSpecification:
    """A method that trains as both do; every call makes its own objects, which a command line may change."""
    config = GuidedVDTrainerConfig(
        method_name=name,
        machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
        max_num_iterations=max_num_iterations,
        steps_per_eval_batch=0,
        steps_per_eval_image=500,
        steps_per_eval_all_images=10_000,
        steps_per_save=500,
        # The profiler's table would stand below the run's own last line.
        logging=LoggingConfig(profiler="none"),
        pipeline=pipeline,
        optimizers={
            "means": _adam(1.6e-4, PhaseDecaySchedulerConfig(lr_final=1.6e-6)),
            "features_dc": _adam(2.5e-3),
            "features_rest": _adam(2.5e-3 / 20),
            "opacities": _adam(5e-2),
            "scales": _adam(5e-3),
            "quats": _adam(1e-3),
            "camera_opt": _adam(1e-4, ExponentialDecaySchedulerConfig(lr_final=5e-7, max_steps=30_000)),
            "bilateral_grid": _adam(2e-3, ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=30_000)),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    )
    return MethodSpecification(config=config, description=description)


def _authors_pipeline() -> GuidedVDPipelineConfig:
    """The authors' released settings wherever the defaults depart from them or leave them to the prior."""
    return GuidedVDPipelineConfig(
        datamanager=GuidedVDDataManagerConfig(
            max_image_side=1600,
            prior="viewcrafter",
            condition="points",
            sampler=authors_sampling(),
            sampling_sizes=((320, 448), (320, 512)),
            guidance_perceptual="vgg19",
            guidance_perceptual_weight=1e-3,
            close_holes=1,
            trajectories=TrajectoryConfig(
                azimuths=(-30.0, -15.0, 0.0, 15.0, 30.0),
                elevations=(-15.0, -7.5, 0.0, 7.5),
                min_hole_fraction=0.0,
                max_hole_fraction=0.1,
                keep_in_free_space=False,
                plan_resolution=1600,
            ),
            min_agreement=0.0,
            known_from_guide=False,
            antialias_guide=False,
        ),
        seeding=SeedingConfig(frames=0),
        anchors=AnchorConfig(weight=0.0),
        scene_start="points",
        backdrop=False,
        model=GuidedVDSplatModelConfig(
            reset_recovery_steps=0,
            perceptual="vgg19",
            generated_l1=0.05,
            generated_perceptual=0.005,
            generated_resolution="image",
        ),
    )


guidedvd_splat = _method(
    "guidedvd-splat",
    "Gaussian splatting from a few photographs, completed by a scene-grounded video diffusion prior.",
    GuidedVDPipelineConfig(),
)
"""The method of Zhong et al., CVPR 2025 (GuidedVD-3DGS)."""

guidedvd_splat_reference = _method(
    "guidedvd-splat-reference",
    "guidedvd-splat with the settings that the paper's authors released, for comparisons; needs ViewCrafter.",
    _authors_pipeline(),
    max_num_iterations=20_000,
)
"""The same method with all settings of the authors' release."""
