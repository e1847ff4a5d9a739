"""Rooms that are only the background of one thing photographed from near: a trophy, a laid table, a shelf, a figure."""

from __future__ import annotations

import math

from guidedvd_ns.data.rooms import decor, furniture, layout
from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.exposure import choose_lights
from guidedvd_ns.data.rooms.parts import Color, Material, Piece, pack
from guidedvd_ns.data.rooms.room import Room
from guidedvd_ns.data.rooms.style import Style, hsv, shaded
from guidedvd_ns.data.rooms.textures import Texture

Subject = tuple[float, float, float, float]
"""Centre and radius in metres."""


def sample_closeup(seed: int) -> Room:
    """A small room with a subject; see `Room.sample`."""
    dice = Dice(seed, 5)
    style = Style(dice)
    size = (dice.uniform(2.8, 4.5), dice.uniform(2.8, 4.5), dice.uniform(2.3, 2.8))
    arrangement = layout.Arrangement(style, size)
    place = dice.choice([_trophy, _table, _shelf, _figure])
    subject = place(arrangement)
    windows = layout.openings(arrangement, False)
    lamp = layout.ceiling_lamp(arrangement)
    layout.mouldings(arrangement)
    layout.pictures(arrangement, 10)
    main, accent = style.wall(), style.wall()
    faces = [main, main, accent, main, style.floor(), style.paint(hsv(0.1, 0.04, dice.uniform(0.85, 0.96)))]
    lights = choose_lights(dice, size, lamp, windows, False, layout.mean_albedo(faces))
    return pack(size, arrangement.whole.parts, faces, lights, dice, subject)


def _trophy(arrangement: layout.Arrangement) -> Subject:
    """A head, a mask or a clutch of shapes on a plaque at the wall."""
    dice, style = arrangement.dice, arrangement.style
    piece, wall, z = Piece(), dice.integer(0, 3), dice.uniform(1.2, 1.6)
    along, size = dice.uniform(-0.15, 0.15) * arrangement.wall_length(wall), dice.uniform(0.7, 1.3)
    wood = style.wood(turned=True)
    if dice.chance(0.5):
        piece.box((0, -0.015, 0), (0.3 * size, 0.03, 0.42 * size), wood, rounded=0.02)
    else:
        piece.ellipsoid((0, -0.01, 0), (0.18 * size, 0.03, 0.25 * size), wood)
    if dice.chance(0.65):
        _head(style, piece, size)
    else:
        _shapes(style, piece, (0, -0.12 * size, 0), 0.16 * size)
    arrangement.hang(piece, wall, along, z, 0.45 * size, z - 0.3 * size, z + 0.3 * size)
    x, y, _ = arrangement.on_wall(wall, along, 0.15 * size)
    return x, y, z, 0.28 * size


def _head(style: Style, piece: Piece, size: float) -> None:
    """An animal's head of fur, looking along -y and a little aside."""
    dice = style.dice
    color: Color = hsv(dice.uniform(0.03, 0.12), dice.uniform(0.1, 0.75), dice.uniform(0.3, 0.9))
    pale = hsv(0.1, dice.uniform(0.0, 0.3), dice.uniform(0.7, 0.95))
    coat = Material(Texture.FUR, color, shaded(color, 0.7), pale, dice.uniform(0.02, 0.04))
    chest = coat._replace(a=pale, b=color)
    dark = Material(a=(0.04, 0.03, 0.03), gloss=1.0)
    piece.ellipsoid((0, -0.1 * size, -0.08 * size), (0.11 * size, 0.13 * size, 0.17 * size), chest, pitch=-0.4)
    piece.ellipsoid((0, -0.22 * size, 0.07 * size), (0.1 * size, 0.11 * size, 0.1 * size), coat)
    long = dice.uniform(0.06, 0.14) * size
    piece.ellipsoid((0, -0.3 * size - 0.5 * long, 0.04 * size), (0.045 * size, long, 0.04 * size), chest, pitch=0.15)
    piece.ellipsoid((0, -0.3 * size - 1.45 * long, 0.035 * size), (0.018 * size, 0.015 * size, 0.014 * size), dark)
    ear = dice.uniform(0.05, 0.12) * size
    for side in (-1, 1):
        eye = 0.013 * size
        piece.ellipsoid((side * 0.05 * size, -0.305 * size, 0.1 * size), (eye, eye, eye), dark)
        ear_place = (side * 0.065 * size, -0.2 * size, 0.14 * size)
        piece.cylinder(ear_place, 0.04 * size, ear, coat, top=0.006 * size, roll=side * 0.25)


