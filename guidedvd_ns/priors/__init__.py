"""Video diffusion priors behind the one interface of `base.VideoPrior`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import torch

from guidedvd_ns.priors.base import Memory, Prediction, SamplerOverrides, SamplerSettings, VideoPrior
from guidedvd_ns.priors.choice import find_prior

__all__ = ["Memory", "Prediction", "SamplerOverrides", "SamplerSettings", "VideoPrior", "load_prior"]

PRIOR_CLASSES = {"ViewCrafterPrior": "guidedvd_ns.priors.viewcrafter.prior"}
"""Class name in `model_index.json` -> the module that has the class, imported when it is needed."""


def load_prior(
    name_or_path: str | Path,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    memory: Memory = "default",
) -> VideoPrior:
    """Load a prior by name, from a folder that one was saved to, or from the hub (see `choice.find_prior`).

    Args:
        name_or_path: which prior.
        device: where it shall run.
        dtype: precision of its networks; the prior's own choice by default.
        memory: whether it shall be sparing with memory (see `VideoPrior.set_memory`).

    Raises:
        FileNotFoundError: where there is no such prior, or a part of it is missing.
        ValueError: where the folder holds something else.
    """
    folder = find_prior(name_or_path, device, memory)
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"The prior '{name_or_path}' is incomplete: {folder} has no model_index.json.")
    class_name = json.loads(index.read_text()).get("_class_name")
    if class_name not in PRIOR_CLASSES:
        raise ValueError(
            f"{index} describes a '{class_name}', which is no video prior; known are {', '.join(PRIOR_CLASSES)}."
        )
    prior_class = getattr(import_module(PRIOR_CLASSES[class_name]), class_name)
    prior = prior_class.from_pretrained(folder, device, dtype)
    prior.set_memory(memory)
    return prior
