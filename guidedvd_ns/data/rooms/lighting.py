"""Light on the surfaces of procedural rooms: two soft lights or the sun, ambient light with contact shadows, gloss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from guidedvd_ns.data.rooms.room import NUM_LIGHTS, Room
from guidedvd_ns.data.rooms.tracing import Hit, Tracer, distance_to_walls

SHADOW_OFFSET = 4e-3
"""Metres by which a shadow ray stays off its surface."""

_REACHES = (0.07, 0.2, 0.45, 0.9)
"""Metres within which surfaces take ambient light from each other, one for each subsample: from contact to corner."""
_REACH_ALONE = 0.28
_SHARPNESS = 40.0
_BRIGHTEST = 8.0
"""Highlights beyond this are cut, or one subsample on a lamp would whiten its whole pixel."""


class Spread(NamedTuple):
    """How the rays of one pixel share out the lights among them, for each ray [R]."""

    x: Tensor
    """Place on the lights in half edges."""
    y: Tensor
    reach: Tensor
    """Metres, see `_REACHES`."""

    @staticmethod
    def of(offsets: list[tuple[float, float]], count: int, device: torch.device) -> Spread:
        """For subsamples at these offsets (in pixels) of `count` pixels each: on the lights, a rotated grid."""
        rows = [
            (1.8 * dx + 0.9 * dy, 1.8 * dy - 0.9 * dx, _REACHES[number % len(_REACHES)])
            for number, (dx, dy) in enumerate(offsets)
        ]
        rows = [(0.0, 0.0, _REACH_ALONE)] if len(rows) == 1 else rows
        return Spread(*torch.tensor(rows, device=device).repeat_interleave(count, 0).unbind(-1))


def illuminate(
    room: Room,
    hit: Hit,
    directions: Tensor,  # [B, R, 3]
    gloss: Tensor,  # [B, R]
    spread: Spread,
    tracer: Tracer,
) -> tuple[Tensor, Tensor]:
    """Diffuse and reflected linear light [B, R, 3] at the hits."""
    off_surface = hit.position + SHADOW_OFFSET * hit.normal
    to_eye = -normalize(directions, dim=-1)
    openness = _openness(room, hit, spread, tracer)
    diffuse = _ambient(room, hit) * openness
    # Polished surfaces mirror the room at grazing angles; the room is about as bright as its ambient light.
    grazing = (1 - (to_eye * hit.normal).sum(-1, keepdim=True).clamp(0, 1)) ** 4
    reflected = 0.5 * grazing * openness * room.ambient[:, None].sum(2)
    for number in range(NUM_LIGHTS):
        place, strength, towards = _light(room, number, off_surface, spread)
        cosine = (towards * hit.normal).sum(-1, keepdim=True).clamp_min(0)
        visible = ~tracer.is_occluded(room, place, off_surface)[..., None]
        light = room.light_color[:, None, number] * strength * visible
        diffuse = diffuse + light * cosine
        halfway = (normalize(towards + to_eye, dim=-1) * hit.normal).sum(-1, keepdim=True).clamp_min(0)
        reflected = reflected + light * halfway**_SHARPNESS * (cosine > 0)
    return diffuse, 0.6 * gloss[..., None] * reflected


def _light(
    room: Room,
    number: int,
    points: Tensor,  # [B, R, 3]
    spread: Spread,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a light's rays to the points start [B, R, 3], its strength there [B, R, 1], unit direction towards it."""
    centre, axes = room.light_position[:, None, number], room.light_axes[:, None, number]
    place = centre + spread.x[:, None] * axes[..., 0, :] + spread.y[:, None] * axes[..., 1, :]
    towards = place - points
    distance = towards.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    towards, strength = towards / distance, 1 / (1 + (distance / 2.2) ** 2)
    if number != NUM_LIGHTS - 1:
        return place, strength, towards
    sun = room.sun[:, None, :3]
    is_sun = room.sun[:, None, 3:] > 0.5
    across = torch.linalg.cross(axes[..., 0, :], axes[..., 1, :], dim=-1)
    way = ((centre - points) * across).sum(-1, keepdim=True) / ((sun * across).sum(-1, keepdim=True) + 1e-9)
    crossing = points + way * sun
    where = ((crossing - centre)[..., None, :] * axes).sum(-1) / (axes * axes).sum(-1).clamp_min(1e-9)
    # Through the glass, not through the cross of its bars.
    passes = (where.abs() < 1).all(-1, keepdim=True) & (where.abs() > 0.035).all(-1, keepdim=True) & (way > 0)
    return (
        torch.where(is_sun & passes, crossing, place),
        torch.where(is_sun, passes.to(strength.dtype), strength),
        torch.where(is_sun, sun.expand_as(towards), towards),
    )


def _ambient(room: Room, hit: Hit) -> Tensor:
    """[B, R, 3] ambient light, were there nothing near: from above, from below, and from the window's direction."""
    above, below, glow = room.ambient[:, None].unbind(2)
    upward = 0.5 + 0.5 * hit.normal[..., 2:]
    towards = room.light_position[:, None, NUM_LIGHTS - 1] - hit.position
    distance = towards.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    facing = 0.5 + 0.5 * (towards / distance * hit.normal).sum(-1, keepdim=True)
    return below + (above - below) * upward + glow * facing / (1 + (distance / 1.5) ** 2)


def _openness(room: Room, hit: Hit, spread: Spread, tracer: Tracer) -> Tensor:
    """[B, R, 1] share of the ambient light that things nearby leave, from the distance to them of one point above."""
    probe = hit.position + spread.reach[:, None] * hit.normal
    free = torch.minimum(tracer.distance_to_primitives(room, probe), distance_to_walls(room.size, probe))
    return 0.25 + 0.75 * (free / spread.reach).clamp(0, 1)[..., None]


def develop(
    room: Room,
    light: Tensor,  # [B, R, 3] linear
    off_axis: Tensor,  # [B, R] squared tangent of the ray's angle to the optical axis
) -> Tensor:  # [B, R, 3] in [0, 1]
    """The photograph of the light: exposure, white balance, vignetting, tone curve, contrast and saturation."""
    exposure, gains, contrast, saturation, vignetting = room.look[:, None].split([1, 3, 1, 1, 1], dim=-1)
    falloff = 1 / (1 + vignetting * off_axis[..., None]) ** 2
    tone = (1 - torch.exp(-exposure * gains * falloff * light)).clamp_min(1e-6) ** (1 / 2.2)
    tone = tone + contrast * tone * (1 - tone) * (2 * tone - 1)
    gray = tone.mean(-1, keepdim=True)
    return (gray + saturation * (tone - gray)).clamp(0, 1)


def clipped(light: Tensor) -> Tensor:
    """Light [B, R, 3] without what would drown its pixel's other subsamples."""
    return light.clamp(0, _BRIGHTEST)
