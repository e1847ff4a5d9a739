"""What a scene's test views score: the whole image, inside the holes that no input view sees into, and outside them.

The holes are those of the scene's guide, found once and kept, so that every method is scored on the same pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch import Tensor

from guidedvd_ns.metrics import image_metrics

MIN_SHARE = 0.01
"""Share of a view's pixels below which a region of it is not scored: a handful of pixels says nothing."""
SHOWN_HOLE = 1 / 3
"""Views whose hole comes closest to this share are kept for the figure: both sides of its border are seen."""
NUM_SHOWN = 3


@dataclass(frozen=True)
class TestView:
    """A test view as a method renders it, beside its photograph."""

    __test__ = False  # no test, whatever pytest thinks of the name

    name: str
    render: Tensor  # [H, W, 3] in [0, 1]
    truth: Tensor  # [H, W, 3] in [0, 1]
    counts: Optional[Tensor]  # [H, W, 1] bool, where the photograph counts; None: everywhere
    opacity: Tensor  # [H, W, 1] in [0, 1]


def use_test_split(pipeline: VanillaPipeline) -> None:
    """Evaluate on the split `test`, as `ns-eval` does: a pipeline that trains comes with `val`."""
    datamanager: Any = pipeline.datamanager
    datamanager.test_split = "test"
    datamanager.eval_dataset = datamanager.create_eval_dataset()
    vars(datamanager).pop("cached_eval", None)


def views_digest(pipeline: VanillaPipeline) -> str:
    """What tells one set of test views from another: their photographs, byte for byte, and their poses."""
    dataset: Any = pipeline.datamanager.eval_dataset
    digest = hashlib.sha256()
    for path in dataset.image_filenames:
        digest.update(Path(path).read_bytes())
    # 0.0 and -0.0 are the same pose.
    digest.update((dataset.cameras.camera_to_worlds.cpu().double().numpy().round(4) + 0.0).tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def render_test_views(pipeline: VanillaPipeline) -> Iterator[TestView]:
    """The test views, one after the other, as `ns-eval` would render and compare them."""
    pipeline.eval()
    datamanager: Any = pipeline.datamanager
    model: Any = pipeline.model
    names = _names(datamanager.eval_dataset.image_filenames)
    for camera, batch in datamanager.fixed_indices_eval_dataloader:
        outputs = model.get_outputs_for_camera(camera.to(model.device))
        truth = model.composite_with_background(model.get_gt_img(batch["image"]), outputs["background"])
        counts = batch["mask"].to(truth.device).bool() if "mask" in batch else None
        yield TestView(names[int(batch["image_idx"])], outputs["rgb"], truth, counts, outputs["accumulation"])


def _names(paths: list[Path]) -> list[str]:
    """What the views are called: their files' names, with numbers where two are the same."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{index:03d}_{stem}" for index, stem in enumerate(stems)]


@dataclass(frozen=True)
class Holes:
    """What the input views do not see of each test view."""

    masks: dict[str, np.ndarray]
    """View -> [H, W] bool, true in the hole."""

    def shown(self, count: int = NUM_SHOWN) -> list[str]:
        """The views for the figure, the one that shows most of both sides first."""
        distance = {name: abs(float(mask.mean()) - SHOWN_HOLE) for name, mask in self.masks.items()}
        return sorted(distance, key=lambda name: (distance[name], name))[:count]

    def of(self, view: TestView) -> Tensor:
        """The hole of a view, [H, W, 1] bool.

        Raises:
            ValueError: the guide had no such view, or in another size.
        """
        mask = self.masks.get(view.name)
        if mask is None or mask.shape != tuple(view.truth.shape[:2]):
            found = "is not among" if mask is None else f"has {view.truth.shape[1]}x{view.truth.shape[0]} pixels unlike"
            raise ValueError(f"Test view {view.name} {found} those of the scene's guide.")
        return torch.from_numpy(mask)[..., None].to(view.truth.device)

    def save(self, path: Path) -> None:
        """Write all masks to one file."""
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        np.savez_compressed(temporary, **self.masks)  # type: ignore[arg-type]
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Holes:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls({name: file[name] for name in file.files})


def find_holes(views: Iterable[TestView], threshold: float) -> Holes:
    """Where the guide's opacity stays below `threshold`; `views` are rendered by the guide."""
    return Holes({view.name: (view.opacity[..., 0] < threshold).cpu().numpy() for view in views})


def score(view: TestView, hole: Tensor) -> dict[str, Any]:
    """Metrics of a view (see `image_metrics`) by region; a region that hardly has a pixel is left out.

    Args:
        view: render and photograph.
        hole: [H, W, 1] bool.
    """
    counts = torch.ones_like(hole) if view.counts is None else view.counts
    regions = {"holes": hole & counts, "seen": ~hole & counts}
    scores: dict[str, Any] = {
        "view": view.name,
        "hole_fraction": float(regions["holes"].sum() / counts.sum().clamp_min(1)),
        "whole": image_metrics(view.render, view.truth, view.counts),
    }
    for region, mask in regions.items():
        if float(mask.float().mean()) >= MIN_SHARE:
            scores[region] = image_metrics(view.render, view.truth, mask)
    return scores
