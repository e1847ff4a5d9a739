"""ViewCrafter's schedule against the original buffers, and the properties that its sampler relies on."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from tests.priors.recordings import at_collection, below, fixture_tensors, original_scheduler

TRAILING = "ddim/uniform_trailing/S"


def recorded_step_numbers() -> list[int]:
    names = below(fixture_tensors("schedules"), TRAILING)
    return sorted({int(name.partition("/")[0]) for name in names})


def test_buffers_match_the_original():
    """All but those of the ancestral sampler (`posterior_*`), which follow from the betas and are used by nobody."""
    recorded, scheduler = fixture_tensors("schedules"), original_scheduler()
    unscaled = ViewCrafterScheduler.from_config(scheduler.config, rescale_betas_zero_snr=False)
    alphas, betas = scheduler.alphas_cumprod, scheduler.betas
    ours = {
        "betas": betas,
        "betas_before_rescale": unscaled.betas,
        "alphas_cumprod": alphas,
        "alphas_cumprod_before_rescale": unscaled.alphas_cumprod,
        "alphas_cumprod_prev": torch.cat([torch.ones(1), alphas[:-1]]),
        "sqrt_alphas_cumprod": alphas.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas).sqrt(),
        "scale_arr": torch.from_numpy(scheduler.latent_scales),
    }
    for name, values in ours.items():
        assert (values - recorded[f"ddpm/{name}"][: len(values)]).abs().max() < 1e-6, name
    logarithm = recorded["ddpm/log_one_minus_alphas_cumprod"]
    torch.testing.assert_close((1 - alphas).log(), logarithm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num_steps", at_collection(recorded_step_numbers))
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_step_coefficients_match_the_original(num_steps, eta):
    recorded, scheduler = below(fixture_tensors("schedules"), f"{TRAILING}{num_steps}/"), original_scheduler()
    scheduler.set_timesteps(num_steps)
    timesteps = scheduler.timesteps.tolist()[::-1]
    assert timesteps == recorded["timesteps"].tolist()
    steps = [scheduler.coefficients(t, eta) for t in timesteps]
    ours = {
        "alphas": [step.alpha for step in steps],
        "alphas_prev": [step.alpha_prev for step in steps],
        f"sigmas_eta{eta}": [step.sigma for step in steps],
        "sqrt_one_minus_alphas": [math.sqrt(1 - step.alpha) for step in steps],
        "scale_arr": scheduler.latent_scales[timesteps].tolist(),
        "scale_arr_prev": [step.rescale * scheduler.latent_scales[t] for step, t in zip(steps, timesteps, strict=True)],
    }
    assert ours.keys() <= recorded.keys()
    for name, values in ours.items():
        assert (torch.tensor(values) - recorded[name]).abs().max() < 1e-6, name


def test_any_number_of_steps_is_trailing_and_finite():
    scheduler = ViewCrafterScheduler()
    for num_steps in (1, 2, 3, 7, 11, 16, 25, 33, 50, 999, 1000):
        scheduler.set_timesteps(num_steps)
        timesteps = scheduler.timesteps.tolist()
        assert timesteps == [round(k * 1000 / num_steps) - 1 for k in range(num_steps, 0, -1)]
        assert scheduler.previous_timestep(timesteps[-1]) == 0
        first = scheduler.coefficients(timesteps[0], eta=1.0)
        assert first.alpha == 0 and first.direction < 1e-7
        assert all(math.isfinite(scheduler.coefficients(t, 1.0).direction) for t in timesteps)


def test_without_rescaling_it_is_the_diffusers_scheduler():
    ours = ViewCrafterScheduler(base_scale=None)
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    x, v, noise = torch.randn(3, 2, 4)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    # The last step is left out: diffusers ends at the nearest step below 0, the original at time step 0.
    for t in ours.timesteps.tolist()[1:-1]:
        expected = theirs.step(v, t, x, eta=0.7, variance_noise=noise)
        result = ours.step(v, t, x, eta=0.7, variance_noise=noise)
        torch.testing.assert_close(result.prev_sample, expected.prev_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result.pred_original_sample, expected.pred_original_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base_scale", [None, 0.3])
def test_exact_predictions_lead_back_to_the_clean_sample(base_scale):
    scheduler = ViewCrafterScheduler(base_scale=base_scale)
    clean, noise = torch.randn(2, 3, 5)
    x = noise
    scheduler.set_timesteps(30)
    for t in scheduler.timesteps.tolist():
        alpha = scheduler.alphas_cumprod[t].item()
        scaled = scheduler.latent_scales[t] * clean
        torch.testing.assert_close(x, math.sqrt(alpha) * scaled + math.sqrt(1 - alpha) * noise, rtol=1e-4, atol=1e-4)
        x = scheduler.step(math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * scaled, t, x).prev_sample
    alpha = scheduler.alphas_cumprod[0].item()
    torch.testing.assert_close(x, math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise, rtol=1e-4, atol=1e-4)


def test_noise_keeps_the_variance_and_renoising_restores_it():
    scheduler = ViewCrafterScheduler(base_scale=None)
    scheduler.set_timesteps(12)
    for t in scheduler.timesteps.tolist():
        step = scheduler.coefficients(t, eta=1.0)
        assert step.direction**2 + step.sigma**2 == pytest.approx(1 - step.alpha_prev, abs=1e-9)
        # sqrt(kept) carries alpha_prev back to alpha, so signal and noise have the variances of t again.
        signal = scheduler.renoise(torch.tensor(math.sqrt(step.alpha_prev)), t, torch.tensor(0.0))
        assert signal.item() == pytest.approx(math.sqrt(step.alpha), abs=1e-6)


def test_same_generator_same_step():
    scheduler = ViewCrafterScheduler()
    scheduler.set_timesteps(5)
    x, v = torch.randn(2, 4)
    steps = [
        scheduler.step(v, 599, x, eta=1.0, generator=torch.Generator().manual_seed(seed)).prev_sample
        for seed in (1, 1, 2)
    ]
    assert torch.equal(steps[0], steps[1]) and not torch.equal(steps[0], steps[2])


def test_saved_scheduler_loads_again(tmp_path):
    ViewCrafterScheduler(base_scale=None, beta_end=0.02).save_pretrained(tmp_path)
    loaded = ViewCrafterScheduler.from_pretrained(tmp_path)
    assert loaded.config["base_scale"] is None and loaded.config["beta_end"] == 0.02
    assert loaded.config["prediction_type"] == "v_prediction" and not loaded.config["clip_sample"]


def test_bad_step_numbers_and_time_steps_are_named():
    scheduler = ViewCrafterScheduler()
    for bad in (0, 1001):
        with pytest.raises(ValueError, match=f"num_inference_steps.*{bad}"):
            scheduler.set_timesteps(bad)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep.*98"):
        scheduler.previous_timestep(98)


def test_spacing_power_draws_steps_towards_little_noise():
    scheduler = ViewCrafterScheduler(base_scale=None, spacing_power=5.0)
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == [999, 30]
    with pytest.raises(ValueError, match="coincide"):
        scheduler.set_timesteps(50)
