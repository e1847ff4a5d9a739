"""The colours and materials that the things of one room share."""

from __future__ import annotations

import colorsys

from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.parts import Color, Material
from guidedvd_ns.data.rooms.textures import Texture

_WOODS: list[Color] = [
    (0.36, 0.22, 0.14),
    (0.47, 0.30, 0.17),
    (0.62, 0.42, 0.24),
    (0.72, 0.54, 0.34),
    (0.82, 0.68, 0.48),
    (0.28, 0.17, 0.12),
    (0.55, 0.33, 0.22),
    (0.78, 0.74, 0.68),
]
_METALS: list[Color] = [(0.75, 0.62, 0.32), (0.72, 0.73, 0.75), (0.15, 0.15, 0.16), (0.60, 0.42, 0.28)]
_CLOTHS = [
    Texture.CARPET,
    Texture.STRIPES,
    Texture.PLAID,
    Texture.ZIGZAG,
    Texture.DOTS,
    Texture.QUILT,
    Texture.WALLPAPER,
    Texture.DAMASK,
    Texture.BLOSSOMS,
    Texture.TRUCHET,
    Texture.CELLS,
    Texture.FUR,
    Texture.WICKER,
]
_LARGE_FIGURES = {Texture.DAMASK: 3.0, Texture.BLOSSOMS: 2.5, Texture.WALLPAPER: 2.0, Texture.FUR: 0.5}
"""Patterns whose period is that many times the size of a stripe."""
_PICTURES = [
    Texture.LANDSCAPE,
    Texture.ABSTRACT,
    Texture.FLOWERS,
    Texture.PHOTOGRAPH,
    Texture.PHOTOGRAPH,
    Texture.POSTER,
    Texture.PORTRAIT,
    Texture.TRUCHET,
]
_GLAZES = [Texture.PLAIN, Texture.STRIPES, Texture.ZIGZAG, Texture.DOTS, Texture.MARBLE, Texture.CELLS, Texture.TRUCHET]


def shaded(color: Color, factor: float) -> Color:
    """The colour made darker (factor below 1) or lighter, within [0, 1]."""
    red, green, blue = (min(max(channel * factor, 0.0), 1.0) for channel in color)
    return red, green, blue


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A colour from hue (turns, any number), saturation and value in [0, 1]."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


