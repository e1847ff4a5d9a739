"""`gvd-benchmark sampler`: time, memory and gradient of a guided step at ViewCrafter's full size."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from rich.table import Table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from guidedvd_ns.grounding import Grounding
    from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior

REFERENCE_STEP = 25
"""Which of the steps is timed, from 0; their times do not differ, but at a middle one the gradient is typical."""
AUTHORS = {"seconds": 1.49, "gibibytes": 20.3}
"""The authors' code in the same setting on an H200 (method.md)."""


@dataclass(frozen=True)
class Variant:
    """One way to take a guided step."""

    what: str
    """For the table."""
    memory: Literal["default", "low"] = "default"
    keep_everything: bool = False
    """Recompute nothing in the backward pass."""
    frames_per_slice: Optional[int] = None
    """Frames that are decoded together; the memory setting's own by default."""
    compile: bool = False
    """Compile the network's blocks with torch.compile."""
    cudnn_search: Optional[bool] = None
    """Let cuDNN time its algorithms at the first call, or not; the library's own setting by default."""
    capture: bool = False
    """Replay the denoiser as CUDA graphs."""
    guided: bool = True
    approximation: dict[str, Any] = field(default_factory=dict)
    """Fields of `GuidanceApproximation`."""


VARIANTS = {
    "default": Variant("memory default, exact"),
    "low": Variant("memory low, exact", memory="low"),
    "search": Variant("cuDNN searches its algorithms", cudnn_search=True),
    "keep": Variant("nothing recomputed", keep_everything=True),
    "slice-1": Variant("1 frame decoded at a time", frames_per_slice=1),
    "slice-4": Variant("4 frames decoded at a time", frames_per_slice=4),
    "slice-9": Variant("9 frames decoded at a time", frames_per_slice=9),
    "slice-13": Variant("13 frames decoded at a time", frames_per_slice=13),
    "unguided": Variant("no guidance", guided=False),
    "every-2": Variant("every second step guided", approximation={"every": 2}),
    "detached": Variant("no gradient through the UNet", approximation={"detach_denoiser": True}),
    "latents": Variant("compared as latents", approximation={"space": "latents"}),
    "latents-detached": Variant(
        "both: no network is differentiated", approximation={"space": "latents", "detach_denoiser": True}
    ),
    "undimmed": Variant("frames decoded at full scale", approximation={"undimmed": True}),
    "graph": Variant("denoiser replayed as CUDA graphs", capture=True),
    "unguided-graph": Variant("no guidance, as a CUDA graph", guided=False, capture=True),
    "compile": Variant("blocks compiled", compile=True),
}
SELDOM = ("search", "slice-1", "slice-4", "slice-9", "slice-13", "unguided-graph", "compile")
"""Variants that are measured only where asked for by name; compiling takes minutes."""


@dataclass(frozen=True)
class Result:
    """What was measured of one variant."""

    variant: str
    what: str
    seconds: Optional[float] = None
    """Median time of a step."""
    calls: int = 0
    """Steps that were timed."""
    gibibytes: Optional[float] = None
    """Peak of the allocated memory, weights included, and the memory of the graphs."""
    teraflop: Optional[float] = None
    """Counted arithmetic of a step, recomputation included."""
    cosine: Optional[float] = None
    """Between the variant's gradient and the exact one on the same inputs."""
    relative_rms: Optional[float] = None
    """rms of the difference of both gradients, each first brought to rms 1 as a guided step does."""
    error: Optional[str] = None
    """Why there is no measurement."""


@dataclass(frozen=True)
class SamplerBenchmark:
    """Time guided steps of a random ViewCrafter: 25 frames of 320x448, classifier-free guidance, bf16 on CUDA."""

    size: Literal["full", "tiny"] = "full"
    """Size of the model; tiny is for trying the command on a CPU."""
    variants: tuple[str, ...] = ()
    """Which to measure; all but the compiled ones by default."""
    calls: int = 10
    """Steps that are timed of each variant, after two that are not."""
    seconds: float = 30.0
    """Time for each variant, after which no further step is begun."""
    budget: float = 300.0
    """Seconds after which no further variant is begun."""
    layers: bool = False
    """Time the layers one by one too, in several forms, at this size and the bundled prior's."""
    profile: bool = True
    """Print which kernels take the time of a step in the default variant, and where it is lost."""
    seed: int = 0
    """Seed of weights and inputs."""
    device: Optional[str] = None
    """Where to sample; on the GPU by default if there is one."""
    output: Optional[Path] = None
    """File for the figures (JSON), written after each variant."""


