"""Sizes read off shapes are those that the model was built with, also where a weight has a wrong shape."""

from typing import Any

import pytest
import torch
from torch import nn

from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from guidedvd_ns.priors.viewcrafter.sizes import ViewCrafterFacts, build_parts
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet
from tests.priors.checkpoints import (
    RANDOM_FACTS,
    published_shapes,
    random_checkpoint,
    random_parts,
    recorded_checkpoint,
    recorded_facts,
)
from tests.priors.recordings import (
    original_image_encoder,
    original_projector,
    original_text_encoder,
    original_unet,
    original_vae,
)

UNTOLD = {"_use_default_values", "_name_or_path", "projection_dim", "bos_token_id", "eos_token_id", "pad_token_id"}
"""Entries of configurations that change nothing of what is computed."""


def config_of(module: Any) -> dict[str, Any]:
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    # Saving makes lists of tuples, and nothing depends on the order of the attended resolutions.
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    plain |= {name: sorted(plain[name]) for name in ("attention_resolutions",) if name in plain}
    return {name: value for name, value in plain.items() if name not in UNTOLD}


def assert_same(found: dict[str, nn.Module], expected: dict[str, nn.Module]) -> None:
    for part, module in expected.items():
        assert type(found[part]) is type(module)
        assert config_of(found[part]) == config_of(module), part


def random_shapes() -> dict[str, tuple[int, ...]]:
    return {key: tuple(weight.shape) for key, weight in random_checkpoint().items()}


def test_published_model_is_the_default():
    parts = build_parts(published_shapes(), ViewCrafterFacts())
    with torch.device("meta"):
        assert_same(parts, {"unet": ViewCrafterUNet(), "image_projector": ImageProjector()})
    assert parts["vae"].config["block_out_channels"] == (128, 256, 512, 512)
    text, image = parts["text_encoder"].config, parts["image_encoder"].config
    assert (text.num_hidden_layers, text.num_attention_heads, text.vocab_size) == (23, 16, 49408)
    assert (image.num_hidden_layers, image.num_attention_heads, image.patch_size) == (32, 16, 14)
    assert all(weight.is_meta for part in parts.values() for weight in part.state_dict().values())


def test_recorded_model_has_its_recorded_sizes():
    shapes = {key: weight.shape for key, weight in recorded_checkpoint().items()}
    expected = {
        "unet": original_unet(),
        "vae": original_vae(),
        "text_encoder": original_text_encoder(),
        "image_encoder": original_image_encoder(),
        "image_projector": original_projector(),
    }
    assert_same(build_parts(shapes, recorded_facts()), expected)


def test_another_layout_is_recognised():
    assert_same(build_parts(random_shapes(), RANDOM_FACTS), random_parts())


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", (33, 9, 3, 3)),
        ("model.diffusion_model.input_blocks.3.0.out_layers.3.weight", (48, 48, 3, 3)),
        ("model.diffusion_model.init_attn.0.proj_in.weight", (1,)),
        ("first_stage_model.post_quant_conv.weight", (5, 5, 1, 1)),
        ("first_stage_model.encoder.down.1.block.0.conv1.bias", (65,)),
        ("cond_stage_model.model.transformer.resblocks.1.mlp.c_fc.bias", (50,)),
        ("embedder.model.visual.conv1.weight", (12, 3, 55, 56)),
        ("embedder.model.visual.positional_embedding", (18, 12)),
        ("image_proj_model.latents", (1, 47, 24)),
        ("image_proj_model.proj_in.weight", (24, 13)),
        ("image_proj_model.layers.9.norm1.weight", (7,)),
    ],
)
def test_one_wrong_shape_changes_no_size(key, shape):
    assert_same(build_parts(random_shapes() | {key: shape}, RANDOM_FACTS), random_parts())


def test_a_contradiction_of_two_is_named():
    key = "cond_stage_model.model.token_embedding.weight"
    with pytest.raises(
        ValueError, match=rf"`{key}` has length 51 where `embedder.model.token_embedding.weight` has 50"
    ):
        build_parts(random_shapes() | {key: (51, 16)}, RANDOM_FACTS)


def test_another_model_lacks_a_named_weight():
    shapes = {key: shape for key, shape in random_shapes().items() if not key.startswith("image_proj_model")}
    with pytest.raises(ValueError, match=r"lacks weights of ViewCrafter.*`image_proj_model.layers"):
        build_parts(shapes, RANDOM_FACTS)
    with pytest.raises(ValueError, match="lacks weights of ViewCrafter, for instance `"):
        build_parts({}, RANDOM_FACTS)


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="`image_head_channels`=80 .* 12"):
        build_parts(random_shapes(), ViewCrafterFacts(text_head_channels=8))
