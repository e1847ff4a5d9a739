"""A complete checkpoint passes, and each unknown, missing or wrongly shaped key is named."""

import random

import pytest
import torch

from guidedvd_ns.priors.viewcrafter.keys import PREFIXES, origins
from guidedvd_ns.priors.viewcrafter.layout import check_layout, expected_shapes, foreign_buffers, schedule_buffers
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.sizes import ViewCrafterFacts, build_parts
from tests.priors.checkpoints import (
    RANDOM_FACTS,
    published_shapes,
    random_checkpoint,
    random_parts,
    recorded_checkpoint,
    recorded_facts,
)
from tests.priors.recordings import original_scheduler


def random_shapes() -> dict[str, tuple[int, ...]]:
    return {key: tuple(weight.shape) for key, weight in random_checkpoint().items()}


def check(shapes, facts=RANDOM_FACTS, scheduler=None) -> None:
    check_layout(shapes, build_parts(shapes, facts), scheduler or ViewCrafterScheduler())


def test_every_published_key_has_its_place():
    shapes, parts = published_shapes(), build_parts(published_shapes(), ViewCrafterFacts())
    expected = expected_shapes(parts, ViewCrafterScheduler())
    assert {key: list(shape) for key, shape in expected.items()} == shapes
    sources = [
        (PREFIXES[part] + origin.key, origin.piece)
        for part, module in parts.items()
        for origin in origins(part, module.state_dict()).values()
    ]
    assert len(set(sources)) == len(sources)
    used = {key for key, _ in sources}
    last = "cond_stage_model.model.transformer.resblocks.23."
    left_out = {key for key in set(shapes) - used if not key.startswith(last)}
    assert left_out == {
        *schedule_buffers(ViewCrafterScheduler()),
        "cond_stage_model.model.text_projection",
        "cond_stage_model.model.logit_scale",
        "embedder.model.token_embedding.weight",
        "embedder.model.positional_embedding",
        "embedder.model.text_projection",
        "embedder.model.ln_final.weight",
        "embedder.model.ln_final.bias",
        "embedder.model.logit_scale",
        "embedder.model.visual.proj",
    }


def test_recorded_model_is_complete():
    shapes = {key: weight.shape for key, weight in recorded_checkpoint().items()}
    check(shapes, recorded_facts(), original_scheduler())


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.99.0.in_layers.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.alpha",
        "model.diffusion_model.input_blocks.1.1.norm.weight",
        "cond_stage_model.model.transformer.resblocks.3.ln_1.weight",
        "first_stage_model.encoder.down.2.block.0.norm1.weight",
        "image_proj_model.layers.3.0.norm1.weight",
        "model_ema.decay",
    ],
)
def test_unknown_keys_are_named(key):
    with pytest.raises(ValueError, match=rf"1 unknown \(`{key}`\)\.$"):
        check(random_shapes() | {key: (16,)})


@pytest.mark.parametrize("seed", range(8))
def test_any_missing_or_misshapen_key_is_named(seed):
    shapes, generator = random_shapes(), random.Random(seed)
    key = generator.choice(list(shapes))
    with pytest.raises(ValueError, match="1 missing|lacks") as caught:
        check({other: shape for other, shape in shapes.items() if other != key})
    assert f"`{key}`" in str(caught.value)
    for wrong in ((*shapes[key], 1), (*shapes[key][:-1], 999)):
        with pytest.raises(ValueError, match="wrongly shaped|contradict") as caught:
            check(shapes | {key: wrong})
        assert f"`{key}`" in str(caught.value)


def test_a_few_of_many_are_named_and_all_counted():
    shapes = random_shapes()
    gone = [key for key in shapes if key.startswith("image_proj_model.layers.1.")]
    with pytest.raises(ValueError, match=rf"{len(gone)} missing \((`image_proj_model\.layers\.1\S+ ){{4}}\.\.\.\)\.$"):
        check({key: shape for key, shape in shapes.items() if key not in gone})


def test_buffers_are_the_recorded_ones():
    recorded, ours = recorded_checkpoint(), schedule_buffers(original_scheduler())
    assert foreign_buffers(recorded, original_scheduler()) == []
    for name, values in ours.items():
        tolerance = 1e-4 * recorded[name].abs() if "log" in name else torch.tensor(3e-5)
        assert ((recorded[name] - values).abs() <= tolerance).all(), name


def test_another_schedule_is_noticed():
    ours = {name: values.float() for name, values in schedule_buffers(ViewCrafterScheduler()).items()}
    assert foreign_buffers(ours, ViewCrafterScheduler()) == []
    assert foreign_buffers(ours, ViewCrafterScheduler(base_scale=0.7)) == ["scale_arr"]
    assert "betas" in foreign_buffers(ours, ViewCrafterScheduler(rescale_betas_zero_snr=False))
    off = ours["posterior_mean_coef2"].clone()
    off[500] *= 1.01
    assert foreign_buffers(ours | {"posterior_mean_coef2": off}, ViewCrafterScheduler()) == ["posterior_mean_coef2"]


def test_random_checkpoint_is_that_of_the_random_model():
    assert len(random_shapes()) == len(expected_shapes(random_parts(), ViewCrafterScheduler()))
