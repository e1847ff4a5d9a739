"""Camera poses that a person with a phone would take: eye height, free space, looking into the room."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.dice import Dice
from guidedvd_ns.data.rooms.room import Room
from guidedvd_ns.data.rooms.tracing import distance_to_primitives, distance_to_walls

_CLEARANCE = 0.3
_STEP = math.radians(21)
_TRIES = 64


def is_free(
    room: Room,
    points: Tensor,  # [B, N, 3]
    clearance: float,
) -> Tensor:
    """[B, N] bool: the points lie inside the room, at least `clearance` metres from its walls and everything in it."""
    return torch.minimum(distance_to_primitives(room, points), distance_to_walls(room.size, points)) >= clearance


def look_at(
    positions: Tensor,  # [..., 3]
    targets: Tensor,  # [..., 3]
) -> Tensor:
    """OpenGL camera-to-world [..., 3, 4] at the positions, looking at the targets, with the horizon level."""
    backward = torch.nn.functional.normalize(positions - targets, dim=-1)
    up = torch.zeros_like(backward)
    up[..., 2] = 1
    right = torch.nn.functional.normalize(torch.linalg.cross(up, backward, dim=-1), dim=-1)
    return torch.stack([right, torch.linalg.cross(backward, right, dim=-1), backward, positions], -1)


@torch.no_grad()
def sample_views(room: Room, seed: int, count: int) -> Tensor:
    """Poses along a smooth walk around the middle of one room, looking across it, or around its subject.

    The walk is a piece of an ellipse; each pose looks past the room's middle, so that neighbours overlap. Poses of up
    to six views are one step apart, more views divide the same walk more finely: every third of 16 views is a pose of
    6 views.

    Args:
        room: one room (B = 1), on any device.
        seed: another walk for each seed.
        count: number of poses.

    Returns:
        [count, 3, 4] OpenGL camera-to-world on the CPU, at heights from 1.2 to 1.7 m and free of everything by 0.3 m
        (by less in the rare room too full for it). Around a subject they stand at 1.7 to 3.4 of its radii.

    Raises:
        ValueError: if there is more than one room.
    """
    if len(room) != 1:
        raise ValueError(f"sample_views takes one room, but the batch holds {len(room)}; pass room[i].")
    room = room.to("cpu")
    dice = Dice(seed, 17)
    best, best_distance = None, -math.inf
    draw = _arc if room.subject[0, 3] > 0 else _walk
    for _ in range(_TRIES):
        positions, targets = draw(room, dice, count)
        points = positions[None]
        gap = torch.minimum(distance_to_primitives(room, points), distance_to_walls(room.size, points)).min().item()
        if gap > best_distance:
            best, best_distance = (positions, targets), gap
        if gap >= min(_CLEARANCE, 0.6 * room.subject[0, 3].item() or _CLEARANCE):
            break
    assert best is not None
    return look_at(*best)


@torch.no_grad()
def free_views(room: Room, seed: int, count: int) -> Tensor:
    """Poses anywhere in free space, each looking across the room in its own direction.

    Args:
        room: one room (B = 1), on any device.
        seed: other poses for each seed.
        count: number of poses.

    Returns:
        [count, 3, 4] OpenGL camera-to-world on the CPU, as free as those of `sample_views`.
    """
    room = room.to("cpu")
    dice = Dice(seed, 23)
    width, depth, height = room.size[0].tolist()
    tries = 8 * count
    positions = torch.tensor(
        [
            (
                dice.uniform(-0.5, 0.5) * (width - 0.8),
                dice.uniform(-0.5, 0.5) * (depth - 0.8),
                dice.uniform(1.2, min(1.7, height - 0.5)),
            )
            for _ in range(tries)
        ]
    )
    # Across the room: past its middle to the other side, at a height where furniture is.
    spread = torch.tensor([(dice.uniform(-0.35, 0.35), dice.uniform(-0.35, 0.35)) for _ in range(tries)])
    ground = spread * room.size[:, :2] - 0.5 * positions[:, :2]
    heights = torch.tensor([dice.uniform(0.6, 1.3) for _ in range(tries)])
    targets = torch.cat([ground, heights[:, None]], -1)
    gap = torch.minimum(distance_to_primitives(room, positions[None]), distance_to_walls(room.size, positions[None]))[0]
    apart = (targets - positions)[:, :2].norm(dim=-1) > 1.0
    order = torch.sort(((gap < _CLEARANCE) | ~apart).int(), stable=True).indices[:count]
    return look_at(positions[order], targets[order])


def _walk(room: Room, dice: Dice, count: int) -> tuple[Tensor, Tensor]:
    """Positions and targets [count, 3] of one random walk."""
    width, depth, height = room.size[0].tolist()
    fraction = torch.linspace(0, 1, count) if count > 1 else torch.zeros(1)
    sweep = _STEP * 5 * dice.uniform(0.8, 1.1) * dice.choice([-1, 1])
    angle = dice.uniform(0, 2 * math.pi) + sweep * fraction * min(count - 1, 5) / 5
    near_wall = dice.uniform(0.55, 0.85)
    eye = dice.uniform(1.3, 1.6)
    rise = dice.uniform(-0.1, 0.1)
    x = torch.cos(angle) * (width / 2 - 0.45) * near_wall
    y = torch.sin(angle) * (depth / 2 - 0.45) * near_wall
    z = eye + rise * torch.sin(2 * math.pi * fraction)
    beyond = dice.uniform(0.1, 0.6)
    target_height = dice.uniform(0.75, 1.15)
    turn = dice.uniform(-0.5, 0.5)
    target_x = -torch.cos(angle + turn) * width / 2 * beyond
    target_y = -torch.sin(angle + turn) * depth / 2 * beyond
    targets = torch.stack([target_x, target_y, torch.full_like(target_x, target_height)], -1)
    return torch.stack([x, y, z.clamp(1.2, min(1.7, height - 0.5))], -1), targets


def _arc(room: Room, dice: Dice, count: int) -> tuple[Tensor, Tensor]:
    """Positions and targets [count, 3] of one random arc around the room's subject, on its side of the wall."""
    x, y, z, radius = room.subject[0].tolist()
    width, depth, _ = room.size[0].tolist()
    fraction = torch.linspace(-0.5, 0.5, count) if count > 1 else torch.zeros(1)
    near_wall = max(abs(x) / width, abs(y) / depth) > 0.3
    middle = dice.uniform(0, 2 * math.pi)
    if near_wall:
        # Straight out from the nearer wall.
        out_x, out_y = (-x, 0.0) if abs(x) / width > abs(y) / depth else (0.0, -y)
        middle = math.atan2(out_y, out_x) + dice.uniform(-0.4, 0.4)
    azimuth = middle + math.radians(dice.uniform(35, 100)) * fraction * min(count - 1, 5) / 5 * dice.choice([-1, 1])
    climb = math.radians(dice.uniform(-12, 40)) + math.radians(dice.uniform(-15, 15)) * fraction
    distance = radius * dice.uniform(1.7, 3.4) * (1 + dice.uniform(-0.3, 0.3) * fraction)
    aside = torch.tensor([dice.uniform(-0.2, 0.2), dice.uniform(-0.2, 0.2), dice.uniform(-0.2, 0.2)]) * radius
    centre = torch.tensor([x, y, z])
    outward = torch.stack([climb.cos() * azimuth.cos(), climb.cos() * azimuth.sin(), climb.sin()], -1)
    positions = centre + distance[:, None] * outward
    return positions, (centre + aside).expand(count, 3)
