"""`gvd-benchmark prior`: a prior's samples beside OpenCV's Telea inpainting, inside the holes of held-out rooms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Optional

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.priors.base import SamplerOverrides

VARIANTS = {
    "own": SamplerOverrides(),
    "unguided": SamplerOverrides(guidance_factor=0.0),
    "decoded": SamplerOverrides(guidance_factor=0.0, restore_detail=False),
    "decoded-guided": SamplerOverrides(restore_detail=False),
    **{f"constant-{f:g}": SamplerOverrides(guidance_step="constant", guidance_factor=f) for f in (0.02, 0.05, 0.1)},
    **{f"shrinking-{f:g}": SamplerOverrides(guidance_step="shrinking", guidance_factor=f) for f in (0.1, 0.3, 1.0)},
    "squared": SamplerOverrides(guidance_step="shrinking", guidance_factor=0.3, reconstruction="l2"),
}
"""Ways to sample, by name: the prior's own settings but for what is said here."""


@dataclass(frozen=True)
class PriorBenchmark:
    """Complete clips of rooms that were never trained on, and compare with inpainting each frame by itself."""

    prior: str = "bundled"
    """Name of a prior, or the folder of one."""
    clips: int = 8
    """Clips, one a room."""
    variants: tuple[str, ...] = ("unguided", "own")
    """Ways to sample: `own` settings, `unguided`, guided by `constant-F` or `shrinking-F` steps of some factors F or by
    `squared` differences, frames `decoded` alone without restored detail, `decoded-guided`; or `all` of these."""
    steps: tuple[int, ...] = ()
    """Numbers of denoising steps to try each variant with; the prior's own by default."""
    guidance_factors: tuple[float, ...] = ()
    """Factors of the prior's own kind of guidance to try in place of the variants; 0 is no guidance."""
    eta: Optional[float] = None
    """Share of fresh noise in every step; the prior's own by default."""
    azimuth: float = 30.0
    """Largest azimuth offset of the clips' paths in degrees; those of the bundled prior's training went to 30."""
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
        ValueError: There is no such variant.
    """
    tried = _tried(config)

    from guidedvd_ns.data.clips import ClipConfig
    from guidedvd_ns.priors import load_prior
    from guidedvd_ns.training import validation
    from guidedvd_ns.training.files import write_png

    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    prior = load_prior(config.prior, device, torch.float32)
    if config.eta is not None:
        prior.settings = replace(prior.settings, eta=config.eta)
    settings = prior.settings
    shape = ClipConfig(
        num_frames=settings.num_frames, height=settings.height, width=settings.width, azimuth=config.azimuth
    )
    held_out = validation.held_out_clips(shape, config.clips, device, config.seed)
    scores = []
    for entry in validation.compare_variants(prior, held_out, tried):
        scores.append(entry)
        if config.output is not None:
            config.output.mkdir(parents=True, exist_ok=True)
            validation.save_scores(scores, config.output / "prior.json")
    CONSOLE.print(validation.table(scores))
    if config.output is not None:
        write_png(config.output / "prior.png", validation.contact_sheet(prior, held_out.clips))


def _tried(config: PriorBenchmark) -> list[SamplerOverrides]:
    """Every variant that is asked for, at every number of steps that is asked for."""
    names = tuple(VARIANTS) if "all" in config.variants else config.variants
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise ValueError(f"There is no variant '{unknown[0]}'; choose among {', '.join(VARIANTS)}, or all.")
    variants = [VARIANTS[name] for name in names]
    if config.guidance_factors:
        variants = [SamplerOverrides(guidance_factor=factor) for factor in config.guidance_factors]
    return [replace(variant, num_steps=count) for count in config.steps or (None,) for variant in variants]
