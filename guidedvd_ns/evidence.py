"""What a generated sequence leaves on disk: a video and a contact sheet for a person, lossless frames for a resume."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

FRAME_RATE = 8
ROWS = ("guide", "holes", "result")
SHEET_COLUMNS = 8
LABEL_HEIGHT = 12  # of Pillow's built-in font, in pixels


class EvidencePaths(NamedTuple):
    """Files written for one sequence."""

    video: Path
    """H.264 in an mp4 or, where PyAV or its encoder is missing, an animated WebP."""
    sheet: Path
    """Contact sheet, PNG."""


def write_evidence(
    folder: Path,
    name: str,
    guide: Tensor,  # [L, H, W, 3]
    known: Tensor,  # [L, H, W, 1]
    result: Tensor,  # [L, H, W, 3]
) -> EvidencePaths:
    """Show what a sequence was made from and what came out: guide, hole mask (white: hole) and result side by side.

    Args:
        folder: Where to write; made if missing. Files of the same name are replaced.
        name: File name without its ending.
        guide: The guide's renders in [0, 1].
        known: Where the guide knows the scene, bool or in [0, 1].
        result: Generated frames in [0, 1].

    Raises:
        ValueError: The three do not agree in length or size.
    """
    shown = _comparable(guide, known, result)
    folder.mkdir(parents=True, exist_ok=True)
    frames = _to_bytes(torch.cat(shown, dim=2))
    video = _write_mp4(folder / f"{name}.mp4", frames) or _write_webp(folder / f"{name}.webp", frames)
    sheet = folder / f"{name}.png"
    strips = torch.cat([image_strip(frames, SHEET_COLUMNS) for frames in shown], dim=0)
    with _replacing(sheet) as temporary:
        _labelled(strips, _evenly_spaced(len(guide), SHEET_COLUMNS)).save(temporary, format="PNG")
    return EvidencePaths(video, sheet)


def image_strip(
    frames: Tensor,  # [L, H, W, 3]
    count: int = 8,
    max_width: int = 320,
) -> Tensor:  # [h, count * w, 3]
    """Evenly spaced frames of a sequence side by side in one image, for TensorBoard and the contact sheet.

    Args:
        frames: Colours in [0, 1].
        count: Frames shown, first and last among them; all where there are fewer.
        max_width: Wider frames are shrunk to this width in pixels.
    """
    tiles = frames[_evenly_spaced(len(frames), count)].movedim(-1, 1)
    if tiles.shape[-1] > max_width:
        height = max(1, round(tiles.shape[-2] * max_width / tiles.shape[-1]))
        tiles = F.interpolate(tiles, size=(height, max_width), mode="area")
    return torch.cat(list(tiles.movedim(1, -1)), dim=1)


def frames_to_disk(folder: Path, frames: Tensor) -> None:  # frames: [L, H, W, 3]
    """Store frames in [0, 1] as 8-bit PNGs in `folder`, which appears with all of them or not at all.

    A folder of that name is replaced.
    """
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for index, frame in enumerate(_to_bytes(frames)):
            Image.fromarray(frame).save(temporary / f"{index:04d}.png", compress_level=1)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def frames_from_disk(folder: Path) -> Tensor:  # [L, H, W, 3]
    """Frames in [0, 1] that `frames_to_disk` stored, within 1/510 of what they were.

    Raises:
        FileNotFoundError: The folder has no frames.
    """
    paths = sorted(folder.glob("[0-9]*.png"))
    if not paths:
        raise FileNotFoundError(f"There are no generated frames in {folder}: restore the folder, or start a new run.")
    frames = np.stack([np.asarray(Image.open(path)) for path in paths])
    return torch.from_numpy(frames).float() / 255


def _comparable(guide: Tensor, known: Tensor, result: Tensor) -> list[Tensor]:
    """Guide, hole mask and result as three colour images [L, H, W, 3] each, on the CPU."""
    if guide.shape != result.shape or known.shape != (*guide.shape[:3], 1):
        raise ValueError(
            f"Guide {list(guide.shape)}, known {list(known.shape)} and result {list(result.shape)} must be "
            "[L, H, W, 3], [L, H, W, 1] and [L, H, W, 3] of the same frames."
        )
    holes = (1 - known.float()).expand_as(guide)
    return [frames.detach().float().cpu().clamp(0, 1) for frames in (guide, holes, result)]


def _evenly_spaced(length: int, count: int) -> list[int]:
    return torch.linspace(0, length - 1, min(count, length)).round().int().tolist()


def _to_bytes(frames: Tensor) -> np.ndarray:  # [..., 3] in [0, 1] -> uint8
    return (frames.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _labelled(strips: Tensor, indices: list[int]) -> Image.Image:
    """The stacked strips with the frames' numbers above the columns and the rows' names in the first tiles."""
    height, width = strips.shape[0] // len(ROWS), strips.shape[1] // len(indices)
    sheet = Image.new("RGB", (strips.shape[1], strips.shape[0] + LABEL_HEIGHT))
    sheet.paste(Image.fromarray(_to_bytes(strips)), (0, LABEL_HEIGHT))
    draw = ImageDraw.Draw(sheet)
    for column, index in enumerate(indices):
        draw.text((column * width + 2, 0), f"frame {index}" if width > 50 else f"{index}")
    for row, label in enumerate(ROWS):
        position = (2, LABEL_HEIGHT + row * height)
        draw.rectangle(draw.textbbox(position, label), fill="black")
        draw.text(position, label)
    return sheet


def _write_mp4(path: Path, frames: np.ndarray) -> Path | None:  # frames: [L, H, W, 3] uint8
    """Encode as H.264; None where PyAV or its encoder is missing."""
    try:
        import av
    except ImportError:
        return None
    if "libx264" not in av.codecs_available:
        return None
    # yuv420p halves the colours' resolution, so both sides must be even.
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with _replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def _write_webp(path: Path, frames: np.ndarray) -> Path:  # frames: [L, H, W, 3] uint8
    first, *others = (Image.fromarray(frame) for frame in frames)
    with _replacing(path) as temporary:
        first.save(
            temporary,
            format="WebP",
            save_all=True,
            append_images=others,
            duration=1000 // FRAME_RATE,
            loop=0,
            quality=90,
        )
    return path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends well, and is removed otherwise."""
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
