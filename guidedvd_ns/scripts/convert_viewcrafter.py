"""`gvd-convert-viewcrafter`: the published ViewCrafter checkpoint, as a prior that guidedvd-splat loads."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.priors.viewcrafter.convert import convert_checkpoint
from guidedvd_ns.priors.viewcrafter.sizes import ViewCrafterFacts

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class ConvertConfig:
    """Convert model.ckpt of huggingface.co/Drexubery/ViewCrafter_25 (10.4 GB) to a folder of safetensors."""

    checkpoint: tyro.conf.Positional[Path]
    """The original file."""
    output: tyro.conf.Positional[Path]
    """Folder that the converted prior is written to."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of the written weights: 5.2 or 10.4 GB."""
    overwrite: bool = False
    """Replace a prior that is in the folder already."""
    facts: ViewCrafterFacts = field(default_factory=ViewCrafterFacts)
    """What the shapes of the weights do not tell; change it only for a relative of the published model."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point; what is wrong with the file or the folder ends the program with one sentence."""
    config = tyro.cli(ConvertConfig, args=arguments, prog="gvd-convert-viewcrafter")
    try:
        convert_checkpoint(
            config.checkpoint,
            config.output,
            dtype=DTYPES[config.dtype],
            overwrite=config.overwrite,
            facts=config.facts,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"gvd-convert-viewcrafter: {error}")
    size = sum(path.stat().st_size for path in config.output.rglob("*.safetensors"))
    CONSOLE.log(
        f"The prior is in {config.output}: {size / 1e9:.1f} GB of weights. Use it with"
        f" --pipeline.datamanager.prior {config.output}."
    )


if __name__ == "__main__":
    main()
