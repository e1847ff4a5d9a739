"""Chooses the light of a room and how it is photographed: daylight, sunshine, lamps, evening; exposure and colour."""

from __future__ import annotations

import math
from typing import NamedTuple

from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.parts import Color, Lights, Vector
from guidedvd_ns.data.rooms.style import hsv

Axes = tuple[Vector, Vector]


class Opening(NamedTuple):
    """A window: the middle of its glass, the yaw of a piece that hangs there, its width and height, metres."""

    centre: Vector
    yaw: float
    width: float
    height: float

    def before(self, out: float) -> Vector:
        """The point `out` metres in front of the middle of the glass."""
        x, y, z = self.centre
        return x + out * math.sin(self.yaw), y - out * math.cos(self.yaw), z

    def axes(self, share: float) -> Axes:
        """Half edges of a rectangle of the given share of the glass."""
        half = share * self.width / 2
        return (half * math.cos(self.yaw), half * math.sin(self.yaw), 0.0), (0.0, 0.0, share * self.height / 2)


class _Source(NamedTuple):
    position: Vector
    axes: Axes
    color: Color


def choose_lights(
    dice: Dice, size: Vector, lamp: Vector, windows: list[Opening], is_dark: bool, brightness: float
) -> Lights:
    """Two lights, ambient light to go with them, and the look of the photographs.

    Args:
        dice: draws everything.
        size: of the room, metres.
        lamp: where the ceiling lamp hangs.
        windows: may be empty.
        is_dark: no daylight comes through the windows.
        brightness: mean linear albedo of what is in the room; the exposure makes up for it.
    """
    warm, cool = hsv(dice.uniform(0.05, 0.12), dice.uniform(0.03, 0.3), 1.0), _daylight(dice)
    ceiling = _lamp(dice, lamp, warm)
    sun = (0.0, 0.0, 1.0, 0.0)
    daylight = bool(windows) and not is_dark
    if not daylight:
        width, depth, _ = size
        spot = (dice.uniform(-0.35, 0.35) * width, dice.uniform(-0.35, 0.35) * depth, dice.uniform(1.3, 1.9))
        sources = [ceiling, _lamp(dice, spot, warm)]
    elif dice.chance(0.45):
        sources = [ceiling, _window(dice, windows[0], cool)]
    else:
        sources = [_window(dice, windows[-1], cool), _window(dice, windows[0], cool)]
        if dice.chance(0.5):
            sources[1], sun = _sunlight(dice, windows[0])
    tint = cool if daylight else warm
    level, bounce = dice.uniform(0.2, 0.6), dice.uniform(0.55, 0.95)
    above = _scaled(tint, level)
    below = _scaled(hsv(dice.uniform(0.04, 0.15), dice.uniform(0.02, 0.2), 1.0), level * bounce)
    glow = _scaled(tint, dice.uniform(0.1, 0.7)) if daylight else _scaled(tint, dice.uniform(0.0, 0.3))
    received = 0.75 * level + 0.1 * sum(glow) / 3
    # A light reaches about a third of what faces it; of the sun, a patch.
    shares = (0.16, 0.03 if sun[3] else 0.16)
    received += sum(k * sum(source.color) / 3 for k, source in zip(shares, sources, strict=True))
    return Lights(
        [source.position for source in sources],
        [source.axes for source in sources],
        [source.color for source in sources],
        (above, below, glow),
        sun,
        _look(dice, brightness * received),
    )


def _daylight(dice: Dice) -> Color:
    """White, warm or blue skylight."""
    return hsv(dice.choice([0.1, 0.58, 0.6]), dice.uniform(0.0, 0.2), 1.0)


def _scaled(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def _lamp(dice: Dice, place: Vector, color: Color) -> _Source:
    edge = dice.uniform(0.12, 0.35)
    return _Source(place, ((edge, 0.0, 0.0), (0.0, edge, 0.0)), _scaled(color, dice.uniform(0.4, 1.5)))


def _window(dice: Dice, opening: Opening, color: Color) -> _Source:
    return _Source(opening.before(0.3), opening.axes(0.75), _scaled(color, dice.uniform(0.8, 2.0)))


def _sunlight(dice: Dice, opening: Opening) -> tuple[_Source, tuple[float, float, float, float]]:
    """The sun through a window, and the direction towards it."""
    height, aside = dice.uniform(0.3, 0.9), dice.uniform(-0.8, 0.8)
    # Out of the room is +y of the piece that hangs at the window.
    x, y = math.sin(aside) * math.cos(height), math.cos(aside) * math.cos(height)
    cos, sin = math.cos(opening.yaw), math.sin(opening.yaw)
    direction = (cos * x - sin * y, sin * x + cos * y, math.sin(height), 1.0)
    color = hsv(dice.uniform(0.07, 0.13), dice.uniform(0.05, 0.25), 1.0)
    return _Source(opening.before(0.03), opening.axes(1.0), _scaled(color, dice.uniform(1.2, 3.0))), direction


def _look(dice: Dice, light: float) -> tuple[float, ...]:
    """Exposure for the mean linear light that leaves the surfaces, white balance, contrast, saturation, vignetting."""
    exposure = dice.uniform(0.26, 0.42) * 2 ** dice.uniform(-0.5, 0.5) / light
    warmth, green = dice.uniform(-0.08, 0.13), dice.uniform(-0.03, 0.03)
    vignetting = dice.uniform(0.02, 0.12) if dice.chance(0.35) else 0.0
    return (
        exposure,
        1 + warmth,
        1 + green,
        1 - warmth,
        dice.uniform(-0.2, 0.9),
        dice.uniform(0.75, 1.25),
        vignetting,
    )
