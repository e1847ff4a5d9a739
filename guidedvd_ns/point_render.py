"""A point cloud as cameras see it: z-buffered discs over black holes, what ViewCrafter was trained to be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from guidedvd_ns.rasterization import camera_matrices

RADIUS, MAX_RADIUS = 0.005, 0.02
"""Radius of a point's disc as a share of the image's shorter side: at 320x448 at least 1.6 and at most 6.4 pixels."""
NEAR = 1e-4
"""Points with a smaller z-depth, in scene units, lie at or behind the camera."""
OCCLUSION = 0.05
"""A point is hidden where another one is closer by more than this share of its depth."""

_EMPTY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class PointCloud:
    """Coloured points, on one device."""

    xyz: Tensor  # [N, 3], in scene units
    rgb: Tensor  # [N, 3], in [0, 1]
    radius: float = RADIUS
    """Radius of a point's disc, as a share of the image's shorter side."""

    def render(
        self,
        cameras: Cameras,  # [L] pinholes
        size: tuple[int, int],  # height and width; images are stretched to it
    ) -> tuple[Tensor, Tensor]:  # [L, height, width, 3] in [0, 1], black in holes, and [L, height, width, 1] bool
        """Images of the cloud and where they show a point; of several points in a pixel the closest one counts."""
        colours = torch.cat([self.rgb, self.rgb.new_zeros(1, 3)])
        images, covered = [], []
        for viewmat, intrinsics in _matrices(cameras, size, self.xyz.device):
            buffer = _z_buffer(self.xyz, viewmat, intrinsics, size, self.radius)
            hit = buffer != _EMPTY
            # The row after the last point is the colour of holes.
            images.append(colours[torch.where(hit, buffer & 0xFFFFFFFF, len(self.rgb))].reshape(*size, 3))
            covered.append(hit.reshape(*size, 1))
        return torch.stack(images), torch.stack(covered)

    def seen_from(
        self,
        camera: Cameras,  # [1] pinhole
        size: tuple[int, int],  # height and width at which occlusion is decided
    ) -> PointCloud:
        """The points that the camera sees: inside its image, and not behind others.

        Their radius follows their density: surfaces of a sparse cloud shall look as closed as those of the dense ones
        that ViewCrafter knows, and hide what is behind them.
        """
        index, radius = self.visible(camera, size)
        return replace(self, xyz=self.xyz[index], rgb=self.rgb[index], radius=radius)

    def visible(
        self,
        camera: Cameras,  # [1] pinhole
        size: tuple[int, int],  # height and width at which occlusion is decided
        occlusion: float = OCCLUSION,
    ) -> tuple[Tensor, float]:
        """Indices [M] of the points that the camera sees, and the radius of the discs that hide the others."""
        ((viewmat, intrinsics),) = _matrices(camera, size, self.xyz.device)
        index, _, pixel, depth = _project(self.xyz, viewmat, intrinsics, size, margin=0)
        radius = closing_radius(len(index), size)
        buffer = _z_buffer(self.xyz, viewmat, intrinsics, size, radius)
        closest = (buffer[pixel[:, 1] * size[1] + pixel[:, 0]] >> 32).int().view(torch.float32)
        return index[depth <= closest * (1 + occlusion)], radius


def closing_radius(count: int, size: tuple[int, int]) -> float:
    """The mean distance of `count` points in an image, within bounds, as a share of its shorter side.

    Discs of that radius around points at random places cover 1 - exp(-pi), 96 %, of the image.
    """
    spacing = math.sqrt(size[0] * size[1] / max(count, 1)) / min(size)
    return min(max(spacing, RADIUS), MAX_RADIUS)


def _matrices(cameras: Cameras, size: tuple[int, int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """World-to-camera [4, 4] and intrinsics [3, 3] of each camera for images of `size`."""
    viewmats, intrinsics = camera_matrices(cameras.to(device))
    width, height = int(cameras.width.flatten()[0]), int(cameras.height.flatten()[0])
    stretch = torch.tensor([[size[1] / width], [size[0] / height], [1.0]], device=device)
    return list(zip(viewmats, intrinsics * stretch, strict=True))


def _project(
    xyz: Tensor, viewmat: Tensor, intrinsics: Tensor, size: tuple[int, int], margin: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The M points in front of the camera and at most `margin` pixels outside its image.

    Returns their indices [M], image coordinates [M, 2], pixels [M, 2] (both x first) and z-depths [M].
    """
    local = xyz @ viewmat[:3, :3].T + viewmat[:3, 3]
    depth = local[:, 2]
    position = (local @ intrinsics.T)[:, :2] / depth[:, None]
    limit = torch.tensor([size[1], size[0]], device=xyz.device) + margin
    index = ((depth > NEAR) & (position >= -margin).all(dim=-1) & (position < limit).all(dim=-1)).nonzero()[:, 0]
    return index, position[index], position[index].floor().long(), depth[index]


def _z_buffer(
    xyz: Tensor,
    viewmat: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    radius: float,
) -> Tensor:  # [height * width] int64
    """For each pixel the closest point: the bits of its depth above those of its index, or `_EMPTY`.

    Depths are positive, so their bits are in the order of their values, and one minimum over integers finds the
    closest point, whatever the order in which a device takes them.
    """
    height, width = size
    radius = radius * min(size)
    reach = math.ceil(radius)
    index, position, pixel, depth = _project(xyz, viewmat, intrinsics, size, margin=reach)
    keys = (depth.float().view(torch.int32).long() << 32) | index
    buffer = torch.full((height * width,), _EMPTY, dtype=torch.int64, device=xyz.device)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            x, y = pixel[:, 0] + right, pixel[:, 1] + down
            distance = torch.hypot(x + 0.5 - position[:, 0], y + 0.5 - position[:, 1])
            # A point fills the pixel that it lies in, however small its disc.
            inside = (distance <= radius) | (right == 0 and down == 0)
            hit = inside & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            buffer.scatter_reduce_(0, (y * width + x)[hit], keys[hit], "amin")
    return buffer
