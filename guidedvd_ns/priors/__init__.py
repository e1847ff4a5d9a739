"""Video diffusion priors behind the one interface of `base.VideoPrior`."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import torch

from guidedvd_ns.priors.base import Prediction, SamplerSettings, VideoPrior

__all__ = ["Prediction", "SamplerSettings", "VideoPrior", "load_prior"]

NAMED_PRIORS = {"bundled": Path(__file__).parent / "bundled"}
PRIOR_CLASSES = {"ViewCrafterPrior": "guidedvd_ns.priors.viewcrafter.prior"}
"""Class name in `model_index.json` -> the module that has the class, imported when it is needed."""


def load_prior(name_or_path: str | Path, device: str | torch.device, dtype: torch.dtype | None = None) -> VideoPrior:
    """Load a prior by name ("bundled") or from a folder that one was saved to; without `dtype` in the prior's choice.

    Raises:
        FileNotFoundError: where there is no such prior, or a part of it is missing.
        ValueError: where the folder holds something else.
    """
    folder = NAMED_PRIORS.get(str(name_or_path), Path(name_or_path).expanduser())
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no prior '{name_or_path}': give a name ({', '.join(NAMED_PRIORS)}) or a folder with a"
            " saved prior."
        )
    index = folder / "model_index.json"
    if not index.is_file():
        raise FileNotFoundError(f"The prior '{name_or_path}' is incomplete: {folder} has no model_index.json.")
    class_name = json.loads(index.read_text()).get("_class_name")
    if class_name not in PRIOR_CLASSES:
        raise ValueError(
            f"{index} describes a '{class_name}', which is no video prior; known are {', '.join(PRIOR_CLASSES)}."
        )
    prior_class = getattr(import_module(PRIOR_CLASSES[class_name]), class_name)
    return prior_class.from_pretrained(folder, device, dtype)
