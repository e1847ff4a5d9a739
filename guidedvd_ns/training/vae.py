"""First stage: a small image VAE with a stride of four, whose latents have zero mean and unit deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from guidedvd_ns.data.clips import ClipBatch
from guidedvd_ns.priors.viewcrafter.conditioning import encode_frames
from guidedvd_ns.training.bank import ClipSource, bank_of_stage
from guidedvd_ns.training.gradients import GradientStep
from guidedvd_ns.training.loop import learning_rate_factor
from guidedvd_ns.training.processes import Processes

INITIAL_LOG_VARIANCE = -6.0


@dataclass(frozen=True)
class VaeConfig:
    """Network and training of the VAE."""

    block_out_channels: tuple[int, ...] = (32, 64, 96)
    """Width of each level; a level more halves the latents' resolution."""
    layers_per_block: int = 1
    """Residual blocks of each level (one more in the decoder)."""
    latent_channels: int = 8
    """Channels of the latents."""
    norm_groups: int = 16
    """Groups of the group normalisation; divides every width."""
    batch_size: int = 64
    """Frames of one step, in each of the processes that train together."""
    learning_rate: float = 6e-4
    """AdamW's peak rate."""
    warmup_steps: int = 200
    """Steps over which the rate rises."""
    gradient_weight: float = 0.5
    """Weight of the differences between neighbouring pixels, which keep edges sharp, at two scales."""
    perceptual_weight: float = 0.0
    """Weight of ST-LPIPS (AlexNet), which sharpens and doubles a step's cost; left out where it cannot be loaded."""
    kl_weight: float = 1e-4
    """Weight of the Kullback-Leibler term, a mean over latent numbers."""
    bank_clips: int = 1024
    """Clips kept to draw frames from."""
    start_clips: int = 96
    """Clips rendered before the first step."""
    refresh_every: int = 12
    """Steps between two batches of new clips, where the budget is steps."""
    refresh_share: float = 0.25
    """Share of the time in which clips are rendered, where the budget is minutes."""
    cuda_graph: bool = True
    """On CUDA, replay each step's forward and backward pass as one graph, captured in the first step."""


def build_vae(config: VaeConfig, size: tuple[int, int]) -> AutoencoderKL:
    """An untrained VAE for frames of `size` (height, width)."""
    levels = len(config.block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        block_out_channels=config.block_out_channels,  # pyright: ignore[reportArgumentType]
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        sample_size=max(size),
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )
    # Latents start almost free of noise; otherwise the first thousand steps only learn to drown it.
    _, log_variance = vae.quant_conv.bias.data.chunk(2)  # pyright: ignore[reportOptionalMemberAccess]
    log_variance.fill_(INITIAL_LOG_VARIANCE)
    return vae


