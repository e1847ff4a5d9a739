"""Pictures, depth and normals of procedural rooms: soft shadows, ambient occlusion and textures at the nearest hit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.patterns import Surface
from guidedvd_ns.data.rooms.room import NUM_LIGHTS, Room
from guidedvd_ns.data.rooms.textures import TextureInputs, evaluate
from guidedvd_ns.data.rooms.tracing import EAGER_TRACER, Hit, Tracer, distance_to_walls, fused_tracer, nearest_hit

_AMBIENT_REACH = 0.28
"""Metres within which surfaces take ambient light from each other."""

_SHADOW_OFFSET = 4e-3
"""Metres by which a shadow ray stays off its surface."""

_PAIRS_ON_CPU = 1 << 20
_PAIRS_ON_CUDA = 1 << 26
_PIXELS_COMPILED = 1 << 22


class RoomRender(NamedTuple):
    """What L cameras see in each of B rooms."""

    rgb: Tensor
    """[B, L, H, W, 3] in [0, 1]."""
    depth: Tensor
    """[B, L, H, W, 1] z-depth in metres of the ray through the pixel's centre (never a blend of two surfaces)."""
    normal: Tensor
    """[B, L, H, W, 3] unit world normal of the same hit, towards the camera."""


class _Pixels(NamedTuple):
    """The image grid that flat pixel numbers refer to."""

    camera_to_worlds: Tensor
    """[B, L, 3, 4]."""
    intrinsics: Tensor
    """[B, L, 4] fx, fy, cx, cy."""
    height: int
    width: int


@torch.no_grad()
def render(
    rooms: Room,
    camera_to_worlds: Tensor,
    intrinsics: tuple[float, float, float, float] | Tensor,
    height: int,
    width: int,
    supersample: int = 1,
    compile: bool = False,
) -> RoomRender:
    """Renders every room from its own L cameras.

    Args:
        rooms: B rooms; the result is on their device.
        camera_to_worlds: [B, L, 3, 4] OpenGL poses (x right, y up, z backwards) inside the rooms.
        intrinsics: fx, fy, cx, cy in pixels (the first pixel's centre is at 0.5), one for all or broadcastable to
            [B, L, 4].
        height: pixels.
        width: pixels.
        supersample: colour rays per pixel along each axis; each of them also goes to its own part of the lights, so
            that 2 gives shadows a penumbra.
        compile: fuse the tracing with torch.compile (CUDA only; the first call of each shape takes a while).

    Raises:
        ValueError: if the poses do not fit the rooms or an argument is out of range.
    """
    if camera_to_worlds.dim() != 4 or camera_to_worlds.shape[::2] != (len(rooms), 3) or camera_to_worlds.shape[3] != 4:
        raise ValueError(
            f"camera_to_worlds is {tuple(camera_to_worlds.shape)} for {len(rooms)} rooms; pass one [L, 3, 4] for each."
        )
    if supersample < 1:
        raise ValueError(f"supersample is {supersample}; pass 1 or more.")
    compile = compile and rooms.device.type == "cuda"
    rooms = rooms if compile else rooms.trimmed()
    batch, views = camera_to_worlds.shape[:2]
    poses = camera_to_worlds.to(rooms.device, torch.float32)
    lens = torch.as_tensor(intrinsics, dtype=torch.float32, device=rooms.device).expand(batch, views, 4)
    pixels = _Pixels(poses, lens, height, width)
    total = views * height * width
    chunk = _chunk_size(rooms, total, compile)
    offsets = _subsample_offsets(supersample)
    tracer = fused_tracer() if compile else EAGER_TRACER
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, total, chunk):
        # The last chunk repeats the last pixel instead of being shorter: one shape, one compilation.
        index = torch.arange(start, start + chunk, device=rooms.device).clamp_max(total - 1)
        parts.append(_shade_pixels(rooms, pixels, index, offsets, tracer))
    rgb, depth, normal = (torch.cat(tensors, 1)[:, :total] for tensors in zip(*parts, strict=True))
    shape = (batch, views, height, width)
    return RoomRender(rgb.view(*shape, 3), depth.view(*shape, 1), normal.view(*shape, 3))


