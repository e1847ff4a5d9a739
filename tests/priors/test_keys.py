"""Every weight of a part comes from one place of the checkpoint, and what was stacked or squeezed is taken apart."""

import torch

from guidedvd_ns.priors.viewcrafter.keys import Origin, origins
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet


def keys(part: str, *names: str) -> list[str]:
    return [origin.key for origin in origins(part, names).values()]


def test_upsampling_stands_behind_the_transformers_where_there_are_some():
    plain, attending = "up_blocks.2.upsample.conv.weight", "up_blocks.5.upsample.conv.weight"
    assert keys("unet", plain, attending, "up_blocks.5.spatial.proj_out.weight")[:2] == [
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.3.conv.weight",
    ]


def test_the_decoder_counts_its_levels_from_full_resolution():
    names = [f"decoder.up_blocks.{level}.resnets.0.norm1.bias" for level in range(3)]
    assert keys("vae", *names) == [f"decoder.up.{level}.block.0.norm1.bias" for level in (2, 1, 0)]


def test_names_of_the_clip_towers_may_have_their_model_s_prefix():
    names = ["text_model.final_layer_norm.weight", "final_layer_norm.weight"]
    assert keys("text_encoder", *names) == ["ln_final.weight"] * 2
    names = ["vision_model.embeddings.class_embedding", "embeddings.class_embedding"]
    assert keys("image_encoder", *names) == ["visual.class_embedding"] * 2


def test_stacked_projections_are_cut_in_order():
    stacked = torch.arange(6.0)
    names = [f"encoder.layers.0.self_attn.{kind}_proj.bias" for kind in "kqv"]
    assert keys("text_encoder", *names) == ["transformer.resblocks.0.attn.in_proj_bias"] * 3
    pieces = [origin.take(stacked).tolist() for origin in origins("text_encoder", names).values()]
    assert pieces == [[2, 3], [0, 1], [4, 5]]
    stacked = torch.arange(8.0).reshape(4, 2)
    names = ["layers.1.attn.to_v.weight", "layers.1.attn.to_k.weight"]
    assert keys("image_projector", *names) == ["layers.1.0.to_kv.weight"] * 2
    pieces = [origin.take(stacked).tolist() for origin in origins("image_projector", names).values()]
    assert pieces == [[[4, 5], [6, 7]], [[0, 1], [2, 3]]]


def test_original_shapes_are_those_that_are_taken_from():
    for origin in (Origin("a"), Origin("a", piece=1, pieces=3), Origin("a", kernel_axes=2)):
        original = torch.empty(origin.original_shape(torch.Size([4, 5])))
        assert origin.take(original).shape == (4, 5)
    assert Origin("logit_scale").original_shape(torch.Size([])) == ()


def test_every_weight_of_the_unet_has_its_own_origin():
    with torch.device("meta"):
        names = ViewCrafterUNet().state_dict()
    found = set(keys("unet", *names))
    assert len(found) == len(names)
    assert not any("blocks.0.res" in key or "spatial" in key or "temporal." in key for key in found)
