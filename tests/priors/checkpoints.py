"""Checkpoints to convert: the recorded tiny model, one of random weights, and the keys of the published one."""

import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from guidedvd_ns.priors.viewcrafter.keys import PREFIXES
from guidedvd_ns.priors.viewcrafter.layout import expected_shapes, schedule_buffers
from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.sizes import ViewCrafterFacts
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet
from tests.priors.recordings import fixture_json, fixture_tensors

RANDOM_FACTS = ViewCrafterFacts(text_head_channels=8, image_head_channels=4, projector_head_channels=8)
"""Of the random model."""


def published_shapes() -> dict[str, list[int]]:
    return {key: shape for key, (shape, _) in fixture_json("checkpoint_keys").items()}


def recorded_checkpoint() -> dict[str, torch.Tensor]:
    """The tiny original model, put together as the recordings' README says."""
    parts = {PREFIXES["unet"]: "unet", PREFIXES["vae"]: "vae", PREFIXES["image_projector"]: "resampler", "": "clip"}
    weights = {
        prefix + key: weight
        for prefix, name in parts.items()
        for key, weight in fixture_tensors(f"{name}.weights").items()
    }
    buffers = {
        name.removeprefix("ddpm/"): values
        for name, values in fixture_tensors("schedules").items()
        if name.startswith("ddpm/") and not name.endswith("_before_rescale")
    }
    return weights | buffers


def recorded_facts() -> ViewCrafterFacts:
    clip = fixture_json("clip")["model_config"]
    return ViewCrafterFacts(
        text_head_channels=clip["text_cfg"]["width"] // clip["text_cfg"]["heads"],
        image_head_channels=clip["vision_cfg"]["head_width"],
        projector_head_channels=fixture_json("resampler")["params"]["dim_head"],
        image_size=clip["vision_cfg"]["image_size"],
        image_tokens_per_frame=fixture_json("unet")["image_tokens_per_frame"],
        queries_per_frame=fixture_json("resampler")["params"]["num_queries"],
        default_fs=fixture_json("unet")["params"]["default_fs"],
        latent_scale=fixture_json("vae")["scale_factor"],
    )


def random_parts() -> dict[str, nn.Module]:
    """A model of another layout than the recorded one, on the meta device: three levels, not all attended to."""
    text = dict(hidden_size=16, intermediate_size=48, num_attention_heads=2, num_hidden_layers=2, vocab_size=50)
    text |= dict(max_position_embeddings=77, bos_token_id=48, eos_token_id=49, pad_token_id=0)
    image = dict(hidden_size=12, intermediate_size=20, num_attention_heads=3, num_hidden_layers=3)
    image |= dict(image_size=224, patch_size=56)
    common = dict(projection_dim=10, hidden_act="gelu")
    with torch.device("meta"):
        return {
            "unet": ViewCrafterUNet(
                model_channels=32,
                channel_mult=(1, 3, 2),
                attention_resolutions=(2,),
                num_res_blocks=1,
                num_head_channels=16,
                context_dim=16,
            ),
            "vae": AutoencoderKL(
                block_out_channels=(32, 64),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                layers_per_block=2,
                scaling_factor=0.18215,
            ),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text, **common)),
            "image_encoder": CLIPVisionModel(CLIPVisionConfig(**image, **common)),
            "image_projector": ImageProjector(
                embed_dims=12, output_dims=16, hidden_dims=24, depth=3, dim_head=8, heads=2, num_queries=48, ffn_ratio=3
            ),
        }


def random_checkpoint() -> dict[str, torch.Tensor]:
    """Every key of the random model's checkpoint; the noise schedule is the true one."""
    scheduler, generator = ViewCrafterScheduler(), torch.Generator().manual_seed(0)
    shapes = expected_shapes(random_parts(), scheduler)
    weights = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return weights | {name: values.float() for name, values in schedule_buffers(scheduler).items()}
