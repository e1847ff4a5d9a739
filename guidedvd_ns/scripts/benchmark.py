"""`gvd-benchmark`: measures parts of the method, one subcommand each; a subcommand is a module of `benchmarks`."""

from tyro.extras import SubcommandApp

from guidedvd_ns.scripts.benchmarks.converter import benchmark_converter
from guidedvd_ns.scripts.benchmarks.prior import benchmark_prior
from guidedvd_ns.scripts.benchmarks.rasterizer import benchmark_rasterizer
from guidedvd_ns.scripts.benchmarks.sampler import benchmark_sampler
from guidedvd_ns.scripts.benchmarks.scenes import benchmark_scenes

app = SubcommandApp()
app.command(name="rasterizer")(benchmark_rasterizer)
app.command(name="prior")(benchmark_prior)
app.command(name="sampler")(benchmark_sampler)
app.command(name="scenes")(benchmark_scenes)
app.command(name="converter")(benchmark_converter)


def main() -> None:
    app.cli(prog="gvd-benchmark", description="Measure parts of GuidedVD-3DGS on this machine.")


if __name__ == "__main__":
    main()
