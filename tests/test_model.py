"""The model: colours, outputs, losses, densification from two views, and loading without losing the optimizers."""

from __future__ import annotations

import pytest
import torch
from nerfstudio.data.scene_box import OrientedBox, SceneBox

from guidedvd_ns.backdrop import Backdrop
from guidedvd_ns.gaussians import PARAMETER_NAMES
from guidedvd_ns.guide import Guide
from guidedvd_ns.model import GuidedVDSplatModel, GuidedVDSplatModelConfig
from guidedvd_ns.schedule import Schedule
from guidedvd_ns.seeding import Seeds
from tests.scenes import cameras, wall


def _model(num_points: int = 60, **options) -> GuidedVDSplatModel:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(num_points, 3, generator=generator) - torch.tensor([0.5, 0.5, 2.5])
    colours = torch.randint(0, 256, (num_points, 3), generator=generator, dtype=torch.uint8)
    model = GuidedVDSplatModelConfig(perceptual="none", **options).setup(
        scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])),
        num_train_data=2,
        metadata={},
        seed_points=(points, colours),
    )
    model.follow(Schedule(guide_steps=10, scene_steps=1000), scene_extent=1.0)
    return model


def _optimizers(model: GuidedVDSplatModel) -> dict[str, torch.optim.Optimizer]:
    model.optimizers = {name: torch.optim.Adam([model.gauss_params[name]], lr=1e-2) for name in PARAMETER_NAMES}
    return model.optimizers


def _train_step(model: GuidedVDSplatModel, step: int, views: int = 2) -> None:
    model.step = step
    loss = torch.zeros(())
    for index in range(views):
        loss = loss + (model.get_outputs(cameras(2)[index : index + 1])["rgb"] - 0.5).square().mean()
    loss.backward()
    model.step_post_backward(step)


@pytest.mark.parametrize("sh_degree", [0, 3])
def test_seed_colours_are_kept_to_half_a_grey_level(sh_degree: int):
    model = _model(sh_degree=sh_degree)
    colours = (model.colors * 255).detach()
    assert (colours - model.seed_points[1].float()).abs().max() <= 0.51
    assert torch.isfinite(model.features_dc).all()


def test_black_and_white_seeds_can_still_learn():
    model = _model()
    model.seed_points[1][:30], model.seed_points[1][30:] = 0, 255
    model.populate_modules()
    slope = model.colors * (1 - model.colors)
    assert slope.min() > 1e-3


def test_initial_opacity_is_a_tenth():
    assert torch.sigmoid(_model().opacities).allclose(torch.tensor(0.1))


def test_no_lpips_network_hides_in_the_module_tree():
    model = _model()
    assert model.lpips is None
    parameters = {f"gauss_params.{name}" for name in PARAMETER_NAMES}
    assert set(model.state_dict()) == parameters | {"device_indicator_param"}


def test_guide_shows_only_in_eval_mode_and_only_when_fitted():
    model = _model().eval()
    with torch.no_grad():
        assert {"rgb", "depth", "accumulation", "background"} == set(model.get_outputs(cameras()))
        guide = Guide()
        guide.adopt(wall(), sh_degree=0)
        model.__dict__["guide"] = guide
        outputs = model.get_outputs(cameras())
    assert outputs["background"].shape == (24, 32, 3) and outputs["depth"].shape == (24, 32, 1)
    assert torch.equal(outputs["guide_opacity"], guide.render(cameras()).opacity[0])
    assert torch.equal(outputs["hole"].bool(), outputs["guide_opacity"] < 0.9)
    assert 0.3 < outputs["hole"].mean() < 0.7
    _optimizers(model.train())
    assert "hole" not in model.get_outputs(cameras())


@pytest.mark.parametrize("background_color", ["black", "random"])
def test_backdrop_shows_where_the_scene_is_open(background_color):
    model = _model(background_color=background_color)
    _optimizers(model)
    view, backdrop = cameras(), Backdrop()
    photograph = torch.rand(24, 32, 3)
    with torch.no_grad():
        over_black = model.eval().get_outputs(view)
        backdrop.paint(view, [(photograph, None)])
        model.__dict__["backdrop"] = backdrop
        outputs = model.get_outputs(view)
        model.crop_box = OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (9.0, 9.0, 9.0))
        cropped = model.get_outputs(view)
    trained = model.train().get_outputs(view)
    behind = backdrop.behind(view, (24, 32))
    assert over_black["background"].max() == 0 and over_black["accumulation"].min() < 0.01
    expected = over_black["rgb"] + (1 - over_black["accumulation"]) * behind
    torch.testing.assert_close(outputs["rgb"], expected)
    assert torch.equal(outputs["background"], behind)
    assert torch.equal(outputs["accumulation"], over_black["accumulation"])
    # A part of the scene is looked at by itself.
    torch.testing.assert_close(cropped["rgb"], over_black["rgb"])
    # A random colour is there to make what is photographed opaque.
    assert torch.allclose(trained["rgb"], expected) == (background_color == "black")


