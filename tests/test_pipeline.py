"""The life of a run: both phases, generation, checkpoint, resume, evaluation, a given guide, ablations."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from guidedvd_ns.backdrop import Backdrop
from guidedvd_ns.config import GuidedVDTrainerConfig, guidedvd_splat
from guidedvd_ns.gaussians import PARAMETER_NAMES
from guidedvd_ns.model import GuidedVDSplatModel
from guidedvd_ns.pipeline import GuidedVDPipeline, GuidedVDPipelineConfig
from guidedvd_ns.seeding import Seeds
from tests.scenes import write_capture, write_prior

STEPS = 24


@pytest.fixture(scope="module")
def prior(tmp_path_factory) -> Path:
    return write_prior(tmp_path_factory.mktemp("prior") / "tiny")


@pytest.fixture(scope="module")
def capture(tmp_path_factory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "wall")


def _config(
    capture: Path, prior: Path, output: Path, steps: int | None = STEPS, resume: Path | None = None
) -> GuidedVDTrainerConfig:
    config = copy.deepcopy(guidedvd_splat.config)
    assert isinstance(config, GuidedVDTrainerConfig)
    config.machine.device_type = "cpu"
    config.vis = "tensorboard"
    config.logging.local_writer.enable = False
    config.viewer.quit_on_train_completion = True
    config.output_dir, config.timestamp = output, "run"
    config.data = config.pipeline.datamanager.data = capture
    config.max_num_iterations, config.load_dir = steps, resume
    datamanager = config.pipeline.datamanager
    datamanager.prior = str(prior)
    datamanager.max_sequences = 3
    datamanager.min_agreement = 0.0
    # So that a guide of a dozen steps is opaque where it knows the scene.
    config.optimizers["opacities"]["optimizer"].lr = 0.8
    # The tiny wall fills half of each view: everything beside it is a hole.
    datamanager.trajectories.max_hole_fraction = 0.95
    config.save_config()
    return config


def _train(config: GuidedVDTrainerConfig) -> Trainer:
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


def _interrupted(config: GuidedVDTrainerConfig, steps: int) -> None:
    """As if Ctrl-C had come after the checkpoint of that many steps."""
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    config.max_num_iterations = steps
    trainer.train()


@pytest.fixture(scope="module")
def trained(capture: Path, prior: Path, tmp_path_factory) -> tuple[GuidedVDTrainerConfig, Trainer, str]:
    """One run of both phases, and what it printed last."""
    from nerfstudio.utils.rich_utils import CONSOLE

    config = _config(capture, prior, tmp_path_factory.mktemp("outputs"))
    with CONSOLE.capture() as printed:
        trainer = _train(config)
    return config, trainer, printed.get().strip().splitlines()[-1]


def test_run_goes_through_both_phases(trained):
    _, trainer, _ = trained
    pipeline = trainer.pipeline
    assert isinstance(pipeline, GuidedVDPipeline)
    assert pipeline.schedule is not None and pipeline.schedule.guide_steps == STEPS // 2
    assert pipeline.guide.is_fitted
    assert not torch.equal(pipeline.guide.get_buffer("means"), pipeline.gaussians.means[: len(pipeline.guide.means)])


def test_guide_fits_the_photographs(trained):
    _, trainer, _ = trained
    datamanager = trainer.pipeline.datamanager
    photograph, _ = datamanager.photograph(0)
    render = trainer.pipeline.guide.render(datamanager.input_cameras[0:1]).rgb[0]
    assert (render - photograph).abs().mean() < 0.5 * photograph.abs().mean()


def test_sequences_are_generated_kept_and_shown(trained):
    config, trainer, _ = trained
    folder = config.get_base_dir() / "generated"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["number"] for entry in manifest] == [0, 1, 2]
    assert len(trainer.pipeline.datamanager.store) == 3
    for entry in manifest:
        stem = f"{entry['number']:03d}_{entry['trajectory']}"
        assert (folder / f"{stem}.png").stat().st_size > 0
        assert (folder / f"{stem}.mp4").is_file() or (folder / f"{stem}.webp").is_file()
        assert len(list((folder / f"{entry['number']:03d}").iterdir())) == 4
    assert not list(folder.rglob("*.partial"))


def test_last_line_says_what_was_gained(trained):
    _, _, last_line = trained
    assert last_line.startswith("Test PSNR: guide ") and "result" in last_line
    assert "3 of 3 sequences kept" in last_line and last_line.endswith(" s.")


def test_prior_and_perceptual_networks_stay_out_of_the_checkpoint(trained):
    config, _, _ = trained
    checkpoint = torch.load(next(config.get_checkpoint_dir().glob("*.ckpt")), weights_only=True)
    keys = set(checkpoint["pipeline"])
    assert {f"_model.gauss_params.{name}" for name in PARAMETER_NAMES} <= keys
    assert {f"guide.{name}" for name in PARAMETER_NAMES} <= keys
    assert not [key for key in keys if "unet" in key or "vae" in key or "lpips" in key or "initial" in key]


def test_evaluation_loads_the_run_and_scores_it(trained):
    config, trainer, _ = trained
    _, pipeline, _, step = eval_setup(config.get_base_dir() / "config.yml")
    assert step == STEPS - 1
    assert torch.equal(pipeline.model.means.cpu(), trainer.pipeline.model.means)
    assert pipeline.backdrop.is_painted and torch.equal(pipeline.backdrop.colors, trainer.pipeline.backdrop.colors)
    metrics = pipeline.get_average_eval_image_metrics(get_std=True)
    assert {"psnr", "ssim", "st_lpips", "psnr_std"} <= set(metrics)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    pipeline.eval()
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    assert {"guide_opacity", "hole"} <= set(pipeline.model.get_outputs_for_camera(camera))
    assert pipeline.datamanager.generator is None


def test_resume_brings_everything_back_and_goes_on_learning(trained, capture, prior, tmp_path):
    config, trainer, _ = trained
    resumed = _config(capture, prior, tmp_path, steps=4, resume=config.get_checkpoint_dir())
    again = _train(resumed)
    assert again.step == STEPS + 3
    pipeline, before = again.pipeline, trainer.pipeline
    assert pipeline.schedule == before.schedule
    assert torch.equal(pipeline.guide.means, before.guide.means)
    assert torch.equal(pipeline.backdrop.colors, before.backdrop.colors)
    assert len(pipeline.datamanager.store) == len(before.datamanager.store) == 3
    assert len(pipeline.datamanager.pool) == len(before.datamanager.pool)
    assert (tmp_path / "wall" / "guidedvd-splat" / "run" / "generated" / "002").is_dir()
    shared = min(len(pipeline.model.means), len(before.model.means))
    assert not torch.equal(pipeline.model.means[:shared], before.model.means[:shared])
    assert pipeline.model.gauss_params["means"] is again.optimizers.optimizers["means"].param_groups[0]["params"][0]


def test_interrupted_first_phase_goes_on_to_the_planned_end(capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path / "first")
    _interrupted(config, 5)
    resumed = _config(capture, prior, tmp_path / "second", steps=None, resume=config.get_checkpoint_dir())
    again = _train(resumed)
    assert again.step == STEPS - 1
    assert again.pipeline.guide.is_fitted and len(again.pipeline.datamanager.store) == 3


def test_interrupted_sequence_is_made_again_as_it_would_have_been(trained, capture, prior, tmp_path):
    whole, _, _ = trained
    config = _config(capture, prior, tmp_path / "first")
    _interrupted(config, STEPS // 2 + 7)
    saved = torch.load(next(config.get_checkpoint_dir().glob("*.ckpt")), weights_only=True)["pipeline"]
    assert saved["datamanager._extra_state"]["pending"] is not None
    assert saved["datamanager._extra_state"]["num_attempts"] == 2
    again = _config(capture, prior, tmp_path / "second", steps=None, resume=config.get_checkpoint_dir())
    _train(again)
    names = [
        sorted(path.name for path in (run.get_base_dir() / "generated").iterdir()) for run in (whole, config, again)
    ]
    assert names[2] == names[0] and len(names[1]) < len(names[0])
    first, second = (run.get_base_dir() / "generated" / "002" / "0003.png" for run in (whole, again))
    assert first.read_bytes() == second.read_bytes()


def test_sequences_after_the_checkpoint_are_dropped(trained, capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path / "first")
    _interrupted(config, STEPS // 2 + 6)
    whole, _, _ = trained
    generated = config.get_base_dir() / "generated"
    shutil.rmtree(generated)
    shutil.copytree(whole.get_base_dir() / "generated", generated)  # one sequence more than the checkpoint knows
    again = _config(capture, prior, tmp_path / "second", steps=1, resume=config.get_checkpoint_dir())
    trainer = again.setup(local_rank=0, world_size=1)
    trainer.setup()
    brought = again.get_base_dir() / "generated"
    assert {path.name[:3] for path in brought.iterdir()} == {"000", "001", "man"}
    assert trainer.pipeline.folder.counts() == (2, 2)


def test_resume_restores_optimizers_rates_and_step_table(trained, capture, prior, tmp_path):
    config, before, _ = trained
    resumed = _config(capture, prior, tmp_path, steps=4, resume=config.get_checkpoint_dir())
    again = resumed.setup(local_rank=0, world_size=1)
    again.setup()
    for name in PARAMETER_NAMES:
        group, old = (trainer.optimizers.optimizers[name].param_groups[0] for trainer in (again, before))
        assert group["lr"] == pytest.approx(old["lr"], rel=1e-9)
        assert torch.equal(group["params"][0], old["params"][0])
        state = again.optimizers.optimizers[name].state[group["params"][0]]
        expected = before.optimizers.optimizers[name].state[old["params"][0]]
        assert state.keys() == expected.keys() and bool(state) == (name != "features_rest")  # empty without harmonics
        assert all(torch.equal(state[key], expected[key]) for key in state)
    again.train()
    assert writer.GLOBAL_BUFFER["max_iter"] == STEPS + 4


def test_finished_run_is_not_resumed_without_a_number_of_steps(trained, capture, prior, tmp_path):
    config, _, _ = trained
    resumed = _config(capture, prior, tmp_path, steps=None, resume=config.get_checkpoint_dir())
    with pytest.raises(ValueError, match=f"planned end of {STEPS} steps.*--max-num-iterations"):
        resumed.setup(local_rank=0, world_size=1).setup()


def test_resume_with_other_input_views_is_refused(trained, capture, prior, tmp_path):
    config, _, _ = trained
    resumed = _config(capture, prior, tmp_path, steps=2, resume=config.get_checkpoint_dir())
    resumed.pipeline.datamanager.dataparser.train_views = 4
    with pytest.raises(ValueError, match="has 3 input views and this one 4"):
        resumed.setup(local_rank=0, world_size=1).setup()


def test_resume_from_a_folder_without_checkpoints_is_refused(trained, capture, prior, tmp_path):
    config, _, _ = trained
    resumed = _config(capture, prior, tmp_path, steps=2, resume=config.get_base_dir())
    with pytest.raises(FileNotFoundError, match="nerfstudio_models"):
        resumed.setup(local_rank=0, world_size=1)


@pytest.fixture
def seeded(monkeypatch) -> list[Seeds]:
    """What the model is asked to take in."""
    given, add = [], GuidedVDSplatModel.add

    def record(model: GuidedVDSplatModel, seeds: Seeds, optimizers: dict) -> None:
        given.append(seeds)
        add(model, seeds, optimizers)

    monkeypatch.setattr(GuidedVDSplatModel, "add", record)
    return given


def test_kept_sequences_begin_gaussians_that_a_resumed_run_still_has(seeded, capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path / "first")
    config.pipeline.seeding.frames = 2
    # No Gaussian is split, cloned or pruned: what is more than the initial points was begun.
    config.pipeline.model.densify_grad_thresh, config.pipeline.model.cull_alpha_thresh = 1e9, 0.0
    torch.manual_seed(0)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    initial = len(trainer.pipeline.model.means)
    config.max_num_iterations = STEPS // 2 + 7
    trainer.train()
    begun = sum(len(seeds.means) for seeds in seeded)
    assert len(seeded) == len(trainer.pipeline.datamanager.store) == 2 and begun > 50
    assert len(trainer.pipeline.model.means) == initial + begun
    # The guide is frozen before the first of them, and they go on learning.
    assert len(trainer.pipeline.guide.means) == initial
    first = slice(initial, initial + len(seeded[0].means))
    assert not torch.equal(trainer.pipeline.model.means[first], seeded[0].means)
    resumed = _config(capture, prior, tmp_path / "second", steps=2, resume=config.get_checkpoint_dir())
    again = resumed.setup(local_rank=0, world_size=1)
    again.setup()
    for name in PARAMETER_NAMES:
        expected, parameter = (run.pipeline.model.gauss_params[name] for run in (trainer, again))
        assert torch.equal(parameter, expected)
        assert parameter is again.optimizers.optimizers[name].param_groups[0]["params"][0]
    again.train()
    assert len(again.pipeline.datamanager.store) >= 2


@pytest.mark.parametrize(("frames", "min_agreement"), [(0, 0.0), (2, 1000.0)])
def test_without_seeding_or_a_kept_sequence_nothing_begins(frames, min_agreement, seeded, capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path, steps=8)
    config.pipeline.seeding.frames, config.pipeline.datamanager.min_agreement = frames, min_agreement
    pipeline = _train(config).pipeline
    assert pipeline.folder.counts()[1] > 0 and seeded == []


@pytest.mark.parametrize("mistake", ["prior", "perceptual"])
def test_missing_networks_show_before_the_first_step(mistake, capture, prior, tmp_path, monkeypatch):
    config = _config(capture, prior, tmp_path)
    if mistake == "prior":
        config.pipeline.datamanager.prior = str(tmp_path / "nowhere")
    else:
        monkeypatch.setattr("guidedvd_ns.losses.perceptual_distance", _no_weights)
    trainer = config.setup(local_rank=0, world_size=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        trainer.setup()


def test_prior_is_shown_the_capture_s_points_and_sampled_as_asked(capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path, steps=8)
    datamanager = config.pipeline.datamanager
    datamanager.condition, datamanager.memory, datamanager.sampler.num_frames = "points", "low", 3
    generator = _train(config).pipeline.datamanager.generator
    assert generator.prior.memory == "low" and generator.steps_per_sequence == 3
    # Of the 200 points on the wall, those that are in an image.
    assert 100 < len(generator.points.xyz) < 200 and generator.points.rgb.max() == pytest.approx(0.8)
    frames = config.get_base_dir() / "generated" / "000"
    assert sorted(path.name for path in frames.iterdir()) == ["0000.png", "0001.png", "0002.png"]


def test_random_points_are_not_shown_to_the_prior(prior, tmp_path):
    capture = write_capture(tmp_path / "wall")
    document = json.loads((capture / "transforms.json").read_text())
    del document["ply_file_path"]
    (capture / "transforms.json").write_text(json.dumps(document))
    config = _config(capture, prior, tmp_path)
    config.pipeline.datamanager.condition = "points"
    config.pipeline.datamanager.points = "random"
    with pytest.raises(ValueError, match="points are random.*--pipeline.datamanager.condition guide"):
        config.setup(local_rank=0, world_size=1).setup()


def _no_weights(name: str, device: torch.device) -> None:
    raise FileNotFoundError(f"The weights of {name} are nowhere.")


def test_masked_pixels_do_not_matter(prior, tmp_path):
    """The same run whatever stands under the masks of input and test views: same Gaussians, same scores."""
    results = []
    for junk in (0, 255):
        capture = write_capture(tmp_path / f"junk{junk}")
        _mask_left_third(capture, junk)
        config = _config(capture, prior, tmp_path, steps=8)
        trainer = _train(config)
        assert len(trainer.pipeline.datamanager.store) > 0
        results.append((trainer.pipeline.gaussians.means.detach(), trainer.pipeline._test_psnr()))
    (means, scores), (other_means, other_scores) = results
    assert torch.equal(means, other_means)
    assert scores == other_scores


def _mask_left_third(capture: Path, junk: int) -> None:
    document = json.loads((capture / "transforms.json").read_text())
    mask = np.full((32, 48), 255, dtype=np.uint8)
    mask[:, :16] = 0
    Image.fromarray(mask).save(capture / "mask.png")
    for frame in document["frames"]:
        frame["mask_path"] = "mask.png"
        image = np.array(Image.open(capture / frame["file_path"]))
        image[mask == 0] = junk
        Image.fromarray(image).save(capture / frame["file_path"])
    (capture / "transforms.json").write_text(json.dumps(document))


def test_same_seed_generates_the_same_sequences(trained, capture, prior, tmp_path):
    config, _, _ = trained
    again = _config(capture, prior, tmp_path)
    _train(again)
    for name in ("000/0000.png", "002/0003.png"):
        first, second = (c.get_base_dir() / "generated" / name for c in (config, again))
        assert first.read_bytes() == second.read_bytes()


def test_trained_run_serves_as_guide(trained, capture, prior, tmp_path):
    config, trainer, _ = trained
    guided = _config(capture, prior, tmp_path, steps=4)
    guided.pipeline.guide_config = config.get_base_dir() / "config.yml"
    pipeline = _train(guided).pipeline
    assert pipeline.schedule.guide_steps == 0
    # That run's scene stands before a backdrop, without which it would have holes: what serves is its own guide.
    assert torch.equal(pipeline.guide.means, trainer.pipeline.guide.means)


def test_trained_scene_without_a_backdrop_serves_as_guide(capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path / "given", steps=4)
    config.pipeline.generate = config.pipeline.backdrop = False
    trainer = _train(config)
    guided = _config(capture, prior, tmp_path / "guided", steps=4)
    guided.pipeline.guide_config = config.get_base_dir() / "config.yml"
    assert torch.equal(_train(guided).pipeline.guide.means, trainer.pipeline.model.means.detach())


@pytest.mark.parametrize("start", ["guide", "points"])
def test_the_scene_starts_where_it_is_told(start, trained, capture, prior, tmp_path):
    given, trainer, _ = trained
    config = _config(capture, prior, tmp_path, steps=4)
    config.pipeline.guide_config = given.get_base_dir() / "config.yml"
    config.pipeline.scene_start = start
    config.pipeline.generate = False
    scene = config.setup(local_rank=0, world_size=1)
    scene.setup()
    initial = scene.pipeline.model.means.detach().clone()
    scene.pipeline._begin_scene(scene.optimizers)
    fitted = trainer.pipeline.guide.means
    assert torch.equal(scene.pipeline.model.means, fitted if start == "guide" else initial)
    assert not torch.equal(initial, fitted)
    scene.train()


@pytest.mark.parametrize(("wanted", "background_color"), [(True, "black"), (False, "black"), (True, "white")])
def test_the_scene_has_a_backdrop_of_its_photographs_unless_told_otherwise(
    wanted, background_color, capture, prior, tmp_path
):
    config = _config(capture, prior, tmp_path, steps=4)
    config.pipeline.generate = False
    config.pipeline.backdrop = wanted
    config.pipeline.model.background_color = background_color
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    pipeline = trainer.pipeline
    assert not pipeline.backdrop.is_painted
    trainer.train()
    assert pipeline.backdrop.is_painted == (wanted and background_color == "black")
    if pipeline.backdrop.is_painted:
        views = range(len(pipeline.datamanager.input_cameras))
        expected = Backdrop()
        expected.paint(pipeline.datamanager.input_cameras, [pipeline.datamanager.photograph(view) for view in views])
        torch.testing.assert_close(pipeline.backdrop.colors, expected.colors)


def test_the_scene_is_held_to_what_the_guide_knows_unless_told_otherwise(capture, prior, tmp_path):
    pipeline = _train(_config(capture, prior, tmp_path, steps=8)).pipeline
    draws = pipeline.datamanager.draws

    def losses(step: int, weight: float) -> dict[str, torch.Tensor]:
        pipeline.config.anchors.weight = weight
        pipeline.gaussians.training_infos.clear()
        return pipeline.get_train_loss_dict(step)[1]

    assert "anchor" not in losses(0, 0.3)  # the guide's own phase
    assert "anchor" not in losses(7, 0.3)  # every second step
    state = draws.get_state()
    assert "anchor" not in losses(6, 0.0)
    without, rendered = draws.get_state(), len(pipeline.gaussians.training_infos)
    draws.set_state(state)
    small = float(losses(6, 0.1)["anchor"])
    # What is generated and what is densified are the same with anchors and without.
    assert torch.equal(draws.get_state(), without) and len(pipeline.gaussians.training_infos) == rendered == 2
    large = float(losses(6, 0.3)["anchor"])
    assert small > 0 and large == pytest.approx(3 * small, rel=1e-4)
    pipeline.guide.features_dc += 1.0
    assert float(losses(6, 0.3)["anchor"]) > large


def test_photographs_that_are_transparent_get_no_backdrop(capture, prior, tmp_path):
    cut_out = tmp_path / "capture"
    shutil.copytree(capture, cut_out)
    for path in (cut_out / "images").iterdir():
        image = Image.open(path).convert("RGB")
        opacity = Image.new("L", image.size, 255)
        opacity.paste(0, (0, 0, image.width // 2, image.height))
        image.putalpha(opacity)
        image.save(path)
    config = _config(cut_out, prior, tmp_path, steps=4)
    config.pipeline.generate = False
    assert not _train(config).pipeline.backdrop.is_painted


@pytest.mark.parametrize("ablation", ["no_generation", "no_guidance", "random", "no_perceptual", "no_local_sampling"])
def test_each_ablation_is_one_switch(ablation, capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path, steps=8)
    datamanager = config.pipeline.datamanager
    if ablation == "no_generation":
        config.pipeline.generate = False
    elif ablation == "no_guidance":
        datamanager.guidance = False
    elif ablation == "random":
        datamanager.trajectories.strategy = "random"
    elif ablation == "no_perceptual":
        config.pipeline.model.perceptual = "none"
    else:
        datamanager.local_sampling = False
    pipeline = _train(config).pipeline
    assert (len(pipeline.datamanager.store) > 0) == (ablation != "no_generation")


def test_without_a_useful_trajectory_the_run_says_so_and_ends(capture, prior, tmp_path, capsys):
    config = _config(capture, prior, tmp_path, steps=6)
    config.pipeline.datamanager.trajectories.max_hole_fraction = 0.0
    pipeline = _train(config).pipeline
    assert pipeline.datamanager.pool.is_empty
    assert "No useful trajectory" in capsys.readouterr().out.replace("\n", " ")


def test_capture_without_test_views_trains_and_says_so(prior, tmp_path, capsys):
    capture = write_capture(tmp_path / "all", num_test=0)
    config = _config(capture, prior, tmp_path, steps=4)
    _train(config)
    assert "No test views to score" in capsys.readouterr().out
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    with pytest.raises(SystemExit, match="no test views"):
        pipeline.get_average_eval_image_metrics()


def test_several_devices_are_refused(capture, prior, tmp_path):
    with pytest.raises(ValueError, match="one device"):
        _config(capture, prior, tmp_path).pipeline.setup(device="cpu", world_size=2)


def test_saved_configuration_holds_what_was_used(capture, prior, tmp_path):
    config = _config(capture, prior, tmp_path, steps=None)
    saved = yaml.load((config.get_base_dir() / "config.yml").read_text(), Loader=yaml.Loader)
    assert saved.max_num_iterations == 4000 and saved.pipeline.datamanager.max_image_side == 256


def test_a_configuration_from_before_there_was_a_choice_does_as_it_did(capture, prior, tmp_path):
    text = (_config(capture, prior, tmp_path).get_base_dir() / "config.yml").read_text()
    now = yaml.load(text, Loader=yaml.Loader).pipeline
    assert now.scene_start == "guide" and now.backdrop
    older = "\n".join(line for line in text.splitlines() if "scene_start" not in line and "backdrop:" not in line)
    before = yaml.load(older, Loader=yaml.Loader).pipeline
    assert before.scene_start == "points" and not before.backdrop
    state = {name: value for name, value in vars(now).items() if name != "anchors"}
    unheld = object.__new__(GuidedVDPipelineConfig)
    unheld.__setstate__(state)
    assert now.anchors.weight > 0 and unheld.anchors.weight == 0 and unheld.scene_start == "guide"
