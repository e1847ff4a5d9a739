"""Numbers of a benchmark: means over test views and scenes, and paired differences with their standard errors."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from guidedvd_ns.scripts.benchmarks.scenes.record import Result

REGIONS = {"whole": "whole image", "holes": "inside the holes", "seen": "outside the holes"}
METRICS = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "st_lpips": "ST-LPIPS ↓"}
MAX_GROUPS = 3
HIGHER_IS_BETTER = {"psnr", "ssim"}

Results = dict[str, dict[str, Result]]
"""Scene -> method -> result."""


@dataclass(frozen=True)
class Difference:
    """A paired difference of two methods."""

    mean: float
    error: Optional[float]
    """Standard error of the mean; None of a single pair."""
    better: int
    """Pairs in which the first method is better."""
    pairs: int


def view_values(result: Result, region: str, metric: str) -> dict[str, float]:
    """A metric by test view, of those views that have the region and the metric."""
    found = {view["view"]: view.get(region, {}).get(metric) for view in result["views"]}
    return {name: value for name, value in found.items() if value is not None}


def view_groups(result: Result) -> list[str]:
    """Kinds of test views by their names without numbers (`traj_000`, `extra_003`), where there are a few kinds."""
    groups = sorted({_group(view["view"]) for view in result["views"]})
    return groups if 2 <= len(groups) <= MAX_GROUPS else []


def group_value(result: Result, group: str, region: str, metric: str) -> Optional[float]:
    """Mean of a metric over the test views of one kind; None where none has it."""
    values = view_values(result, region, metric)
    chosen = [value for name, value in values.items() if _group(name) == group]
    return statistics.fmean(chosen) if chosen else None


def _group(view: str) -> str:
    return re.sub(r"[\W_]*\d+$", "", view)


def scene_value(result: Result, region: str, metric: str) -> Optional[float]:
    """Mean of a metric over a scene's test views; None where no view has it."""
    values = view_values(result, region, metric)
    return statistics.fmean(values.values()) if values else None


def succeeded(results: Results, method: str) -> dict[str, Result]:
    """Scene -> result, of the runs of a method that did not fail."""
    runs = {scene: methods[method] for scene, methods in results.items() if method in methods}
    return {scene: result for scene, result in runs.items() if "error" not in result}


def mean_value(results: Results, method: str, region: str, metric: str) -> Optional[float]:
    """Mean over scenes of a method's `scene_value`."""
    values = [scene_value(result, region, metric) for result in succeeded(results, method).values()]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def paired(first: dict[str, float], second: dict[str, float], metric: str) -> Optional[Difference]:
    """`first` minus `second` over the keys that both have, with the standard error of the mean; None without any."""
    differences = [first[key] - second[key] for key in first if key in second]
    if not differences:
        return None
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    return Difference(
        mean=statistics.fmean(differences),
        error=standard_error(differences),
        better=sum(sign * difference > 0 for difference in differences),
        pairs=len(differences),
    )


def standard_error(values: Sequence[float]) -> Optional[float]:
    """Standard error of the mean, from the sample's standard deviation; None of a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def scenes_difference(results: Results, method: str, other: str, region: str, metric: str) -> Optional[Difference]:
    """`method` minus `other`, paired over the scenes on which both succeeded."""
    columns = []
    for name in (method, other):
        values = {scene: scene_value(run, region, metric) for scene, run in succeeded(results, name).items()}
        columns.append({scene: value for scene, value in values.items() if value is not None})
    return paired(columns[0], columns[1], metric)


def total_seconds(runs: dict[str, Result], method: str, guide: str) -> float:
    """Seconds of a method on one scene, with those of the guide where it was handed over."""
    own = runs[method]
    shared = own["job"]["shares_guide"] and "error" not in runs.get(guide, {"error": ""})
    return own["seconds"] + (runs[guide]["seconds"] if shared else 0.0)
