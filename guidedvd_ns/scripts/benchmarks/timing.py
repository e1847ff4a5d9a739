"""How long and how much memory a function takes, on the device that it runs on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Measurement:
    """Time and memory of a function that was called repeatedly."""

    seconds: float
    """Median of the timed calls."""
    calls: int
    """How many were timed."""
    peak_bytes: int | None
    """Most memory that was allocated at once in the timed calls, everything counted; None on the CPU."""


def measure(
    function: Callable[[], object], device: torch.device, *, calls: int = 10, warmup: int = 2, seconds: float = 10.0
) -> Measurement:
    """Median time of up to `calls` calls, fewer (but at least one) if all calls together take more than `seconds`.

    On a GPU each call is timed by device events; the calls are not waited for one by one.
    """
    on_gpu = device.type == "cuda"
    started = time.perf_counter()
    for _ in range(warmup):
        function()
        _synchronize(device)
        if time.perf_counter() - started > seconds:
            break
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    durations: list[float] = []
    while len(durations) < calls and (not durations or time.perf_counter() - started < seconds):
        if on_gpu:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            end.synchronize()
            durations.append(begin.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            function()
            durations.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else None
    return Measurement(statistics.median(durations), len(durations), peak)


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 8192) -> float:
    """Floating-point operations a second of a large matrix product on random data."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / measure(lambda: left @ right, device, warmup=3).seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
