"""Pictures drawn by formula: landscapes, abstracts, flowers, a clock, and what one sees through a window."""

from __future__ import annotations

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.patterns import Surface, band, cell_random, fbm, mix, noise


def hue(h: Tensor, saturation: Tensor | float) -> Tensor:
    """Bright colours [..., 3] of the given hue (turns) and saturation, both [0, 1]."""
    wheel = torch.stack([(torch.cos(2 * torch.pi * (h - k / 3)) * 0.5 + 0.5) for k in range(3)], -1)
    saturation = saturation[..., None] if isinstance(saturation, Tensor) else saturation
    return 1 - saturation * (1 - wheel)


def _constant(like: Tensor, red: float, green: float, blue: float) -> Tensor:
    return torch.stack([torch.full_like(like, red), torch.full_like(like, green), torch.full_like(like, blue)], -1)


def _frame_coordinates(s: Surface) -> tuple[Tensor, Tensor, Tensor]:
    """x in [-1, 1] across, y in [-1, 1] up, and the sample width in the same units."""
    return s.u / s.half_u, s.v / s.half_v, s.width / torch.minimum(s.half_u, s.half_v)


def _hills(s: Surface, x: Tensor, y: Tensor, width: Tensor, rgb: Tensor, far: Tensor, near: Tensor) -> Tensor:
    """Three ridges in front of each other, from the far colour to the near one."""
    for layer in range(3):
        roughness = 1.2 + layer
        profile = noise(x * roughness + 10 * layer, x * 0, s.seed + layer, width) * 0.6
        profile = profile + 0.15 * noise(x * roughness * 4, x * 0 + layer, s.seed + layer, 4 * width)
        ridge = 0.2 - 0.35 * layer + profile - 0.3
        color = far + (near - far) * (layer / 2)
        rgb = mix(
            rgb,
            color * (0.85 + 0.3 * noise(x * 9, y * 14, s.seed + layer, 14 * width))[..., None],
            ((ridge - y) / width + 0.5).clamp(0, 1),
        )
    return rgb


def landscape(s: Surface) -> Tensor:
    """Sky from a to white, a sun or moon, hills in b and c, within a passe-partout."""
    x, y, width = _frame_coordinates(s)
    sky = mix(s.a, 0.5 + 0.5 * s.a, (0.5 - 0.5 * y).clamp(0, 1) * 0.9)
    sky = mix(sky, torch.ones_like(sky), 0.5 * fbm(x * 1.5, y * 4, s.seed, 4 * width) * (y > 0))
    sun_x, sun_y = cell_random(s.u * 0, s.u * 0, s.seed) - 0.5, 0.35 + 0.3 * cell_random(s.u * 0 + 1, s.u * 0, s.seed)
    disc = ((x - sun_x) * s.half_u).hypot((y - sun_y) * s.half_v)
    sky = mix(sky, _constant(x, 1.0, 0.95, 0.8), band(disc, -1.0, 0.09 * s.half_v, s.width))
    return _hills(s, x, y, width, sky, s.b, s.c)


def outdoors(s: Surface) -> Tensor:
    """Through a window, behind glazing bars in c: a garden with trees, a house front, or both out of focus.

    Brightness comes from emission.
    """
    x, y, width = _frame_coordinates(s)
    still = x * 0
    kind = cell_random(still + 7, still, s.seed)
    blurred = torch.maximum(width, 0.35 * cell_random(still + 8, still, s.seed) * (kind > 0.3))
    sky = mix(_constant(x, 0.80, 0.90, 1.0), _constant(x, 0.52, 0.72, 0.98), (0.5 + 0.5 * y).clamp(0, 1))
    sky = mix(sky, torch.ones_like(sky), (1.6 * fbm(x * 1.2, y * 2.5, s.seed, 2 * width) - 0.6).clamp(0, 1))
    sky = mix(sky, _constant(x, 0.93, 0.94, 0.95), cell_random(still + 9, still, s.seed))
    garden = _garden(s, x, y, blurred, sky)
    rgb = torch.where((kind < 0.75)[..., None], garden, _facade(s, x, y, blurred))
    bar_u = torch.minimum((s.u.abs() - s.half_u).abs(), s.u.abs())
    bar_v = torch.minimum((s.v.abs() - s.half_v).abs(), (s.v - 0.3 * s.half_v).abs())
    bars = band(torch.minimum(bar_u, bar_v), -1.0, 0.022, s.width)
    return mix(rgb, s.c * 0.62, bars)


def _garden(s: Surface, x: Tensor, y: Tensor, width: Tensor, sky: Tensor) -> Tensor:
    """Trees and a house on a lawn."""
    still = x * 0
    dry = cell_random(still + 3, still, s.seed)[..., None]
    lawn = mix(_constant(x, 0.45, 0.62, 0.30), _constant(x, 0.60, 0.72, 0.40), noise(x * 4, y * 9, s.seed, 9 * width))
    horizon = -0.5 + 0.35 * cell_random(still + 4, still, s.seed)
    rgb = mix(sky, lawn, ((horizon + 0.08 * torch.sin(2 * x + s.seed) - y) / width + 0.5).clamp(0, 1))
    house_x = 2.4 * cell_random(still, still, s.seed) - 1.2
    eaves = horizon + 0.25 + 0.45 * cell_random(still + 5, still, s.seed)
    wall = band(x, house_x - 0.25, house_x + 0.25, width) * band(y, horizon - 0.07, eaves, width)
    rgb = mix(rgb, s.a, wall)
    roof = band(y - eaves, 0.0, 1.0, width) * ((0.32 - (x - house_x).abs() * 0.9 - y + eaves) / width + 0.5).clamp(0, 1)
    rgb = mix(rgb, _constant(x, 0.66, 0.36, 0.28), roof)
    spread = 1.5 + 2.5 * cell_random(still + 6, still, s.seed)
    crown = noise(x * spread + 4, still, s.seed + 5, 2 * width) * 0.9 + 0.2 * noise(x * 11, y * 11, s.seed, 11 * width)
    tree = (crown - 0.62 - (y - horizon - 0.25) * 0.8).clamp_min(-1)
    leaves = _constant(x, 0.30, 0.47, 0.24) * (1 - 0.5 * dry) + _constant(x, 0.55, 0.42, 0.2) * 0.5 * dry
    leaves = leaves * (0.8 + 0.5 * noise(x * 13, y * 13, s.seed, 13 * width))[..., None]
    return mix(rgb, leaves, (tree / width + 0.5).clamp(0, 1) * (y > horizon - 0.15))


