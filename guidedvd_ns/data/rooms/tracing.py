"""Rays against the primitives of a batch of rooms: nearest hit, occlusion and distance, vectorised over primitives."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.room import Room

_FAR = 1e6

_Local = tuple[Tensor, ...]
"""x, y and z in the primitives' own frames, each [B, R, P] (or [B, 1, P] for their half extents)."""


class Hit(NamedTuple):
    """Nearest surfaces along R rays of each of B rooms."""

    t: Tensor
    """[B, R] ray parameter: the hit is at origin + t * direction."""
    index: Tensor
    """[B, R] int64 material index: primitive, or P + face for the room's own faces."""
    position: Tensor
    """[B, R, 3] world position."""
    normal: Tensor
    """[B, R, 3] unit world normal, towards the ray's origin."""
    uv: Tensor
    """[B, R, 2] metric surface coordinates of the material, centred on the face; v is up on upright faces."""
    extent: Tensor
    """[B, R, 2] half extents of the face in the same coordinates, metres."""
    front: Tensor
    """[B, R] bool: a box's -y or +y face, where fronts (doors, paintings, books) are drawn."""


def nearest_hit(
    room: Room,
    origins: Tensor,  # [B, R, 3]
    directions: Tensor,  # [B, R, 3]
    first_entry: Callable[[Room, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Hit:
    """The first surface that each ray meets. Origins must lie inside the room; directions need not be unit vectors."""
    t_primitive, primitive = (first_entry or enter_first)(room, origins, directions)
    t_wall, face = _room_exit(room.size[:, None], origins, directions)
    inside = t_primitive < t_wall
    t = torch.where(inside, t_primitive, t_wall)
    index = torch.where(inside, primitive, sum(room.counts) + face)
    position = origins + t[..., None] * directions
    normal, uv, extent, front = _primitive_surface(room, primitive, position)
    wall_normal, wall_uv, wall_extent = _room_surface(room.size[:, None], face, position)
    inside = inside[..., None]
    return Hit(
        t,
        index,
        position,
        torch.where(inside, normal, wall_normal),
        torch.where(inside, uv, wall_uv),
        torch.where(inside, extent, wall_extent),
        front & inside[..., 0],
    )


def nearest_distance(
    room: Room,
    origins: Tensor,  # [B, R, 3]
    directions: Tensor,  # [B, R, 3]
) -> Tensor:
    """[B, R] the ray parameter of `nearest_hit` alone."""
    t_primitive, _ = enter_first(room, origins, directions)
    t_wall, _ = _room_exit(room.size[:, None], origins, directions)
    return torch.minimum(t_primitive, t_wall)


def enter_first(
    room: Room,
    origins: Tensor,  # [B, R, 3]
    directions: Tensor,  # [B, R, 3]
) -> tuple[Tensor, Tensor]:
    """[B, R] ray parameter and index of the first primitive that is entered; a very large parameter where none is."""
    t, primitive = _entry_distances(room, origins, directions).min(dim=-1)
    return t, primitive


def is_occluded(
    room: Room,
    starts: Tensor,  # [B, R, 3]
    ends: Tensor,  # [B, R, 3]
) -> Tensor:
    """[B, R] bool: some primitive lies between start and end (the room's own faces never do)."""
    return (_entry_distances(room, starts, ends - starts) < 1.0).any(dim=-1)


def distance_to_primitives(
    room: Room,
    points: Tensor,  # [B, R, 3]
) -> Tensor:
    """[B, R] metres to the nearest primitive, negative inside; exact for boxes, close for cylinders and ellipsoids."""
    nearest = torch.full_like(points[..., 0], _FAR)
    for kind, distances in enumerate((_box_distances, _cylinder_distances, _ellipsoid_distances)):
        if room.counts[kind]:
            part = room.slices[kind]
            local = _apply(room.frames[:, part], points, True)
            half = room.half[:, None, part].unbind(-1)
            nearest = torch.minimum(nearest, distances(local, half, room.taper[:, None, part]).amin(-1))
    return nearest


class Tracer(NamedTuple):
    """The three reductions over primitives, which are nearly all of the work: as they are, or fused."""

    enter_first: Callable[[Room, Tensor, Tensor], tuple[Tensor, Tensor]]
    is_occluded: Callable[[Room, Tensor, Tensor], Tensor]
    distance_to_primitives: Callable[[Room, Tensor], Tensor]


EAGER_TRACER = Tracer(enter_first, is_occluded, distance_to_primitives)


@lru_cache(maxsize=1)
def fused_tracer() -> Tracer:
    """Each reduction as one kernel. Only these: a graph with the textures in it takes minutes to compile."""
    return Tracer(
        torch.compile(enter_first, dynamic=False),
        torch.compile(is_occluded, dynamic=False),
        torch.compile(distance_to_primitives, dynamic=False),
    )


def distance_to_walls(
    size: Tensor,  # [B, 3]
    points: Tensor,  # [B, R, 3]
) -> Tensor:
    """[B, R] metres to the nearest of the room's own six faces, negative outside."""
    half = size[:, None] / 2
    upper = torch.cat(
        [half[..., :2] - points[..., :2].abs(), half[..., 2:] - (points[..., 2:] - half[..., 2:]).abs()], -1
    )
    return upper.amin(-1)


def _apply(frames: Tensor, vectors: Tensor, as_points: bool) -> _Local:
    """Vectors [B, R, 3] in the frames [B, P, 3, 4] of all primitives: three tensors [B, R, P].

    A compiler fuses the spelled-out products into the loop over primitives; without one a matrix product is faster.
    """
    if torch.compiler.is_compiling():
        vx, vy, vz = vectors[..., None].unbind(-2)
        rows = frames[:, None].unbind(-2)
        moved = [r[..., 0] * vx + r[..., 1] * vy + r[..., 2] * vz for r in rows]
        return tuple(m + r[..., 3] for m, r in zip(moved, rows, strict=True)) if as_points else tuple(moved)
    batch, count = frames.shape[:2]
    stacked = frames.permute(0, 2, 1, 3).reshape(batch, 3 * count, 4)
    if as_points:
        moved = torch.baddbmm(stacked[:, None, :, 3], vectors, stacked[..., :3].transpose(1, 2))
    else:
        moved = vectors @ stacked[..., :3].transpose(1, 2)
    return moved.split(count, dim=-1)


def _entry_distances(room: Room, origins: Tensor, directions: Tensor) -> Tensor:
    """[B, R, P] ray parameter at which each primitive is entered from outside, or _FAR."""
    entries = []
    for kind, enter in enumerate((_enter_boxes, _enter_cylinders, _enter_ellipsoids)):
        part = room.slices[kind]
        frames = room.frames[:, part]
        o, d = _apply(frames, origins, True), _apply(frames, directions, False)
        entries.append(enter(o, d, room.taper[:, None, part]))
    return torch.cat(entries, dim=-1)


def _enter_boxes(origins: _Local, directions: _Local, _taper: Tensor) -> Tensor:
    """Slab test against the unit cube."""
    last_near, first_far = None, None
    for o, d in zip(origins, directions, strict=True):
        # A direction along the slab must stay finite, or inf - inf makes NaN.
        inverse = (d + 1e-20).reciprocal()
        middle, width = o * inverse, inverse.abs()
        minus_near, far = middle + width, width - middle
        last_near = minus_near if last_near is None else torch.minimum(last_near, minus_near)
        first_far = far if first_far is None else torch.minimum(first_far, far)
    assert last_near is not None and first_far is not None
    hit = (last_near < 0) & (last_near + first_far > 0)
    return torch.where(hit, -last_near, _FAR)


def _enter_cylinders(origins: _Local, directions: _Local, taper: Tensor) -> Tensor:
    """Capped cone frustum x^2 + y^2 = (1 + taper z)^2, |z| <= 1."""
    (ox, oy, oz), (dx, dy, dz) = origins, directions
    radius = 1 + taper * oz
    a = dx * dx + dy * dy - (taper * dz) ** 2
    b = ox * dx + oy * dy - taper * dz * radius
    c = ox * ox + oy * oy - radius * radius
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    entry = torch.full_like(a, _FAR)
    for t in ((-b - root) / a, (-b + root) / a):
        valid = (discriminant > 0) & (t > 0) & ((oz + t * dz).abs() <= 1)
        entry = torch.where(valid & (t < entry), t, entry)
    inverse = 1 / torch.where(dz.abs() < 1e-9, 1e-9, dz)
    for cap in (-1.0, 1.0):
        t = (cap - oz) * inverse
        valid = (t > 0) & ((ox + t * dx) ** 2 + (oy + t * dy) ** 2 <= (1 + cap * taper) ** 2)
        entry = torch.where(valid & (t < entry), t, entry)
    return entry


def _enter_ellipsoids(origins: _Local, directions: _Local, _taper: Tensor) -> Tensor:
    """Unit sphere, entered from outside."""
    (ox, oy, oz), (dx, dy, dz) = origins, directions
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    # The closest approach keeps float32 precise where b^2 - a c would cancel.
    nearest = -b / a
    gap = (ox + nearest * dx) ** 2 + (oy + nearest * dy) ** 2 + (oz + nearest * dz) ** 2
    t = nearest - ((1 - gap).clamp_min(0) / a).sqrt()
    return torch.where((gap < 1) & (t > 0), t, _FAR)


def _box_distances(local: _Local, half: _Local, _taper: Tensor) -> Tensor:
    """Signed distances to boxes, exact."""
    qx, qy, qz = ((c.abs() - 1) * h for c, h in zip(local, half, strict=True))
    x, y, z = qx.clamp_min(0), qy.clamp_min(0), qz.clamp_min(0)
    outside = (x * x + y * y + z * z).sqrt()
    return outside + torch.maximum(qx, torch.maximum(qy, qz)).clamp_max(0)


def _cylinder_distances(local: _Local, half: _Local, taper: Tensor) -> Tensor:
    """Signed distances to cylinders; measured across the axis where they taper."""
    x, y, z = local
    side = (x.hypot(y) - (1 + taper * z)) * half[0]
    cap = (z.abs() - 1) * half[2]
    return side.clamp_min(0).hypot(cap.clamp_min(0)) + torch.maximum(side, cap).clamp_max(0)


def _ellipsoid_distances(local: _Local, half: _Local, _taper: Tensor) -> Tensor:
    """Signed distances to ellipsoids to first order, |p| (|p| - 1) / |gradient|."""
    (x, y, z), (hx, hy, hz) = local, half
    length = (x * x + y * y + z * z).clamp_min(1e-12).sqrt()
    gradient = ((x / hx) ** 2 + (y / hy) ** 2 + (z / hz) ** 2).clamp_min(1e-12).sqrt()
    return length * (length - 1) / gradient


def _room_exit(size: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Ray parameter [B, R] and face number [B, R] (-x +x -y +y floor ceiling) where rays leave the room's box."""
    centre = torch.stack([torch.zeros_like(size[..., 0])] * 2 + [size[..., 2] / 2], -1)
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    t, axis = ((torch.sign(safe) * size / 2 + centre - origins) / safe).min(dim=-1)
    positive = torch.gather(safe, -1, axis[..., None])[..., 0] > 0
    return t, 2 * axis + positive.long()


def _primitive_surface(room: Room, index: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normal (soft at rounded edges), surface coordinates, face extents and front flag on primitives [B, R]."""
    frame = torch.gather(room.frames, 1, index[..., None, None].expand(*index.shape, 3, 4))
    half = torch.gather(room.half, 1, index[..., None].expand(*index.shape, 3))
    taper = torch.gather(room.taper, 1, index)
    local = (frame[..., :3] * position[..., None, :]).sum(-1) + frame[..., 3]
    boxes, cylinders, _ = room.slices
    is_box = (index < boxes.stop)[..., None]
    is_cylinder = ((index >= cylinders.start) & (index < cylinders.stop))[..., None]

    # The local coordinate nearest to 1 tells the face of a box, the height tells the caps of a cylinder.
    axis = torch.nn.functional.one_hot(local.abs().argmax(-1), 3).to(local.dtype)
    x, y, z = local.unbind(-1)
    on_cap = (z.abs() > 1 - 1e-4)[..., None] & is_cylinder
    side = torch.stack([x, y, -taper * (1 + taper * z)], -1)
    up = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], -1)
    # Near an edge of a box the normal turns towards the other face; at the edge both agree.
    edge = (1 - (1 - local.abs()) * half / taper.clamp_min(1e-5)[..., None]).clamp(0, 1)
    soft = torch.where((taper > 0)[..., None], torch.maximum(axis, edge * edge), axis)
    gradient = torch.where(
        is_box, soft * torch.sign(local) * half, torch.where(on_cap, up, torch.where(is_cylinder, side, local))
    )
    normal = torch.nn.functional.normalize((gradient[..., None] * frame[..., :3]).sum(-2), dim=-1)

    metric = local * half
    around = torch.atan2(y, x) * half[..., 0]
    on_x, on_y, on_z = axis.unbind(-1)
    flat_uv = torch.stack(
        [metric[..., 0] * (1 - on_x) + metric[..., 1] * on_x, metric[..., 2] * (1 - on_z) + metric[..., 1] * on_z], -1
    )
    flat_extent = torch.stack(
        [half[..., 0] * (1 - on_x) + half[..., 1] * on_x, half[..., 2] * (1 - on_z) + half[..., 1] * on_z], -1
    )
    round_uv = torch.where(on_cap, metric[..., :2], torch.stack([around, metric[..., 2]], -1))
    round_extent = torch.stack([half[..., 0] * torch.pi, half[..., 2]], -1)
    uv = torch.where(is_box, flat_uv, round_uv)
    extent = torch.where(is_box, flat_extent, round_extent)
    return normal, uv, extent, (on_y > 0) & is_box[..., 0]


def _room_surface(size: Tensor, face: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inward normal, surface coordinates and face extents on the room's own faces [B, R]."""
    axis = torch.nn.functional.one_hot(face // 2, 3).to(position.dtype)
    normal = axis * (1 - 2 * (face % 2))[..., None]
    on_x, _, on_z = axis.unbind(-1)

    def project(p: Tensor) -> Tensor:
        return torch.stack([p[..., 0] * (1 - on_x) + p[..., 1] * on_x, p[..., 2] * (1 - on_z) + p[..., 1] * on_z], -1)

    return normal, project(position), project(size.expand_as(position)) / 2
