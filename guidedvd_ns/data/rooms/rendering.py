"""Pictures, depth and normals of procedural rooms: rays of many pixels at once, shaded at their nearest hits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from guidedvd_ns.data.rooms.lighting import Spread, clipped, develop, illuminate
from guidedvd_ns.data.rooms.patterns import Surface
from guidedvd_ns.data.rooms.room import Room
from guidedvd_ns.data.rooms.textures import TextureInputs, evaluate
from guidedvd_ns.data.rooms.tracing import EAGER_TRACER, Hit, Tracer, fused_tracer, nearest_distance, nearest_hit

_PAIRS_ON_CPU = 1 << 20
_PAIRS_ON_CUDA = 1 << 26
_RAYS_COMPILED = 10_000_000
"""Times the primitives of a room, this still fits the 32-bit indices of a fused kernel."""


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

    @property
    def count(self) -> int:
        """Pixels of all L images."""
        return self.camera_to_worlds.shape[1] * self.height * self.width


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
    if supersample < 1:
        raise ValueError(f"supersample is {supersample}; pass 1 or more.")
    compile = compile and rooms.device.type == "cuda"
    rooms = rooms if compile else rooms.trimmed()
    pixels = _image_grid(rooms, camera_to_worlds, intrinsics, height, width)
    offsets = _subsample_offsets(supersample)
    tracer = fused_tracer() if compile else EAGER_TRACER
    parts = [
        _shade_pixels(rooms, pixels, index, offsets, tracer)
        for index in _chunks(rooms, pixels, len(offsets) + (supersample > 1), compile)
    ]
    rgb, depth, normal = (torch.cat(tensors, 1)[:, : pixels.count] for tensors in zip(*parts, strict=True))
    shape = (*camera_to_worlds.shape[:2], height, width)
    return RoomRender(rgb.view(*shape, 3), depth.view(*shape, 1), normal.view(*shape, 3))


@torch.no_grad()
def render_depth(
    rooms: Room,
    camera_to_worlds: Tensor,
    intrinsics: tuple[float, float, float, float] | Tensor,
    height: int,
    width: int,
) -> Tensor:
    """The z-depth [B, L, H, W, 1] of `render`, without what shading costs; arguments and errors as there."""
    rooms = rooms.trimmed()
    pixels = _image_grid(rooms, camera_to_worlds, intrinsics, height, width)
    parts = []
    for index in _chunks(rooms, pixels, rays=1, compile=False):
        origins, directions, _, _ = _rays(pixels, index, [(0.0, 0.0)])
        parts.append(nearest_distance(rooms, origins, directions))
    return torch.cat(parts, 1)[:, : pixels.count].view(*camera_to_worlds.shape[:2], height, width, 1)


def _image_grid(
    rooms: Room,
    camera_to_worlds: Tensor,
    intrinsics: tuple[float, float, float, float] | Tensor,
    height: int,
    width: int,
) -> _Pixels:
    if camera_to_worlds.dim() != 4 or camera_to_worlds.shape[::2] != (len(rooms), 3) or camera_to_worlds.shape[3] != 4:
        raise ValueError(
            f"camera_to_worlds is {tuple(camera_to_worlds.shape)} for {len(rooms)} rooms; pass one [L, 3, 4] for each."
        )
    batch, views = camera_to_worlds.shape[:2]
    poses = camera_to_worlds.to(rooms.device, torch.float32)
    lens = torch.as_tensor(intrinsics, dtype=torch.float32, device=rooms.device).expand(batch, views, 4)
    return _Pixels(poses, lens, height, width)


def _chunks(rooms: Room, pixels: _Pixels, rays: int, compile: bool) -> Iterator[Tensor]:
    """Flat pixel numbers, so many at once that they fit the memory and hide the cost of a call.

    All chunks are of one size: the last one repeats the last pixel instead of being shorter. A compiled tracer has the
    same size for any image, or it would be compiled anew for each.
    """
    if rooms.device.type != "cuda":
        largest = _PAIRS_ON_CPU // sum(rooms.counts)
    else:
        largest = _RAYS_COMPILED if compile else _PAIRS_ON_CUDA // sum(rooms.counts)
    size = max(1, largest // (rays * len(rooms)))
    if compile:
        size = 2 ** (size.bit_length() - 1)
    else:
        size = -(-pixels.count // -(-pixels.count // size))
    for start in range(0, pixels.count, size):
        yield torch.arange(start, start + size, device=rooms.device).clamp_max(pixels.count - 1)


def _subsample_offsets(supersample: int) -> list[tuple[float, float]]:
    """Offsets from the pixel's centre, in pixels."""
    steps = [(i + 0.5) / supersample - 0.5 for i in range(supersample)]
    return [(dx, dy) for dy in steps for dx in steps]


