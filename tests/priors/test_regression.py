"""Tiny priors still compute what they computed when `python -m tests.priors.test_regression` wrote their outputs down.

Weights and inputs come from the raw stream of a bit generator, which is the same on every machine and in every version
of torch and NumPy. Run the module again only after a change that is meant to change the numbers.
"""

import os
import re
import zlib
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from guidedvd_ns.grounding import SceneGrounding
from guidedvd_ns.guidance import denoise
from guidedvd_ns.priors.viewcrafter.context import CONTEXT_COMPONENTS, ContextEncoder
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from tests.priors.recordings import relative_error
from tests.priors.tiny import tiny_context_prior, tiny_prior

RECORDINGS = Path(__file__).parent / "regression"
PRIORS = {"bundled_like": tiny_prior, "viewcrafter_like": tiny_context_prior}
FRAMES, HEIGHT, WIDTH = 3, 16, 24


def uniform(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers in [0, 1) that only the name determines."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).float().reshape(shape)


def noise(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Zero mean and unit variance."""
    return (uniform(name, shape) - 0.5) * 12**0.5


def named_prior(kind: str) -> ViewCrafterPrior:
    """With weights and noise that only their names determine, and without noise in the condition."""
    prior = PRIORS[kind]()
    fill("unet", prior.unet)
    fill("vae", prior.vae)
    if prior.context_encoder is not None:
        earlier = prior.context_encoder
        parts = [getattr(earlier, part) for part in CONTEXT_COMPONENTS]
        for name, part in zip(CONTEXT_COMPONENTS, parts, strict=True):
            fill(name, part)
        prior.context_encoder = ContextEncoder(*parts, tokenized_prompts=earlier.tokenized_prompts)
    draws = count()
    prior._noise = lambda shape, _generator: noise(f"draw {next(draws)}", tuple(shape))
    prior.sample_posterior = False
    return prior


def fill(part: str, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        # Depending on its version, transformers prefixes the names of its towers.
        stem = re.sub(r"^(text|vision)_model\.", "", name)
        value = noise(f"{part}.{stem}", tuple(parameter.shape))
        if parameter.dim() > 1:
            value /= parameter[0].numel() ** 0.5
        else:
            value = 0.1 * value + name.endswith("weight")  # of a norm
        parameter.data = value


def outputs(kind: str) -> dict[str, torch.Tensor]:
    """What is written down: conditioning, a prediction with its gradient, and a short guided run."""
    prior = named_prior(kind)
    frames = uniform("frames", (FRAMES, HEIGHT, WIDTH, 3))
    known = uniform("known", (FRAMES, HEIGHT, WIDTH, 1)) > 0.3
    conditioning = prior.condition(frames, known, uniform("photograph", (HEIGHT, WIDTH, 3)), None)
    found = {name: value for name, value in vars(conditioning).items() if value is not None}

    x_t = prior.initial_noise(None, HEIGHT, WIDTH, FRAMES)
    t = prior.timesteps(3)[1]
    leaf = x_t.clone().requires_grad_(True)
    prediction = prior.predict(leaf, t, conditioning)
    (gradient,) = torch.autograd.grad((prediction.x0 * noise("weights", x_t.shape)).sum(), leaf)
    found |= {"x0": prediction.x0, "direction": prediction.direction, "gradient": gradient}
    found["guidance_length"] = prediction.guidance_length

    sampling = denoise(
        prior,
        conditioning,
        x_t,
        grounding=SceneGrounding(frames, known, "l2"),
        generator=None,
        num_steps=3,
        guidance_factor=0.2,
        repeats=2,
    )
    try:
        while True:
            next(sampling)
    except StopIteration as stop:
        found["latents"] = stop.value
    found["video"] = prior.decode(found["latents"], slice(0, FRAMES))
    return {name: value.detach().contiguous() for name, value in found.items()}


@pytest.mark.parametrize("kind", PRIORS)
def test_outputs_are_those_that_were_written_down(kind):
    expected, found = load_file(RECORDINGS / f"{kind}.safetensors"), outputs(kind)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert relative_error(value, expected[name]) < (1e-3 if name in ("latents", "video") else 1e-4), name


def test_names_determine_the_same_numbers_everywhere():
    expected = torch.tensor([0.9792762398719788, 0.6124028563499451, 0.5897772908210754])
    torch.testing.assert_close(uniform("photograph", (3,)), expected)


def write_recordings() -> None:
    RECORDINGS.mkdir(exist_ok=True)
    for kind in PRIORS:
        fresh = RECORDINGS / f"{kind}.safetensors.tmp"
        save_file(outputs(kind), fresh)
        os.replace(fresh, RECORDINGS / f"{kind}.safetensors")


if __name__ == "__main__":
    write_recordings()
