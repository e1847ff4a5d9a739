"""Which ways of sampling `gvd-benchmark prior` tries."""

import json

import pytest

from guidedvd_ns.priors.base import SamplerOverrides
from guidedvd_ns.scripts.benchmarks.prior import VARIANTS, PriorBenchmark, _tried, benchmark_prior
from guidedvd_ns.training import validation
from tests.scenes import write_prior


def test_variants_are_tried_at_every_number_of_steps():
    tried = _tried(PriorBenchmark(variants=("unguided", "shrinking-0.3"), steps=(2, 4)))
    assert [(one.num_steps, one.guidance_factor) for one in tried] == [(2, 0.0), (2, 0.3), (4, 0.0), (4, 0.3)]
    assert tried[1].guidance_step == "shrinking" and tried[1].restore_detail is None
    assert _tried(PriorBenchmark(variants=("all",))) == list(VARIANTS.values())


def test_factors_replace_the_variants():
    tried = _tried(PriorBenchmark(guidance_factors=(0.0, 0.1), steps=(3,)))
    assert tried == [SamplerOverrides(num_steps=3, guidance_factor=factor) for factor in (0.0, 0.1)]


def test_an_unknown_variant_is_named_before_anything_is_loaded():
    with pytest.raises(ValueError, match="'growing'.*shrinking-0.3.*all"):
        benchmark_prior(PriorBenchmark(prior="nowhere", variants=("growing",)))


def test_a_tiny_prior_is_compared_on_paths_as_wide_as_asked(tmp_path, monkeypatch):
    tiny, asked = write_prior(tmp_path / "tiny"), []
    found = validation.held_out_clips
    monkeypatch.setattr(validation, "held_out_clips", lambda *given: asked.append(given) or found(*given))
    benchmark_prior(PriorBenchmark(str(tiny), clips=1, azimuth=45.0, device="cpu", output=tmp_path / "figures"))
    assert asked[0][0].azimuth == 45.0 and asked[0][1] == 1
    scores = json.loads((tmp_path / "figures" / "prior.json").read_text())
    assert [(row["method"], row["known_kept"]) for row in scores[-4:]] == [
        ("unguided", False),
        ("unguided", True),
        ("guided", False),
        ("guided", True),
    ]
    assert scores[1]["method"] == "black" and scores[1]["psnr_holes"] < scores[2]["psnr_holes"]
    assert (tmp_path / "figures" / "prior.png").stat().st_size > 0
