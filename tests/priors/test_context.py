"""Context tokens against recordings of the original encoders, and what becomes of the towers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

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

PROMPTS = ((3, 1, 4), (3,))


def tiny_encoder(**options) -> ContextEncoder:
    torch.manual_seed(0)
    shared = dict(intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, hidden_act="gelu")
    text = CLIPTextConfig(vocab_size=6, hidden_size=8, max_position_embeddings=5, eos_token_id=0, **shared)
    image = CLIPVisionConfig(hidden_size=12, image_size=8, patch_size=4, **shared)
    projector = ImageProjector(
        embed_dims=12, output_dims=8, hidden_dims=8, depth=1, dim_head=4, heads=2, num_queries=3, ffn_ratio=2
    )
    options = dict(tokenized_prompts=PROMPTS) | options
    return ContextEncoder(CLIPTextModel(text), CLIPVisionModel(image), projector, **options)


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
    tower = tiny_encoder().text_encoder
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
    encoder = tiny_encoder()
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
    encoder, photograph = tiny_encoder(), torch.rand(8, 12, 3)
    encoder.save_pretrained(tmp_path / "a")
    loaded = ContextEncoder.from_pretrained(tmp_path / "a", tokenized_prompts=PROMPTS, offload=offload)
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
    half = ContextEncoder.from_pretrained(tmp_path / "a", dtype=torch.bfloat16, tokenized_prompts=PROMPTS)
    assert {context.dtype for context in half(photograph)} == {torch.bfloat16}
    torch.testing.assert_close(half(photograph)[0].float(), encoder(photograph)[0], rtol=0.1, atol=0.1)


def test_lacking_weights_are_named(tmp_path):
    tiny_encoder().save_pretrained(tmp_path)
    (file,) = (tmp_path / "image_projector").glob("*.safetensors")
    weights = load_file(file)
    del weights["proj_out.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="image_projector.*proj_out.bias"):
        ContextEncoder.from_pretrained(tmp_path, tokenized_prompts=PROMPTS)


def test_parts_and_prompts_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match="at most 5 tokens below 6.*49406"):
        tiny_encoder(tokenized_prompts=TOKENIZED_PROMPTS)
    with pytest.raises(ValueError, match=r"at most 5 tokens.*\[1, 1, 1, 1, 1, 1\]"):
        tiny_encoder(tokenized_prompts=[[1] * 6, []])
    encoder = tiny_encoder()
    with pytest.raises(ValueError, match="image encoder's tokens have 12 channels.*1280"):
        with torch.device("meta"):
            projector = ImageProjector()
        ContextEncoder(encoder.text_encoder, encoder.image_encoder, projector)
    wide = ImageProjector(embed_dims=12, output_dims=16, hidden_dims=8, depth=1, dim_head=4, heads=2, num_queries=3)
    with pytest.raises(ValueError, match="text encoder's tokens have 8 channels.*16"):
        ContextEncoder(encoder.text_encoder, encoder.image_encoder, wide)


@pytest.mark.gpu
def test_offloaded_towers_leave_the_gpu_and_give_the_same_context():
    photograph = torch.rand(8, 12, 3, device="cuda")
    encoder = tiny_encoder()
    expected = encoder(photograph)
    assert encoder.image_encoder.device.type == "cuda"
    encoder.offload = True
    for ours, context in zip(encoder(photograph), expected, strict=True):
        assert ours.device.type == "cuda"
        torch.testing.assert_close(ours, context)
    assert encoder.image_encoder.device.type == encoder.image_projector.device.type == "cpu"
