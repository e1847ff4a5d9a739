"""A procedural room as plain tensors: affine boxes, cylinders and ellipsoids with materials, and two lights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

NUM_BOXES = 124
NUM_CYLINDERS = 30
NUM_ELLIPSOIDS = 36
NUM_PRIMITIVES = NUM_BOXES + NUM_CYLINDERS + NUM_ELLIPSOIDS
"""A sampled room has this many (unused ones lie far below the floor): static shapes for batches and compilers."""

_BELOW_ALL = -49.0

NUM_LIGHTS = 2

HELD_OUT_SEEDS = 10_000_000
"""Rooms with seeds from here on are never trained on: they serve the demo, validation and benchmarks."""

_CLOSE_UP_EVERY = 5


def is_close_up(seed: int) -> bool:
    """True where the seed's room is the background of one thing seen from near; held-out seeds are all whole rooms."""
    return seed < HELD_OUT_SEEDS and seed % _CLOSE_UP_EVERY == _CLOSE_UP_EVERY - 1


def training_seed(index: int) -> int:
    """The seed of the index-th training room; never one of the held-out ones.

    Args:
        index: any non-negative integer.

    Raises:
        ValueError: if the index is negative.
    """
    if index < 0:
        raise ValueError(f"Training rooms are numbered from 0, but index {index} was asked for; use 0 or more.")
    return index % HELD_OUT_SEEDS


@dataclass(frozen=True)
class Room:
    """A batch of B rooms. Metres, z up, floor at z = 0, the origin in the middle of the floor.

    Primitives are ordered boxes, cylinders, ellipsoids (P = NUM_PRIMITIVES, unless trimmed); materials are those of the
    primitives followed by the six inner faces of the room: -x, +x, -y, +y walls, floor, ceiling.
    """

    size: Tensor
    """[B, 3] inner width (x), depth (y) and height (z)."""
    frames: Tensor
    """[B, P, 3, 4] world to the primitive's unit shape: the cube [-1, 1]^3, the cylinder of radius 1 about z, the unit
    sphere."""
    half: Tensor
    """[B, P, 3] half extents in metres along the primitive's own axes."""
    taper: Tensor
    """[B, P] cylinders: the radius at unit height z is (1 + taper z) times the half extent. Boxes: width in metres of
    the margin along the edges where the normal turns from one face to the other, as if the edge were rounded."""
    texture: Tensor
    """[B, P + 6] int64 texture codes (`textures.Texture`)."""
    colors: Tensor
    """[B, P + 6, 3, 3] three sRGB colours for each material."""
    params: Tensor
    """[B, P + 6, 5] texture scale in metres, pattern seed, emission, 1 where the pattern is turned by 90 deg, gloss."""
    light_position: Tensor
    """[B, 2, 3] centres of the two square lights."""
    light_axes: Tensor
    """[B, 2, 2, 3] the lights' half edges, metres."""
    light_color: Tensor
    """[B, 2, 3] linear intensity at one metre."""
    ambient: Tensor
    """[B, 3, 3] linear ambient light: that from above, that from below, and a glow that fades with the distance from
    the second light and knows no shadow."""
    sun: Tensor
    """[B, 4] unit direction towards the sun, and 1 where the second light is the sun seen through that square: it does
    not fade, and reaches only what sees it through the square."""
    look: Tensor
    """[B, 7] what the photographer's camera does: exposure, gains of red, green and blue, contrast, saturation,
    vignetting."""
    subject: Tensor
    """[B, 4] centre and radius of the thing that is photographed from near; radius 0 where it is the room."""
    counts: tuple[int, int, int] = (NUM_BOXES, NUM_CYLINDERS, NUM_ELLIPSOIDS)
    """Boxes, cylinders and ellipsoids in the tensors, used or not."""

    @staticmethod
    def sample(seed: int) -> Room:
        """One room (B = 1) on the CPU, fully determined by the seed: furnished, or the scene of a close-up.

        Args:
            seed: non-negative; see `HELD_OUT_SEEDS` and `training_seed` for which ones may be trained on.

        Raises:
            ValueError: if the seed is negative.
        """
        from guidedvd_ns.data.rooms.closeups import sample_closeup
        from guidedvd_ns.data.rooms.layout import sample_room

        if seed < 0:
            raise ValueError(f"Room seeds are 0 or more, but {seed} was given; pass a non-negative integer.")
        return sample_closeup(seed) if is_close_up(seed) else sample_room(seed)

    def to(self, device: torch.device | str) -> Room:
        """The same rooms on another device."""
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors().items()})

    def __len__(self) -> int:
        return self.size.shape[0]

    def __getitem__(self, index: int | slice) -> Room:
        """The chosen rooms, still as a batch."""
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        return replace(self, **{name: tensor[chosen] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "counts"}

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where boxes, cylinders and ellipsoids lie among the primitives."""
        boxes, cylinders, ellipsoids = self.counts
        return slice(0, boxes), slice(boxes, boxes + cylinders), slice(boxes + cylinders, sum(self.counts))

    def trimmed(self) -> Room:
        """The same rooms without the primitives that none of them uses: less work where shapes need not be static."""
        heights = (torch.linalg.inv(self.frames[..., :3]) @ -self.frames[..., 3:])[..., 2, 0]
        used = (heights > _BELOW_ALL).any(0)
        used_counts = [max(int(used[part].sum()), 1) for part in self.slices]
        keep = torch.cat(
            [torch.arange(part.start, part.start + n) for part, n in zip(self.slices, used_counts, strict=True)]
        ).to(self.device)
        faces = torch.arange(len(used), len(used) + 6, device=self.device)
        primitives = {name: getattr(self, name)[:, keep] for name in ("frames", "half", "taper")}
        materials = {name: getattr(self, name)[:, torch.cat([keep, faces])] for name in ("texture", "colors", "params")}
        boxes, cylinders, ellipsoids = used_counts
        return replace(self, **primitives, **materials, counts=(boxes, cylinders, ellipsoids))

    @property
    def device(self) -> torch.device:
        return self.size.device


def stack_rooms(rooms: Sequence[Room]) -> Room:
    """One batch of all the given rooms; sampled rooms are padded to the same number of primitives already.

    Raises:
        ValueError: if there are no rooms, or trimmed ones of different sizes.
    """
    if not rooms:
        raise ValueError("stack_rooms got an empty list; pass at least one room.")
    if any(room.counts != rooms[0].counts for room in rooms):
        raise ValueError("stack_rooms got trimmed rooms of different sizes; stack them before trimming.")
    return replace(
        rooms[0], **{name: torch.cat([getattr(room, name) for room in rooms]) for name in rooms[0].tensors()}
    )
