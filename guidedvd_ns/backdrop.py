"""What lies behind everything: a soft colour for every direction, continued from what the photographs show.

However many trajectories are generated, some places of a room stay unvisited. Over black they are black; before a
backdrop they have about the colours that the photographs show in that direction: ceilings above, floors below. This is
no part of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn

from guidedvd_ns.rasterization import pixel_rays

HEIGHT, WIDTH = 32, 64
"""Size of the map of directions in pixels: 5.6 degrees each."""

COARSE = 8
"""Pixels of an image between two at which the map is looked up."""

SOFTNESS = 0.1
"""Radians within which all samples of a direction count about alike."""

MAX_SAMPLES = 20_000
"""Pixels of all photographs together that the map is made of."""


class Backdrop(nn.Module):
    """Colours at an infinite distance, as a buffer, so that they travel in the run's checkpoints."""

    colors: Tensor
    """[HEIGHT, WIDTH, 3] in [0, 1]; rows from the zenith (z) to the nadir, columns by azimuth from -pi to pi. Empty
    before it is painted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colors", torch.zeros(0, WIDTH, 3))

    @property
    def is_painted(self) -> bool:
        return len(self.colors) > 0

    def resize_like(self, state: Mapping[str, Tensor], prefix: str = "") -> None:
        """Make room for the colours of a state dict, if it has any: `load_state_dict` refuses other sizes."""
        if prefix + "colors" in state:
            self.colors = torch.zeros_like(state[prefix + "colors"], device=self.colors.device)

    @torch.no_grad()
    def paint(self, cameras: Cameras, photographs: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Continue photographs over all directions.

        A direction has the mean colour of all samples, each weighted by the inverse fourth power of its angle to the
        direction (Shepard 1968): where something is photographed, a blurred mean of all views that look there; far from
        it, of all photographs.

        Args:
            cameras: [N].
            photographs: N times an image [H, W, 3] in [0, 1] and its mask [H, W, 1] (true where it counts) or None.

        Raises:
            ValueError: all of the photographs is masked.
        """
        samples = [
            _samples(cameras[view : view + 1], image, mask, MAX_SAMPLES // len(cameras))
            for view, (image, mask) in enumerate(photographs)
        ]
        directions, colors = (
            torch.cat([part.to(self.colors) for part in parts]) for parts in zip(*samples, strict=True)
        )
        if len(directions) == 0:
            raise ValueError("The masks of the photographs leave nothing of them: there is no scene to be fitted.")
        rows = [_continue(row, directions, colors) for row in _map_directions().to(self.colors)]
        self.colors = torch.stack(rows)

    def behind(self, camera: Cameras, size: tuple[int, int]) -> Tensor:  # [H, W, 3]
        """The backdrop of one camera, in its image's size (height, width), which whoever renders knows already.

        Looked up at a `COARSE`-th of that size: the map has nothing finer.
        """
        rows, columns = (_coarse_centres(length, camera.device) for length in size)
        image = self.seen_in(view_directions(camera, rows, columns).to(self.colors)).movedim(-1, 0)[None]
        return F.interpolate(image, size, mode="bilinear", align_corners=False)[0].movedim(0, -1)

    def seen_in(self, directions: Tensor) -> Tensor:  # [H, W, 3] unit vectors -> [H, W, 3] in [0, 1]
        """Bilinear between the map's pixels."""
        x, y, z = directions.unbind(-1)
        azimuth, elevation = torch.atan2(y, x), torch.asin(z.clamp(-1, 1))
        # A column of the other end at each side: azimuths go round.
        around = torch.cat([self.colors[:, -1:], self.colors, self.colors[:, :1]], dim=1)
        place = torch.stack([azimuth / math.pi * WIDTH / (WIDTH + 2), -elevation * 2 / math.pi], dim=-1)
        image = F.grid_sample(around.movedim(-1, 0)[None], place[None], padding_mode="border", align_corners=False)
        return image[0].movedim(0, -1)


def view_directions(camera: Cameras, rows: Tensor, columns: Tensor) -> Tensor:  # [R, C, 3]
    """World directions of a grid of one pinhole camera's pixels, unit vectors.

    Args:
        camera: one, with or without a batch dimension.
        rows: [R] pixels from the image's upper edge.
        columns: [C] pixels from its left edge.
    """
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return F.normalize(pixel_rays(camera, x, y), dim=-1)


def _coarse_centres(length: int, device: torch.device | str) -> Tensor:  # [ceil(length / COARSE)] pixels
    """Middles of so many equal parts of an image's side."""
    count = -(-length // COARSE)
    return (torch.arange(count, device=device) + 0.5) * length / count


def _samples(camera: Cameras, image: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Directions and colours [n, 3] of about `count` pixels on a grid, less the masked ones."""
    height, width = image.shape[:2]
    stride = max(1, math.ceil(math.sqrt(height * width / max(1, count))))
    every = slice(stride // 2, None, stride)
    rows, columns = ((torch.arange(length, device=camera.device) + 0.5)[every] for length in (height, width))
    directions, colors = view_directions(camera, rows, columns), image[every, every]
    counts = torch.ones(directions.shape[:2], dtype=torch.bool) if mask is None else mask[every, every, 0].bool()
    return directions[counts.to(directions.device)], colors[counts.to(colors.device)]


def _map_directions() -> Tensor:  # [HEIGHT, WIDTH, 3]
    """World directions of the map's pixels."""
    elevation = (0.5 - (torch.arange(HEIGHT) + 0.5) / HEIGHT) * math.pi
    azimuth = ((torch.arange(WIDTH) + 0.5) / WIDTH * 2 - 1) * math.pi
    e, a = torch.meshgrid(elevation, azimuth, indexing="ij")
    return torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], dim=-1)


def _continue(wanted: Tensor, directions: Tensor, colors: Tensor) -> Tensor:  # [M, 3], [N, 3], [N, 3] -> [M, 3]
    angle = torch.acos((wanted @ directions.T).clamp(-1, 1))
    weight = (angle.square() + SOFTNESS**2) ** -2
    return weight @ colors / weight.sum(dim=1, keepdim=True)
