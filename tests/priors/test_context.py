"""Context tokens against recordings of the original encoders, and what becomes of the towers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from guidedvd_ns.priors.viewcrafter.context import (
    CONTEXT_COMPONENTS,
    PIXEL_MEAN,
    PIXEL_STD,
    TOKENIZED_PROMPTS,
    ContextEncoder,
    clip_pixels,
    encode_prompts,
)
from guidedvd_ns.priors.viewcrafter.keys import PREFIXES
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from tests.priors.recordings import (
    fixture_json,
    fixture_tensors,
    norms_of,
    original_context_encoder,
    original_image_encoder,
    original_text_encoder,
    relative_error,
)
from tests.priors.tiny import tiny_context_encoder, tiny_context_prior


def test_text_tokens_match_the_original():
    recorded = fixture_tensors("clip.io")
    tokens = encode_prompts(original_text_encoder(), recorded["text/ids"].tolist())
    assert relative_error(tokens, recorded["text/out"]) < 1e-5
    assert relative_error(tokens, recorded["text/out_if_last_layer_were_used"]) > 1e-2


def test_image_tokens_match_the_original():
    recorded = fixture_tensors("clip.io")
    tokens = original_image_encoder()(recorded["image/pixels_normalised"]).last_hidden_state
    assert relative_error(tokens, recorded["image/out"]) < 1e-5


def test_every_norm_is_the_original_one():
    description = fixture_json("clip")
    ours = {}
    for part, model in (("text_encoder", original_text_encoder()), ("image_encoder", original_image_encoder())):
        ours |= {PREFIXES[part] + name: norm for name, norm in norms_of(part, model).items()}
    last = description["model_config"]["text_cfg"]["layers"] - 1
    dropped = (f"{PREFIXES['text_encoder']}transformer.resblocks.{last}.", f"{PREFIXES['image_encoder']}ln_final")
    expected = {name: norm for name, norm in description["norms"].items() if not name.startswith(dropped)}
    assert ours == expected


def test_preprocessing_matches_the_original():
    recorded, description = fixture_tensors("clip_preprocess"), fixture_json("clip_preprocess")
    for case in description["cases"]:
        photograph = recorded[f"{case}/image_u8"].movedim(0, -1).float() / 255
        pixels = clip_pixels(photograph, description["target"])
        assert relative_error(pixels[0], recorded[f"{case}/out"]) < 1e-4, case


def test_contexts_of_the_recorded_run_match_the_original():
    recorded, encoder = fixture_tensors("guided_ddim"), original_context_encoder()
    photograph = (recorded["cond/clip_image"][0].movedim(0, -1) + 1) / 2
    tokens = encoder.image_encoder(clip_pixels(photograph, encoder.image_encoder.config.image_size)).last_hidden_state
    assert relative_error(tokens, recorded["cond/clip_tokens"]) < 1e-5
    grey = (recorded["cond/clip_image_uncond"][0].movedim(0, -1) + 1) / 2
    assert grey.unique().tolist() == [0.5]
    for _ in range(2):  # the second time with grey tokens from the first
        context, unconditional = encoder(photograph)
        assert relative_error(context, recorded["cond/context"]) < 1e-5
        assert relative_error(unconditional, recorded["cond/context_uncond"]) < 1e-5
    text_tokens = encoder.text_tokens.shape[1]
    assert relative_error(context[:, text_tokens:], recorded["cond/image_context"]) < 1e-5
    assert relative_error(unconditional[:, text_tokens:], recorded["cond/image_context_uncond"]) < 1e-5


def test_default_prompts_are_those_of_the_tokenizer():
    recorded = fixture_json("clip_tokens")
    assert [list(prompt) for prompt in TOKENIZED_PROMPTS] == [recorded["Rotating view of a scene"], recorded[""]]


def test_padding_is_token_0_and_changes_nothing_before_it():
    tower = tiny_context_encoder().text_encoder
    tokens = encode_prompts(tower, [(3, 1, 4), (3, 1, 4, 0, 0), (3, 1)])
    assert torch.equal(tokens[0], tokens[1])
    torch.testing.assert_close(tokens[2, :2], tokens[0, :2])
    assert not torch.allclose(tokens[2, 2], tokens[0, 2], atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 20), (5, 33)])
def test_a_plain_photograph_stays_plain(height, width):
    colour = torch.tensor([0.2, 0.5, 0.9])
    pixels = clip_pixels(colour.expand(height, width, 3), 16)
    assert pixels.shape == (1, 3, 16, 16)
    expected = (colour - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    torch.testing.assert_close(pixels, expected.reshape(1, 3, 1, 1).expand_as(pixels), rtol=1e-5, atol=1e-5)


def test_corners_stay_in_place_and_fine_stripes_average_to_grey():
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    small = torch.rand(6, 9, 3)
    pixels = clip_pixels(small, 16)[0]
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(pixels[:, row, column] * std + mean, small[row, column])
    stripes = torch.zeros(8, 64, 3)
    stripes[:, ::2] = 1
    grey = (0.5 - mean) / std
    torch.testing.assert_close(
        clip_pixels(stripes, 16), grey.reshape(1, 3, 1, 1).expand(1, 3, 16, 16), rtol=0, atol=0.03
    )


def test_a_photograph_makes_a_context_and_grey_is_encoded_once():
    encoder = tiny_context_encoder()
    calls = []
    encoder.image_encoder.register_forward_hook(lambda *_: calls.append(None))
    first, grey = encoder(torch.rand(8, 12, 3))
    second, same = encoder(torch.rand(16, 8, 3))
    assert len(calls) == 3
    assert first.shape == grey.shape == (1, 5 + 3, 8)
    assert torch.equal(grey, same)
    assert torch.equal(first[:, :5], second[:, :5]) and not torch.equal(first[:, 5:], second[:, 5:])
    torch.testing.assert_close(encoder(torch.full((8, 12, 3), 0.5))[0][:, 5:], grey[:, 5:])
    assert not first.requires_grad


@pytest.mark.parametrize("offload", [False, True])
def test_saved_encoder_loads_again_and_does_without_its_text_tower(tmp_path, offload):
    encoder, photograph = tiny_context_encoder(), torch.rand(8, 12, 3)
    encoder.save_pretrained(tmp_path / "a")
    prompts = encoder.tokenized_prompts
    loaded = ContextEncoder.from_pretrained(tmp_path / "a", tokenized_prompts=prompts, offload=offload)
    assert not isinstance(loaded.text_encoder, CLIPTextModel)
    for ours, expected in zip(loaded(photograph), encoder(photograph), strict=True):
        torch.testing.assert_close(ours, expected)
    loaded.save_pretrained(tmp_path / "b")
    for name in CONTEXT_COMPONENTS:
        first, second = (
            {
                key: value
                for path in (tmp_path / copy / name).glob("*.safetensors")
                for key, value in load_file(path).items()
            }
            for copy in ("a", "b")
        )
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    half = ContextEncoder.from_pretrained(tmp_path / "a", dtype=torch.bfloat16, tokenized_prompts=prompts)
    assert {context.dtype for context in half(photograph)} == {torch.bfloat16}
    torch.testing.assert_close(half(photograph)[0].float(), encoder(photograph)[0], rtol=0.1, atol=0.1)


def test_lacking_weights_are_named(tmp_path):
    encoder = tiny_context_encoder()
    encoder.save_pretrained(tmp_path)
    (file,) = (tmp_path / "image_projector").glob("*.safetensors")
    weights = load_file(file)
    del weights["proj_out.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="image_projector.*proj_out.bias"):
        ContextEncoder.from_pretrained(tmp_path, tokenized_prompts=encoder.tokenized_prompts)


def test_parts_and_prompts_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="at most 5 tokens below 6.*49406"):
        tiny_context_encoder(tokenized_prompts=TOKENIZED_PROMPTS)
    with pytest.raises(ValueError, match=r"at most 5 tokens.*\[1, 1, 1, 1, 1, 1\]"):
        tiny_context_encoder(tokenized_prompts=[[1] * 6, []])
    encoder = tiny_context_encoder()
    with pytest.raises(ValueError, match="image encoder's tokens have 12 channels.*1280"):
        with torch.device("meta"):
            projector = ImageProjector()
        ContextEncoder(encoder.text_encoder, encoder.image_encoder, projector)
    wide = ImageProjector(embed_dims=12, output_dims=16, hidden_dims=8, depth=1, dim_head=4, heads=2, num_queries=3)
    with pytest.raises(ValueError, match="text encoder's tokens have 8 channels.*16"):
        ContextEncoder(encoder.text_encoder, encoder.image_encoder, wide)


def test_saved_prior_with_context_loads_again(tmp_path):
    prior, folder = tiny_context_prior(), tmp_path / "prior"
    prior.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert all((folder / name).is_dir() for name in index if not name.startswith("_"))
    # A loaded prior has let go of its text tower, and can replace the very folder that it came from.
    ViewCrafterPrior.from_pretrained(folder).save_pretrained(folder)
    loaded = ViewCrafterPrior.from_pretrained(folder)
    frames = torch.rand(3, 16, 24, 3)
    results = []
    for one in (prior, loaded):
        conditioning = one.condition(frames, torch.ones(3, 16, 24, 1), frames[0], torch.Generator().manual_seed(0))
        x_t = one.initial_noise(torch.Generator().manual_seed(0), 16, 24, 3)
        results.append(one.predict(x_t, one.timesteps(3)[1], conditioning).x0)
    torch.testing.assert_close(*results)


def test_low_memory_keeps_the_encoders_off_the_gpu():
    prior = tiny_context_prior()
    assert not prior.context_encoder.offload
    prior.set_memory("low")
    assert prior.context_encoder.offload


def test_missing_parts_of_a_prior_with_context_are_named(tmp_path):
    tiny_context_prior().save_pretrained(tmp_path / "prior")
    for name in ("text_encoder", "image_projector"):
        shutil.rmtree(tmp_path / "prior" / name)
    with pytest.raises(FileNotFoundError, match="no text_encoder, image_projector"):
        ViewCrafterPrior.from_pretrained(tmp_path / "prior")


def test_a_prior_refuses_context_that_it_cannot_use_or_save(tmp_path):
    prior = tiny_context_prior()
    options = dict(known_mask_channel=False, sample_posterior=True)
    parts = (prior.unet, prior.vae, prior.scheduler, prior.settings)
    with pytest.raises(ValueError, match="needs a `context_encoder`"):
        ViewCrafterPrior(*parts, **options)
    prior.context_encoder.text_tokens = torch.zeros(2, 7, 8)
    with pytest.raises(ValueError, match=r"\(5, 8\).*\(7, 8\)"):
        ViewCrafterPrior(*parts, **options, context_encoder=prior.context_encoder)
    prior.context_encoder = lambda photograph: (photograph, photograph)
    with pytest.raises(ValueError, match="function cannot be saved"):
        prior.save_pretrained(tmp_path / "prior")


@pytest.mark.gpu
def test_offloaded_towers_leave_the_gpu_and_give_the_same_context():
    photograph = torch.rand(8, 12, 3, device="cuda")
    encoder = tiny_context_encoder()
    expected = encoder(photograph)
    assert encoder.image_encoder.device.type == "cuda"
    encoder.offload = True
    for ours, context in zip(encoder(photograph), expected, strict=True):
        assert ours.device.type == "cuda"
        torch.testing.assert_close(ours, context)
    assert encoder.image_encoder.device.type == encoder.image_projector.device.type == "cpu"
