"""The recordings of the original ViewCrafter, and its tiny networks rebuilt with our classes."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guidedvd_ns.priors.viewcrafter.keys import original_to_ours
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
    weights = {original_to_ours(key): value for key, value in fixture_tensors("unet.weights").items()}
    for name in ("temporal_in.proj_in.weight", "temporal_in.proj_out.weight"):
        weights[name] = weights[name].squeeze(-1)
    unet.load_state_dict(weights)
    return unet.eval().requires_grad_(False)
