"""Furniture, each piece built from boxes, cylinders and ellipsoids."""

from __future__ import annotations

import math
from typing import NamedTuple

from guidedvd_ns.data.rooms import decor
from guidedvd_ns.data.rooms.parts import Material, Piece, Vector
from guidedvd_ns.data.rooms.style import Style, shaded
from guidedvd_ns.data.rooms.textures import Texture


class Furniture(NamedTuple):
    """A piece with the floor rectangle that it needs (metres, centred at its origin) and its height."""

    piece: Piece
    width: float
    depth: float
    height: float


def sofa(style: Style, seats: int | None = None) -> Furniture:
    """A sofa of two or three seats (an armchair with one), with cushions and a throw."""
    dice, p = style.dice, Piece()
    seats = dice.integer(2, 3) if seats is None else seats
    arm, seat = dice.uniform(0.14, 0.24), dice.uniform(0.58, 0.72)
    width, depth, back = 2 * arm + seats * seat, dice.uniform(0.82, 0.98), dice.uniform(0.72, 0.92)
    cover = style.upholstery()
    p.box((0, 0, 0.22), (width, depth, 0.2), cover, rounded=0.05)
    p.box((0, depth / 2 - 0.09, 0.12 + back / 2 - 0.02), (width, 0.18, back - 0.14), cover, rounded=0.06)
    for side in (-1, 1):
        p.box((side * (width - arm) / 2, -0.02, 0.36), (arm, depth - 0.04, 0.5), cover, rounded=0.07)
    cushion = cover if dice.chance(0.7) else style.upholstery()
    for k in range(seats):
        x = (k - (seats - 1) / 2) * seat
        p.box((x, -0.09, 0.385), (seat - 0.015, depth - 0.2, 0.13), cushion, pitch=0.02, rounded=0.05)
        p.box((x, depth / 2 - 0.25, 0.62), (seat - 0.03, 0.15, 0.36), cushion, pitch=-0.2, rounded=0.07)
    for k in range(dice.integer(1, 2) if seats > 1 else dice.integer(0, 1)):
        side = 1 if k else -1
        x = side * (width / 2 - arm - 0.24) if seats > 1 else 0.0
        _pillow(style, p, (x, depth / 2 - 0.42, 0.62), 0.42, (dice.uniform(-0.3, 0.3), -0.35, side * 0.1))
    if seats > 1 and dice.chance(0.5):
        throw, x = style.cloth(scale=0.09), dice.uniform(-0.3, 0.3) * width
        p.box((x, -0.1, 0.46), (0.5, depth - 0.18, 0.02), throw, pitch=0.02)
        p.box((x, -depth / 2 + 0.0, 0.32), (0.5, 0.03, 0.3), throw)
    p.legs(width - 0.1, depth - 0.1, 0.13, style.wood(turned=True))
    return Furniture(p, width, depth, back)


def armchair(style: Style) -> Furniture:
    """A sofa with one seat."""
    return sofa(style, seats=1)


def coffee_table(style: Style) -> Furniture:
    """A low table, round or with a shelf, with books, flowers or a bowl on it."""
    dice, p = style.dice, Piece()
    wood, height = style.wood(), dice.uniform(0.36, 0.46)
    if dice.chance(0.3):
        radius = dice.uniform(0.38, 0.5)
        p.cylinder((0, 0, height - 0.04), radius, 0.04, wood)
        p.cylinder((0, 0, 0), 0.22, height - 0.04, style.metal(), top=0.06)
        width = depth = 2 * radius
    else:
        width, depth = dice.uniform(0.9, 1.25), dice.uniform(0.5, 0.68)
        p.box((0, 0, height - 0.025), (width, depth, 0.05), wood)
        p.legs(width - 0.06, depth - 0.06, height - 0.05, style.wood(turned=True), 0.06)
        if dice.chance(0.6):
            p.box((0, 0, 0.14), (width - 0.1, depth - 0.1, 0.025), wood)
    _things_on_top(style, p, width * 0.8, depth * 0.6, height)
    return Furniture(p, width, depth, height)


