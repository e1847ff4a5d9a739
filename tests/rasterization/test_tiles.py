"""Tile binning against a loop over tiles and Gaussians."""

import numpy as np
import pytest

from guidedvd_ns.rasterization.tiles import TILE_SIZE, bin_gaussians


@pytest.mark.parametrize("count", [0, 1, 40])
def test_bins_hold_what_overlaps_each_tile_by_depth(count: int) -> None:
    width, height, num_cameras = 70, 35, 2
    rng = np.random.default_rng(0)
    means2d = rng.uniform(-20, 90, (num_cameras, count, 2)).astype(np.float32)
    radii = rng.integers(0, 25, (num_cameras, count)).astype(np.int32)
    # Few different depths, so that ties occur: they are broken by index.
    depths = rng.integers(1, 6, (num_cameras, count)).astype(np.float32)
    bins = bin_gaussians(means2d.reshape(-1, 2), radii, depths.reshape(-1), width, height)
    assert (bins.columns, bins.rows) == (5, 3)

    tile = 0
    for camera in range(num_cameras):
        for row in range(bins.rows):
            for column in range(bins.columns):
                corner = np.array([column, row]) * TILE_SIZE
                low, high = means2d[camera] - radii[camera, :, None], means2d[camera] + radii[camera, :, None]
                overlaps = (radii[camera] > 0) & ((high > corner) & (low < corner + TILE_SIZE)).all(-1)
                indices = np.flatnonzero(overlaps)
                expected = camera * count + indices[np.argsort(depths[camera, indices], kind="stable")]
                actual = bins.gaussians[bins.tile_starts[tile] : bins.tile_starts[tile + 1]]
                np.testing.assert_array_equal(actual, expected)
                tile += 1
    assert bins.tile_starts[-1] == len(bins.gaussians)

    owners = np.repeat(bins.slot_gaussians, np.diff(bins.slot_starts))
    np.testing.assert_array_equal(np.sort(bins.slots), np.arange(len(bins.slots)))
    np.testing.assert_array_equal(owners[bins.slots], bins.gaussians)


def test_images_of_many_tiles_are_sorted_too() -> None:
    """More tiles than 16 bits can number: the same tiles as for the small image, only farther apart in number."""
    side = 300 * TILE_SIZE
    means2d = np.array([[side - 8.0, side - 8.0], [8.0, 8.0]], dtype=np.float32)
    bins = bin_gaussians(means2d, np.full((1, 2), 4, dtype=np.int32), np.ones(2, np.float32), side, side)
    assert bins.gaussians.tolist() == [1, 0]
    assert bins.tile_starts[1] == 1 and bins.tile_starts[-2] == 1
