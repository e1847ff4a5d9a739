"""Numba kernels that composite projected Gaussians front to back over image tiles, and the gradient of that.

The rules are those of gsplat 1.4.0: alpha = min(MAX_ALPHA, opacity * exp(-sigma)); a Gaussian with alpha below
MIN_ALPHA or sigma below 0 is skipped; a pixel is closed before the Gaussian that would take its transmittance to
MIN_TRANSMITTANCE or less. A tile belongs to one thread, which walks through the Gaussians of the tile and, for each,
through the pixels that it can reach: results do not depend on the number of threads.
"""

import math
from collections.abc import Callable

import numpy as np
from numba import njit

from guidedvd_ns.rasterization.tiles import TILE_SIZE

MAX_ALPHA = np.float32(0.999)
MIN_ALPHA = np.float32(1.0 / 255.0)
MIN_TRANSMITTANCE = np.float32(1e-4)
HALF = np.float32(0.5)
ONE = np.float32(1.0)
ZERO = np.float32(0.0)

MARGIN = 0.05
"""Pixels that are tried beyond those a Gaussian reaches by calculation, for the rounding of single precision."""

NUM_FEATURES = 4
"""Channels that are composited: red, green, blue, depth."""
NUM_GRADIENTS = 12
"""Columns of a pair's gradient: means2d (2), |means2d| (2), conics (3), opacity (1), features (4)."""


def _compiled(function: Callable) -> Callable:
    """`njit` without the interpreter's lock, and with its cache on disk where Numba finds a place to write to."""
    try:
        return njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:
        return njit(function, nogil=True, error_model="numpy")


@njit(inline="always")
def _falloff(a, b, c, dx, dy):
    """Exponent sigma of a Gaussian with conic (a, b, c) at offset (dx, dy)."""
    return HALF * (a * dx * dx + c * dy * dy) + b * dx * dy


@njit(inline="always")
def _reach(a, b, c, opacity):
    """Squared Mahalanobis distance where alpha falls to MIN_ALPHA, and the conic's determinant.

    The determinant is 0 for needles so long that single precision has lost it: then no bound can be relied on.
    """
    determinant = float(a) * float(c) - float(b) * float(b)
    if determinant < 1e-4 * float(a) * float(c):
        determinant = 0.0
    return 2.0 * math.log(float(opacity) / float(MIN_ALPHA)), determinant


@njit(inline="always")
def _pixel_range(center, half_length, first, last):
    """The pixels in [first, last) whose centres are at most half_length, or MARGIN more, from center."""
    low = math.ceil(center - half_length - (0.5 + MARGIN))
    high = math.floor(center + half_length + (0.5 + MARGIN))
    return int(max(low, float(first))), int(min(high, float(last)))


@njit(inline="always")
def _row_range(a, mean_y, reach, determinant, first, last):
    """Pixel rows in [first, last) that the Gaussian reaches."""
    if determinant == 0.0:
        return first, last
    return _pixel_range(float(mean_y), math.sqrt(reach * float(a) / determinant), first, last)


@njit(inline="always")
def _column_range(a, b, mean_x, dy, reach, determinant, first, last):
    """Pixel columns in [first, last) that the Gaussian reaches on the row at offset dy."""
    if determinant == 0.0:
        return first, last
    inverse_a = 1.0 / float(a)
    half_width = math.sqrt(max(float(a) * reach - determinant * float(dy) * float(dy), 0.0)) * inverse_a
    return _pixel_range(float(mean_x) + float(b) * float(dy) * inverse_a, half_width, first, last)


@_compiled
def composite(
    first_tile,
    stop_tile,
    means2d,  # [G, 2] float32, as are all arrays below where nothing else is said; G = C * N
    conics,  # [G, 3]
    opacities,  # [G]
    features,  # [G, 4]
    gaussians,  # [pairs] int32
    tile_starts,  # [tiles + 1] int64
    columns,
    rows,
    image,  # [C, H, W, 4], zeros: receives the composited features
    transmittance,  # [C, H, W], ones: receives what is left of the light
    last_pair,  # [C, H, W] int32, minus ones: receives the last pair that each pixel took in
):
    """Composite the tiles from first_tile up to, and without, stop_tile."""
    height, width = transmittance.shape[1:]
    for tile in range(first_tile, stop_tile):
        camera, top, left = tile // (rows * columns), tile // columns % rows * TILE_SIZE, tile % columns * TILE_SIZE
        bottom, right = min(top + TILE_SIZE, height), min(left + TILE_SIZE, width)
        closed = np.zeros((TILE_SIZE, TILE_SIZE), dtype=np.bool_)
        num_open = (bottom - top) * (right - left)
        for pair in range(tile_starts[tile], tile_starts[tile + 1]):
            if num_open == 0:
                break
            g = gaussians[pair]
            opacity = opacities[g]
            if not opacity >= MIN_ALPHA:
                continue
            mean_x, mean_y = means2d[g, 0], means2d[g, 1]
            a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
            reach, determinant = _reach(a, b, c, opacity)
            y0, y1 = _row_range(a, mean_y, reach, determinant, top, bottom)
            for y in range(y0, y1):
                dy = mean_y - (np.float32(y) + HALF)
                x0, x1 = _column_range(a, b, mean_x, dy, reach, determinant, left, right)
                for x in range(x0, x1):
                    if closed[y - top, x - left]:
                        continue
                    sigma = _falloff(a, b, c, mean_x - (np.float32(x) + HALF), dy)
                    alpha = min(MAX_ALPHA, opacity * math.exp(-sigma))
                    if sigma < ZERO or alpha < MIN_ALPHA:
                        continue
                    before = transmittance[camera, y, x]
                    after = before * (ONE - alpha)
                    if after <= MIN_TRANSMITTANCE:
                        closed[y - top, x - left] = True
                        num_open -= 1
                        continue
                    weight = alpha * before
                    for k in range(NUM_FEATURES):
                        image[camera, y, x, k] += weight * features[g, k]
                    transmittance[camera, y, x] = after
                    last_pair[camera, y, x] = pair