def test_loading_another_number_of_gaussians_keeps_the_parameters_that_optimizers_hold():
    model, other = _model(60), _model(75)
    optimizers = _optimizers(model)
    identities = {name: id(parameter) for name, parameter in model.gauss_params.items()}
    model.load_state_dict(other.state_dict())
    assert {name: id(parameter) for name, parameter in model.gauss_params.items()} == identities
    assert torch.equal(model.means, other.means) and len(model.means) == 75
    before = model.means.detach().clone()
    model.get_outputs(cameras())["rgb"].sum().backward()
    optimizers["means"].step()
    assert (model.means - before).abs().max() > 0


def test_old_parameter_names_load():
    model, other = _model(60), _model(75)
    state = {key.removeprefix("gauss_params."): value for key, value in other.state_dict().items()}
    model.load_state_dict(state, strict=False)
    assert torch.equal(model.means, other.means)


def test_statistics_come_from_both_views_of_a_step():
    model = _model()
    _optimizers(model)
    _train_step(model, step=11)
    counts = model.strategy_state["count"]
    assert counts.max() == 2
    one = _model()
    _optimizers(one)
    _train_step(one, step=11, views=1)
    assert one.strategy_state["count"].max() == 1
    assert model.training_infos == []


def test_guide_phase_keeps_its_points():
    model = _model()
    _optimizers(model)
    for step in range(5):
        _train_step(model, step)
    assert model.strategy_state["count"] is None and len(model.means) == 60


def test_opacity_is_not_reset_at_the_start_of_the_second_phase():
    model = _model()
    _optimizers(model)
    _train_step(model, step=10)
    assert torch.sigmoid(model.opacities).allclose(torch.tensor(0.1))


def test_opacity_is_reset_while_there_is_time_to_recover():
    model = _model(reset_recovery_steps=600)
    _optimizers(model)
    _train_step(model, step=10 + 300)
    assert torch.sigmoid(model.opacities).max() <= 0.0101
    late = _model(reset_recovery_steps=900)
    _optimizers(late)
    _train_step(late, step=10 + 300)
    assert torch.sigmoid(late.opacities).min() > 0.05


def test_densification_grows_where_the_gradient_is_high():
    model = _model(densify_grad_thresh=0.0)
    _optimizers(model)
    _train_step(model, step=10 + 59)
    assert len(model.means) == 60
    _train_step(model, step=10 + 60)
    assert len(model.means) > 60


def test_restart_brings_the_initial_points_back():
    model = _model()
    optimizers = _optimizers(model)
    initial = {name: parameter.detach().clone() for name, parameter in model.gauss_params.items()}
    identity = id(model.means)
    for step in range(3):
        _train_step(model, step)
        for optimizer in optimizers.values():
            optimizer.step()
    assert not torch.equal(model.means, initial["means"])
    model.restart(optimizers)
    assert all(torch.equal(model.gauss_params[name], initial[name]) for name in PARAMETER_NAMES)
    assert id(model.means) == identity and not optimizers["means"].state


@pytest.mark.parametrize(("guide_degree", "degree"), [(0, 0), (0, 3), (3, 0), (3, 1)])
def test_restart_from_a_guide_looks_like_it(guide_degree: int, degree: int):
    fitted, model = _model(sh_degree=guide_degree), _model(sh_degree=degree)
    torch.nn.init.uniform_(fitted.gauss_params["features_dc"], -1, 1, generator=torch.Generator().manual_seed(2))
    torch.nn.init.constant_(fitted.gauss_params["features_rest"], 0.1)
    fitted.gauss_params["means"].data += 0.1
    guide = Guide()
    guide.adopt({name: fitted.gauss_params[name] for name in PARAMETER_NAMES}, sh_degree=guide_degree)
    optimizers = _optimizers(model)
    model.restart(optimizers, guide)
    assert torch.equal(model.means, fitted.means) and torch.equal(model.opacities, fitted.opacities)
    assert optimizers["means"].param_groups[0]["params"] == [model.means]
    for name in ("scales", "quats"):
        assert torch.equal(model.gauss_params[name], fitted.gauss_params[name])
    torch.testing.assert_close(model.colors.clamp(0, 1), fitted.colors.clamp(0, 1), atol=0.51 / 255, rtol=0)
    rest = model.gauss_params["features_rest"]
    assert rest.shape == (60, (degree + 1) ** 2 - 1, 3) and not rest.any()
    # No harmonics are on at the start, so it looks as the guide does without them.
    model.eval()
    guide.get_buffer("features_rest").zero_()
    with torch.no_grad():
        shown = model.get_outputs(cameras())["rgb"]
    torch.testing.assert_close(shown, guide.render(cameras()).rgb[0], atol=1 / 255, rtol=0)
    model.means.data.zero_()
    assert not torch.equal(guide.get_buffer("means"), model.means)


