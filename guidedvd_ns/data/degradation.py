"""What a guide's render of a clip looks like: a clean clip made worse as a Gaussian scene fitted to few views is.

A guide is blurred where few views constrain it, a little off in colour and in place, has floaters in front of surfaces,
and knows less than what the input views see: ragged borders, small gaps, missing objects. All of it grows with the
distance from the input view, so with the frame index; frame 0 is the photograph itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_SHIFT = 2.5
"""Largest displacement of surfaces in pixels at 96x128, at full strength."""
NUM_FLOATERS = 6
NUM_GAPS = 5


def degrade(
    target: Tensor,  # [B, T, H, W, 3]
    visible: Tensor,  # [B, T, H, W, 1]
    strength: Tensor,  # [B]
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # [B, T, H, W, 3], [B, T, H, W, 1]
    """The clip as a guide would render it, black where unknown, and its known mask.

    Args:
        target: True frames in [0, 1].
        visible: 1 where an input view sees the pixel's surface, else 0.
        strength: Severity of every defect, from 0 (none at all) to 1.
        generator: Seeded generator on the device of the tensors.

    Returns:
        Condition in [0, 1] and known mask (0 or 1). Frame 0 is the clean target, all of it known.
    """
    num_frames = target.shape[1]
    ramp = torch.linspace(0.3, 1.0, num_frames, device=target.device)
    severity = strength[:, None] * ramp
    frames = target.permute(0, 1, 4, 2, 3)
    frames = _displace(frames, severity, generator)
    frames = _blur(frames, severity, generator)
    frames = _cast(frames, severity, generator)
    frames = _add_floaters(frames, severity, generator)
    known = _erode_raggedly(visible.permute(0, 1, 4, 2, 3).float(), severity, generator)
    known[:, 0] = 1.0
    condition = frames.clamp(0, 1)
    condition[:, 0] = target[:, 0].permute(0, 3, 1, 2)
    return (condition * known).permute(0, 1, 3, 4, 2), known.permute(0, 1, 3, 4, 2)


def _smooth_noise(
    batch: int, channels: int, cells: int, size: tuple[int, int], generator: torch.Generator
) -> Tensor:  # [batch, channels, H, W]
    """Roughly unit-variance noise with features of about a `cells`-th of the image."""
    rows = max(2, round(cells * size[0] / size[1]))
    coarse = torch.randn(batch, channels, rows, cells, generator=generator, device=generator.device)
    return 1.3 * F.interpolate(coarse, size, mode="bicubic", align_corners=True)


def _displace(frames: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    """Surfaces at slightly wrong depths: one smooth flow for each clip, growing along it."""
    batch, num_frames, _, height, width = frames.shape
    pixels = MAX_SHIFT * width / 128
    flow = _smooth_noise(batch, 2, 5, (height, width), generator).clamp(-1, 1)
    scale = torch.tensor([2 * pixels / width, 2 * pixels / height], device=frames.device)
    rows = torch.linspace(-1, 1, height, device=frames.device) * (1 - 1 / height)
    columns = torch.linspace(-1, 1, width, device=frames.device) * (1 - 1 / width)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    grid = grid + severity[..., None, None, None] * (flow.permute(0, 2, 3, 1) * scale)[:, None]
    moved = F.grid_sample(frames.flatten(0, 1), grid.flatten(0, 1), padding_mode="border", align_corners=False)
    return moved.reshape(frames.shape)


def _blur(frames: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    """Detail lost in some regions: a mix of sharp, blurred and very blurred frames with smooth weights."""
    batch, _, _, height, width = frames.shape
    unit = width / 128
    soft = _gaussian_blur(frames, 1.0 * unit)
    softer = _gaussian_blur(frames, 2.5 * unit)
    level = _smooth_noise(batch, 1, 6, (height, width), generator)[:, None]
    level = (severity[..., None, None, None] * (1.2 + 0.9 * level)).clamp(0, 2)
    return torch.lerp(torch.lerp(frames, soft, level.clamp(0, 1)), softer, (level - 1).clamp(0, 1))


def _gaussian_blur(frames: Tensor, sigma: float) -> Tensor:
    # Shifted sums along each axis: on a GPU a convolution of single planes took half the time of making a clip.
    radius = max(1, round(2.5 * sigma))
    taps = [math.exp(-0.5 * (offset / max(sigma, 1e-3)) ** 2) for offset in range(-radius, radius + 1)]
    planes = F.pad(frames.flatten(0, 1), (radius,) * 4, mode="replicate")
    for axis in (2, 3):
        size = planes.shape[axis] - 2 * radius
        blurred = torch.zeros_like(planes.narrow(axis, 0, size))
        for offset, weight in enumerate(taps):
            blurred.add_(planes.narrow(axis, offset, size), alpha=weight / sum(taps))
        planes = blurred
    return planes.reshape(frames.shape)


def _cast(frames: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    """Exposure and colour a little off, as a whole and in patches."""
    batch, _, _, height, width = frames.shape
    device = frames.device
    gain = 0.05 * torch.randn(batch, 1, 3, 1, 1, generator=generator, device=device).clamp(-2, 2)
    patches = 0.035 * _smooth_noise(batch, 3, 4, (height, width), generator)[:, None]
    level = severity[..., None, None, None]
    return frames * (1 + level * gain) + level * patches


def _add_floaters(frames: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    """Half transparent blobs that drift through the image, in colours of the clip."""
    batch, num_frames, _, height, width = frames.shape
    device = frames.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    rows = torch.linspace(0, 1, height, device=device)[:, None]
    columns = torch.linspace(0, 1, width, device=device)
    time = torch.linspace(0, 1, num_frames, device=device)
    palette = F.adaptive_avg_pool2d(frames[:, 0], (4, 4)).flatten(2)
    for _ in range(NUM_FLOATERS):
        centre, drift = draw(batch, 2, 1), 1.2 * draw(batch, 2, 1) - 0.6
        path = centre + drift * time  # [B, 2, T]
        radius = 0.02 + 0.10 * draw(batch, 2) ** 2
        distance = ((columns - path[:, 0, :, None, None]) / radius[:, 0, None, None, None]) ** 2 + (
            (rows - path[:, 1, :, None, None]) / radius[:, 1, None, None, None]
        ) ** 2
        opacity = (1.5 * draw(batch, 1) - 0.5).clamp(min=0) * severity
        alpha = (opacity[..., None, None] * torch.exp(-0.5 * distance))[:, :, None]
        picked = torch.randint(palette.shape[2], (batch, 1, 1), generator=generator, device=device)
        color = palette.gather(2, picked.expand(-1, 3, -1)).reshape(batch, 1, 3, 1, 1)
        color = (color + 0.15 * (draw(batch, 1, 3, 1, 1) - 0.5)).clamp(0, 1)
        frames = torch.lerp(frames, color.expand_as(frames), alpha.expand_as(frames))
    return frames


def _erode_raggedly(visible: Tensor, severity: Tensor, generator: torch.Generator) -> Tensor:
    """The known mask: visible surfaces with ragged borders, minus round gaps (missing objects) and speckle."""
    batch, num_frames, _, height, width = visible.shape
    device = visible.device
    level = severity[..., None, None, None]
    window = 2 * max(1, round(3 * width / 128)) + 1
    spread = F.avg_pool2d(visible.flatten(0, 1), window, stride=1, padding=window // 2, count_include_pad=False)
    raggedness = _smooth_noise(batch, 1, 16, (height, width), generator)[:, None]
    raggedness = raggedness + 0.7 * _smooth_noise(batch, 1, 40, (height, width), generator)[:, None]
    known = spread.reshape(visible.shape) + 0.3 * level * (raggedness - 0.5) > 0.5
    known &= visible > 0.5
    known &= ~_gaps(batch, num_frames, (height, width), severity, generator)
    speckle = torch.rand(visible.shape, generator=generator, device=device)
    return (known & (speckle > 0.02 * level**2)).float()


def _gaps(
    batch: int, num_frames: int, size: tuple[int, int], severity: Tensor, generator: torch.Generator
) -> Tensor:  # [B, T, 1, H, W] bool
    """Small wobbly discs that drift through the image."""
    device = generator.device
    rows = torch.linspace(0, 1, size[0], device=device)[:, None]
    columns = torch.linspace(0, 1, size[1], device=device)
    time = torch.linspace(0, 1, num_frames, device=device)
    wobble = 0.3 * _smooth_noise(batch, 1, 12, size, generator)
    gaps = torch.zeros(batch, num_frames, *size, dtype=torch.bool, device=device)
    for _ in range(NUM_GAPS):
        draws = torch.rand(batch, 5, 1, generator=generator, device=device)
        x = draws[:, 0] + (draws[:, 2] - 0.5) * time
        y = draws[:, 1] + (draws[:, 3] - 0.5) * time
        radius = (0.10 * severity * draws[:, 4] ** 2)[..., None, None]
        distance = ((columns - x[..., None, None]) ** 2 + (rows - y[..., None, None]) ** 2).sqrt()
        gaps |= distance < radius * (1 + wobble)
    return gaps[:, :, None]
