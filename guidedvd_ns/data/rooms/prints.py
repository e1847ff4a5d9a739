"""Pictures on paper: posters with lines of type, photographs and portraits drawn by formula."""

from __future__ import annotations

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.patterns import Surface, band, cell_random, fbm, mix, noise


def photograph(s: Surface) -> Tensor:
    """Warped clouds in a, b and c with hard and soft edges at several sizes: a photograph or painting of anything."""
    x, y = s.u / s.half_u, s.v / s.half_v
    width = s.width / torch.minimum(s.half_u, s.half_v)
    warp = fbm(1.3 * x, 1.3 * y, s.seed + 31, 2 * width)
    first = fbm(1.1 * x + 2.5 * warp, 1.6 * y, s.seed, 3 * width)
    second = fbm(2.3 * x, 2.3 * y + 3 * warp, s.seed + 5, 5 * width)
    rgb = mix(s.a, s.b, ((first - 0.5) * 5 + 0.5).clamp(0, 1))
    rgb = mix(rgb, s.c, ((second - 0.52) * 9 + 0.5).clamp(0, 1))
    rgb = rgb * (1.15 - 0.5 * y.abs() * noise(x * 3, y * 3, s.seed + 8, 3 * width))[..., None]
    return rgb * (0.75 + 0.5 * fbm(9 * x, 9 * y, s.seed + 17, 9 * width))[..., None]


def poster(s: Surface) -> Tensor:
    """A headline, lines of type and a picture block in c on paper a; type in b."""
    x, y = s.u / s.half_u, s.v / s.half_v
    width = s.width / torch.minimum(s.half_u, s.half_v)
    split = 0.5 * cell_random(x * 0, y * 0, s.seed) - 0.3
    rows = torch.where(y > 0.45, 5.0, 15.0)
    row = torch.floor(y * rows)
    letters = cell_random(torch.floor(x * rows * 2.2), row, s.seed + 3)
    ragged = 0.55 + 0.3 * cell_random(row, row * 0, s.seed + 4)
    ink = band(y * rows - row, 0.25, 0.8, width * rows) * (letters > 0.22) * band(x, -0.8, ragged, width)
    ink = torch.where(y > split, ink, ink * (cell_random(row, row * 0, s.seed + 9) > 0.75))
    rgb = mix(s.a, s.b, 0.85 * ink)
    inside = band(x, -0.8, 0.8, width) * band(y, -0.85, split - 0.1, width)
    blocks = cell_random(torch.floor(2.5 * x + 0.5 * y), torch.floor(3 * y), s.seed + 6)
    picture = mix(s.c, s.b, ((fbm(2 * x, 2 * y, s.seed + 2, 2 * width) - 0.5) * 6 + 0.5).clamp(0, 1))
    picture = mix(picture, 1 - s.c, (blocks > 0.7) * 0.6)
    return mix(rgb, picture, inside)


def portrait(s: Surface) -> Tensor:
    """Head and shoulders before a plain ground a: clothes in b, hair in c."""
    x, y = s.u / s.half_u, s.v / s.half_v
    width = s.width / torch.minimum(s.half_u, s.half_v)
    tone = cell_random(x * 0, y * 0, s.seed)
    skin = torch.stack([0.45 + 0.5 * tone, 0.28 + 0.47 * tone, 0.2 + 0.42 * tone], -1)
    rgb = s.a * (0.85 + 0.3 * fbm(2 * x, 2 * y, s.seed, 2 * width))[..., None]
    light = (0.8 + 0.35 * x)[..., None]
    aspect = s.half_v / s.half_u

    def oval(cx: float, cy: float, rx: float, ry: float) -> Tensor:
        level = 1 - ((x - cx) / rx).hypot((y - cy) * aspect / ry)
        return (level * min(rx, ry) / width + 0.5).clamp(0, 1)

    rgb = mix(rgb, s.c, oval(0.0, 0.25, 0.42, 0.62))
    rgb = mix(rgb, s.b * light, oval(0.0, -1.0, 0.8, 0.85))
    rgb = mix(rgb, skin * light, torch.maximum(oval(0.0, -0.2, 0.14, 0.4), oval(0.0, 0.18, 0.31, 0.48)))
    for side in (-0.12, 0.12):
        rgb = mix(rgb, 0.15 * torch.ones_like(rgb), oval(side, 0.25, 0.05, 0.035))
    return mix(rgb, skin * torch.tensor([0.8, 0.45, 0.45], device=x.device), oval(0.0, -0.05, 0.1, 0.03))
