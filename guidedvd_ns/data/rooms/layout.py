"""Arranges one room: shell, openings, furniture along the walls and in the middle, pictures, lights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from guidedvd_ns.data.rooms import decor, furniture
from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.exposure import Opening, choose_lights
from guidedvd_ns.data.rooms.furniture import Furniture
from guidedvd_ns.data.rooms.parts import Material, Piece, Vector, pack
from guidedvd_ns.data.rooms.room import Room
from guidedvd_ns.data.rooms.style import Style, hsv

_Builder = Callable[[Style], Furniture]

_AT_WALLS: dict[str, list[_Builder]] = {
    "living": [
        furniture.sofa,
        furniture.bookshelf,
        furniture.sideboard,
        furniture.armchair,
        furniture.potted_plant,
        furniture.floor_lamp,
        furniture.dresser,
    ],
    "bedroom": [
        furniture.bed,
        furniture.nightstand,
        furniture.wardrobe,
        furniture.dresser,
        furniture.armchair,
        furniture.potted_plant,
        furniture.floor_lamp,
    ],
    "dining": [
        furniture.sideboard,
        furniture.bookshelf,
        furniture.dresser,
        furniture.potted_plant,
        furniture.floor_lamp,
        furniture.kitchenette,
    ],
    "study": [
        furniture.desk,
        furniture.bookshelf,
        furniture.bookshelf,
        furniture.armchair,
        furniture.sideboard,
        furniture.potted_plant,
        furniture.floor_lamp,
    ],
    "kitchen": [
        furniture.kitchenette,
        furniture.sideboard,
        furniture.wardrobe,
        furniture.potted_plant,
        furniture.bookshelf,
    ],
}
_IN_THE_MIDDLE: dict[str, list[_Builder]] = {
    "living": [furniture.coffee_table, furniture.pouf],
    "bedroom": [furniture.pouf],
    "dining": [furniture.dining_table],
    "study": [furniture.coffee_table, furniture.pouf],
    "kitchen": [furniture.dining_table],
}


class _Rectangle(NamedTuple):
    """Floor space from (x0, y0) to (x1, y1), used up to a height."""

    x0: float
    y0: float
    x1: float
    y1: float
    top: float

    def meets(self, other: _Rectangle, margin: float) -> bool:
        return (
            self.x0 < other.x1 + margin
            and other.x0 < self.x1 + margin
            and self.y0 < other.y1 + margin
            and other.y0 < self.y1 + margin
        )


class Arrangement:
    """The room while it is filled: parts so far, floor space taken, wall space taken."""

    def __init__(self, style: Style, size: Vector) -> None:
        self.style = style
        self.dice = style.dice
        self.size = size
        self.whole = Piece()
        self.taken: list[_Rectangle] = []
        self.hung: list[tuple[int, float, float, float, float]] = []

    def wall_length(self, wall: int) -> float:
        """Length of wall 0 ... 3 (-x, +x, -y, +y)."""
        return self.size[1] if wall < 2 else self.size[0]

    def on_wall(self, wall: int, along: float, out: float) -> tuple[float, float, float]:
        """x, y and yaw of a piece with its back to a wall, `along` from the wall's middle and `out` in front of it."""
        width, depth, _ = self.size
        if wall == 0:
            return -width / 2 + out, along, math.pi / 2
        if wall == 1:
            return width / 2 - out, along, -math.pi / 2
        if wall == 2:
            return along, -depth / 2 + out, math.pi
        return along, depth / 2 - out, 0.0

    def put(self, item: Furniture, x: float, y: float, yaw: float, margin: float) -> bool:
        """Places furniture if the floor there is free and the room's primitives suffice."""
        cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
        half_x = (item.width * cos + item.depth * sin) / 2
        half_y = (item.width * sin + item.depth * cos) / 2
        place = _Rectangle(x - half_x, y - half_y, x + half_x, y + half_y, item.height)
        inside = abs(x) + half_x <= self.size[0] / 2 + 0.01 and abs(y) + half_y <= self.size[1] / 2 + 0.01
        if not inside or any(place.meets(other, margin) for other in self.taken):
            return False
        if not self.whole.fits_with(item.piece):
            return False
        self.whole.add(item.piece, x, y, 0, yaw)
        self.taken.append(place)
        return True

    def put_at_wall(self, item: Furniture) -> bool:
        """Tries a few places along the walls."""
        for _ in range(10):
            wall = self.dice.integer(0, 3)
            room = self.wall_length(wall) / 2 - item.width / 2 - 0.06
            if room <= 0:
                continue
            along = self.dice.uniform(-room, room)
            if item.height > 0.9 and self.covered(wall, along, item.width, 0.0, item.height):
                continue
            x, y, yaw = self.on_wall(wall, along, item.depth / 2 + 0.03)
            if self.put(item, x, y, yaw, 0.05):
                self.hung.append((wall, along, item.width, 0.0, item.height))
                return True
        return False

    def covered(self, wall: int, along: float, width: float, low: float, high: float) -> bool:
        """True if something on this wall already uses part of the given area."""
        return any(
            w == wall and abs(a - along) < (wd + width) / 2 + 0.06 and low < h + 0.06 and lo < high + 0.06
            for w, a, wd, lo, h in self.hung
        )

    def hang(self, piece: Piece, wall: int, along: float, z: float, width: float, low: float, high: float) -> bool:
        """Hangs a piece whose own z = 0 goes to height z, if that area of the wall is free."""
        room = self.wall_length(wall) / 2 - width / 2 - 0.04
        if abs(along) > room or self.covered(wall, along, width, low, high) or not self.whole.fits_with(piece):
            return False
        x, y, yaw = self.on_wall(wall, along, 0.0)
        self.whole.add(piece, x, y, z, yaw)
        self.hung.append((wall, along, width, low, high))
        return True