class VaeStage:
    """Trains a VAE on true frames and, a third of the time, on frames as a guide renders them.

    Args:
        config: Network and training.
        source: Clips.
        size: Height and width of the frames.
        device: Where to train.
        seed: Seed of weights and draws.
        reproducible: Whether clips come exactly every `refresh_every` steps, whatever they cost.
        initial_weights: State of an earlier VAE to start from.
        processes: Those that train together, each with batches of its own; by default this one alone.
    """

    name = "vae"

    def __init__(
        self,
        config: VaeConfig,
        source: ClipSource,
        size: tuple[int, int],
        device: torch.device,
        *,
        seed: int,
        reproducible: bool = True,
        initial_weights: dict[str, Tensor] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self._processes = processes or Processes()
        torch.manual_seed(seed)
        self.vae = build_vae(config, size).to(device=device)  # pyright: ignore[reportCallIssue]
        if initial_weights is not None:
            self.vae.load_state_dict(initial_weights)
        self._generator = self._processes.generator(device, seed)
        self._bank = bank_of_stage(source, _as_bytes, config, self._processes, reproducible=reproducible)
        self._optimizer = torch.optim.AdamW(
            self.vae.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self._perceptual = _perceptual(device) if config.perceptual_weight else None
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
        if device.type == "cuda":
            self.vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._gradients = GradientStep(self._losses, self.vae.parameters(), use_graph=config.cuda_graph)

    def train_step(self, step: int, progress: float) -> dict[str, Tensor]:
        """See `loop.Stage`."""
        self._bank.fill(self.config.start_clips)
        self._bank.refresh_when_due(step)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * learning_rate_factor(step, progress, self.config.warmup_steps)
        losses = self._gradients(self._draw_frames())
        self._processes.average_gradients(self.vae.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        if torch.isfinite(norm):
            self._optimizer.step()
        return losses

    def _draw_frames(self) -> dict[str, Tensor]:
        """Frames [N, H, W, 3] in [0, 1] and the noise of their latents."""
        config, device = self.config, self._generator.device
        clips = self._bank.draw(config.batch_size, self._generator)
        rows = torch.arange(config.batch_size, device=device)
        num_frames = clips["target"].shape[1]
        columns = torch.randint(num_frames, (config.batch_size,), generator=self._generator, device=device)
        as_guide = torch.rand(config.batch_size, generator=self._generator, device=device) < 1 / 3
        frames = torch.where(
            as_guide[:, None, None, None], clips["condition"][rows, columns], clips["target"][rows, columns]
        )
        stride = 2 ** (len(config.block_out_channels) - 1)
        latents = (config.batch_size, config.latent_channels, frames.shape[1] // stride, frames.shape[2] // stride)
        return {
            "frames": frames.float() / 255,
            "noise": torch.randn(latents, generator=self._generator, device=device),
        }

    def _losses(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        config, frames = self.config, inputs["frames"]
        images = (2 * frames - 1).permute(0, 3, 1, 2)
        with self._autocast:
            posterior = self.vae.encode(images, return_dict=False)[0]
            latents = posterior.mean + posterior.std * inputs["noise"]  # pyright: ignore[reportAttributeAccessIssue]
            decoded = self.vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        decoded = decoded.float()
        l1 = F.l1_loss(decoded, images)
        gradient = _gradient_difference(decoded, images)
        gradient = gradient + _gradient_difference(F.avg_pool2d(decoded, 2), F.avg_pool2d(images, 2))
        kl = posterior.kl().float().mean() / latents[0].numel()  # pyright: ignore[reportAttributeAccessIssue]
        losses = {"l1": l1, "gradient": gradient, "kl": kl}
        loss = l1 + config.gradient_weight * gradient + config.kl_weight * kl
        if self._perceptual is not None:
            losses["perceptual"] = self._perceptual((0.5 * decoded + 0.5).permute(0, 2, 3, 1), frames)
            loss = loss + config.perceptual_weight * losses["perceptual"]
        mse = F.mse_loss(decoded.detach() / 2, images / 2)
        return {"loss": loss, "psnr": -10 * torch.log10(mse), **losses}

    @torch.no_grad()
    def preview(self) -> Tensor:  # [3, H, W]
        """True frames above reconstructed ones."""
        self.vae.eval()
        self._bank.fill(1)
        clips = self._bank.draw(8, torch.Generator(self._generator.device).manual_seed(0))
        frames = clips["target"][:, -1].float() / 255
        latents = encode_frames(self.vae, frames, sample_posterior=False)
        decoded = self.vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        decoded = (0.5 * decoded + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        self.vae.train()
        rows = [torch.cat(list(images), dim=1) for images in (frames, decoded)]
        return torch.cat(rows, dim=0).permute(2, 0, 1).float().cpu()

    @torch.no_grad()
    def finished(self, clips: int = 64) -> AutoencoderKL:
        """The trained VAE with its latents' mean and deviation, measured on `clips` clips, folded into its weights.

        Processes that train together all have to call this: the main one's measurement counts for all.
        """
        self.vae.eval()
        self._bank.fill(1)
        drawn = self._bank.draw(clips, torch.Generator(self._generator.device).manual_seed(1))
        frames = drawn["target"][:, :: max(1, drawn["target"].shape[1] // 4)].flatten(0, 1).float() / 255
        latents = encode_frames(self.vae, frames, sample_posterior=False)
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        CONSOLE.log(f"VAE latents: deviation {deviation.min():.3f} to {deviation.max():.3f}, folded into the weights.")
        normalise_latents(self.vae, mean, deviation)
        self._processes.share_weights(self.vae.parameters())
        return self.vae.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """See `loop.Stage`."""
        return {
            "network": self.vae.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            **self.own_state(),
        }

    def own_state(self) -> dict[str, Any]:
        """See `loop.Stage`."""
        return {"generator": self._generator.get_state(), "bank": self._bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `loop.Stage`."""
        self.vae.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"].cpu())
        self._bank.load_state_dict(state["bank"])


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, mean: Tensor, deviation: Tensor) -> None:
    """Change the last encoder and the first decoder layer so that latents lose `mean` and are divided by `deviation`.

    Args:
        vae: Changed in place; decoded images stay the same.
        mean: [latent channels] mean of the present latents.
        deviation: [latent channels] standard deviation of the present latents.
    """
    channels = len(mean)
    quant, post_quant = vae.quant_conv, vae.post_quant_conv
    assert quant is not None and quant.bias is not None and post_quant is not None and post_quant.bias is not None
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    post_quant.bias += post_quant.weight[:, :, 0, 0] @ mean
    post_quant.weight *= deviation[None, :, None, None]


def _as_bytes(clips: ClipBatch) -> dict[str, Tensor]:
    frames = {"target": clips.target, "condition": clips.condition}
    return {name: (255 * value).round().to(torch.uint8) for name, value in frames.items()}


def _gradient_difference(images: Tensor, targets: Tensor) -> Tensor:
    difference = images - targets
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


def _perceptual(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    from guidedvd_ns.losses import WeightsUnavailableError, perceptual_distance

    try:
        return perceptual_distance("st-lpips-alex", device)
    except (ImportError, OSError, WeightsUnavailableError) as error:
        CONSOLE.log(f"[yellow]The VAE trains without a perceptual loss: {error}")
        return None
