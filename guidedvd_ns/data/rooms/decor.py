"""Small things and what hangs on walls: lamps, plants, books, pictures, windows with curtains, doors."""

from __future__ import annotations

import math

from guidedvd_ns.data.rooms.parts import Material, Piece
from guidedvd_ns.data.rooms.style import Style, hsv, shaded
from guidedvd_ns.data.rooms.textures import Texture


def shade(style: Style) -> Material:
    """The cloth of a lit lampshade."""
    color = hsv(style.dice.uniform(0.08, 0.13), style.dice.uniform(0.1, 0.35), 0.97)
    return Material(Texture.STRIPES, color, shaded(color, 0.93), color, 0.03, emission=0.7)


def table_lamp(style: Style) -> Piece:
    """A lamp with a ceramic foot."""
    dice, p = style.dice, Piece()
    p.ellipsoid((0, 0, 0.11), (0.08, 0.08, 0.11), style.ceramic())
    p.cylinder((0, 0, 0.2), 0.012, 0.08, style.metal())
    p.cylinder((0, 0, 0.25), dice.uniform(0.13, 0.17), 0.2, shade(style), top=dice.uniform(0.08, 0.12))
    return p


def plant(style: Style, height: float) -> Piece:
    """A pot with leaves: upright blades or a bush on a stem."""
    dice, p = style.dice, Piece()
    pot = min(0.3, 0.38 * height)
    p.cylinder((0, 0, 0), pot * 0.42, pot, style.ceramic(), top=pot * 0.58)
    green = hsv(dice.uniform(0.2, 0.4), dice.uniform(0.3, 0.7), dice.uniform(0.25, 0.5))
    texture = dice.choice([Texture.LEAF, Texture.FOLIAGE])
    leaf = Material(texture, shaded(green, 0.7), shaded(green, 1.4), green, dice.uniform(0.025, 0.05))
    rest = height - pot
    count = dice.integer(5, 7) if height > 0.6 else 4
    turn = dice.uniform(0, math.pi)
    if dice.chance(0.5):
        for k in range(count):
            yaw, lean = turn + 2.4 * k, dice.uniform(0.1, 0.45)
            length = rest * dice.uniform(0.75, 1.0) / 2
            reach = length * math.sin(lean)
            centre = (reach * math.sin(yaw), -reach * math.cos(yaw), pot * 0.9 + length * math.cos(lean))
            p.ellipsoid(centre, (0.05 + 0.03 * rest, 0.018, length), leaf, yaw=yaw, pitch=lean)
    else:
        p.cylinder((0, 0, pot), 0.018, rest * 0.6, Material(a=(0.35, 0.25, 0.16)))
        for k in range(count):
            yaw, radius = turn + 2.4 * k, 0.16 * rest + 0.04
            centre = (radius * math.sin(yaw), -radius * math.cos(yaw), pot + rest * (0.35 + 0.55 * (k + 0.5) / count))
            p.ellipsoid(
                centre,
                (0.14 * rest + 0.03, 0.22 * rest + 0.03, 0.05 * rest + 0.015),
                leaf,
                yaw=yaw,
                pitch=dice.uniform(0.2, 0.7),
            )
    return p


def ornament(style: Style, height: float) -> Piece:
    """A vase, a jar or a ball."""
    dice, p = style.dice, Piece()
    kind = dice.integer(0, 2)
    if kind == 0:
        p.cylinder((0, 0, 0), 0.3 * height, height, style.ceramic(), top=dice.uniform(0.15, 0.4) * height)
    else:
        half = height / 2 if kind == 1 else 0.3 * height
        p.ellipsoid((0, 0, half), (0.3 * height, 0.3 * height, half), style.ceramic())
    return p


def flower_vase(style: Style) -> Piece:
    """A vase with three blossoms."""
    dice, p = style.dice, Piece()
    p.ellipsoid((0, 0, 0.09), (0.065, 0.065, 0.1), style.ceramic())
    color = style.accent(0.6, 0.95)
    for k in range(3):
        yaw = 2.1 * k + dice.uniform(0, 1)
        p.ellipsoid(
            (0.06 * math.cos(yaw), 0.06 * math.sin(yaw), 0.26 + 0.05 * k),
            (0.04, 0.04, 0.03),
            Material(Texture.LEAF, color, shaded(color, 1.3), color, 0.05),
        )
    green = Material(a=(0.25, 0.4, 0.18))
    p.cylinder((0, 0, 0.17), 0.012, 0.12, green, top=0.05)
    return p


