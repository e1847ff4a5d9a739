import urllib.error
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision
from torch import Tensor

from guidedvd_ns import losses
from guidedvd_ns.losses import (
    PerceptualName,
    WeightsUnavailableError,
    lpips_alex_metric,
    perceptual_distance,
    st_lpips_metric,
)

ST_LPIPS = ["st-lpips-alex", "st-lpips-vgg"]


def pattern(height: int = 40, width: int = 48) -> Tensor:  # [1, H, W, 3]
    rows, columns = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 9, width), indexing="ij")
    return (0.5 + 0.4 * torch.stack([rows.sin(), columns.cos(), (rows * columns).sin()], dim=-1))[None]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache on a machine without network; returns its folder of checkpoints."""

    def no_network(*_args, **_kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv("GUIDEDVD_DOWNLOAD", raising=False)
    losses._build.cache_clear()
    losses._warn_once.cache_clear()
    yield tmp_path / "hub" / "checkpoints"
    losses._build.cache_clear()


def put_random_backbone(hub: Path, name: str) -> dict[str, Tensor]:
    """A file with random weights where torch hub would cache the trained ones; returns its content."""
    hub.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = torchvision.models.get_model(losses._BACKBONES[name][0]).state_dict()
    state = {
        key: torch.randn(value.shape) * value[0].numel() ** -0.5
        for key, value in shapes.items()
        if key.startswith("features.")
    }
    torch.save(state, losses._backbone_path(name))
    return state


@pytest.mark.parametrize("name", ST_LPIPS)
def test_distance_is_zero_for_equal_images_and_grows_with_distortion(name: PerceptualName):
    distance = perceptual_distance(name, "cpu")
    image = pattern()
    noise = torch.randn(image.shape)
    values = [float(distance(image + strength * noise, image)) for strength in (0.0, 0.02, 0.1, 0.4)]
    assert values[0] == pytest.approx(0.0, abs=1e-7)
    assert values[0] < values[1] < values[2] < values[3]


@pytest.mark.parametrize("name", ST_LPIPS)
def test_st_lpips_equals_its_own_package(name: PerceptualName):
    reference = pytest.importorskip("stlpips_pytorch.stlpips")
    network = reference.LPIPS(net=name.rsplit("-", maxsplit=1)[-1], variant="shift_tolerant", verbose=False)
    images, targets = torch.rand(2, 40, 56, 3), torch.rand(2, 40, 56, 3)
    with torch.no_grad():
        expected = network(images.movedim(-1, 1), targets.movedim(-1, 1), normalize=True).mean()
    torch.testing.assert_close(perceptual_distance(name, "cpu")(images, targets), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_lpips_equals_its_own_package(name: PerceptualName, hub: Path):
    lpips = pytest.importorskip("lpips")
    state = put_random_backbone(hub, name)
    network = lpips.LPIPS(net=name[6:], pnet_rand=True, verbose=False)
    # Slices keep the layers' numbers: features.3.weight is slice2.3.weight.
    network.net.load_state_dict({key: state["features" + key[6:]] for key in network.net.state_dict()})
    images, targets = torch.rand(2, 40, 56, 3), torch.rand(2, 40, 56, 3)
    with torch.no_grad():
        expected = network(images.movedim(-1, 1), targets.movedim(-1, 1), normalize=True).mean()
    actual = perceptual_distance(name, "cpu")(images, targets)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_vgg19_is_the_sum_of_five_mean_squared_feature_differences(hub: Path, masked: bool):
    state = put_random_backbone(hub, "vgg19")
    features = torchvision.models.vgg19(weights=None).features.eval()
    features.load_state_dict({key[9:]: value for key, value in state.items()})
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images, targets = torch.rand(2, 2, 24, 30, 3)
    known = torch.rand(2, 24, 30, 1) > 0.4
    expected = 0.0
    with torch.no_grad():
        ours, theirs = (
            normalise(torch.nn.functional.interpolate(batch.movedim(-1, 1), (224, 224), mode="bilinear"))
            for batch in (images, targets)
        )
        if masked:  # after the normalisation: viewcrafter-architecture.md, section 7.5
            mask = torch.nn.functional.interpolate(known.movedim(-1, 1).float(), (224, 224), mode="nearest")
            ours, theirs = ours * mask, theirs * mask
        for index, layer in enumerate(features):
            ours, theirs = layer(ours), layer(theirs)
            if index in (3, 8, 17, 26, 35):  # relu1_2, relu2_2, relu3_4, relu4_4, relu5_4
                assert isinstance(layer, torch.nn.ReLU)
                expected += ((ours - theirs) ** 2).mean().item()
        distance = perceptual_distance("vgg19", "cpu")
        actual = distance(images, targets, known) if masked else distance(images, targets)
    assert float(actual) == pytest.approx(expected, rel=1e-4)


def test_what_does_not_count_changes_no_distance(hub: Path):
    put_random_backbone(hub, "vgg19")
    images, targets, other = torch.rand(3, 1, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    known = (torch.arange(32) < 20).float().expand(1, 32, 32)[..., None]
    for name in ("st-lpips-alex", "vgg19"):
        distance = perceptual_distance(name, "cpu")
        # vgg19 resizes before it masks: one column beyond the border mixes in, so it is kept too.
        elsewhere = torch.where((torch.arange(32) < 21)[:, None], images, other)
        torch.testing.assert_close(distance(elsewhere, targets, known), distance(images, targets, known))
        assert distance(elsewhere, targets) != distance(images, targets)


def test_gradient_matches_finite_differences():
    distance = perceptual_distance("st-lpips-alex", "cpu")
    target = pattern(32, 36)
    image = (target + 0.1 * torch.randn(target.shape)).requires_grad_()
    (gradient,) = torch.autograd.grad(distance(image, target), image)
    direction = gradient / gradient.norm()
    step = 2e-2
    with torch.no_grad():
        slope = (distance(image + step * direction, target) - distance(image - step * direction, target)) / (2 * step)
        assert float(slope) == pytest.approx(float(gradient.norm()), rel=2e-2)
        for flat in gradient.flatten().abs().topk(3).indices.tolist():
            nudge = torch.zeros(image.numel())
            nudge[flat] = step
            nudge = nudge.view_as(image)
            slope = (distance(image + nudge, target) - distance(image - nudge, target)) / (2 * step)
            assert float(slope) == pytest.approx(float(gradient.flatten()[flat]), rel=0.05)


def test_gradient_is_finite_where_all_features_are_zero(hub: Path):
    state = put_random_backbone(hub, "lpips-alex")
    torch.save({key: torch.zeros_like(value) for key, value in state.items()}, losses._backbone_path("lpips-alex"))
    image = pattern().requires_grad_()
    perceptual_distance("lpips-alex", "cpu")(image, torch.rand_like(image)).backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


def test_networks_get_no_gradients_and_use_no_global_random_numbers():
    losses._build.cache_clear()
    before = torch.get_rng_state()
    distance = perceptual_distance("st-lpips-vgg", "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    value = distance(pattern(), 1 - pattern())
    assert not value.requires_grad


def test_distance_is_kept_for_each_name_and_device():
    first = perceptual_distance("st-lpips-alex", "cpu")
    assert perceptual_distance("st-lpips-alex", torch.device("cpu")) is first
    assert perceptual_distance("st-lpips-vgg", "cpu") is not first


def test_building_prints_nothing(capfd: pytest.CaptureFixture):
    losses._build.cache_clear()
    perceptual_distance("st-lpips-vgg", "cpu")
    assert capfd.readouterr().out == ""


def test_small_images_are_enlarged():
    distance = perceptual_distance("st-lpips-alex", "cpu")
    image = torch.rand(1, 8, 12, 3)
    enlarged = torch.nn.functional.interpolate(image.movedim(-1, 1), (32, 48), mode="bilinear").movedim(1, -1)
    torch.testing.assert_close(distance(image, image.flip(1)), distance(enlarged, enlarged.flip(1)))


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\], got \[1, 3, 32, 32\]"):
        perceptual_distance("st-lpips-alex", "cpu")(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="no perceptual distance 'ssim'"):
        perceptual_distance("ssim", "cpu")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", [name for name in get_args(PerceptualName) if not name.startswith("st-")])
def test_missing_weights_are_one_sentence_that_says_what_to_do(name: PerceptualName, hub: Path):
    with pytest.raises(WeightsUnavailableError, match=r"no network.*put https://.*\.pth there.*st-lpips-alex") as error:
        perceptual_distance(name, "cpu")
    assert str(hub) in str(error.value)
    assert list(hub.iterdir()) == []
    with pytest.raises(WeightsUnavailableError, match="downloads were not asked for"):
        perceptual_distance(name, "cpu", allow_download=False)


def test_truncated_weights_are_reported(hub: Path):
    put_random_backbone(hub, "lpips-alex")
    path = losses._backbone_path("lpips-alex")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsUnavailableError, match="cannot be read: delete it"):
        perceptual_distance("lpips-alex", "cpu")


def test_lpips_metric_is_left_out_with_one_warning(hub: Path, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    monkeypatch.setattr(losses.CONSOLE, "log", lines.append)
    asked: list[str] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, *_, **__: asked.append(url))
    assert lpips_alex_metric("cpu") is None
    assert lpips_alex_metric("cpu") is None
    assert len(lines) == 1
    assert "LPIPS is left out" in lines[0]
    assert asked == []


def test_lpips_metric_downloads_only_when_the_environment_asks(hub: Path, monkeypatch: pytest.MonkeyPatch):
    def download(_url: str, destination: str, hash_prefix: str) -> None:
        assert hash_prefix == "7be5be79"
        assert destination == str(losses._backbone_path("lpips-alex"))
        put_random_backbone(hub, "lpips-alex")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("GUIDEDVD_DOWNLOAD", "1")
    metric = lpips_alex_metric("cpu")
    assert metric is not None
    value = metric(pattern().requires_grad_(), 1 - pattern())
    assert float(value) > 0
    assert not value.requires_grad


def test_st_lpips_metric_has_no_gradient():
    value = st_lpips_metric("cpu")(pattern().requires_grad_(), 1 - pattern())
    assert float(value) > 0
    assert not value.requires_grad