class Style:
    """One room's palette: a base hue, a contrasting one and a warm one, two woods, one metal."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.hue = dice.unit()
        self.vividness = dice.uniform(0.3, 1.15)
        spread = dice.choice([0.15, 0.33, 0.5])
        self.hues = [self.hue, self.hue + spread, dice.uniform(0.0, 0.14)]
        self.woods = dice.shuffled(_WOODS)[:2]
        self.metal_color = dice.choice(_METALS)

    def accent(self, saturation: float = 0.7, value: float = 0.7) -> Color:
        """A strong colour of the palette."""
        dice = self.dice
        hue = dice.unit() if dice.chance(0.35) else dice.choice(self.hues) + dice.uniform(-0.04, 0.04)
        return hsv(
            hue,
            min(saturation * self.vividness * dice.uniform(0.6, 1.2), 0.95),
            min(value * dice.uniform(0.7, 1.3), 1.0),
        )

    def pale(self) -> Color:
        """Nearly white."""
        return hsv(
            self.dice.choice([0.09, 0.12, self.hue]), self.dice.uniform(0.02, 0.14), self.dice.uniform(0.82, 0.95)
        )

    def wood(self, turned: bool = False, which: int | None = None) -> Material:
        """One of the room's two woods; the grain runs along x (or upwards if turned)."""
        color = self.woods[self.dice.integer(0, 1) if which is None else which]
        gloss = self.dice.uniform(0.0, 0.5)
        return Material(
            Texture.WOOD, shaded(color, 0.8), shaded(color, 1.15), shaded(color, 0.5), turned=turned, gloss=gloss
        )

    def metal(self) -> Material:
        """The room's metal."""
        return Material(a=self.metal_color, gloss=0.9)

    def paint(self, color: Color | None = None) -> Material:
        """Plain paint."""
        return Material(a=self.pale() if color is None else color)

    def upholstery(self) -> Material:
        """Cloth for large furniture: mostly a woven plain colour."""
        dice = self.dice
        color = self.accent(0.45, 0.6) if dice.chance(0.75) else self.pale()
        if dice.chance(0.7):
            return Material(Texture.CARPET, shaded(color, 0.75), shaded(color, 1.2), color, dice.uniform(0.012, 0.03))
        return self.cloth(color, dice.uniform(0.06, 0.12))

    def cloth(self, color: Color | None = None, scale: float | None = None) -> Material:
        """Patterned cloth for cushions and throws."""
        dice = self.dice
        color = self.accent() if color is None else color
        second = self.pale() if dice.chance(0.6) else self.accent()
        scale = dice.uniform(0.03, 0.09) if scale is None else scale
        texture = dice.choice(_CLOTHS)
        scale *= _LARGE_FIGURES.get(texture, 1.0)
        return Material(texture, color, second, self.accent(0.8, 0.5), scale)

    def ceramic(self) -> Material:
        """Pots, vases and lamp feet."""
        dice = self.dice
        colors = (self.pale(), self.accent(), self.accent())
        return Material(
            dice.choice(_GLAZES), *colors, dice.uniform(0.03, 0.07), turned=True, gloss=dice.uniform(0.2, 0.9)
        )

    def fronts(self, width: float) -> Material:
        """Cabinet doors or drawers of about the given width."""
        if self.dice.chance(0.6):
            color = self.woods[self.dice.integer(0, 1)]
            return Material(Texture.PANELS, shaded(color, 0.85), shaded(color, 1.15), self.metal_color, width)
        color = self.pale() if self.dice.chance(0.6) else self.accent(0.4, 0.6)
        return Material(Texture.PANELS, color, shaded(color, 0.96), self.metal_color, width)

    def wall(self) -> Material:
        """Wallpaper, paint, plaster, bricks, stripes, tiles or panelling."""
        dice = self.dice
        base = self.accent(0.3, 0.85) if dice.chance(0.35) else self.pale()
        draw = dice.unit()
        if draw < 0.34:
            texture = Texture.PLAIN if draw < 0.17 else Texture.PLASTER
            return Material(texture, base, shaded(base, dice.uniform(0.8, 0.96)), base, dice.uniform(0.08, 0.3))
        if draw < 0.62:
            return self._wallpaper(base)
        if draw < 0.78:
            return self._bricks()
        if draw < 0.87:
            second = shaded(base, dice.uniform(0.75, 0.93))
            return Material(Texture.STRIPES, base, second, self.accent(0.4, 0.7), dice.uniform(0.04, 0.2))
        if draw < 0.94:
            return Material(Texture.TILES, base, shaded(base, 0.92), shaded(base, 0.7), dice.uniform(0.1, 0.3))
        return self.wood(turned=True)._replace(texture=Texture.PLANKS, scale=dice.uniform(0.09, 0.16))

    def _wallpaper(self, base: Color) -> Material:
        dice = self.dice
        figure = shaded(base, dice.uniform(0.65, 0.9)) if dice.chance(0.5) else self.accent(0.4, 0.75)
        draw = dice.unit()
        if draw < 0.45:
            return Material(Texture.DAMASK, base, figure, self.accent(0.4, 0.7), dice.uniform(0.2, 0.65))
        if draw < 0.75:
            leaves = hsv(dice.uniform(0.15, 0.4), dice.uniform(0.1, 0.5), dice.uniform(0.4, 0.8))
            return Material(Texture.BLOSSOMS, base, self.accent(0.7, 0.85), leaves, dice.uniform(0.2, 0.6))
        if draw < 0.87:
            return Material(Texture.WALLPAPER, base, figure, base, dice.uniform(0.15, 0.5))
        texture = dice.choice([Texture.TRUCHET, Texture.CELLS, Texture.DOTS, Texture.ZIGZAG])
        return Material(texture, base, figure, shaded(base, 0.9), dice.uniform(0.08, 0.25))

    def _bricks(self) -> Material:
        dice = self.dice
        brick = hsv(dice.uniform(0.01, 0.07), dice.uniform(0.2, 0.65), dice.uniform(0.5, 0.85))
        if dice.chance(0.25):
            brick = self.pale()
        light = dice.uniform(0.55, 0.9)
        mortar = (light, 0.96 * light, 0.9 * light)
        return Material(Texture.BRICKS, shaded(brick, dice.uniform(0.6, 0.9)), brick, mortar, dice.uniform(0.06, 0.11))

    def floor(self) -> Material:
        """Boards, parquet, tiles, stone or carpet."""
        dice = self.dice
        draw, gloss = dice.unit(), dice.uniform(0.0, 0.6)
        if draw < 0.6:
            wood = self.wood(turned=dice.chance(0.5))
            if draw < 0.12:
                return wood._replace(texture=Texture.PARQUET, scale=dice.uniform(0.05, 0.09))
            return wood._replace(texture=Texture.PLANKS, scale=dice.uniform(0.07, 0.2))
        base = self.pale() if dice.chance(0.5) else hsv(0.07, 0.25, dice.uniform(0.45, 0.75))
        if draw < 0.78:
            second = shaded(base, dice.uniform(0.4, 0.85))
            return Material(Texture.TILES, base, second, shaded(base, 0.6), dice.uniform(0.15, 0.6), gloss=gloss)
        if draw < 0.88:
            texture = dice.choice([Texture.MARBLE, Texture.CELLS])
            scale = dice.uniform(0.5, 0.9) if texture == Texture.MARBLE else dice.uniform(0.04, 0.3)
            return Material(texture, base, shaded(base, 0.85), shaded(base, 0.55), scale, gloss=gloss)
        color = self.accent(0.3, 0.6)
        if dice.chance(0.3):
            return self.cloth(color, dice.uniform(0.1, 0.25))
        return Material(Texture.CARPET, shaded(color, 0.85), shaded(color, 1.15), color, dice.uniform(0.02, 0.05))

    def picture(self) -> Material:
        """A painting."""
        dice = self.dice
        texture = dice.choice(_PICTURES)
        if texture == Texture.POSTER:
            return Material(texture, self.pale(), self.accent(0.9, 0.4), self.accent(0.8, 0.7))
        first = hsv(dice.uniform(0.5, 0.65), 0.4, 0.8) if texture == Texture.LANDSCAPE else self.accent(0.9, 0.8)
        # Frames crop the endless patterns, so that one scale suits all pictures.
        scale = dice.uniform(0.04, 0.1)
        return Material(
            texture, first, self.accent(0.6, 0.6), self.accent(0.7, 0.35), scale, gloss=dice.uniform(0.0, 0.3)
        )
