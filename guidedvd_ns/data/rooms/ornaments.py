"""Figured surfaces, another figure for every seed: damask, blossoms, truchet arcs, cells, parquet, fur, wicker."""

from __future__ import annotations

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.patterns import Surface, band, cell_random, fade, fbm, lines, mix, noise


def _still(s: Surface, number: int) -> Tensor:
    """[...] a random number of the whole surface."""
    return cell_random(torch.full_like(s.u, float(number)), torch.zeros_like(s.u), s.seed)


def _inked(s: Surface, ground: Tensor, ink: Tensor, color: Tensor, period: Tensor, mean: float) -> Tensor:
    """The ink on its ground, evened out where samples no longer resolve the period."""
    return mix(ground, color, mix(ink, torch.full_like(ink, mean), fade(s.width, period)))


def _edge(level: Tensor, slope: Tensor | float, width: Tensor) -> Tensor:
    """Coverage of level > 0 for a function with about the given slope."""
    return (level / (slope * width) + 0.5).clamp(0, 1)


def damask(s: Surface) -> Tensor:
    """Level sets of noise mirrored about the axes of every cell, each other column moved by half a cell.

    Mirrored noise has the symmetry of woven ornaments and another figure for every seed.
    """
    period_v = s.scale * (1.0 + 0.6 * _still(s, 1))
    column = torch.floor(s.u / s.scale)
    v = s.v / period_v + 0.5 * (column - 2 * torch.floor(column / 2)) * (_still(s, 2) < 0.6)
    x = (s.u / s.scale - column - 0.5).abs()
    y = (v - torch.floor(v) - 0.5).abs()
    detail = 7 + 5 * _still(s, 3)
    width = s.width / s.scale
    value = 0.62 * noise(x * detail, y * detail, s.seed, width * detail)
    value = value + 0.38 * noise(2.3 * x * detail, 2.3 * y * detail, s.seed + 3, 2.3 * width * detail)
    figure = _edge(value - 0.5, 1.6 * detail, width)
    outline = band((value - 0.5).abs(), -1.0, 0.035, 1.6 * detail * width) * (_still(s, 4) < 0.5)
    ground = s.a * (0.95 + 0.1 * fbm(s.u / 0.3, s.v / 0.3, s.seed, s.width / 0.3))[..., None]
    return mix(_inked(s, ground, figure, s.b, s.scale / 2, 0.5), s.c, 0.6 * outline * (1 - fade(s.width, s.scale / 4)))


def blossoms(s: Surface) -> Tensor:
    """Large flowers with shaded petals in b and leaves in c, scattered over a clouded ground."""
    ground = s.a * (0.94 + 0.1 * fbm(s.u / s.scale, s.v / s.scale, s.seed, s.width / s.scale))[..., None]
    rgb = ground
    for layer, (size, share) in enumerate(((0.55, 0.8), (1.0, 0.75))):
        cell = s.scale * size
        gx, gy = s.u / cell + 0.37 * layer, s.v / cell + 0.61 * layer
        cx, cy = torch.floor(gx), torch.floor(gy)
        dx = gx - cx - 0.4 - 0.2 * cell_random(cx, cy, s.seed + layer)
        dy = gy - cy - 0.4 - 0.2 * cell_random(cx, cy, s.seed + 10 + layer)
        turn = 6.28 * cell_random(cx, cy, s.seed + 20 + layer)
        radius, angle = dx.hypot(dy).clamp_min(1e-4), torch.atan2(dy, dx) + turn
        width = s.width / cell
        shown = (cell_random(cx, cy, s.seed + 30 + layer) < share).to(radius.dtype)
        leaf = 0.40 * torch.cos(1.5 * angle).abs() ** 2 + 0.04
        vein = 0.75 + 0.35 * noise(angle * 3, radius * 12, s.seed, 12 * width)
        rgb = mix(rgb, s.c * vein[..., None], _edge(leaf - radius, 1.5, width) * shown)
        petals = 5 + torch.floor(3 * cell_random(cx, cy, s.seed + 40))
        bloom = (0.23 + 0.09 * cell_random(cx, cy, s.seed + 50)) * (1 + 0.16 * torch.cos(petals * angle))
        folds = noise(radius * 16, petals * angle / 2 + radius * 20, s.seed + layer, 16 * width)
        tone = 0.62 + 0.4 * radius / bloom + 0.45 * (folds - 0.5)
        shade = mix(s.b, ground, 0.45 * cell_random(cx, cy, s.seed + 60))
        rgb = mix(rgb, (shade * tone[..., None]).clamp(0, 1), _edge(bloom - radius, 1.0, width) * shown)
    return rgb


