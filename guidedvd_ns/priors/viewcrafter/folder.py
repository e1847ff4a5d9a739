"""A prior as a folder in diffusers' layout: what its components are, and the files that describe it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from guidedvd_ns.priors.base import SamplerSettings
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet

COMPONENTS = {
    "unet": ("guidedvd_ns.priors.viewcrafter.unet", ViewCrafterUNet),
    "vae": ("diffusers", AutoencoderKL),
    "scheduler": ("guidedvd_ns.priors.viewcrafter.scheduler", ViewCrafterScheduler),
}


def write_description(
    folder: Path, settings: SamplerSettings, components: Mapping[str, tuple[str, type]], **options: Any
) -> None:
    """Write what tells a folder of components to be a prior, and how to put them together.

    Args:
        folder: where the components lie.
        settings: how the prior wants to be sampled.
        components: `COMPONENTS`, with `CONTEXT_COMPONENTS` where the network has a context.
        options: further arguments of `ViewCrafterPrior`, and `tokenized_prompts` where they are not the default.
    """
    index: dict[str, Any] = {"_class_name": "ViewCrafterPrior", "_diffusers_version": version("diffusers")}
    index |= {name: [library, component.__name__] for name, (library, component) in components.items()}
    description = {"settings": asdict(settings), **options}
    for name, content in (("model_index.json", index), ("prior.json", description)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def check_complete(folder: Path, names: Iterable[str]) -> None:
    """Raise FileNotFoundError where a prior's folder lacks one of the named parts."""
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"The prior in {folder} is incomplete: it has no {', '.join(missing)}.")
