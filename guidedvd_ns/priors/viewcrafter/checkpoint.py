"""The published checkpoint file, opened by memory mapping and without running anything that it holds."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONTAINERS = ("state_dict", "module")
"""Entries that may hold the weights: of a Lightning checkpoint, and of one by DeepSpeed."""
WRAPPERS = ("_forward_module.", "module.")
"""Prefixes that training frameworks put in front of every key."""
ALIASES = {"framestride_embed.": "fps_embedding."}
"""What relatives of the published model call a layer -> what it calls it."""


def open_checkpoint(path: Path) -> dict[str, Tensor]:
    """Weights and buffers by their original keys, without wrappers; they stay in the file until they are used.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is no PyTorch file, cut short, of PyTorch's old format, or holds something else.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of weights by name.")
    for container in CONTAINERS:
        if isinstance(content.get(container), Mapping):
            content = content[container]
            break
    weights: dict[str, Tensor] = {}
    for original, value in content.items():
        key = _unwrapped(str(original))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"`{original}` in {path} is a {kind} instead of a tensor of floating point numbers.")
        if key in weights:
            raise ValueError(f"{path} holds `{key}` twice, once as `{original}`.")
        weights[key] = value.detach()
    if not weights:
        raise ValueError(f"{path} holds no weights.")
    return weights


def _unwrapped(key: str) -> str:
    while (wrapper := next((wrapper for wrapper in WRAPPERS if key.startswith(wrapper)), None)) is not None:
        key = key.removeprefix(wrapper)
    for alias, name in ALIASES.items():
        key = key.replace(alias, name)
    return key


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    _check_format(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            f"{path} holds more than weights ({culprit[1] if culprit else 'other objects'}), which is not loaded"
            " because it could run code; save its `state_dict` alone on a machine where you trust the file."
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        reason = str(error).split(". ")[0].splitlines()[0]
        raise ValueError(f"{path} is no PyTorch checkpoint, or a damaged one ({reason}).") from error


def _check_format(path: Path) -> None:
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        start = file.read(2)
    size = f"{path.stat().st_size / 1e9:.2f} GB"
    if start == b"PK":
        raise ValueError(f"{path} is cut short after {size} (the published one has 10.44 GB): download it again.")
    if start == b"\x80\x02":
        raise ValueError(
            f"{path} has the file format of PyTorch before 1.6, which cannot be mapped into memory: load it with"
            " `torch.load` and save it anew with `torch.save`."
        )
    raise ValueError(f"{path} ({size}) is no PyTorch checkpoint: those are zip files, and this is none.")
