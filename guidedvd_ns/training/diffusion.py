"""Second stage: the denoiser, a small ViewCrafter UNet that completes a guide's clip in the VAE's latent space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from guidedvd_ns.data.clips import ClipBatch
from guidedvd_ns.priors.viewcrafter.conditioning import (
    condition_velocity,
    encode_frames,
    known_share,
    network_input,
)
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet
from guidedvd_ns.pull_push import fill_holes
from guidedvd_ns.training.bank import ClipSource, bank_of_stage
from guidedvd_ns.training.gradients import GradientStep
from guidedvd_ns.training.loop import Ema, learning_rate_factor
from guidedvd_ns.training.processes import Processes


@dataclass(frozen=True)
class DiffusionConfig:
    """Network and training of the denoiser."""

    model_channels: int = 32
    """Width of the first convolution, a multiple of 32; time embeddings have four times as much."""
    channel_mult: tuple[int, ...] = (2, 3, 4)
    """Width of each level as a multiple of `model_channels`."""
    num_res_blocks: int = 1
    """Residual blocks of each level (one more on the way up)."""
    attention_resolutions: tuple[int, ...] = (2, 4)
    """Downsampling factors of the latents at which there are transformers; at 1 they triple the cost of a step."""
    num_head_channels: int = 32
    """Channels of one attention head."""
    batch_size: int = 16
    """Clips of one step, in each of the processes that train together."""
    learning_rate: float = 4e-4
    """AdamW's peak rate."""
    warmup_steps: int = 300
    """Steps over which the rate rises."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is what ships."""
    hole_weight: float = 2.0
    """The loss weighs a latent pixel by 1 + this times its unknown share."""
    noise_bias: float = 0.25
    """Time steps are 1000 u ** this, u uniform: below 1, noisier ones are drawn more often."""
    bank_clips: int = 4096
    """Encoded clips kept on the device (0.4 MB each at 16 x 96 x 128)."""
    start_clips: int = 256
    """Clips rendered before the first step."""
    refresh_every: int = 24
    """Steps between two batches of new clips, where the budget is steps."""
    refresh_share: float = 0.25
    """Share of the time in which clips are rendered, where the budget is minutes."""
    fill_holes: bool = True
    """Fill the condition's holes smoothly from around instead of leaving them black."""
    residual: bool = True
    """Predict what the condition lacks: training then starts from the filled condition, not from nothing."""
    cuda_graph: bool = True
    """On CUDA, replay each step's forward and backward pass as one graph, captured in the first step."""
    compile: Literal["off", "network"] = "off"
    """Compile the network with torch.compile, which takes two minutes on an H200."""


def build_unet(config: DiffusionConfig, latent_channels: int) -> ViewCrafterUNet:
    """An untrained network without context, with a channel for the known share."""
    return ViewCrafterUNet(
        in_channels=2 * latent_channels + 1,
        out_channels=latent_channels,
        model_channels=config.model_channels,
        channel_mult=config.channel_mult,
        num_res_blocks=config.num_res_blocks,
        attention_resolutions=config.attention_resolutions,
        num_head_channels=config.num_head_channels,
        context_dim=None,
        fs_conditioning=False,
        initial_attention=False,
    )


def build_scheduler(spacing_power: float = 1.0) -> ViewCrafterScheduler:
    """The family's schedule (v-prediction, zero terminal SNR), without dynamic rescaling of the latents."""
    return ViewCrafterScheduler(base_scale=None, spacing_power=spacing_power)


