"""ViewCrafter's noise schedule and DDIM update: diffusers' `DDIMScheduler` plus the four things that it lacks.

They are dynamic rescaling of the latents, the right previous time step for any number of steps, a schedule that is
rounded to float32 once, and a radicand that cannot turn negative by rounding (which would make the first step of a
zero-SNR schedule NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, DDIMSchedulerOutput, rescale_zero_terminal_snr
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


@dataclass(frozen=True)
class StepCoefficients:
    """The numbers of one DDIM update from time step t to the previous one (Song et al. 2021, equations 12 and 16)."""

    alpha: float
    """Cumulative product of 1 - beta at t (0 at the noisiest step)."""
    alpha_prev: float
    """The same at the previous time step."""
    sigma: float
    """Standard deviation of the noise that the update adds."""
    direction: float
    """Factor of the predicted noise, sqrt(1 - alpha_prev - sigma^2)."""
    rescale: float
    """Ratio s(previous) / s(t) of the latent scales; 1 without dynamic rescaling."""


class ViewCrafterScheduler(DDIMScheduler):
    """DDIM with v-prediction, zero terminal SNR and trailing time steps; its last step ends at time step 0.

    Training noised s(t) * x0 with s falling linearly from 1 to `base_scale` over the first `turning_step` steps, so a
    prediction at t estimates s(t) * x0, and the update multiplies it by s(previous) / s(t). `base_scale=None` means
    s = 1 everywhere. The k-th of S steps lies at (k / S) ** `spacing_power` of the time steps: above 1, a run goes from
    the noisiest step more quickly to little noise.
    """

    @register_to_config
    def __init__(
        self,
        *,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        clip_sample: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: str = "v_prediction",
        timestep_spacing: str = "trailing",
        rescale_betas_zero_snr: bool = True,
        base_scale: float | None = 0.3,
        turning_step: int = 400,
        spacing_power: float = 1.0,
    ):
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            clip_sample=clip_sample,
            set_alpha_to_one=set_alpha_to_one,
            prediction_type=prediction_type,  # pyright: ignore[reportArgumentType]
            timestep_spacing=timestep_spacing,  # pyright: ignore[reportArgumentType]
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        if beta_schedule == "scaled_linear":
            # In float32 throughout, as diffusers computes it, the betas of the last steps are off by 7e-6.
            roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64)
            betas = rescale_zero_terminal_snr(roots.square()) if rescale_betas_zero_snr else roots.square()
            self.betas, self.alphas = betas.float(), (1 - betas).float()
            self.alphas_cumprod = (1 - betas).cumprod(0).float()
        self.latent_scales = np.ones(num_train_timesteps)
        if base_scale is not None:
            self.latent_scales[:] = base_scale
            self.latent_scales[:turning_step] = np.linspace(1.0, base_scale, turning_step)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Spread the steps so that the noisiest is the last of training, whatever their number.

        Raises:
            ValueError: unless there are between 1 and `num_train_timesteps` steps.
        """
        train_steps = self.config["num_train_timesteps"]
        if not 1 <= num_inference_steps <= train_steps:
            raise ValueError(
                f"`num_inference_steps` must lie between 1 and {train_steps} but is {num_inference_steps}."
            )
        self.num_inference_steps = num_inference_steps
        shares = (np.arange(num_inference_steps, 0, -1) / num_inference_steps) ** self.config["spacing_power"]
        timesteps = np.maximum(np.round(shares * train_steps) - 1, 0)
        if len(np.unique(timesteps)) < num_inference_steps:
            raise ValueError(
                f"{num_inference_steps} steps with `spacing_power`={self.config['spacing_power']} coincide: "
                "take fewer steps or a smaller power."
            )
        self.timesteps = torch.from_numpy(timesteps.astype(np.int64)).to(device)

    def previous_timestep(self, timestep: int) -> int:
        """The time step that the update from `timestep` ends at: the next one sampled, time step 0 after the last.

        Raises:
            ValueError: if `timestep` is none of those that `set_timesteps` chose.
        """
        timesteps = self.timesteps.tolist()
        if timestep not in timesteps:
            raise ValueError(f"`timestep`={timestep} is none of the {len(timesteps)} sampled ones; call set_timesteps.")
        return [*timesteps[1:], 0][timesteps.index(timestep)]

    def coefficients(self, timestep: int, eta: float) -> StepCoefficients:
        """The numbers of the update at `timestep`, with `eta` 0 for DDIM and 1 for ancestral noise."""
        previous = self.previous_timestep(timestep)
        alpha, alpha_prev = self.alphas_cumprod[timestep].item(), self.alphas_cumprod[previous].item()
        sigma = eta * math.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
        return StepCoefficients(
            alpha=alpha,
            alpha_prev=alpha_prev,
            sigma=sigma,
            direction=math.sqrt(max(1 - alpha_prev - sigma**2, 0.0)),
            rescale=float(self.latent_scales[previous] / self.latent_scales[timestep]),
        )

    def clean_and_noise(
        self,
        v: Tensor,  # the network's output at `timestep`
        timestep: int,
        sample: Tensor,  # same shape
    ) -> tuple[Tensor, Tensor]:
        """What v says about the sample: its clean part at the scale of the previous time step, and its noise."""
        numbers = self.coefficients(timestep, eta=0.0)
        kept, lost = math.sqrt(numbers.alpha), math.sqrt(1 - numbers.alpha)
        return numbers.rescale * (kept * sample - lost * v), kept * v + lost * sample

    def update(
        self,
        clean: Tensor,  # at the scale of the previous time step
        noise: Tensor,
        timestep: int,
        *,
        eta: float = 0.0,
        variance_noise: Tensor | None = None,  # standard normal, needed where eta > 0
    ) -> Tensor:
        """The sample at the previous time step, from the clean part and the noise of the one at `timestep`."""
        numbers = self.coefficients(timestep, eta)
        previous = math.sqrt(numbers.alpha_prev) * clean + numbers.direction * noise
        return previous if variance_noise is None else previous + numbers.sigma * variance_noise

    def renoise(
        self,
        previous: Tensor,
        timestep: int,
        noise: Tensor,  # standard normal
    ) -> Tensor:
        """Go back from the previous time step to `timestep`, to repeat the update ("time travel")."""
        numbers = self.coefficients(timestep, eta=0.0)
        kept = numbers.alpha / numbers.alpha_prev
        return math.sqrt(kept) * previous + math.sqrt(1 - kept) * noise

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        eta: float = 0.0,
        *,
        generator: torch.Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple:
        """`DDIMScheduler.step` for v-predictions, without its clipping options."""
        clean, noise = self.clean_and_noise(model_output, timestep, sample)
        if eta > 0 and variance_noise is None:
            variance_noise = randn_tensor(
                tuple(sample.shape), generator=generator, device=sample.device, dtype=sample.dtype
            )
        previous = self.update(clean, noise, timestep, eta=eta, variance_noise=variance_noise)
        if not return_dict:
            return previous, clean
        return DDIMSchedulerOutput(prev_sample=previous, pred_original_sample=clean)
