"""The guide: a frozen Gaussian scene that says what is known (S), where it is known (M) and how far away it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn

from guidedvd_ns.gaussians import PARAMETER_NAMES, render_gaussians


@dataclass(frozen=True)
class GuideRender:
    """The guide seen from L cameras."""

    rgb: Tensor  # [L, H, W, 3], in [0, 1], over black
    opacity: Tensor  # [L, H, W, 1], in [0, 1]
    depth: Tensor  # [L, H, W, 1], z-depth in scene units; meaningless where the opacity is near 0

    def known(self, threshold: float) -> Tensor:  # [L, H, W, 1], bool
        """Where the scene is known: `O >= eta_mask`. The paper prints the complement, the hole mask (method.md)."""
        return self.opacity >= threshold


class Guide(nn.Module):
    """Gaussians that nothing trains any more, as buffers, so that they travel in the run's checkpoints.

    A guide without Gaussians stands for one that has not been fitted yet.
    """

    sh_degree: Tensor
    antialiased: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in PARAMETER_NAMES:
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("sh_degree", torch.tensor(0))
        self.register_buffer("antialiased", torch.tensor(False))

    @property
    def is_fitted(self) -> bool:
        return len(self.get_buffer("means")) > 0

    @torch.no_grad()
    def adopt(self, gaussians: Mapping[str, Tensor], sh_degree: int, antialiased: bool = False) -> None:
        """Freeze a copy of `gaussians` (see `PARAMETER_NAMES`) and how they were fitted."""
        for name in PARAMETER_NAMES:
            setattr(self, name, gaussians[name].detach().clone())
        self.sh_degree = torch.tensor(sh_degree, device=gaussians["means"].device)
        self.antialiased = torch.tensor(antialiased, device=gaussians["means"].device)

    def resize_like(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Make room for the Gaussians of a state dict: `load_state_dict` refuses other sizes, strict or not."""
        for name in PARAMETER_NAMES:
            if prefix + name in state:
                setattr(self, name, torch.zeros_like(state[prefix + name], device=self.sh_degree.device))

    @torch.no_grad()
    def render(self, cameras: Cameras) -> GuideRender:
        """Render every camera of `cameras` [L], one at a time to bound memory."""
        degree, antialiased = int(self.sh_degree), bool(self.antialiased)
        gaussians = {name: self.get_buffer(name) for name in PARAMETER_NAMES}
        views = []
        for index in range(cameras.shape[0]):
            view = render_gaussians(
                gaussians,
                cameras[index : index + 1],
                active_sh_degree=degree if degree > 0 else None,
                rasterize_mode="antialiased" if antialiased else "classic",
            )
            assert view.depth is not None
            views.append((view.rgb[0].clamp(0, 1), view.opacity[0], view.depth[0]))
        rgb, opacity, depth = (torch.stack(column) for column in zip(*views, strict=True))
        return GuideRender(rgb=rgb, opacity=opacity, depth=depth)


def load_guide(config_path: Path, transform: Tensor, scale: float, device: torch.device | str) -> Guide:
    """Take the scene of a trained splatfacto or guidedvd-splat run as the guide.

    Of a scene before a backdrop the run's own guide is taken: over black such a scene has holes where surfaces look
    like its backdrop.

    Args:
        config_path: the run's `config.yml`.
        transform: [3, 4], the present run's dataparser transform.
        scale: the present run's dataparser scale.

    Raises:
        FileNotFoundError: if the run's configuration, transform or checkpoint is missing.
        ValueError: if the run lives in another coordinate frame or holds no Gaussians.
    """
    run = config_path.parent
    checkpoints = sorted((run / "nerfstudio_models").glob("step-*.ckpt"))
    for wanted in (config_path, run / "dataparser_transforms.json"):
        if not wanted.is_file():
            raise FileNotFoundError(
                f"--pipeline.guide-config: {wanted} is missing: name the config.yml of a finished run."
            )
    if not checkpoints:
        raise FileNotFoundError(
            f"--pipeline.guide-config: {run / 'nerfstudio_models'} holds no checkpoint of that run."
        )
    _check_same_frame(run, transform, scale)
    state = torch.load(checkpoints[-1], map_location=device, weights_only=True)["pipeline"]
    prefix = "_model.gauss_params."
    if prefix + "means" not in state:
        raise ValueError(f"--pipeline.guide-config: {checkpoints[-1]} holds no Gaussians: use a splatfacto-like run.")
    guide = Guide().to(device)
    if len(state.get("backdrop.colors", ())) > 0:
        guide.resize_like(state, prefix="guide.")
        guide.load_state_dict({name: state[f"guide.{name}"] for name in guide.state_dict()})
        return guide
    gaussians = {name: state[prefix + name].float() for name in PARAMETER_NAMES}
    bands = gaussians["features_rest"].shape[1] + 1
    # The configuration is pickled YAML, which is not loaded for one word of it.
    antialiased = "rasterize_mode: antialiased" in config_path.read_text()
    guide.adopt(gaussians, sh_degree=round(bands**0.5) - 1, antialiased=antialiased)
    return guide


def _check_same_frame(run: Path, transform: Tensor, scale: float) -> None:
    """Raise unless `run` was trained with the same dataparser transform and scale."""
    import json

    saved = json.loads((run / "dataparser_transforms.json").read_text())
    same_pose = torch.allclose(torch.tensor(saved["transform"])[:3], transform[:3].cpu(), atol=1e-4)
    if not same_pose or abs(saved["scale"] - scale) > 1e-4 * abs(scale):
        raise ValueError(
            f"The guide in {run} was trained in another coordinate frame (dataparser transform or scale differ): "
            "train it with the same data, dataparser and dataparser options as this run."
        )
