"""Checkpoints of nerfstudio's own methods load with `weights_only=True`."""

import numpy as np
import pytest
import torch
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

from guidedvd_ns.compat import allow_numpy_scalars


def test_numpy_learning_rates_load(tmp_path):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = ExponentialDecaySchedulerConfig(lr_final=1e-4, max_steps=10).setup().get_scheduler(optimizer, 1e-3)
    optimizer.step()
    scheduler.step()
    rate = scheduler.get_last_lr()[0]
    assert isinstance(rate, np.floating)
    torch.save({"schedulers": scheduler.state_dict(), "optimizers": optimizer.state_dict()}, tmp_path / "run.ckpt")
    allow_numpy_scalars()
    loaded = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert loaded["schedulers"]["_last_lr"] == [pytest.approx(float(rate))]
