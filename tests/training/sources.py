"""Clips without rooms, for tests of the training code."""

import torch

from guidedvd_ns.data.clips import ClipBatch


class NoiseClips:
    """A source of smooth random clips, `count` in each batch."""

    def __init__(self, count: int = 3, frames: int = 2, height: int = 16, width: int = 16) -> None:
        self.shape = (count, frames, height, width)
        self.asked_for: list[int] = []

    def batch(self, index: int) -> ClipBatch:
        self.asked_for.append(index)
        generator = torch.Generator().manual_seed(index)
        count, frames, height, width = self.shape
        coarse = torch.rand(count * frames, 3, 3, 3, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
        target = smooth.movedim(1, -1).reshape(*self.shape, 3)
        known = (torch.rand(*self.shape, 1, generator=generator) > 0.3).float()
        known[:, 0] = 1
        return ClipBatch(target, target * known, known)
