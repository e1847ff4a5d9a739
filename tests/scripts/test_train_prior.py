"""`gvd-train-prior` end to end at a tiny size: train, stop, resume, export, load, sample."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guidedvd_ns.data.room_clips import RoomClips
from guidedvd_ns.priors import load_prior
from guidedvd_ns.scripts.train_prior import TrainPriorConfig, main, train_prior
from guidedvd_ns.training.config_file import read_config

TINY = """
workers: 0
device: cpu
steps_vae: 3
steps_diffusion: 3
clips: {num_frames: 3, height: 16, width: 32, rooms_per_batch: 1, clips_per_room: 1, views_per_room: 2,
        candidates_per_view: 2, supersample: 1, min_hole_fraction: 0.0, max_hole_fraction: 1.0}
vae: {block_out_channels: [8, 8, 16], norm_groups: 8, latent_channels: 4, batch_size: 4, perceptual_weight: 0.0,
      bank_clips: 4, start_clips: 2}
diffusion: {model_channels: 32, channel_mult: [1, 1], attention_resolutions: [2], num_head_channels: 16,
            batch_size: 2, bank_clips: 4, start_clips: 2}
validation: {clips: 2, steps: [2], guidance_factors: [0.05, 0.0]}
"""


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train_prior")
    (folder / "tiny.yaml").write_text(TINY)
    main(["--config", str(folder / "tiny.yaml"), "--output", str(folder / "run")])
    return folder / "run"


def test_the_prior_loads_and_samples(output):
    prior = load_prior(output / "prior", "cpu", torch.float32)
    assert (prior.settings.num_frames, prior.settings.height, prior.settings.width) == (3, 16, 32)
    assert prior.settings.num_steps == 2 and prior.settings.eta == 0
    frames = torch.rand(3, 16, 32, 3)
    conditioning = prior.condition(frames, torch.ones(3, 16, 32, 1), frames[0], None)
    noise = prior.initial_noise(torch.Generator().manual_seed(0), 16, 32, 3)
    prediction = prior.predict(noise, prior.timesteps(2)[0], conditioning)
    assert prior.decode(prediction.x0, slice(None)).isfinite().all()


def test_weights_are_written_in_half_precision(output):
    from safetensors.torch import load_file

    for file in (output / "prior").rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_validation_compares_with_telea(output):
    scores = json.loads((output / "validation.json").read_text())
    scores = [entry for entry in scores if not entry["known_kept"]]
    assert [entry["method"] for entry in scores] == ["truth", "black", "telea", "vae", "guided", "unguided"]
    by_method = {entry["method"]: entry for entry in scores}
    assert by_method["telea"]["psnr_holes"] > by_method["black"]["psnr_holes"]
    best = max((entry for entry in scores if entry["guidance_factor"]), key=lambda entry: entry["psnr_holes"])
    settings = json.loads((output / "prior" / "prior.json").read_text())["settings"]
    assert settings["guidance_factor"] == best["guidance_factor"]
    assert (output / "validation.png").stat().st_size > 0


@pytest.fixture
def wall(tmp_path) -> Path:
    """A capture of a painted wall, two metres before a camera that moves along it."""
    folder = tmp_path / "wall"
    folder.mkdir()
    paint = np.random.default_rng(0).integers(0, 255, (24, 80, 3), dtype=np.uint8)
    frames = []
    for index in range(8):
        # 24 pixels of focal length: 0.25 m along the wall are 3 pixels.
        Image.fromarray(paint[:, 3 * index : 3 * index + 48]).save(folder / f"{index}.png")
        Image.fromarray(np.full((24, 48), 2000, dtype=np.uint16)).save(folder / f"{index}_depth.png")
        pose = np.eye(4)
        pose[0, 3] = 0.25 * index
        files = {"file_path": f"{index}.png", "depth_file_path": f"{index}_depth.png"}
        frames.append({**files, "transform_matrix": pose.tolist()})
    lens = {"fl_x": 24, "fl_y": 24, "cx": 24, "cy": 12, "w": 48, "h": 24}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder


def test_a_prior_is_fine_tuned_on_captures_alone(output, wall, tmp_path, monkeypatch):
    monkeypatch.setattr(RoomClips, "batch", lambda self, index: pytest.fail("A room was rendered."))
    (tmp_path / "tiny.yaml").write_text(TINY + f"captures: [{wall}]\ncaptures_share: 1.0\n")
    config = read_config(TrainPriorConfig, tmp_path / "tiny.yaml")
    # Sizes and targets of the network are those of the earlier prior, whatever the options say.
    other = replace(config.diffusion, model_channels=64, channel_mult=(1,), residual=False)
    config = replace(
        config, warm_start=output / "prior", diffusion=other, validation=replace(config.validation, clips=0)
    )
    tuned, earlier = train_prior(replace(config, output=tmp_path / "run")), load_prior(output / "prior", "cpu")
    assert tuned is not None and tuned.residual
    assert read_config(TrainPriorConfig, tmp_path / "run" / "config.yaml").captures == (wall,)
    assert not torch.equal(tuned.unet.conv_out.weight, earlier.unet.conv_out.weight.float())


def test_a_config_without_a_file_is_refused():
    with pytest.raises(SystemExit, match="--config needs a file"):
        main(["--steps-vae", "1", "--config"])
    with pytest.raises(SystemExit, match="--config needs a file"):
        main(["--config", "--resume"])


def test_checkpoints_are_not_overwritten_unasked(output):
    with pytest.raises(FileExistsError, match="--resume"):
        train_prior(TrainPriorConfig(output=output))


def test_warm_start_keeps_the_vae(output, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY + "steps_diffusion: 0\n")
    config = read_config(TrainPriorConfig, tmp_path / "tiny.yaml")
    config = replace(
        config,
        output=tmp_path / "run",
        warm_start=output / "prior",
        steps_diffusion=0,
        validation=replace(config.validation, clips=0),
    )
    again, earlier = train_prior(config), load_prior(output / "prior", "cpu", torch.float32)
    for part in ("unet", "vae"):
        before, after = getattr(earlier, part).state_dict(), getattr(again, part).state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