class Bench:
    """A random prior, one step's inputs, and the exact gradient at them."""

    def __init__(self, config: SamplerBenchmark, device: torch.device):
        import torch

        from guidedvd_ns.grounding import SceneGrounding
        from guidedvd_ns.scripts.benchmarks.random_model import random_prior, random_scene

        self.config, self.device = config, device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.prior: ViewCrafterPrior = random_prior(config.size, device, dtype, config.seed)
        self.target, self.known, self.conditioning = random_scene(self.prior, config.seed + 1)
        settings = self.prior.settings
        steps = self.prior.timesteps(settings.num_steps)
        self.t = steps[min(REFERENCE_STEP, len(steps) // 2)]
        self.generator = torch.Generator(device).manual_seed(config.seed + 2)
        self.x_t: Tensor = self.prior.initial_noise(
            self.generator, settings.height, settings.width, settings.num_frames
        )
        self._pixels = SceneGrounding
        with self.set_up(VARIANTS["default"]):
            self.exact = self.gradient(VARIANTS["default"])

    def grounding(self, variant: Variant) -> Grounding:
        from guidedvd_ns.grounding import LatentGrounding

        reconstruction = self.prior.settings.reconstruction
        if variant.approximation.get("space") == "latents":
            return LatentGrounding(self.prior.encode(self.target * self.known), self.known, reconstruction)
        slices = variant.frames_per_slice or self.prior.frames_per_slice
        return self._pixels(self.target, self.known, reconstruction, frames_per_slice=slices)

    def step(self, variant: Variant) -> Callable[[], object]:
        """A step of the variant, ready to be called again and again: as many as there are to a guided one."""
        from guidedvd_ns.guidance import GuidanceApproximation, guided_step

        grounding = self.grounding(variant) if variant.guided else None
        approximation = GuidanceApproximation(**variant.approximation)
        factor = self.prior.settings.guidance_factor

        def steps() -> None:
            for index in range(approximation.every):
                guided_step(
                    self.prior,
                    self.conditioning,
                    self.x_t,
                    self.t,
                    grounding=grounding if index == 0 else None,
                    generator=self.generator,
                    guidance_factor=factor,
                    approximation=approximation,
                )

        return steps

    def gradient(self, variant: Variant) -> Tensor:
        """The gradient that shifts the variant's step."""
        from guidedvd_ns.guidance import GuidanceApproximation, guidance_gradient

        approximation = GuidanceApproximation(**variant.approximation)
        return guidance_gradient(
            self.prior, self.conditioning, self.x_t, self.t, self.grounding(variant), approximation
        )[1].gradient

    @contextmanager
    def set_up(self, variant: Variant) -> Iterator[None]:
        """Bring the prior to the variant's setting for a while."""
        import torch

        from guidedvd_ns.priors.viewcrafter.blocks import Checkpointed, TransformerBlock

        search = torch.backends.cudnn.benchmark
        self.prior.set_memory(variant.memory)
        self.prior.capture = variant.capture
        blocks = [module for module in self.prior.unet.modules() if isinstance(module, Checkpointed)]
        for block in blocks:
            if variant.keep_everything and isinstance(block, TransformerBlock):
                block.recompute_above = float("inf")
            if variant.compile:
                block.compile()
        if variant.cudnn_search is not None:
            torch.backends.cudnn.benchmark = variant.cudnn_search
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = search
            self.prior.capture = False
            self.prior.set_memory("default")
            for block in blocks:
                block._compiled_call_impl = None

    def measure(self, name: str) -> Result:
        """Everything about one variant; a failure is part of the result."""
        import torch

        from guidedvd_ns.scripts.benchmarks.timing import measure

        variant = VARIANTS[name]
        result = Result(name, variant.what)
        try:
            with self.set_up(variant):
                step, every = self.step(variant), variant.approximation.get("every", 1)
                timing = measure(step, self.device, calls=self.config.calls, seconds=self.config.seconds)
                peak = timing.peak_bytes
                if peak is not None:
                    # The graphs' memory counts as free while what was kept in it waits for the backward pass.
                    captured = self.prior.captured
                    peak = (peak + (0 if captured is None else captured.bytes)) / 2**30
                result = replace(result, seconds=timing.seconds / every, calls=timing.calls, gibibytes=peak)
                if not (variant.compile or variant.capture):
                    result = replace(result, teraflop=_count_flops(step) / every / 1e12)
                if variant.guided and every == 1:
                    result = self._compare(result, variant)
        except Exception as failure:  # One variant that fails, of memory for instance, must not end the others.
            CONSOLE.log(f"[red]{name}:[/] {traceback.format_exc(limit=-4)}")
            result = replace(result, error=f"{type(failure).__name__}: {str(failure)[:200]}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return result

    def _compare(self, result: Result, variant: Variant) -> Result:
        from guidedvd_ns.priors.base import rms

        ours, exact = self.gradient(variant), self.exact
        ours, exact = ours / rms(ours), exact / rms(exact)
        return replace(result, cosine=(ours * exact).mean().item(), relative_rms=rms(ours - exact).item())


def benchmark_sampler(config: Annotated[SamplerBenchmark, tyro.conf.arg(name="")]) -> None:
    """Print what was measured after each variant, a table at the end, and write both where a file is given.

    Raises:
        ValueError: There is no such variant.
    """
    unknown = [name for name in config.variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f"There is no variant '{unknown[0]}'; choose among {', '.join(VARIANTS)}.")

    import torch

    from guidedvd_ns.scripts.benchmarks.step_profile import lost_time, profile_kernels
    from guidedvd_ns.scripts.benchmarks.timing import matrix_rate

    started = time.perf_counter()
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    report: dict[str, Any] = {"torch": torch.__version__, "weights": "random", "authors": AUTHORS, "results": []}
    report["device"] = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    dtype, matrix = (torch.bfloat16, 8192) if on_gpu else (torch.float32, 256)
    report["matrix_rate"] = matrix_rate(device, dtype, matrix)
    bench = Bench(config, device)
    report["parameters"] = sum(parameter.numel() for parameter in bench.prior.unet.parameters())
    CONSOLE.print(
        f"{report['device']}: {report['matrix_rate'] / 1e12:.4g} TFLOP/s in a matrix product of {dtype}; UNet of"
        f" {report['parameters'] / 1e6:.1f} M random weights, frames {tuple(bench.target.shape)}"
    )
    rows: list[dict[str, Any]] = []
    if config.profile:
        with bench.set_up(VARIANTS["default"]):
            rows = profile_kernels(bench.step(VARIANTS["default"]), device)
        report["profile"] = rows[:100]
    results: list[Result] = []
    for name in config.variants or [name for name in VARIANTS if name not in SELDOM]:
        if time.perf_counter() - started < config.budget:
            result = bench.measure(name)
        else:
            result = Result(name, VARIANTS[name].what, error="not measured: the time was up")
        results.append(result)
        CONSOLE.print(_line(result))
        report["results"] = [asdict(entry) for entry in results]
        _save(report, config.output)
    floor = _floor(results, report["matrix_rate"])
    report["floor_seconds"] = floor
    CONSOLE.print(_table(results, floor, config.size == "full" and on_gpu))
    _save(report, config.output)
    if rows:
        seconds = next((result.seconds for result in results if result.variant == "default"), None)
        report["groups"] = lost_time(rows, seconds, floor)
        _save(report, config.output)
    if config.layers:
        from guidedvd_ns.scripts.benchmarks.layers import time_layers

        report["layers"] = time_layers(config.size, device, dtype)
        _save(report, config.output)


def _count_flops(step: Callable[[], object]) -> int:
    """Multiplications and additions of matrix products, convolutions and attentions in one step."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _floor(results: list[Result], rate: float) -> Optional[float]:
    """Seconds that the exact step's arithmetic takes at the matrix rate, without recomputation where that was run."""
    counted = {result.variant: result.teraflop for result in results if result.teraflop is not None}
    for name in ("keep", "default"):
        if name in counted:
            return 1e12 * counted[name] / rate
    return None


def _line(result: Result) -> str:
    if result.error is not None:
        return f"{result.variant:18} {result.error}"
    memory = "" if result.gibibytes is None else f"  {result.gibibytes:.2f} GiB"
    flop = "" if result.teraflop is None else f"  {result.teraflop:.4g} TFLOP"
    return f"{result.variant:18} {result.seconds:.4f} s{memory}{flop}"


def _table(results: list[Result], floor: Optional[float], with_authors: bool) -> Table:
    table = Table(title="One guided step (random weights)")
    for heading in ("variant", "what", "s/step", "peak GiB", "TFLOP", "cosine", "rel. rms"):
        table.add_column(heading)
    for result in results:
        table.add_row(
            result.variant,
            result.error or result.what,
            *(
                "" if value is None else f"{value:.4g}"
                for value in (
                    result.seconds,
                    result.gibibytes,
                    result.teraflop,
                    result.cosine,
                    result.relative_rms,
                )
            ),
        )
    if with_authors:
        table.add_row("authors", "their code, on an H200", str(AUTHORS["seconds"]), str(AUTHORS["gibibytes"]))
    if floor is not None:
        table.add_row("floor", "counted arithmetic at the matrix rate", f"{floor:.4g}")
    return table


def _save(report: dict[str, Any], path: Optional[Path]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(temporary, path)
