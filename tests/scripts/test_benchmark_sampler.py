"""`gvd-benchmark sampler` on the tiny model: what it writes, and that a failing variant ends nothing."""

import json

import pytest
import torch

from guidedvd_ns.scripts.benchmarks import sampler
from guidedvd_ns.scripts.benchmarks.layers import time_layers
from guidedvd_ns.scripts.benchmarks.sampler import SamplerBenchmark, benchmark_sampler
from guidedvd_ns.scripts.benchmarks.step_profile import group_of, lost_time
from guidedvd_ns.scripts.benchmarks.timing import measure


def test_variants_are_timed_counted_and_compared(tmp_path, monkeypatch):
    monkeypatch.setitem(sampler.VARIANTS, "broken", sampler.Variant("fails", approximation={"every": 0}))
    names = ("default", "broken", "low", "detached", "unguided", "every-2", "graph")
    path = tmp_path / "figures" / "sampler.json"
    benchmark_sampler(SamplerBenchmark(size="tiny", variants=names, calls=1, seconds=0.0, device="cpu", output=path))
    report = json.loads(path.read_text())
    results = {entry["variant"]: entry for entry in report["results"]}
    assert tuple(results) == names and [path.name for path in path.parent.iterdir()] == ["sampler.json"]
    assert "every" in results["broken"]["error"] and results["broken"]["seconds"] is None
    measured = {name: entry for name, entry in results.items() if name != "broken"}
    assert all(entry["error"] is None and entry["seconds"] > 0 and entry["calls"] == 1 for entry in measured.values())
    arithmetic = {name: entry["teraflop"] for name, entry in measured.items() if name != "graph"}
    assert arithmetic["every-2"] == pytest.approx((arithmetic["unguided"] + arithmetic["default"]) / 2)
    assert arithmetic["unguided"] < arithmetic["detached"] < arithmetic["default"] < arithmetic["low"]
    assert results["low"]["cosine"] == pytest.approx(1, abs=1e-4) and results["low"]["relative_rms"] < 1e-2
    assert results["detached"]["cosine"] < 0.99 and results["unguided"]["cosine"] is None
    assert results["graph"]["relative_rms"] < 1e-3 and results["every-2"]["cosine"] is None
    assert report["floor_seconds"] == pytest.approx(1e12 * arithmetic["default"] / report["matrix_rate"])


def test_what_is_left_when_the_time_is_up_is_named(tmp_path):
    path = tmp_path / "sampler.json"
    benchmark_sampler(
        SamplerBenchmark(size="tiny", variants=("default",), budget=0.0, profile=False, device="cpu", output=path)
    )
    (result,) = json.loads(path.read_text())["results"]
    assert result["seconds"] is None and "time was up" in result["error"]


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "matrix products and convolutions"),
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT", "matrix products and convolutions"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("fmha_cutlassB_bf16_aligned_128x64_k65536_sm80", "attention"),
        ("_channel_sums", "norms and activations"),
        (
            "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10>",
            "norms and activations",
        ),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copies, additions and the like"),
        ("Memset (Device)", "copies, additions and the like"),
        ("mystery", "other"),
    ],
)
def test_kernels_are_told_apart(kernel, group):
    assert group_of(kernel) == group


def test_lost_time_adds_up_to_the_step():
    rows = [
        {"group": "attention", "milliseconds": 3.0, "count": 2},
        {"group": "attention", "milliseconds": 1.0, "count": 1},
        {"group": "other", "milliseconds": 2.0, "count": 5},
    ]
    groups = lost_time(rows, 0.01, 0.002)
    assert groups["attention"] == {"milliseconds": 4.0, "count": 3}
    assert sum(group["milliseconds"] for group in groups.values()) == pytest.approx(10)


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
