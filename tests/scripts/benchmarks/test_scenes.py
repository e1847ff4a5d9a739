"""`gvd-benchmark scenes` as a command: what is planned, run, resumed and refused; small runs from end to end."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nerfstudio.utils.rich_utils import CONSOLE

from guidedvd_ns.rasterization import rasterize
from guidedvd_ns.scripts.benchmarks.scenes import SceneBenchmark, benchmark_scenes, workers
from guidedvd_ns.scripts.benchmarks.scenes.configuration import configure
from guidedvd_ns.scripts.benchmarks.scenes.plan import ABLATIONS, Job, parse_method, parse_scene, plan_jobs
from guidedvd_ns.scripts.benchmarks.scenes.record import RunFolder, finished
from guidedvd_ns.scripts.benchmarks.scenes.run import main, run
from guidedvd_ns.scripts.benchmarks.scenes.workers import Workers
from tests.scenes import write_capture, write_prior

OPTIONS = (
    "--optimizers.opacities.optimizer.lr 0.8 --pipeline.datamanager.trajectories.max-hole-fraction 0.95"
    " --pipeline.datamanager.max-sequences 1 --pipeline.datamanager.min-agreement 0"
    " --pipeline.datamanager.sampler.num-frames 4"
)
SETTINGS = {"steps": 24, "seed": 42, "hole_threshold": 0.9, "max_image_side": 256, "device": "cpu"}


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "wall")


def _benchmark(capture: Path, output: Path, **changed) -> str:
    config = SceneBenchmark(
        scenes=(str(capture),), output=output, steps=24, device="cpu", jobs_per_gpu=2, options=OPTIONS
    )
    with CONSOLE.capture() as printed:
        benchmark_scenes(replace(config, **changed))
    return printed.get()


class _RunHere:
    """In place of a process: the run in this one, which need not import everything again."""

    def __init__(self, command, stdout, **options):
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
            patch.setattr(sys, "argv", command[2:])
            self.returncode = 0
            try:
                main()
            except SystemExit as end:
                self.returncode = end.code

    def poll(self):
        return self.returncode


@pytest.fixture(scope="module")
def done(capture, tmp_path_factory) -> tuple[Path, str]:
    """A benchmark of a guide, inpainting after it, and splatfacto, which cannot run."""
    output = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.subprocess, "Popen", _RunHere)
        return output, _benchmark(capture, output, methods=("splatfacto", "guide", "telea"), against="guide")


def test_scenes_are_trained_scored_and_shown(done):
    output, printed = done
    runs = json.loads((output / "results.json").read_text())["runs"]
    assert set(runs) == {"wall/guide", "wall/telea", "wall/splatfacto"}
    assert "Splatfacto needs a CUDA device" in runs["wall/splatfacto"]["error"]
    assert "wall/splatfacto: failed. Splatfacto needs a CUDA device: nerfstudio's model moves itself there." in printed
    for name in ("wall/guide", "wall/telea"):
        assert [view["view"] for view in runs[name]["views"]] == ["03", "04"]
        assert all({"psnr", "ssim", "st_lpips"} <= set(view["holes"]) for view in runs[name]["views"])
        assert runs[name]["seconds"] > 0 and runs[name]["peak_gib"] > 0.1 and runs[name]["gaussians"] > 100
    shares = [[view["hole_fraction"] for view in runs[name]["views"]] for name in ("wall/guide", "wall/telea")]
    assert shares[0] == shares[1] and 0.2 < shares[0][0] < 0.9
    text = (output / "results.md").read_text()
    assert "| splatfacto | 0 of 1 |" in text and "| telea | 1 of 1 |" in text
    assert (output / "results.png").stat().st_size > 0


def test_the_guide_is_fitted_once_and_inpainted_sequences_are_trained_on(done):
    output, _ = done
    guide, scene = (
        torch.load(next((output / "wall" / name / "nerfstudio_models").glob("*.ckpt")), weights_only=True)["pipeline"]
        for name in ("guide", "telea")
    )
    assert torch.equal(scene["guide.means"], guide["_model.gauss_params.means"])
    manifest = json.loads((output / "wall" / "telea" / "generated" / "manifest.json").read_text())
    assert [entry["kept"] for entry in manifest] == [True] and manifest[0]["agreement_db"] > 60


def test_the_guide_is_that_of_a_whole_run(done, capture, tmp_path):
    output, _ = done
    whole = next(job for job in _jobs(capture, ["no-generation"]) if job.method == "no-generation")
    whole = replace(whole, switches=f"{OPTIONS} {whole.switches}", shares_guide=False)
    folder = RunFolder(output / "wall" / "whole")
    folder.begin(whole)
    assert run(whole, folder.path)["gaussians"] > 100
    ours, theirs = (
        torch.load(next((output / "wall" / name / "nerfstudio_models").glob("*.ckpt")), weights_only=True)["pipeline"]
        for name in ("whole", "guide")
    )
    for name in ("means", "opacities", "features_dc"):
        assert torch.equal(ours[f"guide.{name}"], theirs[f"_model.gauss_params.{name}"])


def test_what_is_done_is_not_done_again(done, capture, monkeypatch):
    output, _ = done
    monkeypatch.setattr(workers, "subprocess", None)
    before = (output / "results.json").read_text()
    printed = _benchmark(capture, output, methods=("guide", "telea"), against="guide")
    assert "0 runs to do, 2 done before" in printed
    ours, theirs = (json.loads(text)["runs"] for text in (before, (output / "results.json").read_text()))
    assert theirs == {name: run for name, run in ours.items() if "splatfacto" not in name}
    with pytest.raises(ValueError, match="other settings .steps: 24, now 30.: give another --output"):
        _benchmark(capture, output, methods=("guide",), steps=30)


def test_guide_and_later_phase_make_the_steps_of_a_run(capture, tmp_path):
    guide, scene, splat = plan_jobs(
        [str(capture)], ["guidedvd-splat", "splatfacto"], options="", share_guide=True, **SETTINGS
    )
    folder = tmp_path / "wall"
    configured = configure(scene, folder / "guidedvd-splat", folder / "guide")
    assert configured.max_num_iterations == 12
    assert configured.pipeline.guide_config == folder / "guide" / "config.yml"
    assert configured.get_base_dir() == folder / "guidedvd-splat"
    assert configure(guide, folder / "guide", folder / "guide").max_num_iterations == 24
    assert not configure(guide, folder / "guide", folder / "guide").pipeline.generate
    alone = configure(replace(scene, shares_guide=False), folder / "guidedvd-splat", folder / "guide")
    assert alone.max_num_iterations == 24 and alone.pipeline.guide_config is None
    assert configure(splat, folder / "splatfacto", folder / "guide").max_num_iterations == 24


def test_splatfacto_s_step_counts_are_scaled_to_a_short_run(capture, tmp_path):
    (_, splat) = plan_jobs([str(capture)], ["splatfacto"], options="", share_guide=True, **SETTINGS)

    def of(steps):
        return configure(replace(splat, steps=steps), tmp_path / "wall" / "splatfacto", tmp_path / "wall" / "guide")

    short, whole, longer = of(3000), of(30_000), of(60_000)
    assert short.pipeline.model.resolution_schedule == 300 and short.pipeline.model.stop_split_at == 1500
    assert short.optimizers["means"]["scheduler"].max_steps == 3000
    assert whole.pipeline.model.resolution_schedule == longer.pipeline.model.resolution_schedule == 3000
    assert longer.max_num_iterations == 60_000


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_switch_that_changes_the_run(name, capture, tmp_path):
    _, plain, ablated = plan_jobs(
        [str(capture)],
        ["guidedvd-splat", name],
        options="--pipeline.datamanager.prior bundled",
        share_guide=True,
        **SETTINGS,
    )
    first, second = (configure(job, tmp_path / "wall" / "x", tmp_path / "wall" / "guide") for job in (plain, ablated))
    assert str(first.pipeline) != str(second.pipeline)


def test_methods_are_read():
    assert parse_method("guide") == ("guide", "guide", "")
    assert parse_method("sd-inpaint:a/b") == (
        "sd-inpaint",
        "guidedvd-splat",
        "--pipeline.datamanager.prior sd-inpaint:a/b",
    )
    assert parse_method("w=--x 1 --y 2") == ("w", "guidedvd-splat", "--x 1 --y 2")
    assert parse_method("r=guidedvd-splat-reference --x 1") == ("r", "guidedvd-splat-reference", "--x 1")
    for text in ("magic", "a/b=--x 1", "guide=--x 1"):
        with pytest.raises(ValueError, match=f"There is no method '{text}': choose among splatfacto, guide"):
            parse_method(text)


def test_scenes_are_read(capture):
    name, dataparser = parse_scene(str(capture))
    assert name == "wall" and getattr(dataparser, "data") == capture  # noqa: B009
    name, dataparser = parse_scene(f"guidedvd-data:{capture} --train-views 2")
    assert name == "wall-train-views-2" and getattr(dataparser, "train_views") == 2  # noqa: B009
    name, dataparser = parse_scene("guidedvd-demo:10000003 --width 64")
    assert name == "room-10000003-width-64"
    assert (getattr(dataparser, "room_seed"), getattr(dataparser, "width")) == (10_000_003, 64)  # noqa: B009
    with pytest.raises(ValueError, match="no dataparser 'guidedvd-nothing'.*guidedvd-data, guidedvd-demo"):
        parse_scene("guidedvd-nothing:3")
    with pytest.raises(FileNotFoundError, match="There is no scene at /nowhere"):
        parse_scene("/nowhere")


def test_scenes_of_one_name_are_refused(capture, tmp_path):
    twin = write_capture(tmp_path / "wall")
    with pytest.raises(ValueError, match="Two of the scenes would be called 'wall'"):
        plan_jobs([str(capture), str(twin)], ["guide"], options="", share_guide=True, **SETTINGS)


def _fake_runs(monkeypatch, body: str) -> None:
    """Let a run be a line of Python; `sys.argv[1]` is its folder."""
    command = "import sys, json, time, os, pathlib; folder = pathlib.Path(sys.argv[1]); " + body
    start = workers.subprocess.Popen

    def launch(given, **options):
        return start([given[0], "-c", command, given[-1]], **options)

    monkeypatch.setattr(workers.subprocess, "Popen", launch)


def _jobs(capture: Path, methods: list[str], device: str = "cpu") -> list[Job]:
    return plan_jobs([str(capture)], methods, options="", share_guide=True, **{**SETTINGS, "device": device})


SUCCEED = "(folder / 'result.json').write_text(json.dumps({'job': json.load(open(folder / 'job.json'))}))"


def test_a_crash_ends_one_run_and_is_told(capture, tmp_path, monkeypatch):
    _fake_runs(monkeypatch, f"print('segfault ahead'); folder.name == 'telea' and os._exit(11); {SUCCEED}")
    jobs = _jobs(capture, ["guide", "telea", "no-guidance"])
    ended = dict(
        (job.name, result)
        for job, result in Workers([None], lambda job: RunFolder(tmp_path / job.name)).work(jobs, set())
    )
    assert ended["wall/telea"]["error"] == "The process ended with status 11; its last line: segfault ahead"
    assert "error" not in ended["wall/guide"] and "error" not in ended["wall/no-guidance"]
    by_name = {job.method: job for job in jobs}
    RunFolder(tmp_path / "wall/telea").begin(by_name["telea"])
    assert RunFolder(tmp_path / "wall/telea").read() is None
    assert finished(by_name["telea"], RunFolder(tmp_path / "wall/telea")) is None
    assert finished(by_name["guide"], RunFolder(tmp_path / "wall/guide")) is not None


def test_an_interrupted_benchmark_ends_its_runs_and_goes_on_later(capture, tmp_path, monkeypatch):
    hang = "folder.name == 'telea' and (os.kill(os.getppid(), 15), time.sleep(60)); "
    _fake_runs(monkeypatch, hang + SUCCEED.replace("}))", ", 'views': [], 'seconds': 1, 'peak_gib': 1}))"))
    monkeypatch.setattr("guidedvd_ns.scripts.benchmarks.scenes._line", lambda name, result: name)
    monkeypatch.setattr("guidedvd_ns.scripts.benchmarks.scenes.table.markdown", lambda *given: "")
    with pytest.raises(SystemExit, match="Interrupted after 1 of 2 runs; the same command does the others"):
        _benchmark(capture, tmp_path, methods=("guide", "telea"), jobs_per_gpu=1)
    assert list(json.loads((tmp_path / "results.json").read_text())["runs"]) == ["wall/guide"]
    assert not (tmp_path / "wall" / "telea" / "result.json").exists()


def test_without_a_guide_its_scene_is_not_tried(capture, tmp_path, monkeypatch):
    _fake_runs(monkeypatch, "os._exit(3)")
    jobs = _jobs(capture, ["guide", "telea"])
    ended = [
        (job.name, result["error"])
        for job, result in Workers([None], lambda job: RunFolder(tmp_path / job.name)).work(jobs, set())
    ]
    assert ended == [
        ("wall/guide", "The process ended with status 3"),
        ("wall/telea", "The run wall/guide, which it needs, failed."),
    ]


def test_runs_are_spread_over_the_gpus(capture, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    wait = "(folder / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(1.0); "
    _fake_runs(monkeypatch, wait + SUCCEED)
    jobs = _jobs(capture, ["guide", "splatfacto", "telea"], device="cuda")
    names = [job.name for job, _ in Workers([0, 1], lambda job: RunFolder(tmp_path / job.name)).work(jobs, set())]
    assert names[0] == "wall/guide" and set(names[1:]) == {"wall/splatfacto", "wall/telea"}
    assert {(tmp_path / name / "gpu").read_text() for name in names[1:]} == {"4", "6"}


def test_a_real_process_leaves_the_reason_of_its_failure(capture, tmp_path):
    (guide,) = _jobs(capture, ["guide"])
    bad = replace(guide, data=f"{write_capture(tmp_path / 'all', num_test=0)}", scene="all")
    folder = RunFolder(tmp_path / "out" / "all" / "guide")
    ((_, result),) = Workers([None], lambda job: folder).work([bad], set())
    assert result["error"] == "The scene has no test views: hold some out, with `--train-views N` for instance."
    assert "Traceback" in folder.log.read_text()


def _gsplat_s_interface(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **options):  # noqa: N803
    kept = {name: options[name] for name in ("render_mode", "sh_degree", "near_plane", "rasterize_mode", "absgrad")}
    return rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height, **kept)


def test_splatfacto_starts_from_the_guides_points_and_is_scored_in_its_holes(done, tmp_path, monkeypatch, capture):
    output, _ = done
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr("nerfstudio.models.splatfacto.rasterization", _gsplat_s_interface)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)
    job = next(job for job in _jobs(capture, ["guide", "splatfacto"]) if job.method == "splatfacto")
    guide = RunFolder(output / "wall" / "guide")
    points = torch.load(guide.points, weights_only=True)
    points["points3D_xyz"][0] += 0.25
    (tmp_path / "wall" / "guide").mkdir(parents=True)
    torch.save(points, tmp_path / "wall" / "guide" / "points.pt")
    for name in ("holes.npz", "result.json"):
        (tmp_path / "wall" / "guide" / name).write_bytes((guide.path / name).read_bytes())
    seen = []
    from nerfstudio.models.splatfacto import SplatfactoModel

    populate = SplatfactoModel.populate_modules
    monkeypatch.setattr(
        SplatfactoModel, "populate_modules", lambda self: (seen.append(self.seed_points[0].clone()), populate(self))[1]
    )
    folder = RunFolder(tmp_path / "wall" / "splatfacto")
    folder.begin(replace(job, steps=3))
    result = run(replace(job, steps=3), folder.path)
    assert torch.equal(seen[0].cpu(), points["points3D_xyz"])
    assert [view["view"] for view in result["views"]] == ["03", "04"] and "holes" in result["views"][0]


def test_a_scene_that_changed_since_its_guide_was_fitted_is_refused(done, tmp_path):
    output, _ = done
    changed = write_capture(tmp_path / "wall", num_test=2)
    picture = changed / "images" / "04.png"
    picture.write_bytes((changed / "images" / "03.png").read_bytes())
    job = next(job for job in _jobs(changed, ["telea"]) if job.method == "telea")
    folder = RunFolder(output / "wall" / "changed")
    folder.begin(job)
    with pytest.raises(ValueError, match="test views are not those of .*guide: it changed since then"):
        run(job, folder.path)


def test_guided_runs_with_a_prior_take_a_scene_from_the_guide(done, capture, tmp_path):
    output, _ = done
    job = next(job for job in _jobs(capture, ["guidedvd-splat"]) if job.method == "guidedvd-splat")
    job = replace(job, switches=f"{OPTIONS} --pipeline.datamanager.prior {write_prior(tmp_path / 'prior')}", steps=8)
    folder = RunFolder(output / "wall" / "tiny")
    folder.begin(job)
    result = run(job, folder.path)
    assert len(result["views"]) == 2 and (folder.path / "generated" / "manifest.json").is_file()
