"""Files that are whole or not there: everything is written under a temporary name and then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    temporary = _temporary(path)
    temporary.write_text(text)
    os.replace(temporary, path)


def write_torch(path: Path, content: Any) -> None:
    """Write a file that `torch.load` reads with `weights_only=True`."""
    temporary = _temporary(path)
    torch.save(content, temporary)
    os.replace(temporary, path)


def write_png(path: Path, image: Tensor) -> None:
    """Write an image [H, W, 3] in [0, 1]."""
    temporary = _temporary(path)
    pixels = (255 * image).round().to(torch.uint8).cpu().numpy()
    cv2.imwrite(str(temporary), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{os.getpid()}.{path.name}")
