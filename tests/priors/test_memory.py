"""What the memory settings keep for the backward pass, and that they change no number."""

import pytest
import torch
from torch import Tensor

from guidedvd_ns.grounding import SceneGrounding
from guidedvd_ns.guidance import guidance_gradient
from guidedvd_ns.priors.base import Memory
from guidedvd_ns.priors.viewcrafter.blocks import TransformerBlock
from guidedvd_ns.priors.viewcrafter.fused import use_channels_last
from guidedvd_ns.scripts.benchmarks.random_model import random_prior, random_scene


def guided(
    memory: Memory, recompute_above: float | None = None, *, channels_last: bool = False
) -> tuple[Tensor, Tensor, int, list[int]]:
    """Clean estimate, gradient of the noisy latent, numbers kept by the networks, videos in each pass."""
    prior = random_prior("tiny", torch.device("cpu"), torch.float64, seed=0)
    target, known, conditioning = random_scene(prior, seed=1)
    prior.set_memory(memory)
    for network in (prior.unet, prior.vae) if channels_last else ():
        use_channels_last(network)
    for module in prior.unet.modules():
        if isinstance(module, TransformerBlock) and recompute_above is not None:
            module.recompute_above = recompute_above
    passes: list[int] = []
    prior.unet.register_forward_hook(lambda _module, inputs, _output: passes.append(inputs[0].shape[0]))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    settings, generator = prior.settings, torch.Generator().manual_seed(2)
    x_t = prior.initial_noise(generator, settings.height, settings.width, settings.num_frames)
    grounding = SceneGrounding(target, known, "l2", frames_per_slice=prior.frames_per_slice)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction, slope = guidance_gradient(prior, conditioning, x_t.double(), prior.timesteps(4)[1], grounding)
    return prediction.x0, slope.gradient, sum(kept.values()), passes


@pytest.fixture(scope="module")
def expected() -> tuple[Tensor, Tensor, int, list[int]]:
    """Both branches of classifier-free guidance in one pass; the video is small, so nothing is recomputed."""
    return guided("default")


@pytest.mark.parametrize(("memory", "recompute_above", "passes"), [("default", 0, [2]), ("low", None, [1, 1])])
def test_a_setting_keeps_less_and_changes_no_gradient(expected, memory, recompute_above, passes):
    x0, gradient, kept, taken = guided(memory, recompute_above)
    assert taken == passes
    torch.testing.assert_close(x0, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-4 * expected[1].abs().max().item())
    assert kept < expected[2]


def test_the_layout_changes_no_gradient(expected):
    x0, gradient, *_ = guided("default", channels_last=True)
    torch.testing.assert_close(x0, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-4 * expected[1].abs().max().item())


def test_small_videos_are_not_recomputed(expected):
    assert guided("default", float("inf"))[2] == expected[2]


def test_frames_are_decoded_one_by_one_in_the_low_setting():
    prior = random_prior("tiny", torch.device("cpu"), torch.float32, seed=0)
    assert prior.frames_per_slice > 1
    prior.set_memory("low")
    assert prior.frames_per_slice == 1 and prior.memory == "low"
    prior.set_memory("default")
    assert prior.frames_per_slice > 1
    assert not any(getattr(module, "gradient_checkpointing", False) for module in prior.unet.modules())