def dining_table(style: Style) -> Furniture:
    """A table with two to four chairs around it."""
    dice, p = style.dice, Piece()
    width, depth, height = dice.uniform(1.2, 1.6), dice.uniform(0.75, 0.9), 0.75
    p.box((0, 0, height - 0.02), (width, depth, 0.04), style.wood())
    p.box((0, 0, height - 0.08), (width - 0.16, depth - 0.16, 0.08), style.wood())
    p.legs(width - 0.08, depth - 0.08, height - 0.04, style.wood(turned=True), 0.07)
    if dice.chance(0.4):
        p.box((0, 0, height + 0.004), (width * 0.92, 0.34, 0.008), style.cloth())
    _things_on_top(style, p, width * 0.6, 0.3, height)
    model = chair(style)
    places = [(-width / 4, -1), (width / 4, 1), (width / 4, -1), (-width / 4, 1)]
    for x, side in places[: dice.integer(2, 4)]:
        yaw = (0.0 if side > 0 else math.pi) + dice.uniform(-0.15, 0.15)
        p.add(model.piece, x, side * (depth / 2 + 0.12), 0, yaw)
    return Furniture(p, width + 0.1, depth + 0.9, 0.95)


def chair(style: Style) -> Furniture:
    """A chair with a slatted or solid back, at its origin facing -y."""
    dice, p = style.dice, Piece()
    wood = style.wood(turned=True)
    p.box((0, 0, 0.45), (0.44, 0.42, 0.05), style.cloth() if dice.chance(0.4) else wood)
    p.legs(0.42, 0.4, 0.43, wood, 0.045)
    if dice.chance(0.5):
        p.box((0, 0.2, 0.72), (0.42, 0.035, 0.46), wood, pitch=-0.12)
    else:
        for x in (-0.18, 0.18):
            p.box((x, 0.2, 0.7), (0.04, 0.04, 0.5), wood, pitch=-0.1)
        for z in (0.66, 0.88):
            p.box((0, 0.2 + (z - 0.7) * 0.1, z), (0.4, 0.03, 0.1), wood, pitch=-0.1)
    return Furniture(p, 0.46, 0.46, 0.95)


def bed(style: Style) -> Furniture:
    """A bed with its head at the wall, pillows, a folded-back duvet and a throw."""
    dice, p = style.dice, Piece()
    width, length, top = dice.uniform(1.3, 1.8), dice.uniform(1.95, 2.1), dice.uniform(0.48, 0.6)
    frame = style.wood() if dice.chance(0.7) else style.upholstery()
    p.box((0, 0, 0.2), (width + 0.06, length, 0.22), frame)
    p.box((0, length / 2 - 0.04, 0.3 + top / 2), (width + 0.1, 0.08, 0.6 + top), frame)
    p.box((0, -0.03, top - 0.12), (width - 0.04, length - 0.1, 0.22), style.paint())
    duvet = style.cloth(scale=dice.uniform(0.07, 0.16))
    p.box((0, -0.28, top + 0.01), (width + 0.04, length - 0.66, 0.1), duvet, rounded=0.05)
    for side in (-1, 1):
        p.box((side * (width / 2 + 0.01), -0.28, top - 0.13), (0.05, length - 0.66, 0.26), duvet)
        p.box(
            (side * width / 4, length / 2 - 0.28, top + 0.09),
            (width * 0.42, 0.4, 0.14),
            style.paint(),
            pitch=0.35,
            rounded=0.07,
        )
    if dice.chance(0.7):
        _pillow(style, p, (0, length / 2 - 0.42, top + 0.16), 0.4, (dice.uniform(-0.2, 0.2), -0.5, 0.0))
    if dice.chance(0.7):
        throw = style.cloth()
        p.box((0, -length / 2 + 0.4, top + 0.065), (width + 0.08, 0.5, 0.02), throw)
        for side in (-1, 1):
            p.box((side * (width / 2 + 0.04), -length / 2 + 0.4, top - 0.1), (0.02, 0.5, 0.34), throw)
    return Furniture(p, width + 0.12, length, 0.6 + top)


def nightstand(style: Style) -> Furniture:
    """A small chest with a lamp or a plant on it."""
    dice, p = style.dice, Piece()
    width, depth, height = dice.uniform(0.4, 0.52), 0.4, dice.uniform(0.48, 0.6)
    p.box((0, 0, height / 2 + 0.03), (width, depth, height - 0.1), style.fronts(width))
    p.box((0, 0, height - 0.012), (width + 0.04, depth + 0.03, 0.025), style.wood())
    p.legs(width, depth, 0.1, style.wood(turned=True), 0.04)
    p.add(decor.table_lamp(style) if dice.chance(0.7) else decor.plant(style, 0.3), 0, 0, height)
    return Furniture(p, width + 0.06, depth + 0.04, height + 0.3)


