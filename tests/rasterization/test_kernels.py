"""Compilation of the kernels where nothing can be cached."""

import pytest
from numba.core import caching

from guidedvd_ns.rasterization import kernels


def double(x: float) -> float:
    return 2 * x


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only installation without a home directory: no place is left, and Numba refuses `cache=True`."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        kernels.njit(double, cache=True)
    assert kernels._compiled(double)(2.0) == 4.0
