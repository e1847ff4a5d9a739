"""The numbers of `gvd-benchmark scenes`: scores by region, means, paired differences, the table's text, the figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guidedvd_ns.scripts.benchmarks.scenes.figure import crop_box, draw_figure
from guidedvd_ns.scripts.benchmarks.scenes.plan import Job
from guidedvd_ns.scripts.benchmarks.scenes.record import RunFolder
from guidedvd_ns.scripts.benchmarks.scenes.scoring import Holes, TestView, _names, find_holes, score
from guidedvd_ns.scripts.benchmarks.scenes.summary import (
    Difference,
    group_value,
    mean_value,
    paired,
    scene_value,
    scenes_difference,
    standard_error,
    total_seconds,
    view_groups,
)
from guidedvd_ns.scripts.benchmarks.scenes.table import markdown


def _view(counts: torch.Tensor | None = None) -> TestView:
    """Off by 0.1 in the left half and by 0.01 in the right; the guide is transparent on the left."""
    truth = torch.full((32, 40, 3), 0.5)
    render, opacity = truth + 0.01, torch.ones(32, 40, 1)
    render[:, :20], opacity[:, :20] = 0.6, 0.2
    return TestView("000", render, truth, counts, opacity)


def test_regions_are_scored_apart():
    view = _view()
    hole = find_holes([view], 0.9).of(view)
    assert hole.shape == (32, 40, 1) and hole[:, :20].all() and not hole[:, 20:].any()
    scores = score(view, hole)
    assert scores["hole_fraction"] == pytest.approx(0.5)
    assert scores["holes"]["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert scores["seen"]["psnr"] == pytest.approx(40.0, abs=1e-3)
    assert scores["whole"]["psnr"] == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-3)
    assert scores["holes"]["ssim"] < scores["seen"]["ssim"]
    assert scores["seen"]["st_lpips"] < scores["holes"]["st_lpips"]


def test_masked_pixels_count_in_no_region():
    counts = torch.ones(32, 40, 1, dtype=torch.bool)
    counts[:, :10] = False
    view = _view(counts)
    view.render[:, :10] = 1.0
    scores = score(view, find_holes([view], 0.9).of(view))
    assert scores["hole_fraction"] == pytest.approx(10 / 30)
    assert scores["holes"]["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert scores["whole"]["psnr"] == pytest.approx(-10 * math.log10((0.01 + 2 * 0.0001) / 3), abs=1e-3)


def test_a_region_of_a_few_pixels_is_not_scored():
    view = _view()
    hole = torch.zeros(32, 40, 1, dtype=torch.bool)
    hole[0, :12] = True
    assert "holes" not in score(view, hole) and "seen" in score(view, hole)
    hole[1, 0] = True
    assert "holes" in score(view, hole)


def test_holes_are_kept_and_belong_to_their_views(tmp_path):
    view = _view()
    find_holes([view], 0.9).save(tmp_path / "holes.npz")
    holes = Holes.load(tmp_path / "holes.npz")
    assert torch.equal(holes.of(view), view.opacity < 0.9)
    with pytest.raises(ValueError, match="view 007 is not among those of the scene's guide"):
        holes.of(TestView("007", view.render, view.truth, None, view.opacity))
    with pytest.raises(ValueError, match="view 000 has 20x32 pixels unlike those"):
        holes.of(TestView("000", view.render[:, :20], view.truth[:, :20], None, view.opacity))


def test_views_with_a_third_of_hole_are_shown():
    masks = {f"{share:03d}": np.arange(100)[None] < share for share in (0, 30, 60, 90)}
    assert Holes(masks).shown(2) == ["030", "060"]


def test_views_of_the_same_name_are_told_apart():
    assert _names(["a/x.png", "b/y.png"]) == ["x", "y"]  # type: ignore[list-item]
    assert _names(["a/x.png", "b/x.png"]) == ["000_x", "001_x"]  # type: ignore[list-item]


def _result(values: dict[str, tuple[float, float | None]], seconds: float = 10.0, shares: bool = False) -> dict:
    """A run by view: whole PSNR and PSNR in holes."""
    views: list[dict[str, Any]] = []
    for name, (whole, inside) in values.items():
        view: dict[str, Any] = {"view": name, "hole_fraction": 0.25, "whole": {"psnr": whole, "st_lpips": 0.1}}
        if inside is not None:
            view["holes"] = {"psnr": inside}
        views.append(view)
    job = Job("s", "s", "m", "guide", "", 100, 42, 0.9, 256, shares, "cpu").record()
    return {"job": job, "seconds": seconds, "peak_gib": 2.0, "machine": "cpu", "gaussians": 3, "views": views}


def _results() -> dict[str, dict[str, dict]]:
    return {
        "hall": {
            "guide": _result({"traj_0": (20.0, 10.0), "extra_0": (22.0, None)}, seconds=30),
            "ours": _result({"traj_0": (23.0, 14.0), "extra_0": (24.0, None)}, seconds=40, shares=True),
        },
        "attic": {
            "guide": _result({"traj_0": (18.0, 11.0), "extra_0": (18.0, 13.0)}, seconds=50),
            "ours": _result({"traj_0": (19.0, 11.0), "extra_0": (20.0, 11.0)}, seconds=60, shares=True),
        },
        "shed": {
            "guide": _result({"traj_0": (30.0, 20.0)}),
            "ours": {"job": _result({})["job"], "error": "out of memory"},
        },
    }


def test_means_are_over_views_then_scenes_and_leave_failures_out():
    results = _results()
    assert scene_value(results["hall"]["guide"], "whole", "psnr") == 21.0
    assert scene_value(results["hall"]["guide"], "holes", "psnr") == 10.0
    assert scene_value(results["hall"]["guide"], "whole", "lpips") is None
    assert mean_value(results, "ours", "whole", "psnr") == pytest.approx((23.5 + 19.5) / 2)
    assert mean_value(results, "guide", "whole", "psnr") == pytest.approx((21 + 18 + 30) / 3)
    assert view_groups(results["hall"]["guide"]) == ["extra", "traj"]
    assert view_groups(results["shed"]["guide"]) == []
    assert group_value(results["hall"]["ours"], "traj", "whole", "psnr") == 23.0


def test_differences_are_paired_and_have_standard_errors():
    # 2.5 and 1.5: mean 2, sample standard deviation 0.7071, over the root of 2.
    assert scenes_difference(_results(), "ours", "guide", "whole", "psnr") == Difference(2.0, pytest.approx(0.5), 2, 2)
    # 4 and -1.
    inside = scenes_difference(_results(), "ours", "guide", "holes", "psnr")
    assert inside == Difference(1.5, pytest.approx(2.5), 1, 2)
    assert paired({"a": 0.2, "b": 0.3}, {"a": 0.3, "c": 0.1}, "st_lpips") == Difference(pytest.approx(-0.1), None, 1, 1)
    assert paired({"a": 1.0}, {"b": 1.0}, "psnr") is None
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(math.sqrt(5 / 3) / 2)


def test_seconds_include_a_guide_that_was_handed_over():
    results = _results()
    assert (
        total_seconds(results["hall"], "ours", "guide") == 70 and total_seconds(results["hall"], "guide", "guide") == 30
    )


def test_table_says_what_was_measured_and_what_failed():
    text = markdown(_results(), ["guide", "ours"], "guide", "gvd-benchmark scenes")
    lines = text.splitlines()
    whole = lines[lines.index("## Mean over scenes, whole image") :]
    assert whole[2] == "| method | scenes | PSNR ↑ | SSIM ↑ | LPIPS ↓ | ST-LPIPS ↓ | seconds | peak GiB |"
    assert whole[4] == "| guide | 3 of 3 | 23.00 | – | – | 0.100 | 30 | 2.0 |"
    assert whole[5] == "| ours | 2 of 3 | 21.50 | – | – | 0.100 | 90 | 2.0 |"
    assert "| ours | +2.00 ± 0.50 (2/2) | +1.50 ± 2.50 (1/2) | – | – | +0.000 ± 0.000 (0/2) |" in lines
    hall = lines[lines.index("## hall") :]
    assert hall[2] == "2 test views, 25.0 % of their pixels in holes."
    assert hall[4].endswith("| PSNR of extra | PSNR of traj | PSNR less guide's | seconds |")
    assert hall[7] == "| ours | 23.50 | – | – | 0.100 | 14.00 | – | – | 24.00 | 23.00 | +2.50 ± 0.50 (2/2) | 70 |"
    assert lines[-1] == "- `shed/ours`: out of memory"
    assert "the first phase's steps alone" in text


def test_crops_show_both_sides_of_a_hole():
    hole = np.zeros((40, 80), dtype=bool)
    hole[:, 50:] = True
    left, top, right, bottom = crop_box(hole)
    assert (right - left, bottom - top) == (24, 24) and left + 12 == 50
    assert crop_box(np.zeros((40, 80), dtype=bool)) == (0, 0, 24, 24)


def test_figure_shows_the_same_crop_of_every_method(tmp_path):
    hole = np.zeros((40, 80), dtype=bool)
    hole[:, 50:] = True
    (tmp_path / "hall" / "guide" / "views").mkdir(parents=True)
    (tmp_path / "hall" / "ours" / "views").mkdir(parents=True)
    guide, ours = (RunFolder(tmp_path / "hall" / name) for name in ("guide", "ours"))
    Holes({"v": hole}).save(guide.holes)
    for file, grey in (
        (guide.image("truth", "v"), 50),
        (guide.image("render", "v"), 100),
        (ours.image("render", "v"), 200),
    ):
        Image.new("RGB", (80, 40), (grey,) * 3).save(file)
    assert draw_figure(tmp_path / "figure.png", tmp_path, ["hall", "shed"], ["guide", "absent", "ours"])
    sheet = np.asarray(Image.open(tmp_path / "figure.png"))
    assert sheet.shape == (16 + 4 + 192 + 16 + 4, 4 * 196 + 4, 3)
    middles = [tuple(sheet[130, 100 + 196 * column].tolist()) for column in range(1, 4)]
    assert middles == [(50,) * 3, (100,) * 3, (200,) * 3]
    assert not draw_figure(tmp_path / "none.png", tmp_path, ["shed"], ["guide"])