def bookshelf(style: Style) -> Furniture:
    """A tall case with rows of books, now and then a vase instead."""
    dice, p = style.dice, Piece()
    width, depth, shelves = dice.uniform(0.8, 1.25), dice.uniform(0.26, 0.34), dice.integer(3, 5)
    pitch = dice.uniform(0.32, 0.38)
    height = shelves * pitch + 0.1
    wood = style.wood()
    dark = shaded(wood.a, 0.6)
    for side in (-1, 1):
        p.box((side * (width - 0.03) / 2, 0, height / 2), (0.03, depth, height), wood._replace(turned=True))
    p.box((0, depth / 2 - 0.01, height / 2), (width - 0.04, 0.02, height), Material(a=dark))
    for k in range(shelves + 1):
        p.box((0, -0.002, 0.07 + k * pitch), (width - 0.05, depth - 0.01, 0.03), wood)
    for k in range(shelves):
        z = 0.085 + k * pitch
        books = Material(Texture.BOOKS, style.pale(), style.accent(), dark, dice.uniform(0.028, 0.05))
        rows = [(0.0, width - 0.07)]
        if dice.chance(0.3):
            share = dice.uniform(0.5, 0.75)
            rows = [(-(1 - share) / 2 * width, (width - 0.07) * share)]
            p.add(decor.ornament(style, 0.6 * pitch), width * (share / 2), -0.02, z)
        for x, length in rows:
            p.box((x, 0.01, z + (pitch - 0.06) / 2), (length, depth - 0.06, pitch - 0.06), books)
    p.add(
        decor.plant(style, 0.35) if dice.chance(0.5) else decor.ornament(style, 0.3),
        dice.uniform(-0.3, 0.3),
        0,
        height - 0.02,
    )
    return Furniture(p, width, depth, height)


def sideboard(style: Style) -> Furniture:
    """A long low cabinet on legs with a television or ornaments."""
    dice, p = style.dice, Piece()
    width, depth, height = dice.uniform(1.2, 1.9), dice.uniform(0.38, 0.48), dice.uniform(0.45, 0.8)
    p.box((0, 0, height / 2 + 0.05), (width, depth, height - 0.12), style.fronts(dice.uniform(0.4, 0.6)))
    p.box((0, -0.005, height), (width + 0.03, depth + 0.02, 0.03), style.wood())
    p.legs(width - 0.06, depth - 0.04, 0.13, style.wood(turned=True))
    if dice.chance(0.6):
        screen = dice.uniform(0.85, 1.2)
        dark = Material(a=(0.05, 0.05, 0.06), gloss=0.6)
        p.box((0, 0.06, height + 0.08 + 0.28 * screen), (screen, 0.05, 0.58 * screen), dark)
        screen_texture = dice.choice([Texture.LANDSCAPE, Texture.PHOTOGRAPH, Texture.PLAIN])
        image = Material(screen_texture, (0.25, 0.35, 0.5), (0.2, 0.25, 0.35), (0.08, 0.1, 0.14), emission=0.15)
        p.box((0, 0.03, height + 0.08 + 0.28 * screen), (screen - 0.05, 0.012, 0.58 * screen - 0.05), image)
        p.box((0, 0.06, height + 0.045), (0.3, 0.18, 0.06), dark)
        p.add(decor.ornament(style, 0.25), -width / 2 + 0.12, 0, height + 0.015)
    else:
        p.add(decor.table_lamp(style), -width * 0.36, 0, height + 0.015)
        p.add(decor.plant(style, 0.32), width * 0.36, 0, height + 0.015)
        decor.book_pile(style, p, 0, 0, height + 0.015)
    return Furniture(p, width + 0.03, depth + 0.02, height + 0.5)


def wardrobe(style: Style) -> Furniture:
    """A tall cupboard with doors."""
    dice, p = style.dice, Piece()
    width, depth, height = dice.uniform(1.0, 1.7), dice.uniform(0.5, 0.6), dice.uniform(1.9, 2.15)
    fronts = style.fronts(dice.uniform(0.45, 0.6))
    p.box((0, 0, height / 2), (width, depth, height), fronts)
    p.box((0, -0.01, height - 0.03), (width + 0.06, depth + 0.04, 0.08), Material(a=shaded(fronts.a, 0.9)))
    p.box((0, -0.01, 0.04), (width + 0.02, depth + 0.02, 0.08), Material(a=shaded(fronts.a, 0.7)))
    return Furniture(p, width + 0.06, depth + 0.04, height)


