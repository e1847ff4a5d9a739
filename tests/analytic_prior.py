"""A prior whose samples are known: its latents are pixels, its clean estimate a constant grey."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidedvd_ns.priors.base import Prediction, SamplerSettings, VideoPrior


class GreyPrior(VideoPrior):
    """Denoises towards grey; with guidance, known pixels are pulled towards the guide's colours."""

    size_multiple = 4

    def __init__(self, grey: float = 0.5, num_frames: int = 4, num_steps: int = 5) -> None:
        self.settings = SamplerSettings(
            num_frames=num_frames, height=24, width=32, num_steps=num_steps, eta=0.0, guidance_factor=0.5
        )
        self.grey = grey
        self.seen: dict[str, Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def condition(self, frames: Tensor, known: Tensor, reference: Tensor, generator: torch.Generator | None) -> Any:
        self.seen = {"frames": frames, "known": known, "reference": reference}

    def timesteps(self, num_steps: int) -> list[int]:
        return list(range(num_steps, 0, -1))

    def initial_noise(self, generator: torch.Generator | None, height: int, width: int, num_frames: int) -> Tensor:
        return torch.randn(num_frames, height, width, 3, generator=generator)

    def predict(self, x_t: Tensor, t: int, conditioning: Any) -> Prediction:
        clean = self.grey + 0.2 * (x_t - self.grey)
        return Prediction(x0=clean, direction=x_t - clean, guidance_length=torch.tensor(0.1))

    def step(self, x_t: Tensor, t: int, prediction: Prediction, generator: torch.Generator | None) -> Tensor:
        return prediction.x0.detach()

    def renoise(self, x_prev: Tensor, t: int, generator: torch.Generator | None) -> Tensor:
        return x_prev

    def decode(self, latents: Tensor, frame_slice: slice, conditioning: Any = None) -> Tensor:
        return latents[frame_slice]
