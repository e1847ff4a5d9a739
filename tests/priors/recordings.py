"""The recordings of the original ViewCrafter, and its tiny networks rebuilt with our classes."""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from guidedvd_ns.priors.base import SamplerSettings
from guidedvd_ns.priors.viewcrafter.keys import convert_part
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet


def viewcrafter_fixtures() -> Path:
    """Their folder; the test that asks is skipped where it is missing."""
    default = Path(__file__).parents[3] / "shared" / "fixtures"
    folder = Path(os.environ.get("GUIDEDVD_FIXTURES", default)) / "viewcrafter"
    if not folder.is_dir():
        pytest.skip(f"no recordings of the original networks in {folder} (set GUIDEDVD_FIXTURES)")
    return folder


def fixture_tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(viewcrafter_fixtures() / f"{name}.safetensors")


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """rms(difference) / rms(reference), the measure of the recordings' README."""
    difference = (ours.detach().double() - reference.double()).square().mean().sqrt()
    return (difference / reference.double().square().mean().sqrt()).item()


def original_unet() -> ViewCrafterUNet:
    params = json.loads((viewcrafter_fixtures() / "unet.json").read_text())["params"]
    names = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "num_head_channels", "context_dim")
    unet = ViewCrafterUNet(
        **{name: params[name] for name in names},
        channel_mult=tuple(params["channel_mult"]),
        attention_resolutions=tuple(params["attention_resolutions"]),
    )
    weights = convert_part("unet", fixture_tensors("unet.weights"), unet.state_dict())
    unet.load_state_dict(weights)
    return unet.eval().requires_grad_(False)


def original_vae() -> AutoencoderKL:
    params = json.loads((viewcrafter_fixtures() / "vae.json").read_text())
    layout = params["ddconfig"]
    widths = [layout["ch"] * mult for mult in layout["ch_mult"]]
    vae = AutoencoderKL(
        latent_channels=layout["z_channels"],
        block_out_channels=widths,
        layers_per_block=layout["num_res_blocks"],
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        scaling_factor=params["scale_factor"],
    )
    vae.load_state_dict(convert_part("vae", fixture_tensors("vae.weights"), vae.state_dict()))
    return vae.eval().requires_grad_(False)


class RecordedPrior(ViewCrafterPrior):
    """The original tiny networks, with the recorded tokens in place of encoders and recorded noise in turn."""

    def __init__(self, *, cfg_scale: float = 7.5):
        self.recorded = fixture_tensors("guided_ddim")
        contexts = (self.recorded["cond/context"], self.recorded["cond/context_uncond"])
        self.noise: list[torch.Tensor] = []
        settings = SamplerSettings(
            num_frames=3,
            height=24,
            width=32,
            num_steps=4,
            cfg_scale=cfg_scale,
            guidance_rescale=0.7,
            guidance_factor=0.2,
            reconstruction="l2",
        )
        super().__init__(
            original_unet(),
            original_vae(),
            ViewCrafterScheduler(),
            settings,
            known_mask_channel=False,
            sample_posterior=True,
            context_encoder=lambda _photograph: contexts,
        )

    def _noise(self, shape, generator):
        noise = self.noise.pop(0)
        assert noise.shape == shape
        return noise