def dresser(style: Style) -> Furniture:
    """A chest with three rows of drawers."""
    dice, p = style.dice, Piece()
    width, depth, height = dice.uniform(0.8, 1.2), 0.45, dice.uniform(0.8, 1.0)
    fronts = style.fronts(dice.uniform(0.4, 0.6))
    p.box((0, 0.01, height / 2), (width, depth - 0.02, height), Material(a=shaded(fronts.a, 0.8)))
    for k in range(3):
        z = 0.06 + (k + 0.5) * (height - 0.1) / 3
        p.box((0, -depth / 2 + 0.01, z), (width - 0.04, 0.02, (height - 0.1) / 3 - 0.015), fronts)
    p.box((0, 0, height), (width + 0.04, depth + 0.03, 0.03), style.wood())
    _things_on_top(style, p, width * 0.8, 0.2, height + 0.015)
    return Furniture(p, width + 0.04, depth + 0.04, height + 0.4)


def desk(style: Style) -> Furniture:
    """A desk with drawers, a screen, a lamp and a chair before it."""
    dice, p = style.dice, Piece()
    width, depth, height = dice.uniform(1.2, 1.6), dice.uniform(0.6, 0.75), 0.74
    p.box((0, 0, height - 0.02), (width, depth, 0.04), style.wood())
    side = dice.choice([-1, 1])
    p.box((side * (width / 2 - 0.22), 0, (height - 0.04) / 2), (0.4, depth - 0.06, height - 0.04), style.fronts(0.4))
    for y in (-1, 1):
        p.box(
            (-side * (width / 2 - 0.04), y * (depth / 2 - 0.05), (height - 0.04) / 2),
            (0.05, 0.05, height - 0.04),
            style.wood(turned=True),
        )
    dark = Material(a=(0.08, 0.08, 0.09))
    image = style.picture()._replace(emission=0.3)
    p.box((0, 0.16, height + 0.3), (0.58, 0.03, 0.36), dark)
    p.box((0, 0.145, height + 0.3), (0.55, 0.01, 0.33), image)
    p.box((0, 0.18, height + 0.07), (0.05, 0.03, 0.16), dark)
    p.box(
        (0, -0.12, height + 0.01),
        (0.42, 0.14, 0.02),
        Material(Texture.KEYS, (0.8, 0.8, 0.8), (0.3, 0.3, 0.3), scale=0.025),
    )
    p.add(decor.table_lamp(style), -side * (width / 2 - 0.16), 0.12, height)
    decor.book_pile(style, p, side * (width / 2 - 0.2), 0.05, height)
    p.add(chair(style).piece, dice.uniform(-0.15, 0.15), -depth / 2 - 0.1, 0, math.pi + dice.uniform(-0.4, 0.4))
    return Furniture(p, width, depth + 0.7, 1.2)


def kitchenette(style: Style) -> Furniture:
    """Base and wall cabinets with a worktop, a tiled splashback and a hob."""
    dice, p = style.dice, Piece()
    width, depth = dice.uniform(1.6, 2.4), 0.6
    fronts = style.fronts(dice.uniform(0.4, 0.6))
    p.box((0, 0.02, 0.05), (width, depth - 0.1, 0.1), Material(a=(0.15, 0.15, 0.15)))
    p.box((0, 0, 0.48), (width, depth - 0.03, 0.76), fronts)
    base = style.pale() if dice.chance(0.5) else (0.25, 0.25, 0.27)
    p.box(
        (0, -0.01, 0.88),
        (width + 0.02, depth, 0.04),
        Material(Texture.MARBLE, base, shaded(base, 0.85), shaded(base, 0.6), 0.3),
    )
    tile = style.pale()
    p.box(
        (0, depth / 2 - 0.01, 1.17),
        (width, 0.02, 0.54),
        Material(Texture.TILES, tile, style.accent(0.3, 0.8), shaded(tile, 0.7), 0.1),
    )
    p.box((0, depth / 2 - 0.17, 1.78), (width, 0.34, 0.68), fronts)
    p.box((width / 4, -0.02, 0.905), (0.5, 0.45, 0.012), Material(a=(0.06, 0.06, 0.07)))
    p.cylinder((width / 4 - 0.1, 0.05, 0.91), 0.1, 0.13, style.metal())
    p.box((-width / 4, 0.02, 0.902), (0.5, 0.4, 0.008), Material(a=(0.55, 0.56, 0.58)))
    p.add(decor.fruit_bowl(style), -width / 4 - 0.35, -0.05, 0.9)
    return Furniture(p, width + 0.02, depth, 2.12)


