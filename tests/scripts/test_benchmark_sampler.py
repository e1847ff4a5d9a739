"""`gvd-benchmark sampler` on the tiny model: what it writes, and that a failing variant ends nothing."""

import json

import pytest
import torch

from guidedvd_ns.scripts.benchmarks import sampler
from guidedvd_ns.scripts.benchmarks.layers import time_layers
from guidedvd_ns.scripts.benchmarks.sampler import SamplerBenchmark, benchmark_sampler
from guidedvd_ns.scripts.benchmarks.timing import measure


def test_variants_are_timed_counted_and_compared(tmp_path, monkeypatch):
    monkeypatch.setitem(sampler.VARIANTS, "broken", sampler.Variant("fails", approximation={"every": 0}))
    names = ("default", "broken", "low", "detached", "unguided")
    path = tmp_path / "figures" / "sampler.json"
    benchmark_sampler(SamplerBenchmark(size="tiny", variants=names, calls=1, seconds=0.0, device="cpu", output=path))
    report = json.loads(path.read_text())
    results = {entry["variant"]: entry for entry in report["results"]}
    assert tuple(results) == names and [path.name for path in path.parent.iterdir()] == ["sampler.json"]
    assert "every" in results["broken"]["error"] and results["broken"]["seconds"] is None
    measured = {name: entry for name, entry in results.items() if name != "broken"}
    assert all(entry["error"] is None and entry["seconds"] > 0 and entry["calls"] == 1 for entry in measured.values())
    arithmetic = {name: entry["teraflop"] for name, entry in measured.items()}
    assert arithmetic["unguided"] < arithmetic["detached"] < arithmetic["default"] < arithmetic["low"]
    assert results["low"]["cosine"] == pytest.approx(1, abs=1e-4) and results["low"]["relative_rms"] < 1e-2
    assert results["detached"]["cosine"] < 0.99 and results["unguided"]["cosine"] is None
    assert report["floor_seconds"] == pytest.approx(1e12 * arithmetic["default"] / report["matrix_rate"])


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match="'fastest'.*default"):
        benchmark_sampler(SamplerBenchmark(variants=("fastest",)))


def test_timing_takes_the_median_and_stops_in_time():
    calls = []
    result = measure(lambda: calls.append(1), torch.device("cpu"), calls=5, warmup=2, seconds=10)
    assert result.calls == 5 and len(calls) == 7 and result.peak_bytes is None
    assert measure(lambda: calls.append(1), torch.device("cpu"), calls=5, warmup=1, seconds=0).calls == 1


def test_layers_are_timed_one_by_one():
    rows = time_layers("tiny", torch.device("cpu"), torch.float32)
    assert all("error" not in row or "attention" in row["layer"] for row in rows)
    timed = {row["layer"]: row for row in rows if "error" not in row}
    assert timed["residual block"]["both"] > timed["residual block"]["forward"] > 0