@_compiled
def composite_gradients(
    first_tile,
    stop_tile,
    means2d,  # as for `composite`, down to last_pair, which here are its results
    conics,
    opacities,
    features,
    gaussians,
    tile_starts,
    columns,
    rows,
    transmittance,  # [C, H, W]
    last_pair,  # [C, H, W] int32
    image_gradient,  # [C, H, W, 4]
    transmittance_gradient,  # [C, H, W]
    slots,  # [pairs] int64
    gradients,  # [pairs, 12], zeros: receives each pair's gradient in its slot
):
    """Gradient of a loss with respect to the Gaussian of each pair of these tiles, back to front."""
    height, width = transmittance.shape[1:]
    for tile in range(first_tile, stop_tile):
        camera, top, left = tile // (rows * columns), tile // columns % rows * TILE_SIZE, tile % columns * TILE_SIZE
        bottom, right = min(top + TILE_SIZE, height), min(left + TILE_SIZE, width)
        # Per pixel: transmittance in front of the Gaussian at hand, and the loss's share of all that lies behind it.
        front = transmittance[camera, top:bottom, left:right].copy()
        behind = front * transmittance_gradient[camera, top:bottom, left:right]
        for pair in range(last_pair[camera, top:bottom, left:right].max(), tile_starts[tile] - 1, -1):
            g = gaussians[pair]
            opacity = opacities[g]
            if not opacity >= MIN_ALPHA:
                continue
            mean_x, mean_y = means2d[g, 0], means2d[g, 1]
            a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
            reach, determinant = _reach(a, b, c, opacity)
            total = gradients[slots[pair]]
            y0, y1 = _row_range(a, mean_y, reach, determinant, top, bottom)
            for y in range(y0, y1):
                dy = mean_y - (np.float32(y) + HALF)
                x0, x1 = _column_range(a, b, mean_x, dy, reach, determinant, left, right)
                for x in range(x0, x1):
                    if pair > last_pair[camera, y, x]:
                        continue
                    dx = mean_x - (np.float32(x) + HALF)
                    sigma = _falloff(a, b, c, dx, dy)
                    density = math.exp(-sigma)
                    alpha = min(MAX_ALPHA, opacity * density)
                    if sigma < ZERO or alpha < MIN_ALPHA:
                        continue
                    through = ONE / (ONE - alpha)
                    before = front[y - top, x - left] * through
                    front[y - top, x - left] = before
                    weight = alpha * before
                    own = ZERO
                    for k in range(NUM_FEATURES):
                        own += features[g, k] * image_gradient[camera, y, x, k]
                        total[8 + k] += weight * image_gradient[camera, y, x, k]
                    d_alpha = before * own - behind[y - top, x - left] * through
                    behind[y - top, x - left] += weight * own
                    if opacity * density > MAX_ALPHA:
                        continue
                    total[7] += density * d_alpha
                    d_sigma = -opacity * density * d_alpha
                    pixel_x, pixel_y = d_sigma * (a * dx + b * dy), d_sigma * (b * dx + c * dy)
                    total[0] += pixel_x
                    total[1] += pixel_y
                    total[2] += abs(pixel_x)
                    total[3] += abs(pixel_y)
                    total[4] += HALF * d_sigma * dx * dx
                    total[5] += d_sigma * dx * dy
                    total[6] += HALF * d_sigma * dy * dy


@_compiled
def sum_slots(
    gradients,  # [pairs, 12]
    slot_gaussians,  # [visible] int64
    slot_starts,  # [visible + 1] int64
    totals,  # [G, 12], zeros
):
    """Add up the gradients of the pairs of each Gaussian, in a fixed order."""
    for i in range(slot_gaussians.size):
        total = totals[slot_gaussians[i]]
        for slot in range(slot_starts[i], slot_starts[i + 1]):
            for k in range(NUM_GRADIENTS):
                total[k] += gradients[slot, k]
