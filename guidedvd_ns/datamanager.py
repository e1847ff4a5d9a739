"""What a training step looks at: the input views, the pool of trajectories and the views generated along them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Optional

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.data.guidedvd_dataparser import GuidedVDDataParserConfig
from guidedvd_ns.generation import GenerationSettings, InlineGenerator, InpaintingGenerator
from guidedvd_ns.guidance import GuidanceApproximation
from guidedvd_ns.guide import Guide
from guidedvd_ns.orbits import Trajectory
from guidedvd_ns.point_render import PointCloud
from guidedvd_ns.points.choice import PointSettings, PointSource, initial_points
from guidedvd_ns.points.monocular import DEFAULT_MODEL
from guidedvd_ns.priors.base import Memory, SamplerOverrides
from guidedvd_ns.run_folder import SequenceFolder
from guidedvd_ns.schedule import Schedule
from guidedvd_ns.sequences import GeneratedSequence, GeneratedView, SequenceStore
from guidedvd_ns.trajectories import TrajectoryConfig, plan
from guidedvd_ns.trajectory_pool import TrajectoryPool


@dataclass
class GuidedVDDataManagerConfig(FullImageDatamanagerConfig):
    """Full-image data manager that also generates views. Step counts are for a phase of 10 000 steps."""

    _target: type = field(default_factory=lambda: GuidedVDDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=GuidedVDDataParserConfig)
    """Specifies the dataparser used to unpack the data."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """The image type returned from manager, caching images in uint8 saves memory."""
    max_image_side: Optional[int] = None
    """Longest side in pixels that images are scaled down to, on top of camera_res_scale_factor; 0 for no limit.
    Default: 1600 on CUDA, 256 elsewhere."""
    points: PointSource = "auto"
    """Initial points, from the input views alone: the `dataset`'s own cloud where they see it, `sensor` depth,
    monocular `depth` aligned to triangulated points, `triangulate` (SIFT; needs pycolmap), or `random` depths. `auto`
    is the first of these that is at hand."""
    points_depth_model: str = DEFAULT_MODEL
    """Monocular depth model of points `depth`: a local folder, or `owner/name` on the Hugging Face hub, which is
    downloaded at first use. `auto` uses it only where that is done."""
    max_points: int = 50_000
    """Upper bound on the initial points of `sensor` and `depth`."""
    prior: str = "auto"
    """Video prior: `viewcrafter` (the paper's; downloaded and converted at first use), `bundled`, the folder of a prior
    in diffusers format, or `owner/name` on the Hugging Face hub. `auto` is ViewCrafter where a converted copy is in the
    cache and a CUDA device has room for it, else the bundled one. `telea`, `navier-stokes` (OpenCV) and
    `sd-inpaint:MODEL` (a Stable Diffusion inpainting model's folder or hub name) fill each frame by itself instead."""
    memory: Memory = "default"
    """What the prior may take of the GPU's memory: `low` is slower and fits a 16 GB card."""
    condition: Literal["guide", "points"] = "guide"
    """What the prior is shown of a trajectory: renders of the guide, or of the initial points that the input view sees
    (as ViewCrafter was trained, and the authors'). Guidance follows the guide in either case."""
    sampler: SamplerOverrides = field(default_factory=SamplerOverrides)
    """How sequences are sampled; what is not set is the prior's."""
    sampling_sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths in pixels; the one closest to the input's aspect ratio is sampled. Default: the prior's area
    at the input's own aspect ratio."""
    guidance: bool = True
    """Scene-grounding guidance; off is the ablation that samples the prior as it is."""
    guidance_perceptual: Literal["st-lpips-alex", "st-lpips-vgg", "lpips-alex", "lpips-vgg", "vgg19", "none"] = "none"
    """Perceptual term of the guidance loss, on known pixels."""
    guidance_perceptual_weight: float = 1e-4
    """Weight of that term (l_perc)."""
    approximation: GuidanceApproximation = field(default_factory=GuidanceApproximation)
    """Cheaper gradients of the guidance; the defaults are exact."""
    hole_threshold: float = 0.9
    """Guide opacity (eta_mask) below which a pixel is left to the prior."""
    close_holes: int = 3
    """Side in pixels of the generated frames (odd) of the squares that must fit into a hole for it to be one: over
    black, dark detail is half transparent and looks like specks of holes. 1 keeps every hole (the authors')."""
    trajectories: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    """Where sequences are generated."""
    generate_every: int = 260
    """Steps between two generated sequences."""
    generated_until: int = 9500
    """Step after which generated views are no longer used."""
    max_sequences: Optional[int] = None
    """Upper bound on the number of sequences, which are spread over the phase. Default: none on CUDA, 10 elsewhere."""
    local_sampling: bool = True
    """Prefer the newest sequence (local sampling); off draws evenly from all frames of all sequences."""
    all_time_probability: float = 0.5
    """Probability eta that a generated view comes from the all-time store and not from the newest sequence."""
    all_time_fraction: float = 0.2
    """Share of the frames of each sequence that the all-time store keeps."""
    min_agreement: float = 15.0
    """PSNR in dB between a sequence and the guide, on known pixels, below which the sequence is rejected."""
    known_from_guide: bool = True
    """Whether known pixels of a sequence are taken from the guide, so that a low-resolution prior does not blur them;
    off trains on the prior's own pixels everywhere (the authors')."""
    antialias_guide: bool = True
    """Whether the guide's renders are averaged over their known pixels where they shrink to the prior's size; off
    resizes them bilinearly and their known mask to the nearest pixel (the authors')."""
    generation_seed: int = 123
    """Seed of all random draws of planning, generation and view sampling."""


class GuidedVDDataManager(FullImageDatamanager[InputDataset]):
    """Input views stay as they are; generated views live beside them in a `SequenceStore`."""

    config: GuidedVDDataManagerConfig
    train_dataset: InputDataset
    eval_dataset: InputDataset

    def __init__(self, config: GuidedVDDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if self.test_mode == "val":
            self._make_initial_points()
        self.pool: TrajectoryPool | None = None
        self.store = SequenceStore(
            all_time_probability=config.all_time_probability,
            keep_fraction=config.all_time_fraction,
            local_sampling=config.local_sampling,
            device=self.device,
        )
        self.draws = torch.Generator().manual_seed(config.generation_seed)
        self.num_attempts = 0
        self._sampling_window = (0, 1)
        self.generator: InlineGenerator | None = None
        self.folder: SequenceFolder | None = None
        self._pending: Trajectory | None = None
        self._restored: dict[str, Any] | None = None
        self._saved_poses: Tensor | None = None

    def create_train_dataset(self) -> InputDataset:
        self._image_scale = self._find_image_scale()
        return InputDataset(self.train_dataparser_outputs, scale_factor=self._image_scale)

    def create_eval_dataset(self) -> InputDataset:
        outputs = self.dataparser.get_dataparser_outputs(split=self.test_split)
        return InputDataset(outputs, scale_factor=self._image_scale)

    def _find_image_scale(self) -> float:
        """`camera_res_scale_factor`, lowered until no image side exceeds `max_image_side`."""
        given = self.config.camera_res_scale_factor
        scale = image_scale(self.train_dataparser_outputs.cameras, self.config.max_image_side, given)
        if scale < given:
            CONSOLE.log(f"Images are scaled by {scale:.3f} (--pipeline.datamanager.max-image-side 0 keeps them).")
        return scale

    def _make_initial_points(self) -> None:
        """Put the initial points where nerfstudio's pipeline reads them. Only training needs them."""
        config, outputs = self.config, self.train_dataparser_outputs
        settings = PointSettings(config.points, config.points_depth_model, config.max_points, device=str(self.device))
        outputs.metadata.update(initial_points(outputs, settings).metadata())

    def _load_images(self, split: Any, cache_images_device: Literal["cpu", "gpu"]) -> list[dict[str, Tensor]]:
        """As the parent, which pins memory (a CUDA call) for `cpu` on any machine."""
        on_cuda = torch.device(self.device).type == "cuda"
        return super()._load_images(split, cache_images_device if on_cuda else "gpu")

    @cached_property
    def input_cameras(self) -> Cameras:
        """Cameras of the input views [N], undistorted: `cached_train` undistorts when first touched."""
        _ = self.cached_train
        return self.train_dataset.cameras

    def photograph(self, view: int) -> tuple[Tensor, Tensor | None]:
        """Input view as [H, W, 3] in [0, 1], and its mask [H, W, 1] where it has one."""
        batch = self.cached_train[view]
        image = _unit_range(batch["image"].to(self.device))
        # The method's background is black.
        return image[..., :3] * image[..., 3:] if image.shape[-1] == 4 else image, batch.get("mask")

    def has_cutouts(self) -> bool:
        """Whether a photograph is transparent somewhere, as a picture of an object without its surroundings is."""
        images = (batch["image"] for batch in self.cached_train if batch["image"].shape[-1] == 4)
        return any(bool((_unit_range(image[..., 3]) < 1).any()) for image in images)

    def scene_extent(self) -> float:
        """1.1 times the largest distance of an input camera from their mean, as in 3DGS; in scene units."""
        centres = self.train_dataset.cameras.camera_to_worlds[:, :3, 3]
        extent = 1.1 * float((centres - centres.mean(dim=0)).norm(dim=-1).max())
        if extent < 1e-6:
            raise ValueError(
                "All input views stand at one point, which tells nothing about depth: take photographs a step apart."
            )
        return extent

    def prepare_generation(self, guide: Guide, folder: SequenceFolder) -> None:
        """Load the networks of generation before the first step: a wrong name must not show after half a run."""
        config = self.config
        self.folder = folder
        folder.forget_from(self.num_attempts)
        points = self._point_cloud() if config.condition == "points" else None
        if config.guidance_perceptual != "none":
            from guidedvd_ns.losses import perceptual_distance

            perceptual_distance(config.guidance_perceptual, torch.device(self.device))
        # Last, because it may take a download of gigabytes.
        self.generator = self._load_generator(guide, points)

    def _load_generator(self, guide: Guide, points: PointCloud | None) -> InlineGenerator:
        from guidedvd_ns.priors import load_prior
        from guidedvd_ns.priors.choice import is_inpainter
        from guidedvd_ns.priors.inpainting import load_inpainter

        config = self.config
        if not is_inpainter(config.prior):
            prior = load_prior(config.prior, self.device, memory=config.memory)
            prior.override(config.sampler)
            return InlineGenerator(prior, guide, self._settings(), config.generation_seed, points)
        if points is not None:
            raise ValueError(
                f"--pipeline.datamanager.condition is points, but {config.prior} fills what the guide leaves open: give"
                " --pipeline.datamanager.condition guide."
            )
        inpainter = load_inpainter(config.prior, self.device)
        inpainter.override(config.sampler)
        return InpaintingGenerator(inpainter, guide, self._settings(), config.generation_seed)

    def _point_cloud(self) -> PointCloud:
        """The initial points, which the Gaussians start from; random ones would show nothing of the scene."""
        metadata = self.train_dataparser_outputs.metadata
        if "points3D_xyz" not in metadata or metadata.get("points3D_source") == "random":
            raise ValueError(
                "--pipeline.datamanager.condition is points, but the initial points are random: choose others with"
                " --pipeline.datamanager.points, or give --pipeline.datamanager.condition guide."
            )
        xyz, rgb = (metadata[name].to(self.device).float() for name in ("points3D_xyz", "points3D_rgb"))
        return PointCloud(xyz, rgb / 255)

    def begin_generation(self) -> dict[int, tuple[Cameras, Tensor]]:
        """Plan the trajectories, or after a resume bring back what had been generated: cameras and frames by number."""
        assert self.generator is not None
        if self._restored is not None:
            return self._bring_back(self._restored)
        self.pool = self._plan(self.generator.guide, self.generator.prior.settings.num_frames)
        return {}

    def _plan(self, guide: Guide, num_frames: int) -> TrajectoryPool:
        pool = plan(self.input_cameras, guide.render, self.config.trajectories, self.draws, num_frames)
        if pool.is_empty:
            CONSOLE.log(
                "[yellow]No useful trajectory: no camera near the input views sees a hole that can be filled; "
                "training goes on without generations."
            )
        else:
            views = len({trajectory.view for trajectory in pool.trajectories})
            CONSOLE.log(f"Planned {len(pool)} trajectories from {views} of {len(self.input_cameras)} input views.")
        return pool

    def _settings(self) -> GenerationSettings:
        config = self.config
        return GenerationSettings(
            sizes=config.sampling_sizes,
            hole_threshold=config.hole_threshold,
            guided=config.guidance,
            perceptual=config.guidance_perceptual,
            perceptual_weight=config.guidance_perceptual_weight,
            approximation=config.approximation,
            # Without guidance nothing makes a sequence agree, and the ablation is about just that.
            min_agreement=config.min_agreement if config.guidance else 0.0,
            known_from_guide=config.known_from_guide,
            close_holes=config.close_holes,
            antialias=config.antialias_guide,
        )

    def generation_interval(self, schedule: Schedule) -> tuple[int, int]:
        """Steps between two sequences, and their number, in the second phase of `schedule`."""
        last = schedule.scaled(self.config.generated_until)
        interval = schedule.scaled(self.config.generate_every)
        if self.config.max_sequences is not None:
            if self.config.max_sequences < 1:
                return last, 0
            interval = max(interval, -(-last // self.config.max_sequences))
        return interval, -(-last // interval)

    def advance_generation(self, step: int, schedule: Schedule) -> GeneratedSequence | None:
        """Do the share of generation of the second phase's step `step`; returns a sequence that it completed.

        The first sequence is sampled at one denoising step per iteration, each other one evenly over the iterations
        before its use.
        """
        if self.generator is None or self.pool is None or self.pool.is_empty:
            return None
        interval, count = self.generation_interval(schedule)
        if not self.generator.is_busy:
            due = self.num_attempts * interval
            if self.num_attempts >= count or step < due - interval:
                return None
            # The scene waits for the first sequence: it gets a denoising step in every iteration.
            # Nor are the steps of a late one crowded into a single iteration, which would stop the viewer.
            total = self.generator.steps_per_sequence
            length = total if self.num_attempts == 0 else max(due - step, min(interval, total))
            self._sampling_window = (step, length)
            self._submit()
        self.generator.advance(self._share_of_sampling(step))
        finished = self.generator.poll()
        if finished is not None:
            self._take_in(finished)
        return finished

    def _share_of_sampling(self, step: int) -> int:
        """Denoising steps to do now, so that they spread evenly over the sampling window."""
        assert self.generator is not None
        begin, length = self._sampling_window
        total = self.generator.steps_per_sequence
        wanted = min(total, total * (step - begin + 1) // length)
        return wanted - (total - self.generator.remaining_steps)

    def _submit(self) -> None:
        assert self.generator is not None and self.pool is not None
        trajectory = self._pending or self.pool.draw(self.draws)
        self._pending = trajectory
        photograph, mask = self.photograph(trajectory.view)
        CONSOLE.log(
            f"Sequence {self.num_attempts}: {trajectory.name}, {len(trajectory.cameras)} frames, "
            f"{100 * trajectory.hole_fraction:.1f} % hole at its end."
        )
        self.generator.submit(self.num_attempts, trajectory, photograph, mask)
        self.num_attempts += 1

    def _take_in(self, sequence: GeneratedSequence) -> None:
        assert self.folder is not None
        self._pending = None
        scores = sequence.scores
        verdict = "kept" if sequence.kept else f"[yellow]rejected (below {self.config.min_agreement:.1f} dB)[/yellow]"
        CONSOLE.log(
            f"Sequence {sequence.number}: {verdict}; agrees with the guide at {scores.agreement:.1f} dB, "
            f"{100 * scores.hole_fraction:.1f} % hole, flicker {scores.flicker:.4f}, {sequence.seconds:.1f} s."
        )
        self.folder.write(sequence)
        if sequence.kept:
            self.store.add(sequence.number, sequence.trajectory.cameras, sequence.frames, self.draws)

    def next_generated(self, step: int, schedule: Schedule) -> GeneratedView | None:
        """The generated view of the second phase's step `step`, if there is one to be had."""
        if len(self.store) == 0 or step >= schedule.scaled(self.config.generated_until):
            return None
        return self.store.draw(self.draws)

    def get_extra_state(self) -> dict[str, Any]:
        """Plain types and tensors only: checkpoints are read with `weights_only=True`."""
        if self._restored is not None:
            return self._restored
        return {
            "input_poses": self.train_dataset.cameras.camera_to_worlds.cpu(),
            "pool": self.pool.state_dict() if self.pool is not None else None,
            "store": self.store.state_dict(),
            "draws": self.draws.get_state(),
            "num_attempts": self.num_attempts - int(self._pending is not None),
            "pending": self._pending.name if self._pending is not None else None,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._saved_poses = state.get("input_poses")
        if state["pool"] is not None:
            self._restored, self.num_attempts = state, state["num_attempts"]

    def check_resumed_views(self) -> None:
        """Raise ValueError unless the checkpoint that was loaded belongs to the input views of this run."""
        poses = self.train_dataset.cameras.camera_to_worlds.cpu()
        saved = self._saved_poses.cpu() if self._saved_poses is not None else poses
        if saved.shape != poses.shape or not torch.allclose(saved, poses, atol=1e-4):
            raise ValueError(
                f"The run to resume has {len(saved)} input views and this one {len(poses)}, in the same or in other "
                "places: give the data, the dataparser and the dataparser options that it was started with."
            )

    def _bring_back(self, state: dict[str, Any]) -> dict[int, tuple[Cameras, Tensor]]:
        assert self.folder is not None and self.generator is not None
        cameras = self.input_cameras
        self.pool = TrajectoryPool()
        self.pool.load_state_dict(state["pool"], cameras)
        self.draws.set_state(state["draws"].cpu())
        self._pending = next((path for path in self.pool.trajectories if path.name == state.get("pending")), None)
        sequences = self.folder.read(state["store"]["numbers"], self.pool)
        self.store.restore(state["store"], sequences)
        self._restored = None
        lost = len(state["store"]["numbers"]) - len(sequences)
        if lost:
            CONSOLE.log(f"[yellow]{lost} generated sequences are no longer on disk; training goes on without them.")
        return sequences


def image_scale(cameras: Cameras, max_side: Optional[int], scale: float = 1.0) -> float:
    """`scale`, lowered until no image side of `cameras` exceeds `max_side` pixels; 0 or None is no limit."""
    longest = int(torch.maximum(cameras.width, cameras.height).max())
    if not max_side or longest * scale <= max_side:
        return scale
    # A little more than the quotient: images are cut to whole pixels in float64, cameras in float32.
    return max_side / longest * (1 + 1e-6)


def _unit_range(image: Tensor) -> Tensor:
    """Nerfstudio's image or one channel of it, bytes or floats, as floats in [0, 1]."""
    return image.float() / 255 if image.dtype == torch.uint8 else image