def truchet(s: Surface) -> Tensor:
    """Quarter arcs or triangles, each cell turned at random: maze-like prints and tiles."""
    cx, cy = torch.floor(s.u / s.scale), torch.floor(s.v / s.scale)
    x, y = s.u / s.scale - cx, s.v / s.scale - cy
    x = torch.where(cell_random(cx, cy, s.seed) < 0.5, 1 - x, x)
    width = s.width / s.scale
    thick = 0.07 + 0.15 * _still(s, 1)
    arcs = torch.minimum((x.hypot(y) - 0.5).abs(), ((1 - x).hypot(1 - y) - 0.5).abs())
    ink = torch.where(_still(s, 2) < 0.6, band(arcs, -1.0, thick, width), _edge(x + y - 1, 1.4, width))
    ground = mix(s.a, s.c, 0.35 * (cell_random(cx, cy, s.seed + 5) > 0.6))
    return _inked(s, ground, ink, s.b, s.scale, 0.45)


def _nearest_two(x: Tensor, y: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the nearest and to the second of jittered cell centres, and a random number of the nearest."""
    base_x, base_y = torch.floor(x - 0.5), torch.floor(y - 0.5)
    steps = torch.tensor([0.0, 1.0], device=x.device)
    cell_x = (base_x[..., None, None] + steps).expand(*x.shape, 2, 2).flatten(-2)
    cell_y = (base_y[..., None, None] + steps[:, None]).expand(*x.shape, 2, 2).flatten(-2)
    many = seed[..., None].expand_as(cell_x)
    dx = x[..., None] - cell_x - 0.2 - 0.6 * cell_random(cell_x, cell_y, many)
    dy = y[..., None] - cell_y - 0.2 - 0.6 * cell_random(cell_x, cell_y, many + 1)
    distance = dx.hypot(dy)
    first, which = distance.min(-1, keepdim=True)
    second = distance.scatter(-1, which, torch.inf).amin(-1)
    own = cell_random(cell_x, cell_y, many + 2).gather(-1, which)[..., 0]
    return first[..., 0], second, own


def cells(s: Surface) -> Tensor:
    """Cracked cells, pebbles or terrazzo chips, by seed."""
    width = s.width / s.scale
    first, second, own = _nearest_two(s.u / s.scale, s.v / s.scale, s.seed)
    kind = _still(s, 1)
    border = band(second - first, -1.0, 0.1, 2 * width)
    cracked = _inked(s, mix(s.a, s.b, 0.25 * own), border, s.c, s.scale, 0.3)
    chip = torch.where((own < 0.4)[..., None], s.b, torch.where((own < 0.7)[..., None], s.c, 0.5 * (s.a + s.b)))
    terrazzo = mix(s.a, chip, _edge(0.12 + 0.25 * own - first, 1.0, width) * (1 - 0.8 * fade(width, 1.0)))
    pebbles = mix(s.a, s.b, own) * (0.75 + 0.35 * (1 - first))[..., None]
    pebbles = _inked(s, pebbles, border, s.c, s.scale, 0.3)
    return torch.where((kind < 0.4)[..., None], cracked, torch.where((kind < 0.7)[..., None], terrazzo, pebbles))


def parquet(s: Surface) -> Tensor:
    """Blocks of short boards, each block at right angles to its neighbours."""
    block = s.scale * 4
    cx, cy = torch.floor(s.u / block), torch.floor(s.v / block)
    odd = (cx + cy) - 2 * torch.floor((cx + cy) / 2)
    along, across = torch.where(odd > 0, s.u, s.v), torch.where(odd > 0, s.v, s.u)
    tone = cell_random(torch.floor(across / s.scale), cx * 31 + cy, s.seed)
    grain = noise(along / 0.15, across / 0.008, s.seed + 5, s.width / 0.008)
    slow = noise(along / 0.5, across / 0.04, s.seed + tone * 97, s.width / 0.04)
    rgb = mix(s.a, s.b, 0.55 * tone + 0.25 * grain + 0.2 * slow)
    gap = torch.maximum(lines(across, s.scale, 0.0015, s.width), lines(along, block, 0.0015, s.width))
    return mix(rgb, s.c, 0.8 * gap)


def fur(s: Surface) -> Tensor:
    """Hair that hangs in tufts, its colour drifting between a, b and c; also shaggy rugs and throws."""
    u = s.u + s.scale * (noise(s.u / (3 * s.scale), s.v / (5 * s.scale), s.seed + 1, s.width / s.scale) - 0.5)
    slow = fbm(s.u / (9 * s.scale), s.v / (9 * s.scale), s.seed, s.width / (9 * s.scale))
    hair = noise(u / (0.12 * s.scale), s.v / s.scale, s.seed + 2, s.width / (0.12 * s.scale))
    tuft = noise(u / (0.6 * s.scale), s.v / (2 * s.scale), s.seed + 3, s.width / (0.6 * s.scale))
    rgb = mix(mix(s.a, s.b, ((slow - 0.5) * 3 + 0.5).clamp(0, 1)), s.c, ((0.4 - slow) * 4).clamp(0, 1))
    return rgb * (0.6 + 0.35 * hair + 0.4 * tuft)[..., None]


def wicker(s: Surface) -> Tensor:
    """Strands woven over and under each other: baskets, cane, knitted throws."""
    cx, cy = torch.floor(s.u / s.scale), torch.floor(s.v / s.scale)
    x, y = s.u / s.scale - cx - 0.5, s.v / s.scale - cy - 0.5
    odd = (cx + cy) - 2 * torch.floor((cx + cy) / 2)
    over, across = torch.where(odd > 0, x, y), torch.where(odd > 0, y, x)
    seen = 1 - fade(s.width, s.scale)
    height = (1 - 2.2 * across * across) * (1 - 1.2 * over * over)
    tone = mix(s.a, s.b, cell_random(torch.where(odd > 0, cy, cx), odd, s.seed))
    return tone * mix(torch.full_like(x, 0.72), 0.35 + 0.65 * height, seen)[..., None]


def plaster(s: Surface) -> Tensor:
    """Trowelled or sponged wall: blotches from hand to arm size, lit as if it were rough."""
    blotch = fbm(s.u / s.scale, s.v / s.scale, s.seed, s.width / s.scale)
    broad = fbm(s.u / (5 * s.scale), s.v / (5 * s.scale), s.seed + 9, s.width / (5 * s.scale))
    rough = noise(s.u / 0.012, s.v / 0.02, s.seed + 5, s.width / 0.012) - 0.5
    rgb = mix(s.a, s.b, (1.6 * (0.5 * blotch + 0.5 * broad) - 0.3).clamp(0, 1))
    return rgb * (1 + 0.12 * rough)[..., None]


def foliage(s: Surface) -> Tensor:
    """A mass of small leaves: light ones in front of dark gaps."""
    first, second, own = _nearest_two(s.u / s.scale, 0.6 * s.v / s.scale, s.seed)
    rgb = mix(s.a, s.b, own) * (1.15 - 0.6 * first)[..., None]
    return mix(rgb, 0.25 * s.a, 0.8 * band(second - first, -1.0, 0.08, 2 * s.width / s.scale))
