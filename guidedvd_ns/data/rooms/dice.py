"""Seeded draws that are the same on every machine and cheap enough to sample a room in a millisecond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Scalar draws from one PCG64 stream.

    Only the generator's 53-bit uniforms are used (numpy keeps that stream stable between versions), drawn in blocks
    because a scalar draw from numpy costs more than everything that is done with it.

    Args:
        seed: any non-negative integers; the same ones give the same draws.
    """

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(list(seed)))
        self._block: list[float] = []

    def unit(self) -> float:
        """One draw from [0, 1)."""
        if not self._block:
            self._block = self._generator.random(256).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        """One draw from [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """One draw from low ... high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.unit() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        keyed = [(self.unit(), index) for index in range(len(options))]
        return [options[index] for _, index in sorted(keyed)]
