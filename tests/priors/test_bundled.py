"""The bundled prior: small enough to ship, and a sampler that completes clips no worse than its filled condition."""

from __future__ import annotations

import torch

from guidedvd_ns.guidance import sample_guided
from guidedvd_ns.priors import load_prior
from guidedvd_ns.priors.choice import BUNDLED
from guidedvd_ns.pull_push import fill_holes


def test_weights_are_half_precision_safetensors_of_at_most_24_megabytes():
    weights = list(BUNDLED.rglob("*.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) <= 24e6
    assert not list(BUNDLED.rglob("*.bin"))


def test_settings_come_from_the_priors_folder():
    settings = load_prior("bundled", device="cpu").settings
    assert (settings.num_frames, settings.height, settings.width) == (16, 96, 128)
    assert settings.cfg_scale == 1.0 and settings.guidance_factor > 0 and settings.num_steps == 1


def test_known_pixels_are_kept_and_holes_are_not_left_black():
    prior = load_prior("bundled", device="cpu")
    ramp = torch.linspace(0.2, 0.8, 64)[None, None, :, None].expand(4, 48, 64, 3)
    stripes = 0.1 * torch.sin(torch.arange(48) / 3)[None, :, None, None]
    truth = (ramp + stripes).clamp(0, 1)
    known = torch.ones(4, 48, 64, 1, dtype=torch.bool)
    known[1:, :, 40:] = False
    sampling = sample_guided(prior, truth, known, truth[0], torch.Generator().manual_seed(0), height=48, width=64)
    try:
        while True:
            next(sampling)
    except StopIteration as end:
        frames = end.value
    assert (frames - truth).abs()[known.expand_as(truth)].mean() < 0.06
    hole = ~known.expand_as(truth)
    filled = fill_holes(truth, known.float())
    assert (frames - truth).abs()[hole].mean() < 1.5 * (filled - truth).abs()[hole].mean() + 0.02
