"""The registered methods: defaults by device, command-line overrides, what the reference differs in, a light import."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import tyro
import yaml
from nerfstudio.plugins.types import MethodSpecification

from guidedvd_ns.anchors import AnchorConfig
from guidedvd_ns.config import GuidedVDTrainerConfig, guidedvd_splat, guidedvd_splat_reference
from guidedvd_ns.guidance import GuidanceApproximation
from guidedvd_ns.model import GuidedVDSplatModelConfig
from guidedvd_ns.pipeline import GuidedVDPipelineConfig
from guidedvd_ns.priors.base import SamplerOverrides
from guidedvd_ns.seeding import SeedingConfig
from guidedvd_ns.trajectories import TrajectoryConfig


def _config(device: str) -> GuidedVDTrainerConfig:
    config = copy.deepcopy(guidedvd_splat.config)
    assert isinstance(config, GuidedVDTrainerConfig)
    config.machine.device_type = device  # type: ignore[assignment]
    return config


@pytest.mark.parametrize(
    ("device", "steps", "side", "sequences"), [("cuda", 20_000, 1600, None), ("cpu", 4_000, 256, 10)]
)
def test_unset_defaults_follow_the_device(device, steps, side, sequences):
    config = _config(device)
    config.resolve_defaults()
    datamanager = config.pipeline.datamanager
    assert (config.max_num_iterations, datamanager.max_image_side, datamanager.max_sequences) == (
        steps,
        side,
        sequences,
    )


def test_what_the_user_sets_stays():
    config = _config("cpu")
    config.max_num_iterations, config.pipeline.datamanager.max_image_side = 7, 0
    config.resolve_defaults()
    assert (config.max_num_iterations, config.pipeline.datamanager.max_image_side) == (7, 0)


def test_runs_are_named_after_their_data(tmp_path):
    from guidedvd_ns.data.demo_dataparser import GuidedVDDemoDataParserConfig
    from guidedvd_ns.data.guidedvd_dataparser import GuidedVDDataParserConfig

    def name(dataparser, **given) -> str:
        config = copy.deepcopy(guidedvd_splat.config)
        config.pipeline.datamanager.dataparser = dataparser
        config.pipeline.datamanager.data = given.get("data")
        config.experiment_name = given.get("experiment_name")
        config.set_experiment_name()
        return config.experiment_name

    assert name(GuidedVDDemoDataParserConfig()) == "demo"
    assert name(GuidedVDDataParserConfig(data=tmp_path / "fox")) == "fox"
    assert name(GuidedVDDataParserConfig(), data=tmp_path / "lounge") == "lounge"
    assert name(GuidedVDDemoDataParserConfig(), experiment_name="mine") == "mine"


def test_a_config_from_before_a_setting_existed_is_read_with_its_default():
    written = copy.deepcopy(guidedvd_splat.config)
    sampler = vars(written.pipeline.datamanager).pop("sampler")
    vars(written.pipeline.datamanager.trajectories)["num_frames"] = 25  # a setting that is no more
    read = yaml.load(yaml.dump(written), Loader=yaml.Loader)
    assert read.pipeline.datamanager.sampler == sampler
    assert _differences(read, guidedvd_splat.config) == {}
    assert "num_frames" not in dataclasses.asdict(read)["pipeline"]["datamanager"]["trajectories"]
    assert read.pipeline.datamanager.sampler is not guidedvd_splat.config.pipeline.datamanager.sampler


def test_constants_are_the_papers():
    model = guidedvd_splat.config.pipeline.model
    datamanager = guidedvd_splat.config.pipeline.datamanager
    assert isinstance(model, GuidedVDSplatModelConfig)
    assert (model.sh_degree, model.background_color, model.num_downscales, model.ssim_lambda) == (0, "black", 0, 0.2)
    assert (model.warmup_length, model.refine_every, model.densify_grad_thresh) == (500, 100, 5e-4)
    assert model.reset_alpha_every * model.refine_every == 3000 and model.cull_alpha_thresh == 0.005
    # The weight of generated colours is three times the paper's 0.1.
    assert (model.generated_l1, model.generated_perceptual) == (0.3, 0.01) and not model.use_absgrad
    assert (datamanager.generate_every, datamanager.generated_until, datamanager.hole_threshold) == (260, 9500, 0.9)
    assert (datamanager.all_time_probability, datamanager.all_time_fraction) == (0.5, 0.2)
    rates = {name: group["optimizer"].lr for name, group in guidedvd_splat.config.optimizers.items()}
    assert (rates["means"], rates["features_dc"], rates["opacities"]) == (1.6e-4, 2.5e-3, 5e-2)
    assert (rates["scales"], rates["quats"]) == (5e-3, 1e-3)


def _differences(config, other, name: str = "") -> dict[str, object]:
    """Dotted names of the fields in which `config` differs from `other`, with its values."""
    assert type(config) is type(other)
    found = {}
    for field in dataclasses.fields(config):
        if field.name == "_target":
            continue
        mine, theirs = getattr(config, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(mine):
            found |= _differences(mine, theirs, f"{name}{field.name}.")
        elif mine != theirs:
            found[name + field.name] = mine
    return found


def test_reference_is_the_default_but_for_the_authors_settings():
    differences = _differences(guidedvd_splat_reference.config, guidedvd_splat.config)
    datamanager = {
        "max_image_side": 1600,
        "prior": "viewcrafter",
        "condition": "points",
        "sampler.num_frames": 25,
        "sampler.num_steps": 50,
        "sampler.eta": 1.0,
        "sampler.cfg_scale": 7.5,
        "sampler.guidance_rescale": 0.7,
        "sampler.guidance_factor": 0.2,
        "sampler.guidance_step": "constant",
        "sampler.reconstruction": "l2",
        "sampler.restore_detail": False,
        "sampling_sizes": ((320, 448), (320, 512)),
        "guidance_perceptual": "vgg19",
        "guidance_perceptual_weight": 1e-3,
        "trajectories.azimuths": (-30.0, -15.0, 0.0, 15.0, 30.0),
        "trajectories.elevations": (-15.0, -7.5, 0.0, 7.5),
        "trajectories.min_hole_fraction": 0.0,
        "trajectories.max_hole_fraction": 0.1,
        "trajectories.keep_in_free_space": False,
        "trajectories.plan_resolution": 1600,
        "min_agreement": 0.0,
        "known_from_guide": False,
        "antialias_guide": False,
        "close_holes": 1,
    }
    model = {
        "reset_recovery_steps": 0,
        "perceptual": "vgg19",
        "generated_l1": 0.05,
        "generated_perceptual": 0.005,
        "generated_resolution": "image",
    }
    wanted: dict[str, object] = {"method_name": "guidedvd-splat-reference", "max_num_iterations": 20_000}
    wanted |= {f"pipeline.datamanager.{name}": value for name, value in datamanager.items()}
    wanted |= {"pipeline.seeding.frames": 0, "pipeline.scene_start": "points", "pipeline.backdrop": False}
    wanted |= {"pipeline.anchors.weight": 0.0}
    wanted |= {f"pipeline.model.{name}": value for name, value in model.items()}
    assert differences == wanted


def _objects(value, found: dict[int, object]) -> dict[int, object]:
    """All objects of a configuration that could be changed in place, by identity."""
    if isinstance(value, type) or not (dataclasses.is_dataclass(value) or isinstance(value, (dict, list))):
        return found
    found[id(value)] = value
    parts = value if isinstance(value, list) else (value if isinstance(value, dict) else vars(value)).values()
    for part in parts:
        _objects(part, found)
    return found


def test_methods_share_no_object_that_a_command_line_changes():
    first, second = (_objects(method.config, {}) for method in (guidedvd_splat, guidedvd_splat_reference))
    assert len(first) > 20 and not first.keys() & second.keys()


def test_every_switch_answers_at_the_command_line():
    arguments = "--pipeline.datamanager.sampler.num-steps 7 --pipeline.datamanager.memory low".split()
    arguments += "--pipeline.datamanager.sampling-sizes 64 96 64 128 --pipeline.datamanager.condition points".split()
    arguments += "--pipeline.datamanager.approximation.every 2".split()
    arguments += "--pipeline.guide-fraction 0.3 --pipeline.datamanager.trajectories.strategy random".split()
    arguments += "--pipeline.model.perceptual none --pipeline.datamanager.guidance False".split()
    arguments += (
        "--pipeline.seeding.frames 5 --pipeline.anchors.weight 0.1 --pipeline.datamanager.close-holes 5 "
        "--pipeline.generate False --pipeline.datamanager.local-sampling False guidedvd-data --train-views 6".split()
    )
    config = tyro.cli(
        tyro.conf.OmitSubcommandPrefixes[tyro.conf.FlagConversionOff[GuidedVDTrainerConfig]],  # type: ignore
        default=copy.deepcopy(guidedvd_splat.config),
        args=arguments,
    )
    assert isinstance(config.pipeline, GuidedVDPipelineConfig)
    assert config.pipeline.guide_fraction == 0.3 and not config.pipeline.generate
    assert config.pipeline.anchors == AnchorConfig(weight=0.1)
    assert config.pipeline.seeding == SeedingConfig(frames=5) and config.pipeline.datamanager.close_holes == 5
    assert config.pipeline.datamanager.trajectories.strategy == "random"
    assert config.pipeline.datamanager.dataparser.train_views == 6
    assert config.pipeline.datamanager.sampler == SamplerOverrides(num_steps=7)
    assert config.pipeline.datamanager.sampling_sizes == ((64, 96), (64, 128))
    assert config.pipeline.datamanager.approximation == GuidanceApproximation(every=2)
    assert (config.pipeline.datamanager.memory, config.pipeline.datamanager.condition) == ("low", "points")


@pytest.mark.parametrize("method", [guidedvd_splat, guidedvd_splat_reference])
def test_every_parameter_group_has_an_optimizer(method: MethodSpecification):
    groups = {"means", "scales", "quats", "features_dc", "features_rest", "opacities", "camera_opt", "bilateral_grid"}
    assert groups == set(method.config.optimizers)


@pytest.mark.parametrize("group", ["nerfstudio.method_configs", "nerfstudio.dataparser_configs"])
def test_each_entry_point_loads_in_a_fresh_process(group: str):
    mine = [point for point in entry_points(group=group) if point.value.startswith("guidedvd_ns")]
    assert mine
    for point in mine:
        module, variable = point.value.split(":")
        for imports in (f"import {module}", f"import nerfstudio.configs.method_configs, {module}"):
            code = f"{imports}; name = {module}.{variable}.config; print(type(name).__name__)"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]


def test_config_imports_nothing_heavy():
    code = (
        "import nerfstudio.configs.method_configs, sys; before = set(sys.modules); import guidedvd_ns.config;"
        "heavy = {'diffusers', 'transformers', 'lpips', 'stlpips_pytorch', 'numba', 'pycolmap'};"
        "print(*sorted(heavy & (set(sys.modules) - before)))"
    )
    environment = {"NERFSTUDIO_METHOD_CONFIGS": "", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == []


def test_every_field_of_our_configs_is_documented():
    datamanager = type(guidedvd_splat.config.pipeline.datamanager)
    for config in (
        GuidedVDSplatModelConfig,
        GuidedVDPipelineConfig,
        datamanager,
        SamplerOverrides,
        GuidanceApproximation,
        TrajectoryConfig,
        SeedingConfig,
    ):
        for field in dataclasses.fields(config):
            if field.name != "_target" and field.name in config.__annotations__:
                assert tyro._docstrings.get_field_docstring(config, field.name, ()), f"{config.__name__}.{field.name}"
