"""From the published ViewCrafter checkpoint to a folder in diffusers' layout, one shard of weights after the other.

The checkpoint is mapped into memory anew for every shard, so that its pages do not pile up in the process either.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin
from huggingface_hub import split_torch_state_dict_into_shards
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from guidedvd_ns.priors.base import SamplerSettings, authors_sampling
from guidedvd_ns.priors.viewcrafter.checkpoint import open_checkpoint
from guidedvd_ns.priors.viewcrafter.context import CONTEXT_COMPONENTS
from guidedvd_ns.priors.viewcrafter.folder import COMPONENTS, write_description
from guidedvd_ns.priors.viewcrafter.keys import PREFIXES, origins
from guidedvd_ns.priors.viewcrafter.layout import check_layout, foreign_buffers
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.sizes import ViewCrafterFacts, build_parts

SETTINGS = SamplerSettings(height=320, width=448, **vars(authors_sampling()))
"""Of the published model: the authors' size and sampling."""
SHARD_BYTES = 10**9
"""Weights that are written at a time."""
PORTABLE_PREFIXES = {"text_encoder": "text_model.", "image_encoder": "vision_model."}
"""Put before the names of CLIP's weights on disk: transformers 4 asks for it, 5 takes it off."""


def convert_checkpoint(
    checkpoint: Path,
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    overwrite: bool = False,
    facts: ViewCrafterFacts | None = None,
    scheduler: ViewCrafterScheduler | None = None,
) -> None:
    """Write the prior that `ViewCrafterPrior.from_pretrained` loads; a progress bar shows how far it is.

    The folder appears when it is complete; until then its name ends in `.tmp`.

    Args:
        checkpoint: the original file, in any of the containers that `checkpoint.open_checkpoint` knows.
        folder: where to.
        dtype: precision of the written weights.
        overwrite: whether a prior that is there already may be replaced.
        facts: what the shapes of the weights do not tell; without it the published model's.
        scheduler: the model's noise schedule; without it the published model's.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
        FileExistsError: where the folder exists, and `overwrite` is off or it is no prior.
        ValueError: where the file is unreadable, or its keys and shapes are not those of a ViewCrafter model.
        OSError: where the disk is too small, or cannot be written to.
    """
    _check_output(folder, overwrite)
    scheduler = scheduler or ViewCrafterScheduler()
    facts = facts or ViewCrafterFacts()
    parts = _checked_parts(checkpoint, facts, scheduler)
    fresh, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        _check_space(fresh, parts, dtype)
        _write_parts(checkpoint, fresh, parts, dtype)
        scheduler.save_pretrained(fresh / "scheduler")
        components = COMPONENTS | CONTEXT_COMPONENTS
        write_description(fresh, SETTINGS, components, known_mask_channel=False, sample_posterior=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _check_output(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists already: choose another folder, or replace it with --overwrite.")
    if not (folder / "model_index.json").is_file():
        raise FileExistsError(f"{folder} exists already and is no prior, so it is not replaced: choose another folder.")


def _check_space(folder: Path, parts: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
    needed, free = _num_bytes(parts, dtype), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"The prior needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {folder.parent}: make room"
            " there, or choose a folder on another disk."
        )


def _num_bytes(parts: Mapping[str, nn.Module], dtype: torch.dtype) -> int:
    return sum(weight.numel() for module in parts.values() for weight in module.state_dict().values()) * dtype.itemsize


def _checked_parts(
    checkpoint: Path, facts: ViewCrafterFacts, scheduler: ViewCrafterScheduler
) -> dict[str, nn.Module]:  # on the meta device
    originals = open_checkpoint(checkpoint)
    shapes = {key: tensor.shape for key, tensor in originals.items()}
    parts = build_parts(shapes, facts)
    check_layout(shapes, parts, scheduler)
    foreign = foreign_buffers(originals, scheduler)
    if foreign:
        CONSOLE.print(
            f"[yellow]The noise schedule of {checkpoint} is not ViewCrafter's: `{foreign[0]}` and"
            f" {len(foreign) - 1} more of its buffers differ. The converted prior is sampled with ViewCrafter's."
        )
    return parts


def _write_parts(checkpoint: Path, folder: Path, parts: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, transient=True) as progress:
        task = progress.add_task("Converting", total=_num_bytes(parts, dtype))
        for part, module in parts.items():
            progress.update(task, description=f"Converting {part.replace('_', ' ')}")
            _write_config(module, folder / part)
            _write_weights(checkpoint, folder / part, part, module, dtype, lambda done: progress.advance(task, done))


def _write_config(module: nn.Module, folder: Path) -> None:
    if isinstance(module, PreTrainedModel):
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)
    else:
        cast(ConfigMixin, module).save_config(folder)


def _write_weights(
    checkpoint: Path,
    folder: Path,
    part: str,
    module: nn.Module,  # on the meta device
    dtype: torch.dtype,
    advance: Callable[[int], object],  # is told the bytes of each weight that is done
) -> None:
    weights = {name: torch.empty_like(weight, dtype=dtype) for name, weight in module.state_dict().items()}
    stem = "model" if isinstance(module, PreTrainedModel) else "diffusion_pytorch_model"
    split = split_torch_state_dict_into_shards(
        weights, filename_pattern=stem + "{suffix}.safetensors", max_shard_size=SHARD_BYTES
    )
    found = origins(part, weights)
    for file, names in split.filename_to_tensors.items():
        originals = open_checkpoint(checkpoint)
        shard: dict[str, Tensor] = {}
        for name in names:
            original = originals[PREFIXES[part] + found[name].key]
            converted = found[name].take(original).to(dtype, copy=True, memory_format=torch.contiguous_format)
            shard[_name_on_disk(part, name)] = converted
            advance(converted.nbytes)
        try:
            save_file(shard, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # no OSError, whatever the disk says
            raise OSError(f"{folder / file} could not be written: {error}.") from error
    if split.is_sharded:
        weight_map = {_name_on_disk(part, name): file for name, file in split.tensor_to_filename.items()}
        index = {"metadata": split.metadata, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _name_on_disk(part: str, name: str) -> str:
    prefix = PORTABLE_PREFIXES.get(part, "")
    return prefix + name.removeprefix(prefix)