def _seeds(count: int = 5) -> Seeds:
    generator = torch.Generator().manual_seed(1)
    means = torch.rand(count, 3, generator=generator) - torch.tensor([0.5, 0.5, 2.5])
    return Seeds(means, torch.rand(count, 3, generator=generator), 0.05 + 0.1 * torch.rand(count, generator=generator))


@pytest.mark.parametrize("sh_degree", [0, 3])
def test_added_gaussians_are_as_asked_and_leave_the_others_alone(sh_degree: int):
    model, seeds = _model(sh_degree=sh_degree), _seeds()
    optimizers = _optimizers(model)
    before = {name: parameter.detach().clone() for name, parameter in model.gauss_params.items()}
    model.add(seeds, optimizers)
    for name in PARAMETER_NAMES:
        assert torch.equal(model.gauss_params[name][:60], before[name]) and len(model.gauss_params[name]) == 65
        assert optimizers[name].param_groups[0]["params"] == [model.gauss_params[name]]
        assert model.gauss_params[name].requires_grad and model.gauss_params[name].is_leaf
    assert torch.equal(model.means[60:], seeds.means)
    torch.testing.assert_close(model.colors[60:], seeds.colors, atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(model.scales[60:].exp(), seeds.sizes[:, None].expand(5, 3))
    assert torch.equal(model.quats[60:], torch.tensor([1.0, 0, 0, 0]).expand(5, 4))
    torch.testing.assert_close(torch.sigmoid(model.opacities[60:]), torch.full((5, 1), 0.1))
    assert model.features_rest[60:].abs().sum() == 0


def test_added_gaussians_have_no_moments_and_no_statistics_yet():
    model = _model()
    optimizers = _optimizers(model)
    for step in (11, 12):
        _train_step(model, step)
        for optimizer in optimizers.values():
            optimizer.step()
    old_moments = {name: dict(optimizers[name].state[model.gauss_params[name]]) for name in PARAMETER_NAMES}
    old_statistics = {key: model.strategy_state[key].clone() for key in ("grad2d", "count")}
    assert old_statistics["count"].max() == 4 and old_moments["means"]["exp_avg_sq"].max() > 0
    model.add(_seeds(), optimizers)
    for name in PARAMETER_NAMES:
        assert len(optimizers[name].state) <= 1
        state = optimizers[name].state[model.gauss_params[name]]
        assert state.keys() == old_moments[name].keys()
        for key in state.keys() - {"step"}:
            assert torch.equal(state[key][:60], old_moments[name][key])
            assert state[key].shape == model.gauss_params[name].shape and not state[key][60:].any()
    assert optimizers["means"].state[model.means]["step"] == 2
    for key, old in old_statistics.items():
        assert torch.equal(model.strategy_state[key], torch.cat([old, torch.zeros(5)]))


def test_added_gaussians_are_round_blobs_of_their_colour():
    model = _model()
    with torch.no_grad():
        model.opacities.fill_(-20.0)
    # Through the centre of pixel (12, 16): a standard deviation of 1.6 pixels, 32 * 0.1 / 2.
    seed = Seeds(torch.tensor([[0.5, -0.5, -32.0]]) / 16, torch.tensor([[0.2, 0.5, 0.8]]), torch.tensor([0.1]))
    model.add(seed, _optimizers(model))
    model.eval()
    with torch.no_grad():
        outputs = model.get_outputs(cameras())
    rows, columns = torch.meshgrid(torch.arange(24) - 12.0, torch.arange(32) - 16.0, indexing="ij")
    expected = 0.1 * torch.exp(-0.5 * (rows**2 + columns**2) / (1.6**2 + 0.3))  # 0.3: the rasterizer's low-pass filter
    expected[expected < 1 / 255] = 0
    torch.testing.assert_close(outputs["accumulation"][..., 0], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(outputs["rgb"], expected[..., None] * seed.colors[0], atol=1e-3, rtol=0)
    assert torch.equal(model.opacity_of(cameras()), outputs["accumulation"])


def test_added_gaussians_learn_and_densify():
    model = _model(densify_grad_thresh=0.0)
    optimizers = _optimizers(model)
    _train_step(model, step=11)
    model.add(_seeds(), optimizers)
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    _train_step(model, step=12)
    for optimizer in optimizers.values():
        optimizer.step()
    assert ((model.means[60:] - _seeds().means).abs().amax(dim=1) > 1e-3).all()
    assert model.strategy_state["count"][60:].tolist() == [2] * 5
    _train_step(model, step=10 + 60)
    assert len(model.means) > 65
    assert all(len(model.gauss_params[name]) == len(model.means) for name in PARAMETER_NAMES)


def test_adding_before_the_first_step_and_adding_nothing_work():
    model = _model()
    optimizers = _optimizers(model)
    model.add(_seeds(), optimizers)
    model.add(_seeds(0), optimizers)
    _train_step(model, step=11)
    assert len(model.means) == len(model.strategy_state["count"]) == 65


def test_generated_l1_is_taken_at_the_priors_resolution():
    rgb = torch.zeros(24, 32, 3)
    rgb[::2] = 1.0  # stripes that vanish when averaged
    frame = torch.full((12, 16, 3), 0.5)
    coarse = _model(generated_l1=0.1).get_generated_loss_dict(rgb, frame)
    assert coarse["generated_l1"].item() == pytest.approx(0.0, abs=2e-3)  # all of it at the image's border
    fine = _model(generated_resolution="image", generated_l1=0.1).get_generated_loss_dict(rgb, frame)
    assert fine["generated_l1"].item() == pytest.approx(0.1 * 0.5, abs=1e-6)


def test_perceptual_term_enters_with_its_weight():
    from guidedvd_ns.losses import perceptual_distance

    model = _model()
    model.config.perceptual = "st-lpips-alex"
    rgb, frame = torch.rand(48, 64, 3), torch.rand(48, 64, 3)
    losses = model.get_generated_loss_dict(rgb, frame)
    expected = 0.01 * perceptual_distance("st-lpips-alex", "cpu")(rgb[None], frame[None])
    assert losses["generated_perceptual"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_masked_pixels_give_no_gradient():
    model = _model()
    _optimizers(model)
    outputs = model.get_outputs(cameras())
    image = torch.rand(24, 32, 3)
    mask = torch.zeros(24, 32, 1, dtype=torch.bool)
    outputs["rgb"].retain_grad()
    losses = model.get_loss_dict(outputs, {"image": image, "mask": mask})
    sum(losses.values()).backward()
    assert set(losses) == {"main_loss"}
    assert outputs["rgb"].grad.abs().max() == 0


def test_a_random_background_is_drawn_in_training_only():
    model = _model(background_color="random")
    _optimizers(model)
    camera = cameras(1)
    backgrounds = {tuple(model.get_outputs(camera)["background"].tolist()) for _ in range(3)}
    assert len(backgrounds) == 3
    seen = model.get_outputs(camera)
    model.eval()
    shown = model.get_outputs(camera)
    assert shown["background"].max() == 0
    expected = shown["rgb"] + (1 - shown["accumulation"]) * seen["background"]
    torch.testing.assert_close(seen["rgb"], expected.clamp(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("background", "is_opaque"), [("random", True), ("black", False)])
def test_only_a_random_background_makes_dark_surfaces_opaque(background: str, is_opaque: bool):
    torch.manual_seed(0)
    model = _model(num_points=150, background_color=background)
    optimizers = [
        torch.optim.Adam([model.gauss_params[name]], lr=rate)
        for name, rate in (("opacities", 5e-2), ("features_dc", 5e-3), ("scales", 2e-2), ("means", 5e-3))
    ]
    model.optimizers = dict.fromkeys(PARAMETER_NAMES, optimizers[0])
    for _ in range(150):
        for optimizer in optimizers:
            optimizer.zero_grad()
        (model.get_outputs(cameras(1))["rgb"] - 0.1).abs().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    model.eval()
    known = (model.get_outputs(cameras(1))["accumulation"] >= 0.9).float().mean()
    assert (known > 0.8) == is_opaque