def sample_room(seed: int) -> Room:
    """A furnished room; see `Room.sample`."""
    dice = Dice(seed)
    style = Style(dice)
    size = (dice.uniform(3.0, 7.0), dice.uniform(3.0, 5.8), dice.uniform(2.3, 2.8 if dice.chance(0.7) else 3.5))
    fullness, is_dark = dice.unit(), dice.chance(0.12)
    arrangement = Arrangement(style, size)
    kind = dice.choice(list(_AT_WALLS))
    windows = openings(arrangement, is_dark)
    for builder in _AT_WALLS[kind][:2]:
        arrangement.put_at_wall(builder(style))
    if fullness > 0.1:
        _fill_the_middle(arrangement, kind)
    others = _AT_WALLS[kind][2:]
    wanted = dice.shuffled([*others, dice.choice(others), furniture.potted_plant, furniture.floor_things])
    for builder in wanted[: 1 + round(fullness * len(wanted))]:
        arrangement.put_at_wall(builder(style))
    lamp = ceiling_lamp(arrangement)
    mouldings(arrangement)
    pictures(arrangement, 4 + round(16 * fullness))
    for _ in range(round(5 * fullness)):
        arrangement.put_at_wall(furniture.floor_things(style))
    main, accent = style.wall(), style.wall()
    walls = [main] * 4
    walls[dice.integer(0, 3)] = accent
    faces = [*walls, style.floor(), style.paint(hsv(0.1, 0.04, dice.uniform(0.85, 0.96)))]
    lights = choose_lights(dice, size, lamp, windows, is_dark, mean_albedo(faces))
    return pack(size, arrangement.whole.parts, faces, lights, dice)


def mean_albedo(materials: list[Material]) -> float:
    """Mean linear albedo of some materials, by their first two colours."""
    values = [channel**2.2 for material in materials for color in (material.a, material.b) for channel in color]
    return sum(values) / len(values)


def openings(arrangement: Arrangement, is_dark: bool) -> list[Opening]:
    """A door and up to two windows; returns the windows."""
    dice, style = arrangement.dice, arrangement.style
    walls = dice.shuffled([0, 1, 2, 3])
    width, height = dice.uniform(0.78, 0.92), dice.uniform(1.95, 2.1)
    along = dice.uniform(-0.4, 0.4) * (arrangement.wall_length(walls[0]) - width - 0.4)
    arrangement.hang(decor.door(style, width, height), walls[0], along, 0.0, width + 0.2, 0.0, height + 0.1)
    x, y, _ = arrangement.on_wall(walls[0], along, 0.4)
    arrangement.taken.append(_Rectangle(x - 0.45, y - 0.45, x + 0.45, y + 0.45, 0.0))
    windows = []
    for wall in walls[1 : dice.choice([1, 2, 2, 2, 3, 3])]:
        width = dice.uniform(0.9, 2.2)
        sill = dice.uniform(0.3, 0.6) if dice.chance(0.2) else dice.uniform(0.75, 0.95)
        height = min(dice.uniform(1.0, 1.6), arrangement.size[2] - sill - 0.25)
        along = dice.uniform(-0.3, 0.3) * (arrangement.wall_length(wall) - width - 1.0)
        piece = decor.window(style, width, height, sill, dice.uniform(0.0, 0.05) if is_dark else dice.uniform(0.5, 1.6))
        if arrangement.hang(piece, wall, along, 0.0, width + 0.85, sill - 0.1, sill + height + 0.2):
            x, y, yaw = arrangement.on_wall(wall, along, 0.0)
            windows.append(Opening((x, y, sill + height / 2), yaw, width, height))
    return windows


