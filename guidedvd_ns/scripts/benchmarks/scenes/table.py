"""The benchmark as Markdown: means over scenes by region, paired differences, every scene, and what failed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Optional

from guidedvd_ns.scripts.benchmarks.scenes.plan import GUIDE
from guidedvd_ns.scripts.benchmarks.scenes.summary import (
    METRICS,
    REGIONS,
    Difference,
    Results,
    group_value,
    mean_value,
    paired,
    scene_value,
    scenes_difference,
    succeeded,
    total_seconds,
    view_groups,
    view_values,
)

_DASH = "–"
_DIGITS = {"psnr": 2, "ssim": 3, "lpips": 3, "st_lpips": 3}
_COMPARED = (("whole", "psnr"), ("holes", "psnr"), ("seen", "psnr"), ("whole", "ssim"), ("whole", "st_lpips"))


def markdown(results: Results, methods: Sequence[str], against: str, command: str) -> str:
    """The whole document.

    Args:
        results: what was measured.
        methods: order of the rows.
        against: the method that the others are compared with.
        command: what made the results.
    """
    blocks = ["# Scenes", f"```bash\n{command}\n```", _settings(results)]
    tried = [method for method in methods if any(method in runs for runs in results.values())]
    for region, heading in REGIONS.items():
        blocks += [f"## Mean over scenes, {heading}", _means(results, tried, region)]
    if against in tried and len(tried) > 1:
        blocks += [f"## Difference to {against}, paired over scenes", _differences(results, tried, against)]
    for scene in results:
        blocks += [f"## {scene}", _scene(results, scene, tried, against)]
    failures = _failures(results)
    if failures:
        blocks += ["## Failed runs, which count nowhere", failures]
    return "\n\n".join(blocks) + "\n"


def _settings(results: Results) -> str:
    runs = [result for methods in results.values() for result in methods.values()]
    jobs = [run["job"] for run in runs]
    machines = sorted({run["machine"] for run in runs if "machine" in run})
    shared = any(job["shares_guide"] for job in jobs)
    sharing = (
        f" The guide is fitted once a scene (`{GUIDE}`, the first phase's steps alone) and handed to the guided runs,"
        " which train the second phase; their seconds include it."
        if shared
        else ""
    )
    return (
        f"{jobs[0]['steps']} steps, seed {jobs[0]['seed']}, {', '.join(machines) or 'no machine'}."
        f"{sharing} A hole is where the guide's opacity is below {jobs[0]['hole_threshold']:g}."
    )


def _means(results: Results, methods: Sequence[str], region: str) -> str:
    costs = region == "whole"
    header = ["method", "scenes", *METRICS.values(), *(["seconds", "peak GiB"] if costs else [])]
    rows = []
    for method in methods:
        runs = succeeded(results, method)
        tried = sum(method in of_scene for of_scene in results.values())
        cells = [method, f"{len(runs)} of {tried}"]
        cells += [_number(mean_value(results, method, region, metric), _DIGITS[metric]) for metric in METRICS]
        if costs:
            seconds = [total_seconds(results[scene], method, GUIDE) for scene in runs]
            peaks = [run["peak_gib"] for run in runs.values()]
            cells += [_number(statistics.fmean(seconds) if seconds else None, 0)]
            cells += [_number(max(peaks, default=None), 1)]
        rows.append(cells)
    return _table(header, rows)


def _differences(results: Results, methods: Sequence[str], against: str) -> str:
    header = ["method", *(f"{METRICS[metric]}, {REGIONS[region]}" for region, metric in _COMPARED)]
    rows = []
    for method in methods:
        if method != against:
            found = [scenes_difference(results, method, against, region, metric) for region, metric in _COMPARED]
            rows.append([method, *(_difference(each, key[1]) for each, key in zip(found, _COMPARED, strict=True))])
    note = "Mean ± standard error; in brackets, on how many scenes it is better."
    return f"{_table(header, rows)}\n\n{note}"


def _scene(results: Results, scene: str, methods: Sequence[str], against: str) -> str:
    runs = {name: run for name, run in results[scene].items() if "error" not in run}
    shares = [view["hole_fraction"] for run in list(runs.values())[:1] for view in run["views"]]
    compared = against in runs and len(runs) > 1
    groups = view_groups(next(iter(runs.values()))) if runs else []
    header = ["method", *METRICS.values(), "PSNR in holes", "ST-LPIPS in holes", "PSNR outside"]
    header += [f"PSNR of {group}" for group in groups]
    header += [f"PSNR less {against}'s", "seconds"] if compared else ["seconds"]
    rows = []
    for method in methods:
        if method not in runs:
            continue
        run = runs[method]
        cells = [method, *(_number(scene_value(run, "whole", metric), _DIGITS[metric]) for metric in METRICS)]
        for region, metric in (("holes", "psnr"), ("holes", "st_lpips"), ("seen", "psnr")):
            cells.append(_number(scene_value(run, region, metric), _DIGITS[metric]))
        cells += [_number(group_value(run, group, "whole", "psnr"), 2) for group in groups]
        if compared:
            ours, theirs = (view_values(each, "whole", "psnr") for each in (run, runs[against]))
            same = method == against
            cells.append(_DASH if same else _difference(paired(ours, theirs, "psnr"), "psnr"))
        rows.append([*cells, _number(total_seconds(runs, method, GUIDE), 0)])
    if not shares:
        return "No run succeeded."
    note = f"{len(shares)} test views, {100 * statistics.fmean(shares):.1f} % of their pixels in holes."
    return f"{note}\n\n{_table(header, rows)}"


def _failures(results: Results) -> str:
    failed = [
        f"- `{scene}/{method}`: {run['error']}"
        for scene, runs in results.items()
        for method, run in runs.items()
        if "error" in run
    ]
    return "\n".join(failed)


def _number(value: Optional[float], digits: int) -> str:
    return _DASH if value is None else f"{value:.{digits}f}"


def _difference(difference: Optional[Difference], metric: str) -> str:
    if difference is None:
        return _DASH
    digits = _DIGITS[metric]
    error = "" if difference.error is None else f" ± {difference.error:.{digits}f}"
    return f"{difference.mean:+.{digits}f}{error} ({difference.better}/{difference.pairs})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
