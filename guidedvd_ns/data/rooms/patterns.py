"""Building blocks of the textures: integer-hashed noise and box-filtered edges, the same on every device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Surface(NamedTuple):
    """Points [...] on textured faces."""

    u: Tensor
    """[...] metres along the face."""
    v: Tensor
    """[...] metres across it; up on upright faces."""
    half_u: Tensor
    """[...] half extent of the face along u, metres."""
    half_v: Tensor
    """[...] half extent along v, metres."""
    width: Tensor
    """[...] metres of the face that one sample covers."""
    a: Tensor
    """[..., 3] first sRGB colour; so are b and c."""
    b: Tensor
    c: Tensor
    scale: Tensor
    """[...] size of the pattern, metres."""
    seed: Tensor
    """[...] pattern seed."""


def mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """a where weight is 0, b where it is 1. Colours have one dimension more than the weight."""
    weight = weight[..., None] if a.dim() > weight.dim() else weight
    return a + (b - a) * weight


def cell_random(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Uniform [0, 1) numbers for integer cells [...]; int32 wrap-around makes them equal on all devices."""
    h = x.int() * 374761393 + y.int() * 668265263 + seed.int() * 974634571
    h = (h ^ (h >> 13)) * 1274126177
    h = (h ^ (h >> 15)) * 1911520717
    return ((h ^ (h >> 16)) & 0xFFFFFF).to(x.dtype) / float(1 << 24)


def fade(width: Tensor, period: Tensor | float) -> Tensor:
    """0 where a sample of this width resolves the period, 1 where it does not."""
    return ((width / period - 0.3) / 0.5).clamp(0, 1)


def noise(x: Tensor, y: Tensor, seed: Tensor, width: Tensor) -> Tensor:
    """Smooth value noise in [0, 1] with cells of edge 1, fading to 1/2 for samples wider than a cell."""
    cell_x, cell_y = torch.floor(x), torch.floor(y)
    fx, fy = x - cell_x, y - cell_y
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    low = mix(cell_random(cell_x, cell_y, seed), cell_random(cell_x + 1, cell_y, seed), fx)
    high = mix(cell_random(cell_x, cell_y + 1, seed), cell_random(cell_x + 1, cell_y + 1, seed), fx)
    value = mix(low, high, fy)
    return value + (0.5 - value) * fade(width, 1.5)


def fbm(x: Tensor, y: Tensor, seed: Tensor, width: Tensor) -> Tensor:
    """Three octaves of noise, in [0, 1]."""
    total = 0.57 * noise(x, y, seed, width)
    total = total + 0.29 * noise(2 * x + 7, 2 * y, seed + 11, 2 * width)
    return total + 0.14 * noise(4 * x + 3, 4 * y, seed + 23, 4 * width)


def band(x: Tensor, low: Tensor | float, high: Tensor | float, width: Tensor | float) -> Tensor:
    """Coverage of low < x < high by a sample of the given width."""
    return (((x - low) / width + 0.5).clamp(0, 1) + ((high - x) / width + 0.5).clamp(0, 1) - 1).clamp(0, 1)


def lines(x: Tensor, period: Tensor | float, half: Tensor | float, width: Tensor) -> Tensor:
    """Coverage of lines of the given half thickness at the multiples of the period."""
    distance = (x - torch.round(x / period) * period).abs()
    # A line thinner than the sample must not get darker than its share of it.
    covered = ((half - distance) / width + 0.5).clamp(0, 1) * (2 * half / width).clamp(0, 1)
    return mix(covered, torch.zeros_like(covered) + 2 * half / period, fade(width, period))


def pulse(x: Tensor, period: Tensor, share: float, width: Tensor) -> Tensor:
    """A square wave that is 1 for the given share of each period."""
    return lines(x, period, period * (share / 2), width)
