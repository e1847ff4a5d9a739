"""Procedural textures in metric surface coordinates, faded out where a pixel no longer resolves them."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from guidedvd_ns.data.rooms import ornaments, paintings, prints
from guidedvd_ns.data.rooms.patterns import Surface, band, cell_random, fade, fbm, lines, mix, noise, pulse


class Texture(IntEnum):
    """Codes of the textures, as stored in `Room.texture`."""

    PLAIN = 0
    PLANKS = 1
    WOOD = 2
    TILES = 3
    BRICKS = 4
    STRIPES = 5
    PLAID = 6
    CARPET = 7
    MARBLE = 8
    WALLPAPER = 9
    ZIGZAG = 10
    QUILT = 11
    DOTS = 12
    FOLDS = 13
    RUG = 14
    LEAF = 15
    BOOKS = 16
    PANELS = 17
    DOOR = 18
    OUTDOORS = 19
    LANDSCAPE = 20
    ABSTRACT = 21
    FLOWERS = 22
    CLOCK = 23
    KEYS = 24
    DAMASK = 25
    BLOSSOMS = 26
    TRUCHET = 27
    CELLS = 28
    PARQUET = 29
    FUR = 30
    WICKER = 31
    PLASTER = 32
    FOLIAGE = 33
    PHOTOGRAPH = 34
    POSTER = 35
    PORTRAIT = 36


class TextureInputs(NamedTuple):
    """What a texture may depend on, for any number of surface points [...]."""

    surface: Surface
    code: Tensor
    """[...] int64 texture codes."""
    front: Tensor
    """[...] bool: the point lies on a front face; fronts-only textures are plain elsewhere."""
    turned: Tensor
    """[...] bool: swap the two coordinates."""


def evaluate(inputs: TextureInputs) -> Tensor:
    """sRGB albedo [..., 3] in [0, 1] at the given surface points."""
    s = inputs.surface
    turned = inputs.turned
    s = s._replace(
        u=torch.where(turned, s.v, s.u),
        v=torch.where(turned, s.u, s.v),
        half_u=torch.where(turned, s.half_v, s.half_u),
        half_v=torch.where(turned, s.half_u, s.half_v),
    )
    shape = s.u.shape
    # Sorted by texture, each one's points are a view: a GPU waits once and starts few kernels.
    ordered, order = inputs.code.flatten().to(torch.uint8).sort()
    flat = Surface(*(field.reshape(-1, *field.shape[len(shape) :])[order] for field in s))
    front = inputs.front.flatten()[order]
    steps = torch.arange(len(Texture) + 1, device=order.device, dtype=torch.uint8)
    bounds = torch.searchsorted(ordered, steps).tolist()
    parts = []
    for code, texture in _TEXTURES.items():
        part = slice(bounds[code], bounds[code + 1])
        if part.start < part.stop:
            parts.append(_on_fronts(code, texture, Surface(*(field[part] for field in flat)), front[part]))
    rgb = torch.empty_like(flat.a)
    rgb[order] = torch.cat(parts)
    return _worn(s, rgb.view(*shape, 3)).clamp(0, 1)


def _worn(s: Surface, rgb: Tensor) -> Tensor:
    """Nothing is of one colour: wear and dust over the length of an arm, a few per cent."""
    return rgb * (0.965 + 0.07 * fbm(s.u / 0.6, s.v / 0.45, s.seed + 51, s.width / 0.5))[..., None]


def _on_fronts(code: Texture, texture: Callable[[Surface], Tensor], s: Surface, front: Tensor) -> Tensor:
    """The texture, or one plain colour off the fronts of a box if it belongs there only."""
    if code not in _FRONTS:
        return texture(s)
    sides = _plain(s if code in (Texture.PANELS, Texture.DOOR) else s._replace(a=s.c))
    return torch.where(front[..., None], texture(s), sides)


def _plain(s: Surface) -> Tensor:
    """Paint with the faint unevenness of a roller."""
    return s.a * (0.96 + 0.08 * fbm(s.u / 0.25, s.v / 0.25, s.seed, s.width / 0.25))[..., None]


def _grain(s: Surface, u: Tensor, v: Tensor, tone: Tensor) -> Tensor:
    """Wood fibres along u: noise that is stretched twelve-fold, plus slow rings."""
    rings = noise(u / 0.9, v / 0.05, s.seed + tone * 97, s.width / 0.05)
    fibres = noise(u / 0.12, v / 0.008, s.seed + 5, s.width / 0.008)
    pores = noise(u / 0.05, v / 0.0025, s.seed + 6, s.width / 0.0025)
    return 0.55 * rings + 0.3 * fibres + 0.15 * pores


def _planks(s: Surface) -> Tensor:
    """Floorboards of width `scale` along u, joints staggered from row to row."""
    row = torch.floor(s.v / s.scale)
    length = s.scale * 8
    along = s.u + cell_random(row, row * 0, s.seed) * length
    tone = cell_random(row, torch.floor(along / length), s.seed + 1)
    rgb = mix(s.a, s.b, 0.6 * tone + 0.4 * _grain(s, s.u, s.v, tone))
    gap = torch.maximum(lines(s.v, s.scale, 0.0025, s.width), lines(along, length, 0.002, s.width))
    return mix(rgb, s.c, 0.8 * gap)


def _wood(s: Surface) -> Tensor:
    """Furniture wood, grain along u."""
    return mix(s.a, s.b, _grain(s, s.u, s.v, s.u * 0))


def _tiles(s: Surface) -> Tensor:
    """Square tiles of edge `scale` with grout c; every tile has its own tone between a and b, or a chequered one."""
    tone = cell_random(torch.floor(s.u / s.scale), torch.floor(s.v / s.scale), s.seed)
    cell = torch.floor(s.u / s.scale) + torch.floor(s.v / s.scale)
    tone = torch.where(cell_random(s.u * 0, s.v * 0, s.seed) < 0.3, 1.5 * (cell - 2 * torch.floor(cell / 2)), tone)
    rgb = mix(s.a, s.b, 0.6 * tone + 0.4 * fbm(s.u / 0.12, s.v / 0.12, s.seed, s.width / 0.12))
    grout = torch.maximum(lines(s.u, s.scale, 0.004, s.width), lines(s.v, s.scale, 0.004, s.width))
    return mix(rgb, s.c, grout)


def _bricks(s: Surface) -> Tensor:
    """Running bond of height `scale`, mortar c: every brick its own tone, rough, lit from above at its edges."""
    row = torch.floor(s.v / s.scale)
    length = s.scale * 3
    along = s.u + 0.5 * length * (row - 2 * torch.floor(row / 2))
    brick = torch.floor(along / length)
    tone, odd = cell_random(row, brick, s.seed), cell_random(row, brick, s.seed + 1)
    rough = noise(s.u / 0.03, s.v / 0.03, s.seed, s.width / 0.03)
    fine = noise(s.u / 0.008, s.v / 0.008, s.seed + 2, s.width / 0.008)
    rgb = mix(s.a, s.b, 0.75 * tone + 0.25 * rough) * (0.92 + 0.3 * (odd - 0.5) + 0.16 * fine)[..., None]
    height = s.v / s.scale - row
    rgb = (
        rgb
        * (1 + 0.25 * band(height, 0.82, 1.0, s.width / s.scale) - 0.25 * band(height, 0.0, 0.16, s.width / s.scale))[
            ..., None
        ]
    )
    mortar = torch.maximum(lines(s.v, s.scale, 0.006, s.width), lines(along, length, 0.006, s.width))
    return mix(rgb, s.c * (0.85 + 0.3 * fine)[..., None], mortar)


def _stripes(s: Surface) -> Tensor:
    """Stripes of width `scale` in a and b with a thin accent in c."""
    rgb = mix(s.a, s.b, pulse(s.u, 2 * s.scale, 0.5, s.width))
    return mix(rgb, s.c, 0.7 * lines(s.u + s.scale / 2, 2 * s.scale, 0.06 * s.scale, s.width))


def _plaid(s: Surface) -> Tensor:
    """Woven checks: two crossing sets of translucent bands and thin lines."""
    across, down = (pulse(x, 2 * s.scale, 0.5, s.width) for x in (s.u, s.v))
    rgb = mix(s.a, s.b, 0.5 * (across + down))
    thin = torch.maximum(*(lines(x, 2 * s.scale, 0.06 * s.scale, s.width) for x in (s.u, s.v)))
    return mix(rgb, s.c, 0.6 * thin)


def _carpet(s: Surface) -> Tensor:
    """Pile or woven cloth: fine noise over slow shading; also the weave of upholstery."""
    fine = noise(s.u / s.scale, s.v / s.scale, s.seed, s.width / s.scale)
    slow = fbm(s.u / (8 * s.scale), s.v / (8 * s.scale), s.seed + 3, s.width / (8 * s.scale))
    return mix(s.a, s.b, 0.55 * fine + 0.45 * slow)


def _marble(s: Surface) -> Tensor:
    """Veins c along the zero crossings of turbulence over a clouded base."""
    u, v, width = s.u / s.scale, s.v / s.scale, s.width / s.scale
    cloud = fbm(u, v, s.seed, width)
    vein = (fbm(u * 1.3 + 2 * cloud, v * 1.3, s.seed + 7, width) - 0.5).abs()
    return mix(mix(s.a, s.b, cloud), s.c, (1 - vein / 0.035).clamp(0, 1) * 0.75 * (1 - fade(width, 0.3)))


def _wallpaper(s: Surface) -> Tensor:
    """A damask-like figure: level sets of two crossed waves, with a smaller one between them."""
    u, v = (2 * torch.pi * x / s.scale for x in (s.u, s.v * 0.75))
    figure = torch.cos(u) * torch.cos(v) + 0.5 * torch.cos(2 * u + torch.sin(v)) * torch.sin(v)
    small = torch.cos(3 * u) * torch.cos(3 * v)
    sharp = (s.scale / (12 * s.width)).clamp(1, 8)
    ink = torch.maximum(((figure.abs() - 0.35) * sharp).clamp(0, 1), ((small - 0.75) * sharp).clamp(0, 1))
    return mix(_plain(s), s.b, mix(ink, torch.full_like(ink, 0.5), fade(s.width, s.scale / 3)))


def _zigzag(s: Surface) -> Tensor:
    """Chevrons of width `scale`."""
    wave = (s.u / s.scale - torch.floor(s.u / s.scale) - 0.5).abs() * s.scale
    return mix(s.a, s.b, pulse(s.v + wave, s.scale, 0.5, s.width))


def _quilt(s: Surface) -> Tensor:
    """Patchwork: every cell has one of the three colours or a blend of them."""
    row, column = torch.floor(s.u / s.scale), torch.floor(s.v / s.scale)
    first, second = cell_random(row, column, s.seed), cell_random(row, column, s.seed + 1)
    patch = mix(mix(s.a, s.b, band(first, 0.33, 1.0, 0.1)), s.c, band(second, 0.6, 1.0, 0.1))
    dots = (torch.cos(2 * torch.pi * 4 * s.u / s.scale) * torch.cos(2 * torch.pi * 4 * s.v / s.scale) > 0.5) & (
        first > 0.5
    )
    average = (s.a + s.b + s.c) / 3
    patch = torch.where(dots[..., None] & (s.width < s.scale / 8)[..., None], patch * 0.6 + 0.4 * s.a, patch)
    return mix(patch, average, fade(s.width, s.scale))


def _dots(s: Surface) -> Tensor:
    """Discs of b on a, each row shifted by half a period."""
    row = torch.floor(s.v / s.scale)
    u = s.u / s.scale + 0.5 * (row - 2 * torch.floor(row / 2))
    du, dv = u - torch.floor(u) - 0.5, s.v / s.scale - row - 0.5
    width = s.width / s.scale
    disc = ((0.28 - (du * du + dv * dv).clamp_min(1e-12).sqrt()) / width + 0.5).clamp(0, 1)
    return mix(s.a, s.b, mix(disc, torch.full_like(disc, 0.25), fade(width, 1.0)))


def _folds(s: Surface) -> Tensor:
    """Curtain cloth: irregular vertical folds shaded as if they were geometry, with a woven stripe."""
    u = s.u + 0.02 * torch.sin(s.u * 17 + s.seed) + 0.006 * torch.sin(s.v * 3 + s.u * 40)
    shade = 0.78 + 0.22 * torch.cos(2 * torch.pi * u / s.scale) * (1 - fade(s.width, s.scale))
    cloth = mix(s.a, s.b, 0.6 * pulse(u + s.scale / 4, s.scale * 2, 0.5, s.width))
    hem = band(s.v, 0.88 * s.half_v, 0.92 * s.half_v, s.width)
    return mix(cloth, s.c, hem) * shade[..., None]


def _rug(s: Surface) -> Tensor:
    """Woven rug: concentric borders, a row of diamonds, a medallion in a lattice field."""
    inset = torch.minimum(s.half_u - s.u.abs(), s.half_v - s.v.abs()) / s.scale
    width = s.width / s.scale
    lattice = (s.u / s.scale * 0.5 - torch.floor(s.u / s.scale * 0.5) - 0.5).abs() + (
        s.v / s.scale * 0.5 - torch.floor(s.v / s.scale * 0.5) - 0.5
    ).abs()
    field = mix(s.a, s.b, band(lattice, 0.0, 0.22, width * 0.7) + band(lattice, 0.42, 0.5, width * 0.7))
    medallion = s.u.abs() / s.half_u + s.v.abs() / s.half_v
    relative = s.width / torch.minimum(s.half_u, s.half_v)
    field = mix(field, s.c, band(medallion, 0.42, 0.5, relative) + band(medallion, 0.0, 0.2, relative))
    field = mix(field, s.b, band(medallion, 0.2, 0.26, relative))
    along = torch.where(s.half_u - s.u.abs() < s.half_v - s.v.abs(), s.v, s.u) / s.scale
    diamond = (along - torch.floor(along) - 0.5).abs() + (inset - 1.3).abs()
    border = mix(s.c, s.b, band(diamond, 0.0, 0.4, width))
    rgb = mix(field, border, band(inset, -1.0, 2.1, width))
    rgb = mix(rgb, s.a, band(inset, 0.35, 0.5, width) + band(inset, 2.0, 2.2, width))
    return rgb * (0.9 + 0.2 * noise(s.u / 0.012, s.v / 0.012, s.seed, s.width / 0.012))[..., None]


def _leaf(s: Surface) -> Tensor:
    """Foliage: variegated blotches, lighter towards b."""
    blotch = noise(s.u / 0.03, s.v / 0.05, s.seed, s.width / 0.03)
    return mix(s.a, s.b, (blotch * 1.6 - 0.3).clamp(0, 1))


def _books(s: Surface) -> Tensor:
    """A row of book spines of mean thickness `scale` before the dark back of a shelf."""
    cell = torch.floor(s.u / s.scale)
    first, second = cell_random(cell, cell * 0, s.seed), cell_random(cell, cell * 0 + 1, s.seed)
    height = (s.v + s.half_v) / (2 * s.half_v)
    spine = (
        paintings.hue(first, 0.25 + 0.6 * second) * (0.55 + 0.6 * cell_random(cell, cell * 0 + 2, s.seed))[..., None]
    )
    spine = torch.where((second < 0.3)[..., None], mix(s.a, spine, 0.25 * torch.ones_like(second)), spine)
    label = band(height, 0.2 + 0.3 * first, 0.26 + 0.34 * first, s.width / (2 * s.half_v))
    spine = mix(spine, s.a, 0.8 * label)
    edge = lines(s.u, s.scale, 0.07 * s.scale, s.width)
    rgb = mix(spine, s.c * 0.35, edge * 0.8)
    top = 0.62 + 0.34 * cell_random(cell, cell * 0 + 3, s.seed)
    lean = cell_random(torch.floor(s.u / (s.scale * 9)), cell * 0, s.seed + 9) < 0.14
    top = torch.where(lean, 0.0, top)
    rgb = mix(rgb, s.c * 0.3, ((height - top) / (s.width / (2 * s.half_v)) + 0.5).clamp(0, 1))
    average = (s.a + s.c) / 2 * 0.6
    return mix(rgb, average, fade(s.width, s.scale) * 0.8)


def _panels(s: Surface) -> Tensor:
    """Cabinet fronts: doors or drawers of width `scale` in wood or paint, framed by grooves, with handles in c."""
    count = torch.round(2 * s.half_u / s.scale).clamp_min(1)
    width = 2 * s.half_u / count
    u = s.u + s.half_u
    local = u - torch.floor(u / width) * width - width / 2
    body = mix(s.a, s.b, _grain(s, s.v, s.u, torch.floor(u / width)))
    outer = torch.minimum(width / 2 - local.abs(), s.half_v - s.v.abs())
    groove = band(outer, -1.0, 0.006, s.width)
    bevel = band(outer, 0.045, 0.055, s.width)
    odd = torch.floor(u / width)
    odd = odd - 2 * torch.floor(odd / 2)
    side = torch.where(odd > 0, -1.0, 1.0) * (width / 2 - 0.03)
    handle = band((local - side).abs(), -1.0, 0.008, s.width) * band((s.v - 0.2 * s.half_v).abs(), -1.0, 0.05, s.width)
    rgb = mix(mix(body, body * 0.75, bevel), body * 0.25, groove)
    return mix(rgb, s.c, handle)


def _door(s: Surface) -> Tensor:
    """A door leaf with four sunk panels and a handle in c."""
    u, v = s.u.abs() - s.half_u / 2, (s.v - 0.1 * s.half_v)
    panel_v = torch.where(v > 0, v - 0.42 * s.half_v, v + 0.5 * s.half_v).abs()
    frame = torch.maximum(u.abs() - 0.34 * s.half_u, panel_v - 0.33 * s.half_v)
    body = mix(s.a, s.b, _grain(s, s.v, s.u, torch.floor(s.u / 0.2)))
    groove = band(frame.abs(), -1.0, 0.012, s.width)
    rgb = mix(body, body * 0.9, band(frame, -9.0, 0.0, s.width))
    rgb = mix(rgb, body * 0.55, groove)
    handle = band((s.u - 0.84 * s.half_u).abs(), -1.0, 0.045, s.width) * band(v.abs(), -1.0, 0.014, s.width)
    return mix(rgb, s.c, handle)


def _keys(s: Surface) -> Tensor:
    """A grid of small raised fields: radiators, grilles, keyboards, shelves of boxes."""
    gap = torch.maximum(lines(s.u, s.scale, 0.12 * s.scale, s.width), lines(s.v, 6 * s.scale, 0.12 * s.scale, s.width))
    return mix(s.a, s.b, gap)


_TEXTURES: dict[Texture, Callable[[Surface], Tensor]] = {
    Texture.PLAIN: _plain,
    Texture.PLANKS: _planks,
    Texture.WOOD: _wood,
    Texture.TILES: _tiles,
    Texture.BRICKS: _bricks,
    Texture.STRIPES: _stripes,
    Texture.PLAID: _plaid,
    Texture.CARPET: _carpet,
    Texture.MARBLE: _marble,
    Texture.WALLPAPER: _wallpaper,
    Texture.ZIGZAG: _zigzag,
    Texture.QUILT: _quilt,
    Texture.DOTS: _dots,
    Texture.FOLDS: _folds,
    Texture.RUG: _rug,
    Texture.LEAF: _leaf,
    Texture.BOOKS: _books,
    Texture.PANELS: _panels,
    Texture.DOOR: _door,
    Texture.OUTDOORS: paintings.outdoors,
    Texture.LANDSCAPE: paintings.landscape,
    Texture.ABSTRACT: paintings.abstract,
    Texture.FLOWERS: paintings.flowers,
    Texture.CLOCK: paintings.clock,
    Texture.KEYS: _keys,
    Texture.DAMASK: ornaments.damask,
    Texture.BLOSSOMS: ornaments.blossoms,
    Texture.TRUCHET: ornaments.truchet,
    Texture.CELLS: ornaments.cells,
    Texture.PARQUET: ornaments.parquet,
    Texture.FUR: ornaments.fur,
    Texture.WICKER: ornaments.wicker,
    Texture.PLASTER: ornaments.plaster,
    Texture.FOLIAGE: ornaments.foliage,
    Texture.PHOTOGRAPH: prints.photograph,
    Texture.POSTER: prints.poster,
    Texture.PORTRAIT: prints.portrait,
}

_FRONTS = {
    Texture.BOOKS,
    Texture.PANELS,
    Texture.DOOR,
    Texture.OUTDOORS,
    Texture.LANDSCAPE,
    Texture.ABSTRACT,
    Texture.FLOWERS,
    Texture.CLOCK,
    Texture.PHOTOGRAPH,
    Texture.POSTER,
    Texture.PORTRAIT,
}