def fruit_bowl(style: Style) -> Piece:
    """A bowl of oranges and apples."""
    p = Piece()
    p.cylinder((0, 0, 0), 0.07, 0.07, style.ceramic(), top=0.15)
    for k in range(3):
        color = hsv(style.dice.choice([0.0, 0.07, 0.13, 0.25]), 0.8, 0.85)
        p.ellipsoid(
            (0.06 * math.cos(2.1 * k), 0.06 * math.sin(2.1 * k), 0.09), (0.045, 0.045, 0.042), Material(a=color)
        )
    return p


def book_pile(style: Style, p: Piece, x: float, y: float, z: float) -> None:
    """Two or three books on top of each other, added to the piece."""
    dice = style.dice
    for _ in range(dice.integer(2, 3)):
        thickness = dice.uniform(0.025, 0.045)
        size = (dice.uniform(0.2, 0.28), dice.uniform(0.14, 0.2), thickness)
        cover = Material(Texture.STRIPES, style.accent(), shaded(style.accent(), 0.9), style.pale(), 0.08)
        p.box((x, y, z + thickness / 2), size, cover, yaw=dice.uniform(-0.4, 0.4))
        z += thickness


def small_thing(style: Style, p: Piece, x: float, y: float, z: float) -> None:
    """One of the things that stand on tables, added to the piece."""
    dice = style.dice
    kind = dice.integer(0, 9)
    if kind <= 1:
        book_pile(style, p, x, y, z)
    elif kind == 2:
        p.add(fruit_bowl(style), x, y, z)
    elif kind == 3:
        p.add(flower_vase(style), x, y, z)
    elif kind == 4:
        p.add(plant(style, 0.3), x, y, z)
    elif kind == 5:
        p.cylinder((x, y, z), 0.04, 0.09, style.ceramic())
    elif kind == 6:
        p.cylinder((x, y, z), 0.036, dice.uniform(0.12, 0.2), style.ceramic())
        p.cylinder((x, y, z + 0.19), 0.014, 0.09, style.metal())
    elif kind == 7:
        p.box((x, y, z + 0.002), (0.21, 0.29, 0.004), style.picture(), dice.uniform(-1, 1))
    elif kind == 8:
        tall = dice.uniform(0.04, 0.2)
        p.box((x, y, z + tall / 2), (0.16, 0.12, tall), style.cloth(), dice.uniform(-1, 1), rounded=0.008)
    else:
        p.add(ornament(style, dice.uniform(0.12, 0.3)), x, y, z)


def picture(style: Style, width: float, height: float) -> Piece:
    """A framed painting whose centre is the origin; it hangs on a wall at y = 0 and faces -y."""
    p, rim = Piece(), style.dice.uniform(0.025, 0.05)
    frame = style.wood() if style.dice.chance(0.6) else style.paint(shaded(style.metal_color, 0.8))
    p.box((0, -0.015, 0), (width, 0.03, height), frame, rounded=0.008)
    if style.dice.chance(0.5):
        p.box((0, -0.031, 0), (width - 2 * rim, 0.006, height - 2 * rim), style.paint((0.93, 0.92, 0.88)))
        rim += 0.05
    p.box((0, -0.034, 0), (width - 2 * rim, 0.008, height - 2 * rim), style.picture())
    return p


def clock(style: Style) -> Piece:
    """A wall clock whose centre is the origin."""
    p, size = Piece(), style.dice.uniform(0.26, 0.36)
    p.box((0, -0.015, 0), (size + 0.04, 0.03, size + 0.04), style.wood())
    p.box(
        (0, -0.034, 0), (size, 0.01, size), Material(Texture.CLOCK, (0.95, 0.94, 0.9), (0.1, 0.1, 0.1), (0.8, 0.8, 0.8))
    )
    return p


def wall_shelf(style: Style, width: float) -> Piece:
    """A board with books and an ornament, its board's middle at the origin, on a wall at y = 0."""
    p, dice = Piece(), style.dice
    p.box((0, -0.11, 0), (width, 0.22, 0.03), style.wood())
    books = Material(Texture.BOOKS, style.pale(), style.accent(), (0.4, 0.35, 0.3), dice.uniform(0.03, 0.045))
    p.box((-width * 0.15, -0.1, 0.115), (width * 0.6, 0.16, 0.2), books)
    p.add(ornament(style, 0.18), width * 0.33, -0.11, 0.015)
    return p


