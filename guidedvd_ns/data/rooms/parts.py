"""Collects the parts of furniture as rows of numbers and packs them into a Room."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch

from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.room import NUM_BOXES, NUM_CYLINDERS, NUM_ELLIPSOIDS, NUM_PRIMITIVES, Room
from guidedvd_ns.data.rooms.textures import Texture

Color = tuple[float, float, float]
Vector = tuple[float, float, float]
Shape = Literal["box", "cylinder", "ellipsoid"]

_CAPACITY: dict[Shape, int] = {"box": NUM_BOXES, "cylinder": NUM_CYLINDERS, "ellipsoid": NUM_ELLIPSOIDS}
_FIRST: dict[Shape, int] = {"box": 0, "cylinder": NUM_BOXES, "ellipsoid": NUM_BOXES + NUM_CYLINDERS}


class Material(NamedTuple):
    """A texture with its colours (sRGB) and size (metres)."""

    texture: Texture = Texture.PLAIN
    a: Color = (0.8, 0.8, 0.8)
    b: Color = (0.6, 0.6, 0.6)
    c: Color = (0.3, 0.3, 0.3)
    scale: float = 0.1
    emission: float = 0.0
    turned: bool = False
    gloss: float = 0.0


class Part(NamedTuple):
    """One primitive: centre and half extents in metres; yaw about z after pitch about its x and roll about its y.

    `taper` narrows cylinders and rounds boxes, see `Room.taper`.
    """

    shape: Shape
    centre: Vector
    half: Vector
    yaw: float
    pitch: float
    roll: float
    taper: float
    material: Material


class Piece:
    """Parts in the coordinates of one piece of furniture: x along its width, front towards -y, floor at z = 0."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def box(
        self, centre: Vector, size: Vector, material: Material, yaw=0.0, pitch=0.0, roll=0.0, rounded: float = 0.0
    ) -> None:
        """A box of the given full size; `rounded` is the width of its soft edges in metres."""
        half = (size[0] / 2, size[1] / 2, size[2] / 2)
        self.parts.append(Part("box", centre, half, yaw, pitch, roll, rounded, material))

    def cylinder(
        self,
        base: Vector,
        radius: float,
        height: float,
        material: Material,
        top: float | None = None,
        pitch=0.0,
        roll=0.0,
    ) -> None:
        """An upright cylinder or cone frustum that stands on its base, with an optional other radius at its top."""
        top = radius if top is None else top
        mean, taper = (radius + top) / 2, (top - radius) / (top + radius)
        centre = (base[0], base[1], base[2] + height / 2)
        self.parts.append(Part("cylinder", centre, (mean, mean, height / 2), 0.0, pitch, roll, taper, material))

    def ellipsoid(self, centre: Vector, half: Vector, material: Material, yaw=0.0, pitch=0.0, roll=0.0) -> None:
        """An ellipsoid of the given half axes."""
        self.parts.append(Part("ellipsoid", centre, half, yaw, pitch, roll, 0.0, material))

    def legs(self, width: float, depth: float, height: float, material: Material, thickness: float = 0.05) -> None:
        """Four square legs at the corners of a width x depth rectangle."""
        for x in (-1, 1):
            for y in (-1, 1):
                centre = (x * (width - thickness) / 2, y * (depth - thickness) / 2, height / 2)
                self.box(centre, (thickness, thickness, height), material)

    def add(self, other: Piece, x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> None:
        """Puts another piece into this one, turned by yaw and moved."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        for part in other.parts:
            px, py, pz = part.centre
            centre = (x + cos * px - sin * py, y + sin * px + cos * py, z + pz)
            self.parts.append(part._replace(centre=centre, yaw=part.yaw + yaw))

    def fits_with(self, other: Piece) -> bool:
        """True if a room can hold the parts of both."""
        counts: dict[Shape, int] = dict.fromkeys(_CAPACITY, 0)
        for part in self.parts + other.parts:
            counts[part.shape] += 1
        return all(counts[shape] <= _CAPACITY[shape] for shape in counts)


class Lights(NamedTuple):
    """Two square lights and the ambient light; intensities are linear. See the fields of `Room`."""

    positions: list[Vector]
    axes: list[tuple[Vector, Vector]]
    colors: list[Color]
    ambient: tuple[Color, Color, Color]
    sun: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 0.0)
    look: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0)


def pack(
    size: Vector,
    parts: list[Part],
    faces: list[Material],
    lights: Lights,
    dice: Dice,
    subject: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
) -> Room:
    """The Room (B = 1) of the given parts.

    Args:
        size: inner size of the room in metres.
        parts: at most `NUM_BOXES` boxes, `NUM_CYLINDERS` cylinders and `NUM_ELLIPSOIDS` ellipsoids.
        faces: materials of the -x, +x, -y, +y walls, floor and ceiling.
        lights: see `Lights`.
        dice: draws the pattern seeds.
        subject: see `Room.subject`.
    """
    materials = [Material()] * NUM_PRIMITIVES + faces
    # Unused primitives are tiny and lie fifty metres below the floor.
    geometry = np.tile(np.array([0, 0, -50, 0.01, 0.01, 0.01, 0, 0, 0, 0], np.float64), (NUM_PRIMITIVES, 1))
    following = dict(_FIRST)
    for part in parts:
        slot = following[part.shape]
        following[part.shape] += 1
        geometry[slot] = (*part.centre, *part.half, part.yaw, part.pitch, part.roll, part.taper)
        materials[slot] = part.material
    centre, half, angles = geometry[:, :3], geometry[:, 3:6], geometry[:, 6:9]
    linear = _rotations(angles).transpose(0, 2, 1) / half[:, :, None]
    frames = np.concatenate([linear, -(linear @ centre[:, :, None])], axis=2)

    def tensor(array) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, np.float32))[None]

    return Room(
        size=tensor(size),
        frames=tensor(frames),
        half=tensor(half),
        taper=tensor(geometry[:, 9]),
        texture=torch.tensor([[int(m.texture) for m in materials]]),
        colors=tensor([(m.a, m.b, m.c) for m in materials]),
        params=tensor([(m.scale, dice.integer(1, 4000), m.emission, m.turned, m.gloss) for m in materials]),
        light_position=tensor(lights.positions),
        light_axes=tensor(lights.axes),
        light_color=tensor(lights.colors),
        ambient=tensor(lights.ambient),
        sun=tensor(lights.sun),
        look=tensor(lights.look),
        subject=tensor(subject),
    )


def _rotations(angles: np.ndarray) -> np.ndarray:
    """[N, 3, 3] rotations Rz(yaw) Rx(pitch) Ry(roll) of angles [N, 3] in radians."""
    (cy, cp, cr), (sy, sp, sr) = np.cos(angles).T, np.sin(angles).T
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    about_z = np.stack([cy, -sy, zero, sy, cy, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    about_x = np.stack([one, zero, zero, zero, cp, -sp, zero, sp, cp], -1).reshape(-1, 3, 3)
    about_y = np.stack([cr, zero, sr, zero, one, zero, -sr, zero, cr], -1).reshape(-1, 3, 3)
    return about_z @ about_x @ about_y
