"""ViewCrafterPrior as a tiny prior of the bundled kind (against the original: test_recorded_runs.py)."""

import json

import pytest
import torch

from guidedvd_ns.priors import load_prior
from guidedvd_ns.priors.base import rms
from guidedvd_ns.priors.viewcrafter.conditioning import condition_frames
from guidedvd_ns.priors.viewcrafter.prior import ViewCrafterPrior
from tests.priors.tiny import tiny_prior


def test_one_pass_measures_guidance_by_the_noiseless_update():
    prior = tiny_prior()
    frames = torch.rand(3, 16, 24, 3)
    conditioning = prior.condition(frames, torch.ones(3, 16, 24, 1), frames[0])
    x_t = prior.initial_noise(torch.Generator().manual_seed(0), 16, 24, 3).requires_grad_(True)
    t = prior.timesteps(5)[2]
    calls = []
    handle = prior.unet.register_forward_hook(lambda _module, args, _output: calls.append(args[0].shape[0]))
    prediction = prior.predict(x_t, t, conditioning)
    handle.remove()
    assert calls == [1]
    update = prior.scheduler.update(prediction.x0, prediction.direction, t) - x_t
    assert prediction.guidance_length.item() == pytest.approx(rms(update).item())
    assert not prediction.guidance_length.requires_grad and prediction.x0.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in prior.unet.parameters())


def test_prediction_is_differentiated_correctly():
    prior = tiny_prior()
    prior.unet.double()
    prior.vae.double()
    frames = torch.rand(2, 8, 8, 3)
    conditioning = prior.condition(frames, torch.ones(2, 8, 8, 1), frames[0])
    x_t = prior.initial_noise(torch.Generator().manual_seed(0), 8, 8, 2).double().requires_grad_(True)
    t, direction = prior.timesteps(5)[2], torch.randn_like(x_t)

    def value(x: torch.Tensor) -> torch.Tensor:
        x0 = prior.predict(x, t, conditioning).x0
        return prior.decode(x0, slice(0, 2)).square().sum().double()

    (grad,) = torch.autograd.grad(value(x_t), x_t)
    with torch.no_grad():
        slope = (value(x_t + 1e-2 * direction) - value(x_t - 1e-2 * direction)) / 2e-2
    assert (grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-2)


@pytest.mark.parametrize("fill_holes", [True, False])
def test_restored_detail_is_what_the_autoencoder_loses_of_the_condition(fill_holes):
    prior = tiny_prior(restore_detail=True)
    prior.fill_holes, prior.frames_per_slice = fill_holes, 2
    frames, known = torch.rand(3, 16, 24, 3), torch.ones(3, 16, 24, 1)
    known[1:, :, 12:] = 0
    conditioning = prior.condition(frames, known, frames[0])
    shown, _ = condition_frames(frames, known, frames[0], fill=fill_holes)
    # Latents that are the condition's show the condition, whatever the autoencoder makes of them.
    torch.testing.assert_close(prior.decode(conditioning.z, slice(0, 3), conditioning), shown, atol=1e-5, rtol=0)
    assert (prior.decode(conditioning.z, slice(0, 3)) - shown).abs().mean() > 0.1
    # Others differ from it by what decoding makes of the difference, frame by frame.
    x = (conditioning.z + torch.randn_like(conditioning.z)).requires_grad_(True)
    expected = shown[1:] + prior.decode(x, slice(1, 3)) - prior.decode(conditioning.z, slice(1, 3))
    restored = prior.decode(x, slice(1, 3), conditioning)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(value.square().sum(), x)[0] for value in (restored, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_a_prior_that_restores_no_detail_decodes_the_same_with_its_condition():
    prior = tiny_prior()
    frames = torch.rand(3, 16, 24, 3)
    conditioning = prior.condition(frames, torch.ones(3, 16, 24, 1), frames[0])
    assert conditioning.lost is None
    decoded = [prior.decode(conditioning.z, slice(0, 3), given) for given in (None, conditioning)]
    assert torch.equal(*decoded)


def test_saved_prior_loads_again_and_leaves_nothing_behind(tmp_path):
    prior, folder = tiny_prior(eta=0.5, restore_detail=True), tmp_path / "prior"
    for _ in range(2):
        prior.save_pretrained(folder, max_shard_size="200KB")
    assert [path.name for path in tmp_path.iterdir()] == ["prior"]
    loaded = load_prior(folder, "cpu")
    assert isinstance(loaded, ViewCrafterPrior)
    assert loaded.settings == prior.settings and loaded.known_mask_channel and not loaded.sample_posterior
    assert not loaded.fill_holes and not loaded.residual
    assert (loaded.size_multiple, loaded.dtype, loaded.device.type) == (4, torch.float32, "cpu")
    frames = torch.rand(3, 16, 24, 3)
    results = []
    for one in (prior, loaded):
        conditioning = one.condition(frames, torch.ones(3, 16, 24, 1), frames[0])
        t = one.timesteps(3)[1]
        x_t = one.initial_noise(torch.Generator().manual_seed(0), 16, 24, 3)
        results.append(one.decode(one.predict(x_t, t, conditioning).x0, slice(0, 3), conditioning))
    assert torch.equal(*results)
    assert load_prior(folder, "cpu", torch.bfloat16).dtype == torch.bfloat16


def test_missing_and_foreign_priors_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no prior 'viewcraftr'.*bundled"):
        load_prior("viewcraftr", "cpu")
    with pytest.raises(FileNotFoundError, match="model_index.json"):
        load_prior(tmp_path, "cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ValueError, match="StableDiffusionPipeline"):
        load_prior(tmp_path, "cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ViewCrafterPrior"}))
    with pytest.raises(FileNotFoundError, match="no prior.json"):
        load_prior(tmp_path, "cpu")


def test_bad_inputs_are_named_with_their_shape():
    prior = tiny_prior()
    frames, known, photograph = torch.rand(3, 16, 24, 3), torch.ones(3, 16, 24, 1), torch.rand(16, 24, 3)
    with pytest.raises(ValueError, match=r"`frames`.*\(3, 16, 24, 4\)"):
        prior.condition(torch.rand(3, 16, 24, 4), known, photograph)
    with pytest.raises(ValueError, match=r"`known`.*\(3, 16, 24\)"):
        prior.condition(frames, known[..., 0], photograph)
    with pytest.raises(ValueError, match=r"`reference`.*\(1, 16, 24, 3\)"):
        prior.condition(frames, known, photograph[None])
    with pytest.raises(ValueError, match="width.*multiple of 4.*22"):
        prior.condition(frames[:, :, :22], known[:, :, :22], photograph)
    with pytest.raises(ValueError, match="height.*18"):
        prior.initial_noise(None, 18, 24, 3)
    with pytest.raises(ValueError, match="cfg_scale.*7.5"):
        tiny_prior(cfg_scale=7.5)
    with pytest.raises(ValueError, match="height.*17"):
        tiny_prior(height=17)
