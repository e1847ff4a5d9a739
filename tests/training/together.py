"""What two processes that train together do for `test_processes.py`; their findings are saved for it to compare."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from sources import NoiseClips
from stages import VAE, diffusion_stage
from test_loop import EndsAfter
from torch import nn

from guidedvd_ns.training.gradients import GradientStep
from guidedvd_ns.training.loop import Budget, Session, train_stage
from guidedvd_ns.training.processes import Processes, join_processes
from guidedvd_ns.training.vae import VaeStage

COUNT = 2
CPU = torch.device("cpu")


def small_network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 1, 3))


def small_batch() -> torch.Tensor:  # [2 COUNT, 3, 8, 8]
    return torch.randn(2 * COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def train_small_network(images: torch.Tensor, processes: Processes) -> dict[str, torch.Tensor]:
    """Weights after four clipped AdamW steps on one batch."""
    network = small_network()
    gradients = GradientStep(lambda inputs: {"loss": network(inputs["images"]).square().mean()}, network.parameters())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(4):
        gradients({"images": images})
        processes.average_gradients(network.parameters())
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.state_dict()


class OneBadGradient:
    """Calls a step of gradients; the main process's is not finite."""

    def __init__(self, gradients: GradientStep, processes: Processes) -> None:
        self._gradients, self._processes = gradients, processes

    def __call__(self, inputs):
        losses = self._gradients(inputs)
        if self._processes.is_main:
            self._gradients._parameters[0].grad[0] = float("inf")
        return losses


def run(rank: int, folder: Path, port: int) -> None:
    """Do everything as process `rank` and save the findings to `folder/RANK.pt`."""
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": COUNT, "LOCAL_WORLD_SIZE": COUNT}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in (environment | address).items()})
    processes, device = join_processes("cpu")
    with processes:
        torch.save({"device": str(device), **_findings(processes, folder)}, folder / f"{rank}.pt")


def _findings(processes: Processes, folder: Path) -> dict:
    own_half = small_batch().chunk(COUNT)[processes.rank]
    found = {"agreed": processes.agree(10.0 + processes.rank), "gathered": processes.gather(processes.rank)}
    found["small network"] = train_small_network(own_half, processes)
    found["resumed"] = _stopped_and_resumed(processes, folder)
    whole = diffusion_stage(processes=processes)
    train_stage(whole, Budget(steps=5), Session(folder / "whole", CPU, processes=processes))
    found["whole"], found["average"] = whole.unet.state_dict(), whole.ema.average
    found["clips"] = whole._bank._source.asked_for
    found["skipped"] = _step_with_a_bad_gradient(processes)
    timed = diffusion_stage(processes=processes, reproducible=False)
    train_stage(timed, Budget(minutes=0.02), Session(folder / "timed", CPU, processes=processes))
    found["timed"] = timed.unet.state_dict()
    found["refresh_every"] = timed._bank._refresh_every
    first = VaeStage(VAE, NoiseClips(), (16, 16), CPU, seed=0, processes=processes)
    train_stage(first, Budget(steps=2), Session(folder / "vae", CPU, processes=processes))
    found["vae"] = first.finished().state_dict()
    return found


def _stopped_and_resumed(processes: Processes, folder: Path) -> dict[str, torch.Tensor]:
    # Only the main process's deadline counts: the other would stop elsewhere.
    ends = EndsAfter if processes.is_main else Session
    train_stage(
        diffusion_stage(processes=processes), Budget(steps=5), ends(folder / "resumed", CPU, processes=processes)
    )
    resumed = diffusion_stage(processes=processes)
    assert train_stage(resumed, Budget(steps=5), Session(folder / "resumed", CPU, processes=processes))
    return resumed.unet.state_dict()


def _step_with_a_bad_gradient(processes: Processes) -> bool:
    """Whether a step in which one process has a bad gradient changes nothing."""
    trained = diffusion_stage(processes=processes)
    before = {name: value.clone() for name, value in trained.unet.state_dict().items()}
    trained._gradients = OneBadGradient(trained._gradients, processes)
    trained.train_step(0, 0.0)
    return all(torch.equal(value, before[name]) for name, value in trained.unet.state_dict().items())
