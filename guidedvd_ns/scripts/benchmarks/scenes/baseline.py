"""Splatfacto as a baseline: nerfstudio's own, from the points and on the images that the other methods have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from guidedvd_ns.datamanager import image_scale


@dataclass
class SharedStartDataManagerConfig(FullImageDatamanagerConfig):
    """Nerfstudio's data manager with an upper bound on the images' size and with given initial points."""

    _target: type = field(default_factory=lambda: SharedStartDataManager)
    max_image_side: int = 0
    """Longest side in pixels that images are scaled down to; 0 for no limit."""
    points: Optional[Path] = None
    """File of `write_points` with the points to start from in place of the dataparser's."""


class SharedStartDataManager(FullImageDatamanager[InputDataset]):
    """Changes images' size and initial points; all else is nerfstudio's."""

    config: SharedStartDataManagerConfig

    def __init__(self, config: SharedStartDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        if config.points is not None and config.points.is_file():
            self.train_dataparser_outputs.metadata.update(torch.load(config.points, weights_only=True))

    def create_train_dataset(self) -> InputDataset:
        # Before the parent reads it, for both splits.
        self.config.camera_res_scale_factor = image_scale(
            self.train_dataparser_outputs.cameras, self.config.max_image_side, self.config.camera_res_scale_factor
        )
        return super().create_train_dataset()


def points_of(seed_points: Optional[tuple[Tensor, Tensor]]) -> Optional[dict[str, Tensor]]:
    """A model's initial points, positions [N, 3] in scene units and colours [N, 3] in 0..255, as metadata."""
    if seed_points is None:
        return None
    return {"points3D_xyz": seed_points[0].float().cpu(), "points3D_rgb": seed_points[1].cpu()}