def _facade(s: Surface, x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    """The house across the street: rows of windows in a wall of colour a."""
    columns, rows = 4.0, 3.0
    cell_x, cell_y = torch.floor(x * columns), torch.floor(y * rows)
    inside = band(x * columns - cell_x, 0.28, 0.72, columns * width)
    inside = inside * band(y * rows - cell_y, 0.2, 0.8, rows * width)
    glass = _constant(x, 0.25, 0.3, 0.36) * (0.6 + 1.4 * cell_random(cell_x, cell_y, s.seed))[..., None]
    wall = s.a * (0.8 + 0.25 * fbm(x * 6, y * 6, s.seed, 6 * width))[..., None]
    return mix(wall, glass, inside)


def abstract(s: Surface) -> Tensor:
    """Coloured rectangles between black bars, or discs and arcs, by seed."""
    x, y, width = _frame_coordinates(s)
    still = x * 0
    split_x = 0.8 * cell_random(still, still, s.seed) - 0.4
    split_y = 0.8 * cell_random(still + 1, still, s.seed) - 0.4
    quadrant = 2.0 * (x > split_x) + 1.0 * (y > split_y)
    tone = cell_random(quadrant, still, s.seed)
    block = torch.where((tone < 0.3)[..., None], s.a, torch.where((tone < 0.6)[..., None], s.b, s.c))
    block = torch.where((tone > 0.85)[..., None], _constant(x, 0.95, 0.93, 0.88), block)
    bars = torch.maximum(band((x - split_x).abs(), -1.0, 0.05, width), band((y - split_y).abs(), -1.0, 0.05, width))
    blocks = mix(block, 0.08 * torch.ones_like(block), bars)

    arcs = _constant(x, 0.94, 0.91, 0.84)
    for k, color in enumerate((s.a, s.b, s.c)):
        cx = 1.2 * cell_random(still + k, still + 5, s.seed) - 0.6
        cy = 1.2 * cell_random(still + k, still + 6, s.seed) - 0.6
        radius = (x - cx).hypot(y - cy)
        outer = 0.25 + 0.35 * cell_random(still + k, still + 7, s.seed)
        inner = torch.where(cell_random(still + k, still + 8, s.seed) < 0.5, outer * 0.65, still - 1)
        arcs = mix(arcs, color, band(radius, inner, outer, width))
    return torch.where((cell_random(still, still + 9, s.seed) < 0.5)[..., None], blocks, arcs)


def flowers(s: Surface) -> Tensor:
    """A bunch of blossoms in many colours on a dark ground."""
    x, y, width = _frame_coordinates(s)
    rgb = s.c * (0.5 + 0.3 * noise(x * 3, y * 3, s.seed, 3 * width))[..., None]
    for layer, cells in enumerate((3.0, 4.2)):
        gx, gy = x * cells * 0.5 + layer * 0.37, y * cells * 0.5
        cx, cy = torch.floor(gx), torch.floor(gy)
        dx = gx - cx - 0.35 - 0.3 * cell_random(cx, cy, s.seed + layer)
        dy = gy - cy - 0.35 - 0.3 * cell_random(cy, cx, s.seed + layer)
        radius = dx.hypot(dy).clamp_min(1e-6)
        petals = 0.27 + 0.09 * torch.cos(5 * torch.atan2(dy, dx) + 6 * cell_random(cx, cy, s.seed + 4))
        inside = band(x.abs() * 0.7 + y.abs() * 0.7, -1.0, 0.95, width)
        color = hue(cell_random(cx, cy, s.seed + 7 + layer) * 0.35 + 0.8, 0.75) * 0.95
        grid_width = width * cells * 0.5
        rgb = mix(rgb, color, ((petals - radius) / grid_width + 0.5).clamp(0, 1) * inside)
        rgb = mix(rgb, _constant(x, 0.98, 0.82, 0.25), band(radius, -1.0, 0.08, grid_width) * inside)
    return rgb


def clock(s: Surface) -> Tensor:
    """A dial with twelve ticks and two hands."""
    x, y, width = _frame_coordinates(s)
    radius, angle = x.hypot(y).clamp_min(1e-6), torch.atan2(y, x)
    turn = angle * (6 / torch.pi)
    tick = band((turn - torch.round(turn)).abs() * radius / 1.9, -1.0, 0.03, width) * band(radius, 0.72, 0.86, width)
    rgb = mix(s.a, s.b, tick)
    for length, thickness, hand in ((0.45, 0.05, 2.4), (0.68, 0.035, 0.7)):
        direction = s.seed * hand
        along = x * torch.cos(direction) + y * torch.sin(direction)
        across = (y * torch.cos(direction) - x * torch.sin(direction)).abs()
        rgb = mix(rgb, s.b, band(along, -0.08, length, width) * band(across, -1.0, thickness, width))
    return rgb
