"""Which Gaussians touch which 16 x 16 tile of which image, nearest first."""

from typing import NamedTuple

import numpy as np

TILE_SIZE = 16


class TileBins(NamedTuple):
    """The pairs of a tile and a Gaussian that may colour it. Gaussians are numbered over all cameras: c * N + n.

    Pairs are listed by tile (camera, row, column) and within a tile by depth. `slots` numbers the same pairs so that
    those of one Gaussian follow each other, which lets a gradient be written per pair and summed without any race.
    """

    gaussians: np.ndarray  # [pairs] int32
    tile_starts: np.ndarray  # [C * rows * columns + 1] int64, first pair of each tile
    slots: np.ndarray  # [pairs] int64, a permutation
    slot_gaussians: np.ndarray  # [visible] int64, the Gaussians in the order of their slots
    slot_starts: np.ndarray  # [visible + 1] int64, first slot of each of them
    columns: int
    rows: int


def bin_gaussians(
    means2d: np.ndarray,  # [C * N, 2] float32
    radii: np.ndarray,  # [C, N] int32
    depths: np.ndarray,  # [C * N] float32
    width: int,
    height: int,
) -> TileBins:
    """List, for every tile, the Gaussians whose square of half side `radii` overlaps it (gsplat's rule).

    NumPy and not torch: these are integer sorts over a few ten thousand elements, which NumPy's radix sort does in
    a tenth of a millisecond and torch spreads over threads that cost more to wake than the work.
    """
    num_cameras, num_gaussians = radii.shape
    columns, rows = -(-width // TILE_SIZE), -(-height // TILE_SIZE)

    visible = np.flatnonzero(radii)
    visible = visible[np.argsort(depths[visible], kind="stable")]
    centers = means2d[visible] / np.float32(TILE_SIZE)
    reach = (radii.reshape(-1)[visible].astype(np.float32) / np.float32(TILE_SIZE))[:, None]
    limits = np.array([columns, rows], dtype=np.float32)
    first = np.clip(np.floor(centers - reach), 0, limits).astype(np.int32)
    counts = np.clip(np.ceil(centers + reach), 0, limits).astype(np.int32) - first  # [visible, 2] columns, rows

    slot_starts = np.zeros(len(visible) + 1, dtype=np.int64)
    np.cumsum(counts[:, 0] * counts[:, 1], out=slot_starts[1:])
    pair_counts = np.diff(slot_starts)
    camera_rows = visible // max(num_gaussians, 1) * rows

    within = np.arange(slot_starts[-1], dtype=np.int32) - np.repeat(slot_starts[:-1].astype(np.int32), pair_counts)
    row, column = np.divmod(within, np.repeat(counts[:, 0], pair_counts))
    corner = ((camera_rows + first[:, 1]) * columns + first[:, 0]).astype(np.int32)
    tiles = np.repeat(corner, pair_counts) + row * columns + column

    num_tiles = num_cameras * rows * columns
    # NumPy sorts integers of 16 bits by radix, in linear time.
    slots = np.argsort(tiles.astype(np.uint16) if num_tiles <= np.iinfo(np.uint16).max else tiles, kind="stable")
    tile_starts = np.zeros(num_tiles + 1, dtype=np.int64)
    np.cumsum(np.bincount(tiles, minlength=num_tiles), out=tile_starts[1:])
    gaussians = np.repeat(visible.astype(np.int32), pair_counts)[slots]
    return TileBins(gaussians, tile_starts, slots, visible, slot_starts, columns, rows)
