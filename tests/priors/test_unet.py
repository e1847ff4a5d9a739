"""The ViewCrafter UNet against recordings of the original one."""

import pytest
import torch
from diffusers.models.resnet import TemporalConvLayer
from torch import nn

from guidedvd_ns.priors.viewcrafter.blocks import TemporalConv
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet
from tests.priors.recordings import (
    at_collection,
    below,
    fixture_json,
    fixture_tensors,
    norms_of,
    original_unet,
    relative_error,
)

TINY = dict(model_channels=32, channel_mult=(1, 2), attention_resolutions=(2, 1), num_head_channels=16, context_dim=32)


@pytest.fixture(scope="module")
def unet() -> ViewCrafterUNet:
    return original_unet()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return fixture_tensors("unet.io")


def test_timesteps_are_embedded_as_the_original_embeds_them(unet, recorded):
    assert relative_error(unet.time_proj(recorded["temb/timesteps"]), recorded["temb/embedding"]) < 1e-5


@pytest.mark.parametrize("case", at_collection(lambda: list(fixture_json("unet")["cases"])))
def test_output_and_gradient_match_the_original(unet, recorded, case):
    io = below(recorded, case + "/")
    x = io["x"].clone().requires_grad_(True)
    out = unet(x, io["timesteps"], io["context"], io["fs"])
    assert relative_error(out, io["out"]) < 1e-5
    (grad,) = torch.autograd.grad((out * io["R"]).sum(), x)
    assert relative_error(grad, io["grad_x"]) < 2e-4
    with torch.no_grad():
        default_fs = unet(io["x"], io["timesteps"], io["context"])
    assert relative_error(default_fs, io["out_fs_none"]) < 1e-5


def test_every_block_matches_the_original(unet, recorded):
    modules: dict[str, nn.Module] = {
        "time_embed": unet.time_embedding,
        "fps_embedding": unet.fs_embedding,
        "input_blocks.0": unet.conv_in,
        "init_attn": unet.temporal_in,
        "middle_block": unet.mid_blocks[-1],
    }
    modules |= {f"input_blocks.{index + 1}": block for index, block in enumerate(unet.down_blocks)}
    modules |= {f"output_blocks.{index}": block for index, block in enumerate(unet.up_blocks)}
    activations = {}
    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: activations.update({name: output}))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        unet(*(recorded[f"split/{name}"] for name in ("x", "timesteps", "context", "fs")))
    for handle in handles:
        handle.remove()
    expected = {name.removeprefix("split/act/"): value for name, value in recorded.items() if "/act/" in name}
    assert activations.keys() == expected.keys()
    for name, value in expected.items():
        assert relative_error(activations[name], value) < 1e-5, name


def test_every_norm_is_the_original_one(unet):
    assert norms_of("unet", unet) == fixture_json("unet")["norms"]


def randomised(**config) -> ViewCrafterUNet:
    unet = ViewCrafterUNet(**config)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    return unet


def test_fresh_network_predicts_zero_and_trains():
    unet = ViewCrafterUNet(**TINY | dict(context_dim=None, in_channels=9))
    out = unet(torch.randn(1, 9, 2, 4, 4), torch.tensor([7]))
    assert torch.equal(out, torch.zeros(1, 4, 2, 4, 4))
    (out - 1).square().mean().backward()
    assert unet.conv_out.bias.grad.abs().min() > 0


def test_checkpointing_changes_no_gradient():
    unet = randomised(**TINY | dict(context_dim=None))
    x = torch.randn(1, 8, 2, 4, 4)
    grads = []
    for enable in (unet.disable_gradient_checkpointing, unet.enable_gradient_checkpointing):
        enable()
        leaf = x.clone().requires_grad_(True)
        grads.append(torch.autograd.grad(unet(leaf, torch.tensor([500])).square().sum(), leaf)[0])
    assert unet.is_gradient_checkpointing
    torch.testing.assert_close(grads[0], grads[1])


def test_videos_of_a_batch_do_not_mix():
    unet = randomised(**TINY)
    x, t, context = torch.randn(2, 8, 3, 4, 4), torch.tensor([3, 900]), torch.randn(2, 80, 32)
    with torch.no_grad():
        together = unet(x, t, context)
        alone = torch.cat([unet(x[i : i + 1], t[i : i + 1], context[i : i + 1]) for i in range(2)])
    assert relative_error(alone, together) < 1e-5


def test_saved_network_loads_again(tmp_path):
    unet = randomised(**TINY | dict(context_dim=None))
    unet.save_pretrained(tmp_path)
    loaded = ViewCrafterUNet.from_pretrained(tmp_path)
    x, t = torch.randn(1, 8, 2, 4, 4), torch.tensor([999])
    with torch.no_grad():
        assert torch.equal(loaded(x, t), unet(x, t))


def test_temporal_convolution_is_that_of_diffusers():
    ours, theirs = TemporalConv(32, 32), TemporalConvLayer(32, 32)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 32, 4, 5, requires_grad=True)
    results = [layer(x, num_frames=3) for layer in (ours, theirs)]
    grads = [torch.autograd.grad(result.square().sum(), x)[0] for result in results]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_bad_widths_and_contexts_are_named():
    with pytest.raises(ValueError, match="model_channels.*48"):
        ViewCrafterUNet(model_channels=48)
    with pytest.raises(ValueError, match="num_head_channels.*48"):
        ViewCrafterUNet(**TINY | dict(num_head_channels=48))
    unet = ViewCrafterUNet(**TINY)
    x, t = torch.randn(1, 8, 2, 4, 4), torch.tensor([1])
    with pytest.raises(ValueError, match="no context"):
        unet(x, t)
    with pytest.raises(ValueError, match="image tokens"):
        unet(x, t, torch.randn(1, 77, 32))
