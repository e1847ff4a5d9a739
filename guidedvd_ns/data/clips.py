"""What a training clip is, whatever it is cut from: true frames, and the same frames as a guide would know them.

A pixel is known where the reference view or another input view sees its surface; known pixels are then degraded
(`degradation.py`), unknown ones are black.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guidedvd_ns.data.degradation import degrade

COARSE = 4
"""Candidate trajectories are rated on pictures smaller by this factor."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips of T frames."""

    target: Tensor
    """[B, T, H, W, 3] true frames in [0, 1]."""
    condition: Tensor
    """[B, T, H, W, 3] the guide's frames in [0, 1], black where unknown; frame 0 is the clean reference."""
    known: Tensor
    """[B, T, H, W, 1] 1 where the guide knows the scene, else 0."""

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, item: slice | Tensor) -> ClipBatch:
        return ClipBatch(self.target[item], self.condition[item], self.known[item])

    def hole_fraction(self) -> Tensor:  # [B]
        """Share of unknown pixels of each clip."""
        return 1 - self.known.mean(dim=(1, 2, 3, 4))

    def has_usable_holes(self, config: ClipConfig) -> Tensor:  # [B] bool
        """Whether the share of unknown pixels of each clip lies in the wanted range."""
        holes = self.hole_fraction()
        return (holes >= config.min_hole_fraction) & (holes <= config.max_hole_fraction)


def concatenate_clips(batches: list[ClipBatch]) -> ClipBatch:
    """All clips of several batches, in order."""
    return ClipBatch(
        torch.cat([batch.target for batch in batches]),
        torch.cat([batch.condition for batch in batches]),
        torch.cat([batch.known for batch in batches]),
    )


@dataclass(frozen=True)
class ClipConfig:
    """Sizes and ranges of the clips."""

    num_frames: int = 16
    """Frames of a clip, the reference included."""
    height: int = 96
    """Frame height in pixels."""
    width: int = 128
    """Frame width in pixels."""
    other_sizes: tuple[tuple[int, int], ...] = ((80, 144), (144, 80), (128, 96), (112, 112))
    """Heights and widths of some batches, since photographs come in all shapes."""
    other_sizes_share: float = 0.25
    """Share of batches that have one of the other sizes."""
    rooms_per_batch: int = 8
    """Rooms that are rendered together."""
    clips_per_room: int = 4
    """Clips of each room of a batch; each may start from another view."""
    views_per_room: int = 4
    """Input views of each room, of which a clip's guide knows 2 to all."""
    candidates_per_view: int = 5
    """Trajectories drawn for each view, among which clips are chosen by their holes."""
    azimuth: float = 30.0
    """Largest azimuth offset of a trajectory's end in degrees, to either side."""
    elevation: float = 15.0
    """Largest elevation offset of a trajectory's end in degrees, up or down."""
    radius_scales: tuple[float, ...] = (1.0, 1.0 / 3.0, 1.0 / 10.0)
    """Radius of the trajectory's sphere as a share of the depth at the image centre, drawn for each trajectory."""
    field_of_view: tuple[float, float] = (50.0, 85.0)
    """Range of the field of view along the longer side in degrees, drawn once a batch."""
    tilt: float = 3.0
    """Standard deviation of the input views' roll about their optical axis in degrees: nobody's hand is level."""
    min_hole_fraction: float = 0.02
    """Clips with a smaller share of unknown pixels are dropped."""
    max_hole_fraction: float = 0.6
    """Clips with a larger share of unknown pixels are dropped."""
    large_holes: float = 0.1
    """Share of clips for which large holes (0.35 and more) are looked for."""
    mild: float = 0.5
    """Share of clips that are degraded mildly (strength up to 0.3; of the others up to 1)."""
    mirror: bool = True
    """Whether every clip comes a second time with left and right exchanged and other defects."""
    supersample: int = 2
    """Rays of a pixel along each axis."""
    compile_rendering: bool = False
    """Fuse the renderer's work with torch.compile (CUDA only), which takes a while and then saves much more."""


def draw_size(config: ClipConfig, draws: torch.Generator) -> tuple[int, int]:
    """Height and width of a batch."""
    share, which = torch.rand(2, generator=draws, dtype=torch.float64).tolist()
    if not config.other_sizes or share >= config.other_sizes_share:
        return config.height, config.width
    return config.other_sizes[int(which * len(config.other_sizes))]


def draw_hole_fractions(
    count: int, config: ClipConfig, draws: torch.Generator, device: torch.device | str
) -> Tensor:  # [count, 1]
    """Shares of unknown pixels that are looked for: mostly small, some large."""
    draw = torch.rand(count, 1, generator=draws).to(device)
    is_large = (torch.rand(count, 1, generator=draws) < config.large_holes).to(device)
    return torch.where(is_large, 0.35 + 0.2 * draw, 0.03 + 0.35 * draw**1.6)


def degraded_clips(
    target: Tensor,  # [B, T, H, W, 3]
    visible: Tensor,  # [B, T, H, W, 1]
    config: ClipConfig,
    generator: torch.Generator,
) -> ClipBatch:
    """True clips and their mirror images as a guide would know them, whatever their holes.

    Args:
        target: True frames in [0, 1]; frame 0 is the reference.
        visible: 1 where an input view sees the pixel's surface, else 0.
        config: Which degradations are wanted.
        generator: Seeded generator on the device of the tensors.
    """
    if config.mirror:
        target = torch.cat([target, target.flip(3)])
        visible = torch.cat([visible, visible.flip(3)])
    draw = torch.rand(2, len(target), generator=generator, device=target.device)
    strength = torch.where(draw[0] < config.mild, 0.3 * draw[1], 0.3 + 0.7 * draw[1])
    condition, known = degrade(target, visible, strength, generator)
    return ClipBatch(target, condition, known)


def keyed_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator whose draws depend on all numbers of the key."""
    state = np.random.SeedSequence(key).generate_state(2, dtype=np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 ^ int(state[1]))
