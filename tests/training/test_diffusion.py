"""The second stage: its target, its draws, and a resume that gives the same weights as an uninterrupted run."""

import dataclasses

import torch
from stages import TINY, diffusion_stage
from test_loop import EndsAfter

from guidedvd_ns.training.diffusion import DiffusionStage
from guidedvd_ns.training.loop import Budget, Session, train_stage


def test_resumed_training_equals_an_uninterrupted_one(tmp_path):
    device = torch.device("cpu")
    train_stage(diffusion_stage(), Budget(steps=5), EndsAfter(tmp_path / "a", device))
    resumed, whole = diffusion_stage(), diffusion_stage()
    assert train_stage(resumed, Budget(steps=5), Session(tmp_path / "a", device))
    assert train_stage(whole, Budget(steps=5), Session(tmp_path / "b", device))
    for name, value in whole.unet.state_dict().items():
        assert torch.equal(value, resumed.unet.state_dict()[name]), name
    for name, value in whole.ema.average.items():
        assert torch.equal(value, resumed.ema.average[name]), name


def test_a_fresh_network_has_the_loss_of_predicting_nothing():
    stage = diffusion_stage(dataclasses.replace(TINY, residual=False))
    stage.train_step(0, 0.0)
    clips = stage._bank.draw(64, torch.Generator().manual_seed(0))
    _silence(stage)
    losses = stage._losses(stage._noised(clips))
    # E v^2 = abar + (1 - abar) E z^2, weighed by 1 + 2 * hole.
    variance = clips["target"].square().mean()
    assert min(1.0, variance) < losses["hole_error"] * 1.1 and losses["hole_error"] < max(1.0, variance) * 1.1
    assert losses["loss"] > losses["hole_error"]


def test_a_fresh_residual_network_errs_by_the_noise_alone_where_its_condition_is_right():
    stage = diffusion_stage()
    stage.train_step(0, 0.0)
    clips = stage._bank.draw(256, torch.Generator().manual_seed(0))
    _silence(stage)
    right = stage._losses(stage._noised({**clips, "condition": clips["target"]}))["hole_error"]
    # What is left of v is sqrt(abar) noise; time steps are 1000 sqrt(u) with this bias.
    expected = stage._alphas[(1000 * torch.rand(100_000) ** 0.5).long()].mean()
    assert abs(right - expected) < 0.1 * expected
    assert stage._losses(stage._noised({**clips, "condition": clips["target"] + 1}))["hole_error"] > right + 0.3


def _silence(stage: DiffusionStage) -> None:
    torch.nn.init.zeros_(stage.unet.conv_out.weight)
    torch.nn.init.zeros_(stage.unet.conv_out.bias)


def test_time_steps_cover_the_range_and_favour_noise():
    stage = diffusion_stage()
    drawn = torch.cat([stage._draw_timesteps(16) for _ in range(200)]).float()
    assert drawn.min() < 60 and drawn.max() > 980
    # The mean of u ** 0.5 is 1 / 1.5.
    assert abs(drawn.mean() / 1000 - 1 / 1.5) < 0.01


def test_preview_is_a_picture():
    picture = diffusion_stage().preview()
    assert picture.shape == (3, 48, 64)
    assert 0 <= picture.min() and picture.max() <= 1
