"""Sampler settings refuse values that no sampler can use."""

import dataclasses

import pytest
import torch

from guidedvd_ns.priors.base import SamplerOverrides, SamplerSettings, rms

GOOD = dict(num_frames=8, height=96, width=128, num_steps=20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 0),
        ("height", -96),
        ("num_steps", 0),
        ("eta", 1.5),
        ("guidance_rescale", -0.1),
        ("cfg_scale", -1.0),
        ("guidance_factor", -0.2),
        ("reconstruction", "huber"),
        ("guidance_step", "growing"),
    ],
)
def test_bad_settings_are_named_with_their_value(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*{value}"):
        SamplerSettings(**GOOD | {name: value})


def test_defaults_are_the_paper_s():
    settings = SamplerSettings(**GOOD)
    assert (settings.eta, settings.guidance_factor, settings.reconstruction) == (1.0, 0.2, "l1")
    assert settings.guidance_step == "constant"


def test_overrides_replace_what_they_set_and_nothing_else():
    settings = SamplerSettings(**GOOD, cfg_scale=7.5)
    assert SamplerOverrides().apply(settings) == settings
    changed = SamplerOverrides(num_steps=50, eta=0.0, reconstruction="l2").apply(settings)
    assert changed == SamplerSettings(**GOOD | {"num_steps": 50}, eta=0.0, cfg_scale=7.5, reconstruction="l2")
    with pytest.raises(ValueError, match="`eta`.*2"):
        SamplerOverrides(eta=2.0).apply(settings)


def test_overrides_know_every_setting_but_the_size():
    names = {field.name for field in dataclasses.fields(SamplerSettings)}
    assert {field.name for field in dataclasses.fields(SamplerOverrides)} == names - {"height", "width"}


def test_rms_is_taken_in_float32():
    assert rms(torch.tensor([3.0, 4.0])).item() == pytest.approx((25 / 2) ** 0.5)
    assert rms(torch.full((4,), 300.0, dtype=torch.float16)).item() == 300.0
