"""Which kernels take the time of a function, by what they do, and what lies between that and a floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch.profiler import ProfilerActivity, profile

GROUPS = {
    "attention": ("fmha", "sdpa", "flash", "softmax", "cudnn::fusion", "attention"),
    "norms and activations": ("_apply", "_channel_sums", "_group_", "norm", "geglu", "gelu", "silu", "moments"),
    "matrix products and convolutions": ("nvjet", "gemm", "xmma", "cutlass", "cudnn", "conv", "mm"),
    "copies, additions and the like": ("elementwise", "copy", "cat", "memset", "memcpy", "add", "fill", "upsample"),
}
"""Parts of the names of each group's kernels; the first group that fits counts."""


def profile_kernels(step: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """Print and return what takes the time of one call, the longest first: kernels, or operators on the CPU."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    step()
    with profile(activities=activities) as profiler:
        step()
    on_gpu = device.type == "cuda"
    rows = []
    for entry in profiler.key_averages():
        time = entry.self_device_time_total if on_gpu else entry.self_cpu_time_total
        # Kernels alone: an operator's device time is that of its kernels once more.
        if time > 0 and (not on_gpu or "CUDA" in str(entry.device_type)):
            row = {"name": entry.key, "group": group_of(entry.key), "milliseconds": time / 1e3, "count": entry.count}
            rows.append(row)
    rows.sort(key=lambda row: -row["milliseconds"])
    for row in rows[:40]:
        CONSOLE.print(f"{row['milliseconds']:8.2f} ms {row['count']:5d} x  {row['name'][:100]}", highlight=False)
    return rows


def group_of(kernel: str) -> str:
    """The group of `GROUPS` that a kernel belongs to, or `other`."""
    name = kernel.lower()
    return next((group for group, parts in GROUPS.items() if any(part in name for part in parts)), "other")


def lost_time(
    rows: list[dict[str, Any]], seconds: Optional[float], floor: Optional[float]
) -> dict[str, dict[str, float]]:
    """Print and return each group's milliseconds and launches, the time without any kernel, and the floor."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        group = groups.setdefault(row["group"], {"milliseconds": 0.0, "count": 0})
        group["milliseconds"] += row["milliseconds"]
        group["count"] += row["count"]
    busy = sum(group["milliseconds"] for group in groups.values())
    if seconds is not None:
        groups["no kernel runs"] = {"milliseconds": max(1e3 * seconds - busy, 0.0), "count": 0}
    CONSOLE.print("Where the time of the default step goes:")
    for name, group in sorted(groups.items(), key=lambda item: -item[1]["milliseconds"]):
        CONSOLE.print(f"{group['milliseconds']:8.1f} ms {group['count']:6.0f} launches  {name}", highlight=False)
    if floor is not None:
        CONSOLE.print(f"{1e3 * floor:8.1f} ms  the floor of matrix products and attention", highlight=False)
    return groups