def pouf(style: Style) -> Furniture:
    """A round or square footstool."""
    dice, p = style.dice, Piece()
    radius, height = dice.uniform(0.2, 0.3), dice.uniform(0.34, 0.44)
    if dice.chance(0.5):
        p.cylinder((0, 0, 0), radius, height, style.cloth())
    else:
        p.ellipsoid((0, 0, height / 2), (radius * 1.1, radius * 1.1, height / 2), style.cloth())
    return Furniture(p, 2.2 * radius, 2.2 * radius, height)


def floor_lamp(style: Style) -> Furniture:
    """A standing lamp with a bright shade."""
    dice, p = style.dice, Piece()
    height = dice.uniform(1.45, 1.7)
    p.cylinder((0, 0, 0), 0.14, 0.03, style.metal())
    p.cylinder((0, 0, 0.03), 0.014, height - 0.25, style.metal())
    p.cylinder((0, 0, height - 0.26), dice.uniform(0.19, 0.24), 0.3, decor.shade(style), top=dice.uniform(0.1, 0.17))
    return Furniture(p, 0.42, 0.42, height)


def potted_plant(style: Style) -> Furniture:
    """A plant on the floor, up to a man's height."""
    height = style.dice.uniform(0.8, 1.5)
    return Furniture(decor.plant(style, height), 0.5, 0.5, height)


def floor_things(style: Style) -> Furniture:
    """What stands about: a basket with a throw, boxes, a stack of books, a bag, a ball, a cushion."""
    dice, p = style.dice, Piece()
    kind, size = dice.integer(0, 4), dice.uniform(0.24, 0.45)
    if kind == 0:
        cane = style.woods[1]
        basket = Material(Texture.WICKER, cane, shaded(cane, 0.7), cane, 0.03)
        p.cylinder((0, 0, 0), 0.4 * size, size, basket, top=0.5 * size)
        p.ellipsoid((0, 0, size), (0.42 * size, 0.42 * size, 0.1), style.cloth())
    elif kind == 1:
        top = 0.0
        for _ in range(dice.integer(1, 3)):
            tall = dice.uniform(0.1, 0.3)
            cover = style.cloth() if dice.chance(0.5) else style.wood()
            p.box((0, 0, top + tall / 2), (size, 0.8 * size, tall), cover, dice.uniform(-0.2, 0.2), rounded=0.01)
            top += tall
    elif kind == 2:
        decor.book_pile(style, p, 0, 0, 0.0)
        decor.book_pile(style, p, 0.03, 0.02, 0.1)
    elif kind == 3:
        p.ellipsoid((0, 0, 0.4 * size), (0.4 * size, 0.4 * size, 0.4 * size), style.cloth())
    else:
        _pillow(style, p, (0, 0, 0.1), 0.5, (dice.uniform(0, 3), 1.45, 0.0))
    return Furniture(p, 0.5, 0.5, 0.5)


def _pillow(style: Style, p: Piece, centre: Vector, edge: float, turn: tuple[float, float, float]) -> None:
    """A cushion: a soft-edged box or a flat ellipsoid."""
    dice, thick = style.dice, style.dice.uniform(0.1, 0.17)
    if dice.chance(0.65):
        p.box(centre, (edge, thick, edge), style.cloth(), *turn, rounded=0.08)
    else:
        p.ellipsoid(centre, (0.58 * edge, 0.55 * thick, 0.58 * edge), style.cloth(), *turn)


def _things_on_top(style: Style, p: Piece, width: float, depth: float, height: float) -> None:
    """Things beside each other on a table: one for every hand's breadth, or few."""
    dice = style.dice
    count = dice.integer(1, max(2, round(width / 0.2)))
    for k in range(count):
        x, y = ((k + 0.5) / count - 0.5) * width, dice.uniform(-0.5, 0.5) * depth
        decor.small_thing(style, p, x, y, height)