def _shade_pixels(
    room: Room, pixels: _Pixels, index: Tensor, offsets: list[tuple[float, float]], tracer: Tracer
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour [B, R, 3], z-depth [B, R] and normal [B, R, 3] of the pixels with the given flat numbers [R]."""
    count = len(index)
    # All rays in one go: a GPU would otherwise wait for the launches of each subsample.
    cast = offsets if len(offsets) == 1 else [*offsets, (0.0, 0.0)]
    origins, directions, lens, off_axis = _rays(pixels, index, cast)
    hit = nearest_hit(room, origins, directions, tracer.enter_first)
    depth, normal = hit.t[:, -count:], hit.normal[:, -count:]
    if len(cast) > len(offsets):
        shaded = len(offsets) * count
        hit = Hit(*(values[:, :shaded] for values in hit))
        directions, lens, off_axis = directions[:, :shaded], lens[:, :shaded], off_axis[:, :shaded]
    spread = Spread.of(offsets, count, room.device)
    light = _shade(room, hit, directions, 1 / (len(offsets) ** 0.5 * lens), spread, tracer)
    mean = light.unflatten(1, (len(offsets), count)).mean(1)
    return develop(room, mean, off_axis.unflatten(1, (len(offsets), count)).mean(1)), depth, normal


def _rays(pixels: _Pixels, index: Tensor, offsets: list[tuple[float, float]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Origins and directions [B, S R, 3] (the ray parameter is the z-depth), focal lengths and squared tangents of the
    angle to the optical axis [B, S R], for every offset in turn."""
    area = pixels.height * pixels.width
    offset = torch.tensor(offsets, device=index.device).repeat_interleave(len(index), 0)
    index = index.repeat(len(offsets))
    view, pixel = index // area, index % area
    x = (pixel % pixels.width) + (0.5 + offset[:, 0])
    y = (pixel // pixels.width) + (0.5 + offset[:, 1])
    pose, lens = pixels.camera_to_worlds[:, view], pixels.intrinsics[:, view]
    fx, fy, cx, cy = lens.unbind(-1)
    local_x, local_y = (x - cx) / fx, (cy - y) / fy
    local = torch.stack([local_x, local_y, -torch.ones_like(fx)], -1)
    directions = (pose[..., :3] * local[..., None, :]).sum(-1)
    return pose[..., 3], directions, fx, local_x * local_x + local_y * local_y


def _shade(
    room: Room,
    hit: Hit,
    directions: Tensor,  # [B, R, 3]
    spacing: Tensor,  # [B, R] distance of neighbouring samples at depth 1
    spread: Spread,
    tracer: Tracer,
) -> Tensor:
    """Linear light [B, R, 3] that leaves the hits towards the camera."""
    facing = -(torch.nn.functional.normalize(directions, dim=-1) * hit.normal).sum(-1)
    # Between the footprint's short and its long axis: supersampling takes care of the rest.
    width = (hit.t * spacing / facing.clamp_min(0.05).sqrt()).clamp_min(1e-5)
    albedo, emission, gloss = _material(room, hit, width)
    diffuse, reflected = illuminate(room, hit, directions, gloss, spread, tracer)
    return clipped(albedo.clamp_min(1e-4) ** 2.2 * (diffuse + emission[..., None]) + reflected)


def _material(room: Room, hit: Hit, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sRGB albedo [B, R, 3], emission [B, R] and gloss [B, R] at the hits."""
    index = hit.index
    colors = torch.gather(room.colors, 1, index[..., None, None].expand(*index.shape, 3, 3))
    params = torch.gather(room.params, 1, index[..., None].expand(*index.shape, 5))
    scale, seed, emission, turned, gloss = params.unbind(-1)
    a, b, c = colors.unbind(-2)
    (u, v), (half_u, half_v) = hit.uv.unbind(-1), hit.extent.unbind(-1)
    surface = Surface(u, v, half_u, half_v, width, a, b, c, scale, seed)
    code = torch.gather(room.texture, 1, index)
    return evaluate(TextureInputs(surface, code, hit.front, turned > 0.5)), emission, gloss