def _shapes(style: Style, piece: Piece, centre: tuple[float, float, float], radius: float) -> None:
    """A sculpture of balls, blocks and cones stuck together."""
    dice = style.dice
    for _ in range(dice.integer(3, 8)):
        x, y, z = (c + dice.uniform(-0.7, 0.7) * radius for c in centre)
        half = (dice.uniform(0.2, 0.7) * radius, dice.uniform(0.2, 0.7) * radius, dice.uniform(0.2, 0.7) * radius)
        material = dice.choice([style.cloth, style.ceramic, style.wood, style.picture])()
        turn, kind = (dice.uniform(0, 3), dice.uniform(-0.6, 0.6), dice.uniform(-0.6, 0.6)), dice.unit()
        if kind < 0.5:
            piece.ellipsoid((x, y, z), half, material, *turn)
        elif kind < 0.8:
            size = (1.5 * half[0], 1.5 * half[1], 1.5 * half[2])
            piece.box((x, y, z), size, material, *turn, rounded=dice.uniform(0.0, 0.02))
        else:
            top = half[0] * dice.uniform(0.1, 1.0)
            piece.cylinder((x, y, z - half[2]), half[0], 2 * half[2], material, top, turn[1], turn[2])


def _table(arrangement: layout.Arrangement) -> Subject:
    """A table or counter full of things."""
    dice, style = arrangement.dice, arrangement.style
    width, depth, height = dice.uniform(0.6, 1.3), dice.uniform(0.5, 0.8), dice.uniform(0.45, 0.95)
    piece = Piece()
    top = style.wood() if dice.chance(0.5) else style.cloth(scale=dice.uniform(0.05, 0.15))
    piece.box((0, 0, height - 0.02), (width, depth, 0.04), top, rounded=0.008)
    piece.legs(width - 0.06, depth - 0.06, height - 0.04, style.wood(turned=True), 0.06)
    for _ in range(dice.integer(3, 9)):
        x, y = dice.uniform(-0.4, 0.4) * width, dice.uniform(-0.35, 0.35) * depth
        decor.small_thing(style, piece, x, y, height)
    x, y = (dice.uniform(-0.15, 0.15) * extent for extent in arrangement.size[:2])
    arrangement.put(furniture.Furniture(piece, width, depth, height), x, y, dice.uniform(0, math.pi), 0.0)
    return x, y, height + 0.08, dice.uniform(0.25, 0.4)


def _shelf(arrangement: layout.Arrangement) -> Subject:
    """A piece of furniture against the wall."""
    dice, style = arrangement.dice, arrangement.style
    build = dice.choice([furniture.bookshelf, furniture.dresser, furniture.sideboard, furniture.armchair])
    item, wall = build(style), dice.integer(0, 3)
    x, y, yaw = arrangement.on_wall(wall, 0.0, item.depth / 2 + 0.03)
    arrangement.put(item, x, y, yaw, 0.0)
    arrangement.hung.append((wall, 0.0, item.width, 0.0, item.height))
    return x, y, min(0.6 * item.height, 1.2) + 0.1, dice.uniform(0.35, 0.5)


def _figure(arrangement: layout.Arrangement) -> Subject:
    """A figure on a pedestal, a stool or the floor."""
    dice, style = arrangement.dice, arrangement.style
    radius, height = dice.uniform(0.18, 0.35), dice.uniform(0.3, 1.0)
    piece = Piece()
    piece.box((0, 0, height / 2), (1.2 * radius, 1.2 * radius, height), style.fronts(0.4), rounded=0.01)
    _shapes(style, piece, (0, 0, height + 0.6 * radius), radius)
    x, y = (dice.uniform(-0.2, 0.2) * extent for extent in arrangement.size[:2])
    arrangement.put(furniture.Furniture(piece, 2 * radius, 2 * radius, height), x, y, dice.uniform(0, 3), 0.0)
    return x, y, height + 0.6 * radius, 1.2 * radius
