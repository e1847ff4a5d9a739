"""Single-image inpainting: known pixels stay, holes are filled from the same frame, a diffusion model from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from guidedvd_ns.priors import SamplerOverrides, load_prior
from guidedvd_ns.priors.choice import is_inpainter
from guidedvd_ns.priors.inpainting import OpenCVInpainter, load_inpainter


def _stripes() -> tuple[torch.Tensor, torch.Tensor]:
    """Constant rows with a hole of eight columns in the middle, [32, 48, 3] and [32, 48, 1]."""
    image = torch.linspace(0.2, 0.8, 32)[:, None, None].expand(32, 48, 3).clone()
    known = torch.ones(32, 48, 1, dtype=torch.bool)
    known[:, 20:28] = False
    return image * known, known


@pytest.mark.parametrize("name", ["telea", "navier-stokes"])
def test_opencv_continues_what_stands_around_a_hole(name):
    image, known = _stripes()
    filled = load_inpainter(name, "cpu").inpaint(image, known, torch.Generator())
    assert torch.equal(filled[known.expand_as(filled)], image[known.expand_as(image)])
    rows = torch.linspace(0.2, 0.8, 32)[:, None, None]
    assert (filled - rows)[4:-4].abs().max() < 0.04


def test_sequences_are_filled_a_frame_at_a_time_after_the_photograph():
    image, known = _stripes()
    frames, masks = image.repeat(3, 1, 1, 1), known.repeat(3, 1, 1, 1)
    reference = torch.full((32, 48, 3), 0.5)
    sampler = load_inpainter("telea", "cpu").complete(frames, masks, reference, torch.Generator())
    assert [next(sampler), next(sampler)] == [1, 2]
    with pytest.raises(StopIteration) as end:
        next(sampler)
    result = end.value.value
    assert torch.equal(result[0], reference) and torch.equal(result[1], result[2])
    assert result[1][~known.expand_as(image)].min() > 0.1


def test_frames_have_the_size_and_number_of_the_bundled_prior():
    inpainter, bundled = load_inpainter("telea", "cpu"), load_prior("bundled", "cpu")
    ours, theirs = inpainter.settings, bundled.settings
    assert (ours.num_frames, ours.height, ours.width) == (theirs.num_frames, theirs.height, theirs.width)
    assert inpainter.size_multiple == bundled.size_multiple


def test_settings_that_mean_nothing_are_refused():
    inpainter = OpenCVInpainter("telea")
    inpainter.override(SamplerOverrides(num_frames=5))
    assert inpainter.settings.num_frames == 5
    with pytest.raises(ValueError, match="sampler.guidance-factor says nothing to single-image inpainting.*num-frames"):
        inpainter.override(SamplerOverrides(guidance_factor=0.1))


@pytest.mark.parametrize("name", ["telea:model", "sd-inpaint", "sd-inpaint:"])
def test_names_that_are_no_inpainter_are_explained(name):
    assert is_inpainter(name) and not is_inpainter("bundled") and not is_inpainter("/some/telea")
    with pytest.raises(ValueError, match="give telea, navier-stokes, or sd-inpaint:MODEL"):
        load_inpainter(name, "cpu")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no inpainting model '.*nowhere': give sd-inpaint:FOLDER"):
        load_inpainter(f"sd-inpaint:{tmp_path / 'nowhere'}", "cpu")


def _write_model(folder: Path) -> Path:
    """An untrained Stable Diffusion inpainting model, a few thousand weights large."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = folder.with_name("words")
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=8),
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=9,
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=2,
        ),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def test_a_diffusion_model_fills_holes_from_its_folder(tmp_path):
    inpainter = load_inpainter(f"sd-inpaint:{_write_model(tmp_path / 'model')}", "cpu")
    inpainter.override(SamplerOverrides(num_steps=2))
    image, known = _stripes()
    # sample_size 16 latents of stride 2: an area of 32 x 32 pixels at 32:48, in blocks of 4.
    assert inpainter._own_size(32, 48) == (28, 40)
    filled, again, other = (inpainter.inpaint(image, known, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert filled.shape == image.shape and 0 <= filled.min() and filled.max() <= 1
    assert torch.equal(filled[known.expand_as(filled)], image[known.expand_as(image)])
    hole = ~known.expand_as(filled)
    assert torch.equal(filled, again) and not torch.equal(filled[hole], other[hole])
