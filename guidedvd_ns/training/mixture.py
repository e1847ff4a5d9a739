"""Batches of clips from two sources, at a given share."""

from __future__ import annotations

import torch

from guidedvd_ns.data.clips import ClipBatch, keyed_generator
from guidedvd_ns.training.bank import ClipSource


class MixedClips:
    """Batch i is batch i of one source or of the other; which one depends on i and the seed alone.

    Args:
        rooms: Most batches, where the share is small.
        captures: The others.
        share: Share of batches that come from the captures, from 0 to 1.
        seed: Seed of the choice.

    Raises:
        ValueError: The share is not one.
    """

    def __init__(self, rooms: ClipSource, captures: ClipSource, share: float, *, seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"The share of clips from captures is {share}; give one between 0 and 1.")
        self._rooms, self._captures, self._share, self._seed = rooms, captures, share, seed

    def batch(self, index: int) -> ClipBatch:
        """See `bank.ClipSource`."""
        # Not (seed, index): the sources draw from that, and a small share would take but some of their sizes.
        draw = float(torch.rand((), generator=keyed_generator("cpu", self._seed, index, 0, 1)))
        return (self._captures if draw < self._share else self._rooms).batch(index)