def _fill_the_middle(arrangement: Arrangement, kind: str) -> None:
    """A rug and tables or stools away from the walls."""
    dice, style = arrangement.dice, arrangement.style
    width, depth, _ = arrangement.size
    x, y = dice.uniform(-0.12, 0.12) * width, dice.uniform(-0.12, 0.12) * depth
    yaw = dice.choice([0.0, math.pi / 2])
    if dice.chance(0.8):
        long, short = dice.uniform(0.42, 0.55) * max(width, depth), dice.uniform(0.4, 0.55) * min(width, depth)
        arrangement.whole.add(decor.rug(style, long, short), x, y, 0, 0.0 if width > depth else math.pi / 2)
    for builder in _IN_THE_MIDDLE[kind]:
        item = builder(style)
        for _ in range(6):
            if arrangement.put(item, x, y, yaw + dice.uniform(-0.06, 0.06), 0.12):
                break
            x, y = dice.uniform(-0.3, 0.3) * width, dice.uniform(-0.3, 0.3) * depth


def pictures(arrangement: Arrangement, tries: int) -> None:
    """Pictures, a clock, shelves and switches where walls are free."""
    dice, style = arrangement.dice, arrangement.style
    for _ in range(tries):
        wall = dice.integer(0, 3)
        along = dice.uniform(-0.5, 0.5) * arrangement.wall_length(wall)
        draw = dice.unit()
        if draw < 0.1:
            width, height = 0.09, 0.09
            arrangement.hang(decor.switch(style), wall, along, 0.3 if dice.chance(0.6) else 1.1, 0.09, 0.3, 1.2)
            continue
        if draw < 0.75:
            width, height = dice.uniform(0.2, 1.1), dice.uniform(0.25, 0.8)
            piece = decor.picture(style, width, height)
        elif draw < 0.83:
            width = height = 0.4
            piece = decor.clock(style)
        else:
            width, height = dice.uniform(0.6, 0.9), 0.5
            piece = decor.wall_shelf(style, width)
        z = dice.uniform(1.4, 1.75)
        arrangement.hang(piece, wall, along, z, width, z - height / 2, z + height / 2)


def mouldings(arrangement: Arrangement) -> None:
    """Boards along the foot of the walls, and perhaps along their top."""
    dice, style = arrangement.dice, arrangement.style
    width, depth, height = arrangement.size
    board = style.paint() if dice.chance(0.6) else style.wood()
    boards = [(dice.uniform(0.03, 0.07), 0.016)] if dice.chance(0.9) else []
    if dice.chance(0.35):
        boards.append((height - 0.04, dice.uniform(0.03, 0.07)))
    for z, out in boards:
        tall = 2 * min(z, height - z)
        piece = Piece()
        for side in (-1, 1):
            piece.box((side * (width - out) / 2, 0, z), (out, depth, tall), board, rounded=0.012)
            piece.box((0, side * (depth - out) / 2, z), (width, out, tall), board, rounded=0.012)
        if arrangement.whole.fits_with(piece):
            arrangement.whole.add(piece)


def ceiling_lamp(arrangement: Arrangement) -> Vector:
    """A lamp on the ceiling, or on a cable below it; returns where its light comes from."""
    dice, style = arrangement.dice, arrangement.style
    width, depth, height = arrangement.size
    x, y = dice.uniform(-0.15, 0.15) * width, dice.uniform(-0.15, 0.15) * depth
    drop = 0.14 if dice.chance(0.6) else dice.uniform(0.2, max(height - 2.15, 0.25))
    lamp, lit = Piece(), decor.shade(style)._replace(emission=dice.uniform(0.2, 1.5))
    z = height - drop
    if drop > 0.14:
        lamp.cylinder((x, y, z), 0.006, drop, style.metal())
    if dice.chance(0.5):
        lamp.cylinder((x, y, z - 0.06), dice.uniform(0.15, 0.28), 0.16, lit, top=dice.uniform(0.08, 0.2))
    else:
        lamp.ellipsoid((x, y, z), (0.17, 0.17, 0.11), lit)
    if arrangement.whole.fits_with(lamp):
        arrangement.whole.add(lamp)
    return x, y, z - 0.18
