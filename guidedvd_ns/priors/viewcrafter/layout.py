"""What a complete checkpoint of the ViewCrafter family holds, and what is wrong with one that does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from guidedvd_ns.priors.viewcrafter.keys import PREFIXES, origins
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler

NAMED_AT_MOST = 4
"""Keys of one kind that an error names; the others are counted."""


def check_layout(
    shapes: Mapping[str, Sequence[int]],  # of the checkpoint's weights and buffers
    parts: Mapping[str, nn.Module],  # our parts at the same sizes, as `sizes.build_parts` makes them
    scheduler: ViewCrafterScheduler,
) -> None:
    """Compare with what a complete checkpoint holds, key by key and shape by shape.

    Raises:
        ValueError: naming unknown, missing and wrongly shaped keys.
    """
    expected = expected_shapes(parts, scheduler)
    unknown = [f"`{key}`" for key in shapes if key not in expected]
    missing = [f"`{key}`" for key in expected if key not in shapes]
    wrong = [
        f"`{key}` has shape {tuple(shapes[key])} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in shapes and tuple(shapes[key]) != tuple(shape)
    ]
    problems = [
        f"{len(found)} {kind} ({', '.join(found[:NAMED_AT_MOST])}{', ...' if len(found) > NAMED_AT_MOST else ''})"
        for kind, found in (("unknown", unknown), ("missing", missing), ("wrongly shaped", wrong))
        if found
    ]
    if problems:
        raise ValueError(f"The keys of the checkpoint are not ViewCrafter's: {'; '.join(problems)}.")


def expected_shapes(
    parts: Mapping[str, nn.Module], scheduler: ViewCrafterScheduler
) -> dict[str, torch.Size | tuple[int, ...]]:
    """Every original key with its shape, at the sizes of the parts: their weights, buffers, and what is left out."""
    expected: dict[str, torch.Size | tuple[int, ...]] = {}
    for part, module in parts.items():
        ours = {name: tensor.shape for name, tensor in module.state_dict().items()}
        for name, origin in origins(part, ours).items():
            expected[PREFIXES[part] + origin.key] = origin.original_shape(ours[name])
    projection_width = cast(CLIPVisionModel, parts["image_encoder"]).config.projection_dim
    expected |= _left_out(expected, projection_width)
    return expected | {name: values.shape for name, values in schedule_buffers(scheduler).items()}


def _left_out(expected: Mapping[str, Sequence[int]], projection_width: int) -> dict[str, tuple[int, ...]]:
    """Keys that nothing is made of (viewcrafter-architecture.md, sections 2 and 10).

    They are the last block of the text encoder, the projections into CLIP's common space with their temperature, and
    what is left of the text half in the image encoder.
    """
    text, image = PREFIXES["text_encoder"], PREFIXES["image_encoder"]
    blocks = f"{text}transformer.resblocks."
    last = max(int(key.removeprefix(blocks).split(".")[0]) for key in expected if key.startswith(blocks))
    left_out = {
        key.replace(f"{blocks}{last}.", f"{blocks}{last + 1}."): tuple(shape)
        for key, shape in expected.items()
        if key.startswith(f"{blocks}{last}.")
    }
    for name in ("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias"):
        left_out[image + name] = tuple(expected[text + name])
    for prefix in (text, image):
        left_out[f"{prefix}text_projection"] = (expected[f"{text}ln_final.weight"][0], projection_width)
        left_out[f"{prefix}logit_scale"] = ()
    left_out[f"{image}visual.proj"] = (expected[f"{image}visual.ln_post.weight"][0], projection_width)
    return left_out


def schedule_buffers(scheduler: ViewCrafterScheduler) -> dict[str, Tensor]:
    """The 13 buffers of the noise schedule as a checkpoint has them (Ho et al. 2020, equations 4 and 7).

    Those that recover x0 from predicted noise are zero, as the network predicts v.
    """
    betas, alphas_cumprod = scheduler.betas.double(), scheduler.alphas_cumprod.double()
    previous = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    variance = betas * (1 - previous) / (1 - alphas_cumprod)
    scales = torch.from_numpy(scheduler.latent_scales)
    turning_step = scheduler.config["turning_step"]
    return {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas_cumprod).log(),
        "sqrt_recip_alphas_cumprod": torch.zeros_like(betas),
        "sqrt_recipm1_alphas_cumprod": torch.zeros_like(betas),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - alphas_cumprod),
        "posterior_mean_coef2": (1 - previous) * (1 - betas).sqrt() / (1 - alphas_cumprod),
        # All time steps follow once more at the final scale.
        "scale_arr": torch.cat([scales[:turning_step], scales[-1].expand(len(scales))]),
    }


def foreign_buffers(
    buffers: Mapping[str, Tensor],  # of a checkpoint; all that `schedule_buffers` names
    scheduler: ViewCrafterScheduler,
) -> list[str]:
    """Names of the buffers whose values are not our scheduler's, beyond rounding in float32."""
    return [
        name
        for name, values in schedule_buffers(scheduler).items()
        if not torch.allclose(buffers[name].double(), values, rtol=1e-3, atol=1e-6)
    ]
