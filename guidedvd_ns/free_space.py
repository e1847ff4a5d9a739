"""What the input views see through is free, what lies behind the surfaces that they see is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.rasterization.cameras import camera_matrices


class DepthRender(Protocol):
    """What geometry needs of a render: opacity in [0, 1], z-depth in scene units (meaningless at opacity near 0)."""

    @property
    def opacity(self) -> Tensor: ...  # [L, H, W, 1]

    @property
    def depth(self) -> Tensor: ...  # [L, H, W, 1]


Render = Callable[[Cameras], DepthRender]
"""Renders [L] cameras of one size."""


class SeenSpace:
    """Tells from the depth maps of all input views whether a position is hidden by a surface or lies before one."""

    def __init__(self, cameras: list[Cameras], depths: list[Tensor], known: list[Tensor], margin: float = 0.05) -> None:
        """Keep what the input views see, in main memory.

        Args:
            cameras: N times [1], the input cameras at the size of the depth maps, which may differ from view to view.
            depths: N maps [H, W, 1] of z-depth, scene units.
            known: N maps [H, W, 1], bool, where the depth counts.
            margin: How far behind a surface a position begins to be hidden, and how far before it to be seen past, as a
                share of the surface's depth: depths have errors.
        """
        matrices = [camera_matrices(camera) for camera in cameras]
        self._views = [
            (viewmats[0].cpu(), intrinsics[0].cpu(), depth.cpu(), mask.cpu())
            for (viewmats, intrinsics), depth, mask in zip(matrices, depths, known, strict=True)
        ]
        self._margin = margin

    @classmethod
    def of(
        cls, cameras: list[Cameras], render: Render, threshold: float, masks: list[Tensor | None] | None = None
    ) -> SeenSpace:
        """What cameras see of a scene.

        Args:
            cameras: N times [1].
            render: The scene.
            threshold: Opacity from which on its depth counts.
            masks: N of [H, W, 1], true where the photograph counts, or None: behind a mask nothing was fitted.
        """
        depths, known = [], []
        for camera, mask in zip(cameras, masks or [None] * len(cameras), strict=True):
            # Renders leave the device one by one: together, those of a long capture at full size would fill it.
            view = render(camera)
            depths.append(view.depth[0].cpu())
            opaque = (view.opacity[0] >= threshold).cpu()
            known.append(opaque if mask is None else opaque & mask.cpu().bool())
        return cls(cameras, depths, known)

    def hides(self, positions: Tensor) -> Tensor:  # [..., 3] -> [...] bool, on the CPU
        """Whether some input view sees a surface in front of a position, and none sees past it.

        A position that no input view looks at is not hidden: nothing speaks against it.
        """
        blocked = torch.zeros(positions.shape[:-1], dtype=torch.bool)
        free = torch.zeros_like(blocked)
        for z, surface, judged in self._against_surfaces(positions):
            free |= judged & (z <= surface)
            blocked |= judged & (z > surface * (1 + self._margin))
        return blocked & ~free

    def sees_past(self, positions: Tensor) -> Tensor:  # [..., 3] -> [...] bool, on the CPU
        """Whether some input view sees a surface well behind a position: what stood there would hide it."""
        free = torch.zeros(positions.shape[:-1], dtype=torch.bool)
        for z, surface, judged in self._against_surfaces(positions):
            free |= judged & (z < surface * (1 - self._margin))
        return free

    def _against_surfaces(self, positions: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each view the positions' z-depth, the z-depth of what it sees there, and whether it sees anything."""
        for viewmat, intrinsics, depth, known in self._views:
            height, width = depth.shape[:2]
            local = positions.cpu().float() @ viewmat[:3, :3].T + viewmat[:3, 3]
            pixel = local @ intrinsics.T
            z = pixel[..., 2].clamp_min(1e-6)
            column, row = (pixel[..., 0] / z).floor().long(), (pixel[..., 1] / z).floor().long()
            inside = (local[..., 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
            yield z, depth[row, column, 0], inside & known[row, column, 0]
