"""The recordings of the original ViewCrafter, and its tiny networks rebuilt with our classes.

All sizes come from the recordings' JSON files, so that another set of recordings can be put in their place.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from guidedvd_ns.priors.base import SamplerSettings
from guidedvd_ns.priors.viewcrafter.context import ContextEncoder
from guidedvd_ns.priors.viewcrafter.keys import PREFIXES, origins
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet


def viewcrafter_fixtures() -> Path:
    """Their folder; the test that asks is skipped where it is missing."""
    default = Path(__file__).parents[3] / "shared" / "fixtures"
    folder = Path(os.environ.get("GUIDEDVD_FIXTURES", default)) / "viewcrafter"
    if not folder.is_dir():
        pytest.skip(f"no recordings of the original networks in {folder} (set GUIDEDVD_FIXTURES)")
    return folder


def at_collection(names: Callable[[], list]) -> list:
    """What to parametrize a test with, which is nothing (and skips it) where there are no recordings."""
    try:
        return names()
    except pytest.skip.Exception:
        return []


def fixture_json(name: str) -> dict[str, Any]:
    return json.loads((viewcrafter_fixtures() / f"{name}.json").read_text())


def fixture_tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(viewcrafter_fixtures() / f"{name}.safetensors")


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """rms(difference) / rms(reference), the measure of the recordings' README."""
    assert ours.shape == reference.shape
    difference = (ours.detach().double() - reference.double()).square().mean().sqrt()
    return (difference / reference.double().square().mean().sqrt()).item()


def norms_of(part: str, model: nn.Module) -> dict[str, list]:
    """Original name -> kind, groups or width, and eps of every norm, as the recordings list them."""
    found = {}
    for name, origin in origins(part, model.state_dict()).items():
        norm = model.get_submodule(name.rpartition(".")[0])
        key = origin.key.rpartition(".")[0]
        if isinstance(norm, nn.GroupNorm):
            found[key] = ["GroupNorm", norm.num_groups, norm.eps]
        elif isinstance(norm, nn.LayerNorm):
            found[key] = ["LayerNorm", *norm.normalized_shape, norm.eps]
    return found


def original_unet(**overrides: Any) -> ViewCrafterUNet:
    description = fixture_json("unet")
    params = description["params"]
    names = (
        "in_channels",
        "out_channels",
        "model_channels",
        "num_res_blocks",
        "num_head_channels",
        "context_dim",
        "default_fs",
    )
    config = {name: params[name] for name in names} | {
        "channel_mult": tuple(params["channel_mult"]),
        "attention_resolutions": tuple(params["attention_resolutions"]),
        "fs_conditioning": params["fs_condition"],
        "initial_attention": params["addition_attention"],
        "text_tokens": description["text_tokens"],
        "image_tokens_per_frame": description["image_tokens_per_frame"],
    }
    return _with_weights("unet", ViewCrafterUNet(**config | overrides), fixture_tensors("unet.weights"))


def original_vae() -> AutoencoderKL:
    params = fixture_json("vae")
    layout = params["ddconfig"]
    widths = [layout["ch"] * mult for mult in layout["ch_mult"]]
    vae = AutoencoderKL(
        in_channels=layout["in_channels"],
        out_channels=layout["out_ch"],
        latent_channels=layout["z_channels"],
        block_out_channels=widths,
        layers_per_block=layout["num_res_blocks"],
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        scaling_factor=params["scale_factor"],
    )
    return _with_weights("vae", vae, fixture_tensors("vae.weights"))


def original_scheduler() -> ViewCrafterScheduler:
    description = fixture_json("schedules")
    return ViewCrafterScheduler(
        num_train_timesteps=description["num_timesteps"],
        beta_start=description["linear_start"],
        beta_end=description["linear_end"],
        rescale_betas_zero_snr=description["rescale_betas_zero_snr"],
        base_scale=description["base_scale"],
        turning_step=description["turning_step"],
    )


def original_text_encoder() -> CLIPTextModel:
    layout = fixture_json("clip")["model_config"]["text_cfg"]
    config = CLIPTextConfig(
        vocab_size=layout["vocab_size"],
        hidden_size=layout["width"],
        intermediate_size=int(layout["width"] * layout.get("mlp_ratio", 4)),
        num_hidden_layers=layout["layers"] - 1,
        num_attention_heads=layout["heads"],
        max_position_embeddings=layout["context_length"],
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=0,
    )
    weights = below(fixture_tensors("clip.weights"), PREFIXES["text_encoder"])
    return _with_weights("text_encoder", CLIPTextModel(config), weights)


def original_image_encoder() -> CLIPVisionModel:
    layout = fixture_json("clip")["model_config"]["vision_cfg"]
    config = CLIPVisionConfig(
        hidden_size=layout["width"],
        intermediate_size=int(layout["width"] * layout.get("mlp_ratio", 4)),
        num_hidden_layers=layout["layers"],
        num_attention_heads=layout["width"] // layout["head_width"],
        image_size=layout["image_size"],
        patch_size=layout["patch_size"],
        hidden_act="gelu",
    )
    weights = below(fixture_tensors("clip.weights"), PREFIXES["image_encoder"])
    return _with_weights("image_encoder", CLIPVisionModel(config), weights)


def original_projector() -> ImageProjector:
    params = fixture_json("resampler")["params"]
    projector = ImageProjector(
        embed_dims=params["embedding_dim"],
        output_dims=params["output_dim"],
        hidden_dims=params["dim"],
        depth=params["depth"],
        dim_head=params["dim_head"],
        heads=params["heads"],
        num_queries=params["num_queries"] * params["video_length"],
        ffn_ratio=params["ff_mult"],
    )
    return _with_weights("image_projector", projector, fixture_tensors("resampler.weights"))


def original_context_encoder(**options: Any) -> ContextEncoder:
    """With the recorded run's prompts."""
    return ContextEncoder(
        original_text_encoder(),
        original_image_encoder(),
        original_projector(),
        tokenized_prompts=fixture_tensors("guided_ddim")["cond/text_ids"].tolist(),
        **options,
    )


class RecordedPrior(ViewCrafterPrior):
    """The original tiny networks, and the recorded noise in turn."""

    def __init__(self):
        self.recorded, self.run = fixture_tensors("guided_ddim"), fixture_json("guided_ddim")
        self.noise: list[torch.Tensor] = []
        settings = SamplerSettings(
            num_frames=self.run["frames"],
            height=self.run["height"],
            width=self.run["width"],
            num_steps=self.run["S"],
            eta=self.run["eta"],
            cfg_scale=self.run["unconditional_guidance_scale"],
            guidance_rescale=self.run["guidance_rescale"],
            guidance_factor=self.run["rho_scale"],
            reconstruction="l2",
        )
        super().__init__(
            original_unet(default_fs=self.run["fs"]),
            original_vae(),
            original_scheduler(),
            settings,
            known_mask_channel=False,
            sample_posterior=True,
            context_encoder=original_context_encoder(),
        )

    def _noise(self, shape, generator):
        noise = self.noise.pop(0)
        assert noise.shape == shape
        return noise


def _with_weights(part: str, model: Any, originals: dict[str, torch.Tensor]) -> Any:
    found = origins(part, model.state_dict())
    model.load_state_dict({name: origin.take(originals[origin.key]) for name, origin in found.items()})
    return model.eval().requires_grad_(False)