def switch(style: Style) -> Piece:
    """A light switch or socket whose centre is the origin."""
    p = Piece()
    p.box((0, -0.006, 0), (0.085, 0.012, 0.085), style.paint((0.94, 0.94, 0.92)), rounded=0.01)
    p.box((0, -0.013, 0), (0.05, 0.006, 0.05), style.paint((0.82, 0.82, 0.8)))
    return p


def window(style: Style, width: float, height: float, sill: float, outside: float) -> Piece:
    """A window on a wall at y = 0 with frame, sill, an outside that bright, and perhaps curtains and a radiator."""
    dice, p = style.dice, Piece()
    z = sill + height / 2
    white = style.paint((0.93, 0.92, 0.9))
    for side in (-1, 1):
        p.box((side * (width / 2 + 0.03), -0.03, z), (0.08, 0.06, height + 0.14), white)
        p.box((0, -0.03, z + side * (height / 2 + 0.03)), (width, 0.06, 0.08), white)
    wall = style.accent(0.3, 0.8)
    p.box(
        (0, -0.008, z),
        (width, 0.015, height),
        Material(Texture.OUTDOORS, wall, wall, (1.0, 1.0, 0.98), emission=outside),
    )
    p.box((0, -0.1, sill - 0.03), (width + 0.24, 0.2, 0.04), white)
    if dice.chance(0.75):
        color = style.accent(0.6, 0.7)
        cloth = Material(
            Texture.FOLDS,
            color,
            shaded(color, 0.85) if dice.chance(0.6) else style.pale(),
            shaded(color, 0.8),
            dice.uniform(0.07, 0.11),
        )
        top = sill + height + 0.16
        bottom = 0.03 if dice.chance(0.7) else sill - 0.12
        for side in (-1, 1):
            w = dice.uniform(0.3, 0.42)
            p.box(
                (side * (width / 2 + w * 0.35), -0.14, (top + bottom) / 2), (w, 0.09, top - bottom), cloth, rounded=0.03
            )
        p.box((0, -0.14, top + 0.01), (width + 0.75, 0.03, 0.03), style.metal(), rounded=0.012)
    if dice.chance(0.5) and sill > 0.65:
        p.box(
            (0, -0.08, sill * 0.48),
            (width * 0.8, 0.1, sill * 0.62),
            Material(Texture.KEYS, (0.9, 0.9, 0.88), (0.6, 0.6, 0.6), scale=0.07),
        )
    return p


def door(style: Style, width: float, height: float) -> Piece:
    """A closed door in its frame on a wall at y = 0."""
    p = Piece()
    color = style.woods[0] if style.dice.chance(0.6) else style.pale()
    leaf = Material(Texture.DOOR, shaded(color, 0.9), shaded(color, 1.1), style.metal_color, 0.5)
    trim = style.paint((0.92, 0.91, 0.88)) if style.dice.chance(0.6) else style.wood(turned=True)
    p.box((0, -0.015, height / 2), (width, 0.03, height), leaf)
    for side in (-1, 1):
        p.box((side * (width / 2 + 0.04), -0.03, height / 2 + 0.03), (0.09, 0.06, height + 0.09), trim)
    p.box((0, -0.03, height + 0.04), (width + 0.16, 0.06, 0.09), trim)
    p.ellipsoid((0.42 * width, -0.07, 1.0), (0.03, 0.03, 0.03), style.metal())
    return p


def rug(style: Style, width: float, depth: float) -> Piece:
    """A rug with a border, or a plain patterned one."""
    p, dice = Piece(), style.dice
    if dice.chance(0.7):
        material = Material(
            Texture.RUG, style.accent(0.8, 0.55), style.pale(), style.accent(0.8, 0.35), dice.uniform(0.1, 0.16)
        )
    else:
        material = style.cloth(scale=dice.uniform(0.12, 0.25))
        if material.texture == Texture.CARPET:
            material = material._replace(scale=0.03)
    p.box((0, 0, 0.007), (width, depth, 0.014), material)
    return p
