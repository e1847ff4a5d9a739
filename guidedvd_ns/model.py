"""The scene being trained: Splatfacto on any device, with the guide's hole map and the loss on generated views."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Optional, Union
from unittest import mock

import torch
import torch.nn.functional as F
from gsplat.strategy.ops import _update_param_with_optimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import RGB2SH, SH2RGB, SplatfactoModel, SplatfactoModelConfig
from torch import Tensor

from guidedvd_ns.backdrop import Backdrop
from guidedvd_ns.gaussians import PARAMETER_NAMES, render_gaussians
from guidedvd_ns.guide import Guide
from guidedvd_ns.schedule import Schedule
from guidedvd_ns.seeding import Seeds

INITIAL_OPACITY = 0.1
"""Opacity that Gaussians begin with, in Splatfacto as in the paper."""


@dataclass
class GuidedVDSplatModelConfig(SplatfactoModelConfig):
    """Splatfacto with the settings of GuidedVD-3DGS. Step counts are for a phase of 10 000 steps and scale with it."""

    _target: type = field(default_factory=lambda: GuidedVDSplatModel)
    background_color: Literal["random", "black", "white"] = "black"
    """Background of the guide's renders in training, and of the scene's where there is no backdrop. Over black, dark
    detail is fitted by half-transparent Gaussians and counts as a hole. Over a new colour in every step (`random`, for
    training also before a backdrop; all else stays over black) what is photographed has to become opaque, but so do the
    guide's guesses beside it, which then no longer count as holes."""
    num_downscales: int = 0
    """Image pyramid levels at the start of training; the method uses none."""
    sh_degree: int = 0
    """Spherical-harmonics degree; a few photographs cannot pin down view-dependent colour."""
    cull_alpha_thresh: float = 0.005
    """Gaussians below this opacity are pruned."""
    densify_grad_thresh: float = 5e-4
    """Gaussians whose mean image-plane gradient exceeds this are cloned or split (second phase only)."""
    use_absgrad: bool = False
    """Whether densification looks at the absolute sum of gradients instead of the plain gradient."""
    stop_screen_size_at: int = 0
    """Step until which the size on the screen also splits and prunes; 0 switches this rule off, as in 3DGS."""
    warmup_length: int = 500
    """Step of the second phase at which densification begins (of a 10 000-step phase)."""
    refine_every: int = 100
    """Steps between two densifications (of a 10 000-step phase)."""
    reset_alpha_every: int = 30
    """Densifications between two opacity resets."""
    stop_split_at: int = 10_000
    """Step of the second phase at which densification ends (of a 10 000-step phase)."""
    reset_recovery_steps: int = 600
    """No opacity reset with fewer training steps than this left, at any run length: Adam moves an opacity logit by at
    most its learning rate a step, so that reset Gaussians need hundreds of steps to become opaque again."""
    perceptual: Literal["st-lpips-alex", "st-lpips-vgg", "lpips-alex", "lpips-vgg", "vgg19", "none"] = "st-lpips-alex"
    """Perceptual distance between renders and generated views. The st-lpips networks come with pip; the others need
    weights from the network at first use. `none` is the ablation."""
    generated_l1: float = 0.3
    """Weight of the L1 difference to a generated view (l_gen1; 0.1 in the paper)."""
    generated_perceptual: float = 0.01
    """Weight of the perceptual distance to a generated view (l_gen2)."""
    generated_resolution: Literal["prior", "image"] = "prior"
    """Where renders and generated views are compared: at the prior's resolution, so that a low-resolution prior does
    not blur what the photographs show, or at the images' resolution (the authors')."""
    download_metric_weights: bool = False
    """Whether LPIPS may download its weights; without them it is left out of the results."""