def _chunk_size(rooms: Room, total: int, compile: bool) -> int:
    """Pixels at once: equal pieces small enough for the memory, large enough to hide the cost of a call."""
    if rooms.device.type == "cuda":
        largest = _PIXELS_COMPILED if compile else _PAIRS_ON_CUDA // sum(rooms.counts)
    else:
        largest = _PAIRS_ON_CPU // sum(rooms.counts)
    pieces = -(-total * len(rooms) // largest)
    return -(-total // min(pieces, total))


def _subsample_offsets(supersample: int) -> list[tuple[float, float]]:
    """Offsets from the pixel's centre, in pixels."""
    steps = [(i + 0.5) / supersample - 0.5 for i in range(supersample)]
    return [(dx, dy) for dy in steps for dx in steps]


def _shade_pixels(
    room: Room, pixels: _Pixels, index: Tensor, offsets: list[tuple[float, float]], tracer: Tracer
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour [B, R, 3], z-depth [B, R] and normal [B, R, 3] of the pixels with the given flat numbers [R]."""
    spacing = 1.0 / (len(offsets) ** 0.5)
    origins, directions, lens = _rays(pixels, index, (0.0, 0.0))
    centre = nearest_hit(room, origins, directions, tracer.enter_first)
    if len(offsets) == 1:
        rgb = _shade(room, centre, directions, spacing / lens, (0.0, 0.0), tracer)
        return rgb, centre.t, centre.normal
    rgb = torch.zeros_like(centre.normal)
    for number, offset in enumerate(offsets):
        origins, directions, lens = _rays(pixels, index, offset)
        hit = nearest_hit(room, origins, directions, tracer.enter_first)
        rgb = rgb + _shade(room, hit, directions, spacing / lens, _light_offset(number, offsets), tracer) / len(offsets)
    return rgb, centre.t, centre.normal


def _light_offset(number: int, offsets: list[tuple[float, float]]) -> tuple[float, float]:
    """The place on the lights, in half edges, that belongs to a subsample: a rotated grid."""
    dx, dy = offsets[number]
    return 1.8 * dx + 0.9 * dy, 1.8 * dy - 0.9 * dx


def _rays(pixels: _Pixels, index: Tensor, offset: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Origins and directions [B, R, 3] (the ray parameter is the z-depth) and focal lengths [B, R]."""
    area = pixels.height * pixels.width
    view, pixel = index // area, index % area
    x = (pixel % pixels.width) + (0.5 + offset[0])
    y = (pixel // pixels.width) + (0.5 + offset[1])
    pose, lens = pixels.camera_to_worlds[:, view], pixels.intrinsics[:, view]
    fx, fy, cx, cy = lens.unbind(-1)
    local = torch.stack([(x - cx) / fx, (cy - y) / fy, -torch.ones_like(fx)], -1)
    return pose[..., 3], (pose[..., :3] * local[..., None, :]).sum(-1), fx


def _shade(
    room: Room,
    hit: Hit,
    directions: Tensor,  # [B, R, 3]
    spacing: Tensor,  # [B, R] distance of neighbouring samples at depth 1
    light_offset: tuple[float, float],
    tracer: Tracer,
) -> Tensor:
    """Display colour [B, R, 3] of the hits: Lambertian under two lights and occluded ambient light."""
    facing = -(torch.nn.functional.normalize(directions, dim=-1) * hit.normal).sum(-1)
    # Between the footprint's short and its long axis: supersampling takes care of the rest.
    width = (hit.t * spacing / facing.clamp_min(0.05).sqrt()).clamp_min(1e-5)
    albedo, emission = _material(room, hit, width)
    off_surface = hit.position + _SHADOW_OFFSET * hit.normal
    light = _ambient_light(room, hit, tracer)
    for number in range(NUM_LIGHTS):
        axes = room.light_axes[:, number]
        place = room.light_position[:, number] + light_offset[0] * axes[:, 0] + light_offset[1] * axes[:, 1]
        place = place[:, None].expand_as(off_surface)
        towards = place - off_surface
        distance = towards.norm(dim=-1, keepdim=True).clamp_min(1e-3)
        cosine = (towards / distance * hit.normal).sum(-1, keepdim=True).clamp_min(0)
        visible = ~tracer.is_occluded(room, place, off_surface)[..., None]
        light = light + room.light_color[:, None, number] * cosine * visible / (1 + (distance / 2.2) ** 2)
    linear = albedo.clamp_min(1e-4) ** 2.2 * (light + emission[..., None])
    return (1 - torch.exp(-1.5 * linear)).clamp_min(1e-6) ** (1 / 2.2)


def _material(room: Room, hit: Hit, width: Tensor) -> tuple[Tensor, Tensor]:
    """sRGB albedo [B, R, 3] and emission [B, R] at the hits."""
    index = hit.index
    colors = torch.gather(room.colors, 1, index[..., None, None].expand(*index.shape, 3, 3))
    params = torch.gather(room.params, 1, index[..., None].expand(*index.shape, 4))
    scale, seed, emission, turned = params.unbind(-1)
    a, b, c = colors.unbind(-2)
    (u, v), (half_u, half_v) = hit.uv.unbind(-1), hit.extent.unbind(-1)
    surface = Surface(u, v, half_u, half_v, width, a, b, c, scale, seed)
    code = torch.gather(room.texture, 1, index)
    return evaluate(TextureInputs(surface, code, hit.front, turned > 0.5)), emission


def _ambient_light(room: Room, hit: Hit, tracer: Tracer) -> Tensor:
    """[B, R, 3] ambient light, less of it where a point above the surface is close to something else."""
    probe = hit.position + _AMBIENT_REACH * hit.normal
    free = torch.minimum(tracer.distance_to_primitives(room, probe), distance_to_walls(room.size, probe))
    openness = (free / _AMBIENT_REACH).clamp(0, 1)[..., None]
    sky = 0.85 + 0.15 * hit.normal[..., 2:]
    return room.ambient[:, None] * sky * (0.4 + 0.6 * openness)
