"""Config files: a round trip, partial files, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from guidedvd_ns.data.clips import ClipConfig
from guidedvd_ns.scripts.train_prior import TrainPriorConfig
from guidedvd_ns.training.config_file import read_config, write_config


def test_round_trip(tmp_path):
    config = TrainPriorConfig(output=Path("somewhere"), steps_vae=3, clips=replace(ClipConfig(), height=48))
    write_config(config, tmp_path / "config.yaml")
    assert read_config(TrainPriorConfig, tmp_path / "config.yaml") == config


def test_partial_json_keeps_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"seed": 4, "vae": {"block_out_channels": [8, 16]}}')
    config = read_config(TrainPriorConfig, path)
    assert config.seed == 4 and config.vae.block_out_channels == (8, 16)
    assert config.diffusion == TrainPriorConfig().diffusion


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="no config file"):
        read_config(TrainPriorConfig, tmp_path / "missing.yaml")
    path = tmp_path / "config.yaml"
    path.write_text("vae: {width: 3}")
    with pytest.raises(ValueError, match="unknown options.*width"):
        read_config(TrainPriorConfig, path)