class GuidedVDSplatModel(SplatfactoModel):
    """Splatfacto that runs off CUDA and offline, trains on generated views and shows the guide's holes."""

    config: GuidedVDSplatModelConfig
    guide: Guide
    backdrop: Backdrop
    initial: dict[str, Tensor]

    def __init__(self, config: GuidedVDSplatModelConfig, *args: Any, **kwargs: Any) -> None:
        # Held outside the module tree (and set before the parent's __init__, which already calls populate_modules):
        # guide and backdrop belong to the pipeline, and initial parameters are no part of a checkpoint.
        self.__dict__["guide"] = Guide()
        self.__dict__["backdrop"] = Backdrop()
        self.__dict__["initial"] = {}
        self.training_infos: list[dict[str, Any]] = []
        """One entry per view rendered in this training step that densification is to look at."""
        self.schedule = Schedule(guide_steps=0, scene_steps=1)
        self.scene_extent = 1.0
        self.hole_threshold = 0.9
        """Guide opacity below which a pixel is shown as a hole; the pipeline sets it to the data manager's."""
        super().__init__(config, *args, **kwargs)

    def populate_modules(self) -> None:
        """Build the Gaussians without the parent's `.cuda()` and without its LPIPS download."""
        seed_points = self.seed_points
        if seed_points is not None:
            self.seed_points = (seed_points[0].float(), seed_points[1][:0])
        with without_lpips():
            super().populate_modules()
        self.seed_points = seed_points
        if seed_points is not None and len(seed_points[1]) > 0 and not self.config.random_init:
            self.gauss_params["features_dc"].data = _initial_colors(seed_points[1].float() / 255, self.config.sh_degree)
        self.__dict__["initial"] = {name: self.gauss_params[name].detach().clone() for name in PARAMETER_NAMES}
        self.follow(self.schedule, self.scene_extent)

    def follow(self, schedule: Schedule, scene_extent: float) -> None:
        """Set densification to the run's length and the scene's size (`scene_extent` in scene units)."""
        self.schedule, self.scene_extent = schedule, scene_extent
        refine_every = schedule.scaled(self.config.refine_every)
        self.strategy.refine_start_iter = schedule.scaled(self.config.warmup_length)
        self.strategy.refine_stop_iter = schedule.scaled(self.config.stop_split_at)
        self.strategy.refine_every = refine_every
        self.strategy.reset_every = self.config.reset_alpha_every * refine_every
        self.strategy.pause_refine_after_reset = min(self.num_train_data + refine_every, self.strategy.reset_every // 2)
        self.strategy.verbose = False
        self.strategy_state = self.strategy.initialize_state(scene_scale=scene_extent)

    def load_state_dict(self, dict, **kwargs):  # type: ignore  # noqa: A002
        """Resize parameters in place: the optimizers hold these very objects (nerfstudio #3554)."""
        self.step = 30_000  # as the parent: every spherical-harmonics band is on
        for name in PARAMETER_NAMES:
            key = f"gauss_params.{name}"
            if name in dict:
                dict[key] = dict[name]
            self.gauss_params[name].data = torch.zeros_like(dict[key], device=self.device)
        return torch.nn.Module.load_state_dict(self, dict, **kwargs)

    @torch.no_grad()
    def restart(self, optimizers: dict[str, torch.optim.Optimizer], guide: Guide | None = None) -> None:
        """Begin afresh from the initial points, or from a guide's Gaussians.

        Parameters are replaced in place, the optimizers' and densification's state is cleared.
        """
        start = self.initial if guide is None else self._as_own(guide)
        for name in PARAMETER_NAMES:
            self.gauss_params[name].data = start[name].to(self.device).clone()
            self.gauss_params[name].grad = None
            optimizers[name].state.clear()
        self.follow(self.schedule, self.scene_extent)

    def _as_own(self, guide: Guide) -> dict[str, Tensor]:
        """A guide's Gaussians in the model's colours, without their higher harmonics: no band is on at first."""
        gaussians = {name: guide.get_buffer(name) for name in PARAMETER_NAMES}
        degree, own = int(guide.sh_degree), self.config.sh_degree
        if (degree > 0) != (own > 0):
            base = gaussians["features_dc"]
            rgb = SH2RGB(base) if degree > 0 else torch.sigmoid(base)
            gaussians["features_dc"] = _initial_colors(rgb, own)
        bands = self.gauss_params["features_rest"].shape[1]
        return gaussians | {"features_rest": gaussians["means"].new_zeros(len(gaussians["means"]), bands, 3)}

    @torch.no_grad()
    def add(self, seeds: Seeds, optimizers: dict[str, torch.optim.Optimizer]) -> None:
        """Take in new Gaussians, round and as opaque as the initial ones, after those that are there.

        Nothing changes for the old ones: they keep their values, the optimizers' moments and the statistics that
        densification has collected; the new ones begin with none of either.
        """
        count = len(seeds.means)
        means = self.gauss_params["means"]
        new = {name: means.new_zeros(count, *self.gauss_params[name].shape[1:]) for name in PARAMETER_NAMES}
        new["means"] = seeds.means.to(means)
        new["scales"] = seeds.sizes.to(means).log()[:, None].expand(-1, 3)
        new["quats"][:, 0] = 1
        new["features_dc"] = _initial_colors(seeds.colors.to(means), self.config.sh_degree)
        new["opacities"] = torch.logit(torch.full_like(new["opacities"], INITIAL_OPACITY))
        # As densification does it: new parameter objects, because autograd remembers the size of the old ones.
        _update_param_with_optimizer(
            lambda name, values: torch.nn.Parameter(torch.cat([values, new[name]])),
            lambda _, moments: torch.cat([moments, moments.new_zeros(count, *moments.shape[1:])]),
            self.gauss_params,  # type: ignore
            optimizers,
            list(PARAMETER_NAMES),
        )
        for key, statistics in self.strategy_state.items():
            if isinstance(statistics, Tensor):
                self.strategy_state[key] = torch.cat([statistics, statistics.new_zeros(count)])

    @torch.no_grad()
    def opacity_of(self, camera: Cameras) -> Tensor:  # [H, W, 1] in [0, 1]
        """How opaque the scene is to one camera as it stands, in its own pose: no camera optimizer, no crop."""
        gaussians = {name: self.gauss_params[name] for name in PARAMETER_NAMES}
        return render_gaussians(
            gaussians,
            camera,
            active_sh_degree=self.active_sh_degree,
            with_depth=False,
            rasterize_mode=self.config.rasterize_mode,
        ).opacity[0]

    @property
    def active_sh_degree(self) -> Optional[int]:
        """Degree in use at this step; None stands for plain colours."""
        if self.config.sh_degree == 0:
            return None
        return min(self.schedule.phase_step(self.step) // self.config.sh_degree_interval, self.config.sh_degree)

    def get_outputs(self, camera: Cameras) -> dict[str, Union[Tensor, list]]:
        """Render one camera; in eval mode with a fitted guide, with `guide_opacity` and `hole`, [H, W, 1] each."""
        if not isinstance(camera, Cameras):
            return {}
        camera = self._optimized(camera)
        gaussians = {name: self.gauss_params[name] for name in PARAMETER_NAMES}
        crop = self._crop
        if crop is not None:
            inside = crop.within(self.means).squeeze()
            if not inside.any():
                width, height = int(camera.width.item()), int(camera.height.item())
                return self.get_empty_outputs(width, height, self._get_background_color())  # type: ignore
            gaussians = {name: values[inside] for name, values in gaussians.items()}
        view = render_gaussians(
            gaussians,
            camera,
            active_sh_degree=self.active_sh_degree,
            with_depth=self.config.output_depth_during_training or not self.training,
            rasterize_mode=self.config.rasterize_mode,
            absgrad=self.strategy.absgrad,
        )
        self.info = view.info
        if self.training:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, view.info
            )
            self.training_infos.append(view.info)
        background = self._background(camera, (view.rgb.shape[1], view.rgb.shape[2]))
        rgb = (view.rgb + (1 - view.opacity) * background).clamp(0, 1)[0]
        if self.config.use_bilateral_grid and self.training and camera.metadata and "cam_idx" in camera.metadata:
            rgb = self._apply_bilateral_grid(rgb[None], camera.metadata["cam_idx"], *rgb.shape[:2])[0]
        outputs: dict[str, Any] = {"rgb": rgb, "depth": None, "accumulation": view.opacity[0], "background": background}
        if view.depth is not None:
            depth = view.depth[0]
            outputs["depth"] = torch.where(view.opacity[0] > 0, depth, depth.detach().max())
        if not self.training:
            outputs["background"] = background.expand(*rgb.shape)
            outputs.update(self._guide_outputs(camera))
        return outputs

    @property
    def _crop(self) -> OrientedBox | None:
        """What alone is rendered, if anything: training looks at the whole scene."""
        return None if self.training else self.crop_box

    def _background(self, camera: Cameras, size: tuple[int, int]) -> Tensor:  # [3] or [H, W, 3]
        """What shows through where the scene is open: the backdrop, but for random colours and around a crop."""
        is_random = self.training and self.config.background_color == "random"
        if self.backdrop.is_painted and not is_random and self._crop is None:
            return self.backdrop.behind(camera, size)
        return self._get_background_color()

    def _get_background_color(self) -> Tensor:
        """The parent's, but black wherever a random one is not drawn."""
        if self.config.background_color == "random" and not self.training:
            return torch.zeros(3, device=self.device)
        return super()._get_background_color()

    def _optimized(self, camera: Cameras) -> Cameras:
        """The camera with the camera optimizer's correction (training, input views only)."""
        if not self.training or self.config.camera_optimizer.mode == "off":
            return camera
        corrected = camera[...]
        corrected.camera_to_worlds = self.camera_optimizer.apply_to_camera(camera)
        return corrected

    def _guide_outputs(self, camera: Cameras) -> dict[str, Tensor]:
        if not self.guide.is_fitted:
            return {}
        opacity = self.guide.render(camera).opacity[0]
        return {"guide_opacity": opacity, "hole": (opacity < self.hole_threshold).float()}

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        """Loss on an input view: `(1 - l) L1 + l D-SSIM`; masked pixels are black in both images."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if not self.config.use_scale_regularization:
            losses.pop("scale_reg")
        return losses

    def prepare_generated_loss(self) -> None:
        """Load the perceptual network before the first step: missing weights must not show after half a run."""
        if self.config.perceptual != "none":
            from guidedvd_ns.losses import perceptual_distance

            perceptual_distance(self.config.perceptual, self.device)

    def get_generated_loss_dict(self, rgb: Tensor, frame: Tensor) -> dict[str, Tensor]:
        """Loss on a generated view, `L_gen` of the paper; the perceptual term is over the whole image.

        Args:
            rgb: [H, W, 3] render.
            frame: [h, w, 3] generated frame at the prior's resolution, in [0, 1].
        """
        prediction, target = rgb.movedim(-1, 0)[None], frame.movedim(-1, 0)[None]
        if self.config.generated_resolution == "prior" and _is_smaller(target, prediction):
            prediction = F.interpolate(prediction, target.shape[-2:], mode="bilinear", antialias=True)
        elif target.shape != prediction.shape:
            target = F.interpolate(target, prediction.shape[-2:], mode="bilinear", align_corners=False).clamp(0, 1)
        losses = {"generated_l1": self.config.generated_l1 * (prediction - target).abs().mean()}
        if self.config.perceptual != "none":
            from guidedvd_ns.losses import perceptual_distance

            distance = perceptual_distance(self.config.perceptual, self.device)
            value = distance(prediction.movedim(1, -1), target.movedim(1, -1))
            losses["generated_perceptual"] = self.config.generated_perceptual * value
        return losses

    def step_post_backward(self, step: int) -> None:
        """Densify from the statistics in `training_infos`; the guide's phase keeps its points as they are."""
        infos, self.training_infos = self.training_infos, []
        phase_step = self.schedule.phase_step(step)
        # gsplat resets opacities at step 0, which would undo the initial opacity of 0.1.
        if self.schedule.fits_guide(step) or phase_step == 0 or not infos:
            return
        too_late = self.schedule.scene_steps - phase_step < self.config.reset_recovery_steps
        if too_late and phase_step % self.strategy.reset_every == 0:
            return
        if phase_step < self.strategy.refine_stop_iter:
            for info in infos[:-1]:
                self.strategy._update_state(self.gauss_params, self.strategy_state, info)  # type: ignore
        self.strategy.step_post_backward(
            params=self.gauss_params,
            optimizers=self.optimizers,
            state=self.strategy_state,
            step=phase_step,
            info=infos[-1],
            packed=False,
        )

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM and ST-LPIPS of one view, and LPIPS where its weights are at hand; masked pixels do not count."""
        from guidedvd_ns.metrics import image_metrics

        target = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        prediction = outputs["rgb"]
        mask = batch["mask"].to(self.device) if "mask" in batch else None
        metrics = image_metrics(prediction, target, mask, allow_download=self.config.download_metric_weights)
        return metrics, {"img": torch.cat([target, prediction], dim=1)}


def _initial_colors(rgb: Tensor, sh_degree: int) -> Tensor:
    """Splatfacto's `features_dc` [N, 3] for colours [N, 3] in [0, 1]."""
    # Half a grey level away from 0 and 1: the logit of pure black or white would have no gradient left.
    return RGB2SH(rgb) if sh_degree > 0 else torch.logit(rgb, eps=0.5 / 255)


def _is_smaller(image: Tensor, other: Tensor) -> bool:
    return image.shape[-2] < other.shape[-2] and image.shape[-1] < other.shape[-1]


@contextlib.contextmanager
def without_lpips() -> Iterator[None]:
    """Keep `SplatfactoModel.populate_modules` from building, and so downloading, LPIPS; `metrics` does at its use."""
    with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", lambda **_: None):
        yield
