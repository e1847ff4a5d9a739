"""The lean layers against PyTorch's and diffusers' own: values, gradients, and what they keep."""

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from guidedvd_ns.priors.viewcrafter import fused
from guidedvd_ns.priors.viewcrafter.decoder import decode

INTERPRETED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
from tests.priors.test_fused import check_kernels
check_kernels("cpu")
"""


def gradients(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output)
    return torch.autograd.grad(output, inputs, direction)


def frozen(module: nn.Module) -> Any:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval().requires_grad_(False)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_group_norm_is_pytorch_s_over_the_frames_of_a_set(silu, frames):
    norm = frozen(nn.GroupNorm(4, 8, eps=1e-3))
    x = torch.randn(6, 8, 2, 5, dtype=torch.double, requires_grad=True)
    video = x.reshape(-1, frames, 8, 2, 5).transpose(1, 2)
    expected = norm(video).transpose(1, 2).reshape(x.shape)
    expected = F.silu(expected) if silu else expected
    ours = fused.group_norm(norm, x, silu=silu, frames_per_set=frames)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, x), gradients(expected, x))


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, (1, 0))])
def test_a_frozen_convolution_keeps_only_its_weight(stride, padding):
    weight, bias = torch.randn(6, 4, 3, 3, dtype=torch.double), torch.randn(6, dtype=torch.double)
    x = torch.randn(2, 4, 6, 7, dtype=torch.double, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ours = fused.conv2d(x, weight, bias, stride=stride, padding=padding)
    assert [tensor.data_ptr() for tensor in kept] == [weight.data_ptr()]
    expected = F.conv2d(x, weight, bias, stride, padding)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, x), gradients(expected, x))


def test_a_trained_convolution_gets_its_gradient():
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    fused.conv2d(torch.randn(2, 4, 6, 7, requires_grad=True), weight, None).sum().backward()
    assert weight.grad is not None and weight.grad.abs().min() > 0


def test_geglu_is_values_times_the_gelu_of_the_gates():
    x = torch.randn(3, 5, 14, dtype=torch.double, requires_grad=True)
    expected = x[..., :7] * F.gelu(x[..., 7:])
    torch.testing.assert_close(fused.geglu(x), expected)
    torch.testing.assert_close(gradients(fused.geglu(x), x), gradients(expected, x))


@pytest.mark.parametrize("out_channels", [32, 64])
def test_residual_blocks_are_those_of_diffusers(out_channels):
    block = frozen(ResnetBlock2D(in_channels=32, out_channels=out_channels, temb_channels=16))
    x, embedding = (torch.randn(shape, dtype=torch.double) for shape in ((3, 32, 4, 5), (3, 16)))
    x.requires_grad_(True)
    ours, theirs = fused.residual_block(block, x, F.silu(embedding)), block(x, embedding)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def test_decoding_is_that_of_diffusers():
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    frozen(vae)
    latents = torch.randn(2, 4, 3, 5, dtype=torch.double, requires_grad=True)
    ours, theirs = decode(vae, latents), vae.decode(latents).sample
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, latents), gradients(theirs, latents))


def channels_last(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.double).contiguous(memory_format=torch.channels_last).requires_grad_(True)


def all_channels_last(*tensors: Tensor) -> bool:
    return all(fused.is_channels_last(tensor) for tensor in tensors)


def test_norms_keep_the_layout():
    norm, x = frozen(nn.GroupNorm(4, 8)), channels_last((6, 8, 2, 5))
    ours = fused.group_norm(norm, x, silu=True, frames_per_set=3)
    expected = fused.group_norm(norm, x.contiguous(), silu=True, frames_per_set=3)
    assert all_channels_last(ours) and not all_channels_last(expected)
    torch.testing.assert_close(ours, expected)


def test_a_channels_last_pointwise_convolution_keeps_the_layout_of_its_gradient():
    conv, x = frozen(nn.Conv2d(4, 6, 1)), channels_last((2, 4, 3, 5))
    ours, expected = fused.layer(conv, x), conv(x)
    torch.testing.assert_close(ours, expected)
    (gradient,) = gradients(ours, x)
    torch.testing.assert_close(gradient, gradients(expected, x)[0])
    assert all_channels_last(ours, gradient)


def test_joined_channels_keep_the_layout_of_their_gradients():
    x, y = channels_last((2, 4, 3, 5)), channels_last((2, 6, 3, 5))
    ours, expected = fused.concatenate(x, y), torch.cat([x, y], dim=1)
    torch.testing.assert_close(ours, expected)
    parts = gradients(ours, x, y)
    torch.testing.assert_close(parts, gradients(expected, x, y))
    assert all_channels_last(ours, *parts)


def test_upsampling_as_a_transposed_convolution_is_that_of_diffusers():
    block, x = frozen(Upsample2D(4, use_conv=True, out_channels=6)), channels_last((2, 4, 3, 5))
    ours, theirs = fused.upsample(block, x), block(x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, x), gradients(theirs, x))


def test_projections_of_one_input_sum_its_gradient():
    layers = [frozen(nn.Linear(4, 6, bias=False)) for _ in range(3)]
    x = torch.randn(2, 5, 4, dtype=torch.double, requires_grad=True)
    ours, expected = (torch.cat(outputs, -1) for outputs in (fused.project(x, *layers), [f(x) for f in layers]))
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, x), gradients(expected, x))
    trained = nn.Linear(4, 6, bias=False).double()
    fused.project(x, *layers, trained)[-1].sum().backward()
    assert trained.weight.grad is not None


def test_one_embedding_for_all_frames_is_that_of_each():
    block = frozen(ResnetBlock2D(in_channels=32, temb_channels=16))
    x, embedding = torch.randn(3, 32, 4, 5, dtype=torch.double), torch.randn(1, 16, dtype=torch.double)
    expected = fused.residual_block(block, x, embedding.expand(3, -1))
    torch.testing.assert_close(fused.residual_block(block, x, embedding), expected)


def test_channels_last_weights_change_no_result():
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(2), nn.Unflatten(2, (1, 3, 5)))
    network.append(nn.Conv3d(8, 8, (1, 3, 1), padding=(0, 1, 0)))
    x = torch.randn(2, 4, 3, 5)
    expected = network(x)
    fused.use_channels_last(network)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[3].weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(network(x), expected)


def check_kernels(device: str) -> None:
    """Values and gradients of the Triton kernels against PyTorch in double precision."""
    from guidedvd_ns.priors.viewcrafter import kernels, pointwise

    def close(ours: Tensor, expected: Tensor) -> None:
        difference = (ours.double() - expected).norm() / expected.norm()
        assert difference < 2e-6, difference

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    for sets, rows, channels, groups, silu in ((2, 70, 96, 32, True), (3, 5, 32, 32, False), (1, 1, 64, 16, True)):
        x, weight, bias = 2 * random(sets, rows, channels) + 1, random(channels), random(channels)
        doubles = [tensor.double().requires_grad_(True) for tensor in (x, weight, bias)]
        expected = F.group_norm(doubles[0].transpose(1, 2), groups, doubles[1], doubles[2], 1e-5).transpose(1, 2)
        expected = F.silu(expected) if silu else expected
        grad = random(sets, rows, channels)
        theirs = torch.autograd.grad(expected, doubles, grad.double())
        offset = random(channels)
        for inputs, added in ((x, None), (x - offset, offset)):
            out, statistics = kernels.group_norm_forward(inputs, weight, bias, groups, 1e-5, silu, added)
            close(out, expected.detach())
            ours = kernels.group_norm_backward(grad, inputs, statistics, silu, added)
            for one, other in zip((ours[0], ours[1].sum(0), ours[2].sum(0)), theirs, strict=True):
                close(one, other)
        close(pointwise.add(x, grad, offset), x.double() + grad.double() + offset.double())

    x, grad = random(3, 5, 34), random(3, 5, 17)
    double = x.double().requires_grad_(True)
    expected = double[..., :17] * F.gelu(double[..., 17:])
    close(pointwise.geglu_forward(x), expected.detach())
    close(pointwise.geglu_backward(grad, x), torch.autograd.grad(expected, double, grad.double())[0])


def test_kernels_compute_the_same_in_triton_s_interpreter():
    pytest.importorskip("triton")
    # The interpreter is chosen when the kernels are defined, so they need a process of their own.
    ran = subprocess.run([sys.executable, "-c", INTERPRETED], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.gpu
def test_kernels_compute_the_same_on_a_gpu():
    check_kernels("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layers_on_a_gpu_are_those_on_a_cpu(layout):
    norm, block = (
        frozen(nn.GroupNorm(32, 64)).float(),
        frozen(ResnetBlock2D(in_channels=64, out_channels=96, temb_channels=16)).float(),
    )
    resize = frozen(Upsample2D(96, use_conv=True)).float()
    narrow = frozen(nn.Conv2d(96, 64, 1)).float()
    x, embedding = torch.randn(6, 64, 4, 5), torch.randn(1, 16)
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).contiguous(memory_format=layout).requires_grad_(True)
        hidden = fused.residual_block(block.to(device), leaf, embedding.to(device))
        hidden = fused.layer(narrow.to(device), fused.upsample(resize.to(device), hidden))
        out = fused.group_norm(norm.to(device), hidden, silu=True, frames_per_set=3)
        results.append([tensor.cpu() for tensor in (out, *gradients(out, leaf))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * theirs.abs().max().item())
