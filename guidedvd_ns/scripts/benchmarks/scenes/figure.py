"""The same crops side by side: a row for each shown view, the photograph first, then what every method renders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageOps

from guidedvd_ns.scripts.benchmarks.scenes.plan import GUIDE
from guidedvd_ns.scripts.benchmarks.scenes.record import RunFolder
from guidedvd_ns.scripts.benchmarks.scenes.scoring import Holes

TILE = 192
GAP = 4
LABEL = 16
CROP_SHARE = 0.6
"""Side of a crop as a share of the view's shorter side."""
_TINT = (255, 60, 60)


def draw_figure(path: Path, root: Path, scenes: Sequence[str], methods: Sequence[str], views: int = 1) -> bool:
    """Write the figure of `views` views a scene; False where there is nothing to show.

    Args:
        path: the PNG.
        root: the benchmark's folder.
        scenes, methods: rows and columns; a missing run leaves its tiles empty, a method without runs is left out.
        views: how many views a scene.
    """
    methods = [method for method in methods if any((root / scene / method / "views").is_dir() for scene in scenes)]
    rows = [row for scene in scenes for row in _rows(root / scene, methods, views)]
    if not rows:
        return False
    headings = ["view, holes in red", "photograph", *methods]
    width = len(headings) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, LABEL + GAP + len(rows) * (TILE + LABEL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        pen.text((GAP + column * (TILE + GAP), 2), heading, fill="black")
    for index, (label, tiles) in enumerate(rows):
        top = LABEL + GAP + index * (TILE + LABEL + GAP)
        pen.text((GAP, top), label, fill="black")
        for column, tile in enumerate(tiles):
            if tile is not None:
                sheet.paste(tile, (GAP + column * (TILE + GAP), top + LABEL))
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    sheet.save(temporary, format="PNG", optimize=True)
    os.replace(temporary, path)
    return True


def _rows(scene: Path, methods: Sequence[str], views: int) -> list[tuple[str, list[Image.Image | None]]]:
    guide = RunFolder(scene / GUIDE)
    if not guide.holes.is_file():
        return []
    holes, rows = Holes.load(guide.holes), []
    for view in holes.shown(views):
        file = guide.image("truth", view)
        if not file.is_file():
            continue
        truth = Image.open(file).convert("RGB")
        box = crop_box(holes.masks[view])
        tiles: list[Image.Image | None] = [_overview(truth, holes.masks[view], box), _crop(truth, box)]
        for method in methods:
            render = RunFolder(scene / method).image("render", view)
            tiles.append(_crop(Image.open(render).convert("RGB"), box) if render.is_file() else None)
        rows.append((f"{scene.name}, {view}", tiles))
    return rows


def crop_box(hole: np.ndarray, share: float = CROP_SHARE) -> tuple[int, int, int, int]:
    """The square of a view that a hole fills closest to one half: left, top, right, bottom in pixels."""
    side = max(1, round(share * min(hole.shape)))
    filled = F.avg_pool2d(torch.from_numpy(hole)[None, None].float(), side, stride=1)[0, 0]
    best = int((filled - 0.5).abs().argmin())
    top, left = divmod(best, filled.shape[1])
    return left, top, left + side, top + side


def _overview(truth: Image.Image, hole: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """The whole photograph with its hole tinted and the crop framed, on a tile."""
    pixels = np.asarray(truth).astype(np.float32)
    pixels[hole] = 0.6 * pixels[hole] + 0.4 * np.array(_TINT)
    image = Image.fromarray(pixels.round().astype(np.uint8))
    ImageDraw.Draw(image).rectangle(box, outline="white", width=max(1, round(min(image.size) / 100)))
    return ImageOps.pad(image, (TILE, TILE), Image.Resampling.LANCZOS, color="white")


def _crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return image.crop(box).resize((TILE, TILE), Image.Resampling.BICUBIC)
