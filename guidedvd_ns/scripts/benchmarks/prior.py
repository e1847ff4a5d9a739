"""`gvd-benchmark prior`: a prior's samples beside OpenCV's Telea inpainting, inside the holes of held-out rooms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Optional

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE


@dataclass(frozen=True)
class PriorBenchmark:
    """Complete clips of rooms that were never trained on, and compare with inpainting each frame by itself."""

    prior: str = "bundled"
    """Name of a prior, or the folder of one."""
    clips: int = 8
    """Clips, one a room."""
    steps: tuple[int, ...] = ()
    """Numbers of denoising steps to try; the prior's own by default."""
    guidance_factors: tuple[float, ...] = ()
    """Guidance factors to try; none and the prior's own by default."""
    eta: Optional[float] = None
    """Share of fresh noise in every step; the prior's own by default."""
    seed: int = 0
    """Seed of trajectories, defects and noise."""
    device: Optional[str] = None
    """Where to sample; on the GPU by default if there is one."""
    output: Optional[Path] = None
    """Folder for the figures (prior.json) and a contact sheet (prior.png)."""


def benchmark_prior(config: Annotated[PriorBenchmark, tyro.conf.arg(name="")]) -> None:
    """Print the table of scores, and write it where an output folder is given.

    Raises:
        FileNotFoundError: There is no such prior.
    """

    from guidedvd_ns.data.clips import ClipConfig
    from guidedvd_ns.priors import load_prior
    from guidedvd_ns.training import validation
    from guidedvd_ns.training.files import write_png

    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    prior = load_prior(config.prior, device, torch.float32)
    if config.eta is not None:
        prior.settings = replace(prior.settings, eta=config.eta)
    settings = prior.settings
    size = ClipConfig(num_frames=settings.num_frames, height=settings.height, width=settings.width)
    clips = validation.held_out_clips(size, config.clips, device, config.seed)
    steps = config.steps or (settings.num_steps,)
    factors = config.guidance_factors or (0.0, settings.guidance_factor)
    tried = [(count, factor) for count in steps for factor in factors]
    scores = []
    for entry in validation.compare(prior, clips, tried):
        scores.append(entry)
        if config.output is not None:
            config.output.mkdir(parents=True, exist_ok=True)
            validation.save_scores(scores, config.output / "prior.json")
    CONSOLE.print(validation.table(scores))
    if config.output is not None:
        write_png(config.output / "prior.png", validation.contact_sheet(prior, clips))