class DiffusionStage:
    """Trains the denoiser on the encoded clips of a bank.

    Args:
        config: Network and training.
        source: Clips.
        vae: The finished first stage, frozen; its latents have unit deviation.
        seed: Seed of weights and draws.
        reproducible: Whether clips come exactly every `refresh_every` steps, whatever they cost.
        initial_weights: State of an earlier network to start from.
        processes: Those that train together, each with batches of its own; by default this one alone.
    """

    name = "diffusion"

    def __init__(
        self,
        config: DiffusionConfig,
        source: ClipSource,
        vae: AutoencoderKL,
        seed: int,
        *,
        reproducible: bool = True,
        initial_weights: dict[str, Tensor] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self._processes = processes or Processes()
        device = vae.device
        self._vae = vae
        torch.manual_seed(seed + 1)
        self.unet = build_unet(config, vae.config["latent_channels"]).to(device=device)  # pyright: ignore[reportCallIssue]
        if initial_weights is not None:
            self.unet.load_state_dict(initial_weights)
        if config.compile == "network":
            self.unet.compile()
        self.ema = Ema(self.unet, config.ema_decay)
        self._alphas = build_scheduler().alphas_cumprod.to(device)
        self._generator = self._processes.generator(device, seed + 1)
        self._bank = bank_of_stage(source, self._encode, config, self._processes, reproducible=reproducible)
        self._parameters = list(self.unet.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=device.type == "cuda",
        )
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
        self._gradients = GradientStep(self._losses, self._parameters, use_graph=config.cuda_graph)

    def train_step(self, step: int, progress: float) -> dict[str, Tensor]:
        """See `loop.Stage`."""
        config = self.config
        self._bank.fill(config.start_clips)
        self._bank.refresh_when_due(step)
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, progress, config.warmup_steps)
        losses = self._gradients(self._noised(self._bank.draw(config.batch_size, self._generator)))
        self._processes.average_gradients(self._parameters)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        if torch.isfinite(norm):
            self._optimizer.step()
            self.ema.update(step)
        return losses | {"gradient_norm": norm}

    def _encode(self, clips: ClipBatch) -> dict[str, Tensor]:
        def latents(frames: Tensor) -> Tensor:  # [n, C, T, h, w]
            with self._autocast:
                flat = encode_frames(self._vae, frames.flatten(0, 1), sample_posterior=False, frames_per_batch=64)
            return flat.unflatten(0, frames.shape[:2]).transpose(1, 2)

        shown = fill_holes(clips.condition, clips.known) if self.config.fill_holes else clips.condition
        target, condition = latents(clips.target), latents(shown)
        share = known_share(clips.known, (target.shape[-2], target.shape[-1]))
        dtype = torch.bfloat16 if target.device.type == "cuda" else torch.float32
        return {"target": target.to(dtype), "condition": condition.to(dtype), "known": share.to(dtype)}

    def _noised(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        """Noisy latents of the clips and the velocity that is to be predicted from them."""
        target = clips["target"].float()
        timestep = self._draw_timesteps(len(target))
        noise = torch.randn(target.shape, generator=self._generator, device=target.device)
        alpha = self._alphas[timestep][:, None, None, None, None]
        return {
            "noisy": alpha.sqrt() * target + (1 - alpha).sqrt() * noise,
            "velocity": alpha.sqrt() * noise - (1 - alpha).sqrt() * target,
            "condition": clips["condition"].float(),
            "known": clips["known"].float(),
            "timestep": timestep,
        }

    def _losses(self, clips: dict[str, Tensor]) -> dict[str, Tensor]:
        condition, known = clips["condition"], clips["known"]
        with self._autocast:
            predicted = self.unet(network_input(clips["noisy"], condition, known), clips["timestep"]).float()
        if self.config.residual:
            alpha = self._alphas[clips["timestep"]][:, None, None, None, None]
            predicted = predicted + condition_velocity(condition, alpha)
        hole = 1 - known
        error = (predicted - clips["velocity"]).square().mean(dim=1, keepdim=True)
        loss = (error * (1 + self.config.hole_weight * hole)).mean()
        return {"loss": loss, "hole_error": (error * hole).sum().detach() / hole.sum().clamp(min=1)}

    def _draw_timesteps(self, count: int) -> Tensor:
        """One time step for each clip, spread evenly over the batch so that losses vary less."""
        device = self._generator.device
        offset = torch.rand(count, generator=self._generator, device=device)
        uniform = (torch.arange(count, device=device) + offset) / count
        return (1000 * uniform**self.config.noise_bias).long().clamp(max=999)

    @torch.no_grad()
    def preview(self) -> Tensor:  # [3, H, W]
        """Last frames of four clips: condition, one-step completion (the mean at pure noise), truth."""
        self._bank.fill(1)
        clips = self._bank.draw(4, torch.Generator(self._generator.device).manual_seed(0))
        noise_generator = torch.Generator(self._generator.device).manual_seed(0)
        target, condition = clips["target"].float(), clips["condition"].float()
        noise = torch.randn(target.shape, generator=noise_generator, device=target.device)
        timestep = torch.full((len(target),), 999, device=target.device)
        network = self.averaged_network()
        with self._autocast:
            mean = -network(network_input(noise, condition, clips["known"].float()), timestep).float()
        if self.config.residual:
            mean = mean + condition
        rows = []
        for latents in (condition, mean, target):
            decoded = self._vae.decode(latents[:, :, -1], return_dict=False)[0]  # pyright: ignore[reportArgumentType]
            rows.append(torch.cat(list((0.5 * decoded + 0.5).clamp(0, 1)), dim=2))
        return torch.cat(rows, dim=1).float().cpu()

    def averaged_network(self) -> ViewCrafterUNet:
        """A copy of the network with the averaged weights, ready for sampling."""
        network = build_unet(self.config, self._vae.config["latent_channels"]).to(device=self._vae.device)  # pyright: ignore[reportCallIssue]
        network.load_state_dict(self.ema.average)
        return network.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Stage`."""
        return {
            "network": self.unet.state_dict(),
            "average": self.ema.average,
            "optimizer": self._optimizer.state_dict(),
            **self.own_state(),
        }

    def own_state(self) -> dict[str, Any]:
        """See `loop.Stage`."""
        return {"generator": self._generator.get_state(), "bank": self._bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Stage`."""
        self.unet.load_state_dict(state["network"])
        self.ema.average = {name: value.to(self._vae.device) for name, value in state["average"].items()}
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        self._bank.load_state_dict(state["bank"])
