"""`ViewCrafterPrior`: a ViewCrafter-family network, its autoencoder and schedule, as a `VideoPrior`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.utils.import_utils import is_accelerate_available
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from guidedvd_ns.priors.base import Memory, Prediction, SamplerOverrides, SamplerSettings, VideoPrior, frame_slices, rms
from guidedvd_ns.priors.viewcrafter.blocks import Checkpointed, TransformerBlock
from guidedvd_ns.priors.viewcrafter.capture import CapturedNetwork
from guidedvd_ns.priors.viewcrafter.conditioning import (
    Conditioning,
    condition_frames,
    condition_velocity,
    encode_frames,
    known_share,
    network_input,
)
from guidedvd_ns.priors.viewcrafter.context import CONTEXT_COMPONENTS, TOKENIZED_PROMPTS, ContextEncoder
from guidedvd_ns.priors.viewcrafter.decoder import decode
from guidedvd_ns.priors.viewcrafter.folder import COMPONENTS, check_complete, write_description
from guidedvd_ns.priors.viewcrafter.fused import use_channels_last
from guidedvd_ns.priors.viewcrafter.scheduler import ViewCrafterScheduler
from guidedvd_ns.priors.viewcrafter.unet import ViewCrafterUNet

EncodeContext = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Photograph [H, W, 3] in [0, 1] -> conditional and unconditional context, [1, tokens, D] each."""

RECOMPUTE_ABOVE = 24 * 2**20
"""Bytes of a layer's video above which its cheap parts are computed again in the backward pass."""
WIDE = 128
"""Channels at full resolution from which a network computes channels last on CUDA, by the kernels for that."""
FRAMES_PER_SLICE = 7
"""Frames that a wide network decodes together: four slices of 25 frames, within 24 GiB at 320x448."""


class ViewCrafterPrior(VideoPrior):
    """Latent video diffusion conditioned on the frames that a guide rendered; use it like a diffusers pipeline.

    Args:
        unet: the denoiser.
        vae: encodes and decodes single frames; `scaling_factor` of its configuration scales the latents.
        scheduler: noise schedule and DDIM update.
        settings: how the prior wants to be sampled.
        known_mask_channel: whether the network has a last input channel with the known share of each latent pixel.
        sample_posterior: whether condition frames are encoded to a sample of the posterior instead of its mode.
        fill_holes: whether holes of the condition frames are filled smoothly from around instead of left black.
        residual: whether the network predicts what its condition lacks: its output is added to the velocity of a clean
            latent that equals the condition (`condition_velocity`).
        context_encoder: makes the tokens of a network with cross attention, usually a `ContextEncoder`.

    Raises:
        ValueError: where components do not fit together.
    """

    capture: bool = False
    """Replay the denoiser as CUDA graphs in the default memory setting; they hold their memory between the steps."""

    def __init__(
        self,
        unet: ViewCrafterUNet,
        vae: AutoencoderKL,
        scheduler: ViewCrafterScheduler,
        settings: SamplerSettings,
        *,
        known_mask_channel: bool,
        sample_posterior: bool,
        fill_holes: bool = False,
        residual: bool = False,
        context_encoder: EncodeContext | None = None,
    ):
        self.unet = unet.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.settings = settings
        self.known_mask_channel = known_mask_channel
        self.sample_posterior = sample_posterior
        self.fill_holes = fill_holes
        self.residual = residual
        self.context_encoder = context_encoder
        self.wide = unet.device.type == "cuda" and unet.config["model_channels"] >= WIDE
        if self.wide:
            use_channels_last(unet)
            if vae.config["block_out_channels"][0] >= WIDE:
                use_channels_last(vae)
        self.captured: CapturedNetwork | None = None
        self.set_memory("default")
        self.latent_channels: int = vae.config["latent_channels"]
        self.latent_stride = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.size_multiple = self.latent_stride * 2 ** (len(unet.config["channel_mult"]) - 1)
        self._check_components()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> ViewCrafterPrior:
        """Load a prior from a folder in diffusers' layout; without `dtype` in bfloat16 on CUDA, else in float32.

        Raises:
            FileNotFoundError: where the folder lacks a part.
            ValueError: where its parts do not fit together.
        """
        folder, device = Path(folder), torch.device(device)
        check_complete(folder, ["prior.json", *COMPONENTS])
        has_context = cast(dict, ViewCrafterUNet.load_config(folder / "unet"))["context_dim"] is not None
        check_complete(folder, CONTEXT_COMPONENTS if has_context else ())
        if dtype is None:
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        options = {"torch_dtype": dtype, "low_cpu_mem_usage": is_accelerate_available()}
        description = json.loads((folder / "prior.json").read_text())
        prompts = description.pop("tokenized_prompts", TOKENIZED_PROMPTS)
        context_encoder = None
        if has_context:
            context_encoder = ContextEncoder.from_pretrained(folder, device, dtype, tokenized_prompts=prompts)
        unet = ViewCrafterUNet.from_pretrained(folder / "unet", **options)
        vae = AutoencoderKL.from_pretrained(folder / "vae", **options)
        return cls(
            unet.to(device),  # pyright: ignore[reportArgumentType]
            vae.to(device),  # pyright: ignore[reportArgumentType]
            cast(ViewCrafterScheduler, ViewCrafterScheduler.from_pretrained(folder / "scheduler")),
            SamplerSettings(**description.pop("settings")),
            context_encoder=context_encoder,
            **description,
        )

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Write the prior in diffusers' layout, in the precision of its weights; what was in the folder is replaced.

        Raises:
            ValueError: where the context comes from something else than a `ContextEncoder`, which cannot be saved.
        """
        if self.context_encoder is not None and not isinstance(self.context_encoder, ContextEncoder):
            raise ValueError(f"A {type(self.context_encoder).__name__} cannot be saved; give a `ContextEncoder`.")
        folder = Path(folder)
        fresh, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        self.unet.save_pretrained(fresh / "unet", max_shard_size=max_shard_size)
        self.vae.save_pretrained(fresh / "vae", max_shard_size=max_shard_size)
        self.scheduler.save_pretrained(fresh / "scheduler")
        options: dict[str, Any] = {
            "known_mask_channel": self.known_mask_channel,
            "sample_posterior": self.sample_posterior,
            "fill_holes": self.fill_holes,
            "residual": self.residual,
        }
        components = COMPONENTS
        if self.context_encoder is not None:
            self.context_encoder.save_pretrained(fresh, max_shard_size=max_shard_size)
            components = COMPONENTS | CONTEXT_COMPONENTS
            options["tokenized_prompts"] = self.context_encoder.tokenized_prompts
        write_description(fresh, self.settings, components, **options)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def check_inputs(self, frames: Tensor, known: Tensor, reference: Tensor) -> None:
        """Name the argument of `condition` that does not fit, and what it is.

        Raises:
            ValueError: on a wrong shape, or on a size that the network cannot halve often enough.
        """
        for name, image, expected in (("frames", frames, "[L, H, W, 3]"), ("reference", reference, "[H, W, 3]")):
            if image.dim() != expected.count(",") + 1 or image.shape[-1] != 3:
                raise ValueError(f"`{name}` must be {expected} but has shape {tuple(image.shape)}.")
        if known.shape != (*frames.shape[:-1], 1):
            raise ValueError(
                f"`known` must have the shape of `frames` with one channel, {(*frames.shape[:-1], 1)}, but has shape"
                f" {tuple(known.shape)}."
            )
        self._check_size(*frames.shape[1:3])

    @torch.no_grad()
    def condition(
        self,
        frames: Tensor,  # [L, H, W, 3] in [0, 1], H and W multiples of `size_multiple`
        known: Tensor,  # [L, H, W, 1] bool, or float in [0, 1]
        reference: Tensor,  # [H', W', 3] in [0, 1]
        generator: torch.Generator | None = None,
    ) -> Conditioning:
        """Encode the frames with black holes and the photograph as frame 0 (viewcrafter-architecture.md, section 2).

        Raises:
            ValueError: see `check_inputs`.
        """
        self.check_inputs(frames, known, reference)
        frames, known, reference = (tensor.to(self.device) for tensor in (frames, known, reference))
        frames, known = condition_frames(frames, known, reference, fill=self.fill_holes)
        encoded = encode_frames(self.vae, frames, sample_posterior=self.sample_posterior, generator=generator)
        z = encoded.transpose(0, 1)[None]
        context, unconditional_context = self.context_encoder(frames[0]) if self.context_encoder else (None, None)
        return Conditioning(
            z=z,
            known=known_share(known[None], (z.shape[-2], z.shape[-1])) if self.known_mask_channel else None,
            context=context,
            unconditional_context=unconditional_context if self.settings.cfg_scale != 1 else None,
            lost=self._lost(frames, z) if self.settings.restore_detail else None,
        )

    def _lost(
        self,
        frames: Tensor,  # [L, H, W, 3] in [0, 1]
        z: Tensor,  # [1, C, L, h, w] their latents
    ) -> Tensor:  # [L, H, W, 3]
        """What the autoencoder does not bring back of the frames."""
        slices = frame_slices(len(frames), self.frames_per_slice)
        return torch.cat([frames[part] - self.decode(z, part) for part in slices])

    def timesteps(self, num_steps: int) -> list[int]:
        """The time steps of a run, noisiest first; raises ValueError unless there is at least one."""
        self.scheduler.set_timesteps(num_steps)
        return self.scheduler.timesteps.tolist()

    def initial_noise(self, generator: torch.Generator | None, height: int, width: int, num_frames: int) -> Tensor:
        """[1, C, L, h, w] standard normal; raises ValueError on a size that the network cannot halve often enough."""
        self._check_size(height, width)
        latent_size = (height // self.latent_stride, width // self.latent_stride)
        return self._noise((1, self.latent_channels, num_frames, *latent_size), generator)

    def predict(
        self,
        x_t: Tensor,  # [1, C, L, h, w]
        t: int,
        conditioning: Conditioning,
    ) -> Prediction:
        """The clean latent at the scale of the previous time step, and the noise.

        Without classifier-free guidance there is no difference of two outputs to measure a guidance step against;
        `guidance_length` is then the rms length of the noiseless sampler update from x_t, which costs nothing.
        """
        v, gap = self._velocity(x_t, t, conditioning)
        clean, noise = self.scheduler.clean_and_noise(v, t, x_t)
        if gap is None:
            with torch.no_grad():
                guidance_length = rms(self.scheduler.update(clean, noise, t) - x_t)
        else:
            guidance_length = self.settings.cfg_scale * rms(gap.detach())
        scale = float(self.scheduler.latent_scales[self.scheduler.previous_timestep(t)])
        return Prediction(x0=clean, direction=noise, guidance_length=guidance_length, scale=scale)

    def _velocity(self, x_t: Tensor, t: int, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        """The network's v-prediction, and conditional minus unconditional output where there are both."""
        inputs = network_input(x_t, conditioning.z, conditioning.known).to(self.dtype)
        contexts = [conditioning.context, conditioning.unconditional_context]
        contexts = [context.to(self.dtype) for context in contexts if context is not None]
        passes = max(len(contexts), 1)
        timestep = torch.full((1,), t, device=self.device)
        if passes > 1 and self.memory == "low":
            v = torch.cat([self.unet(inputs, timestep, context) for context in contexts]).float()
        else:
            context = torch.cat(contexts) if contexts else None
            v = self._denoise(inputs.expand(passes, -1, -1, -1, -1), timestep, context).float()
        if self.residual:
            v = v + condition_velocity(conditioning.z, self.scheduler.alphas_cumprod[t].to(v))
        if passes == 1:
            return v, None
        v_conditional, v_unconditional = v.chunk(2)
        gap = v_conditional - v_unconditional
        v = v_unconditional + self.settings.cfg_scale * gap
        phi = self.settings.guidance_rescale
        return phi * v * (v_conditional.std() / v.std()) + (1 - phi) * v, gap

    def _denoise(self, inputs: Tensor, timestep: Tensor, context: Tensor | None) -> Tensor:
        """The network's output, replayed where that is asked for."""
        if not (self.capture and self.device.type == "cuda" and self.memory == "default"):
            return self.unet(inputs, timestep, context)
        others = (timestep,) if context is None else (timestep, context)
        if self.captured is None or not self.captured.fits(inputs, *others):
            self.captured = None
            self.captured = CapturedNetwork(self.unet, inputs, *others)
        return self.captured(inputs, *others)

    @torch.no_grad()
    def step(
        self,
        x_t: Tensor,  # [1, C, L, h, w]
        t: int,
        prediction: Prediction,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # [1, C, L, h, w]
        """The DDIM update with the settings' eta."""
        eta = self.settings.eta
        noise = self._noise(x_t.shape, generator) if eta > 0 else None
        return self.scheduler.update(prediction.x0, prediction.direction, t, eta=eta, variance_noise=noise)

    @torch.no_grad()
    def renoise(
        self,
        x_prev: Tensor,  # [1, C, L, h, w]
        t: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # [1, C, L, h, w]
        """Noise the result of `step` up to time step t again."""
        return self.scheduler.renoise(x_prev, t, self._noise(x_prev.shape, generator))

    def decode(
        self,
        latents: Tensor,  # [1, C, L, h, w]
        frame_slice: slice,
        conditioning: Conditioning | None = None,
    ) -> Tensor:  # [l, H, W, 3] float32
        """Decode the frames of the slice together, each by itself as far as the result goes.

        With a `conditioning` that was made under `restore_detail`, the condition's own detail is added.
        """
        frames = latents[0, :, frame_slice].transpose(0, 1) / self.vae.config["scaling_factor"]
        decoded = (decode(self.vae, frames.to(self.vae.dtype)).float().movedim(1, -1) + 1) / 2
        if conditioning is None or conditioning.lost is None:
            return decoded
        return decoded + conditioning.lost[frame_slice]

    @torch.no_grad()
    def encode(
        self,
        frames: Tensor,  # [L, H, W, 3] in [0, 1]
    ) -> Tensor:  # [1, C, L, h, w]
        """The mode of the posterior of each frame."""
        return encode_frames(self.vae, frames.to(self.device), sample_posterior=False).transpose(0, 1)[None]

    def override(self, overrides: SamplerOverrides) -> None:
        """Take over the settings that a user set; raises ValueError where the network cannot follow them."""
        super().override(overrides)
        self._check_components()

    def set_memory(self, memory: Memory) -> None:
        """Choose how much of a guided step is kept for its backward pass, and how much computed again.

        `default` recomputes what is cheap to recompute of large videos; `low` recomputes every block, takes the passes
        of classifier-free guidance one after the other, decodes frames one by one and keeps the photograph's encoders
        on the CPU.
        """
        self.memory, self.captured = memory, None  # What is recomputed is part of what was captured.
        usual = FRAMES_PER_SLICE if self.wide else type(self).frames_per_slice
        self.frames_per_slice = 1 if memory == "low" else usual
        if isinstance(self.context_encoder, ContextEncoder):
            self.context_encoder.offload = memory == "low"
        for module in self.unet.modules():
            if isinstance(module, Checkpointed):
                module.gradient_checkpointing = memory == "low"
            if isinstance(module, TransformerBlock):
                module.recompute_above = RECOMPUTE_ABOVE

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return randn_tensor(shape, generator=generator, device=self.device, dtype=torch.float32)

    def _check_size(self, height: int, width: int) -> None:
        for name, size in (("height", height), ("width", width)):
            if size % self.size_multiple or size == 0:
                raise ValueError(f"The {name} of the frames must be a multiple of {self.size_multiple} but is {size}.")

    def _check_components(self) -> None:
        channels, expected = self.unet.config["in_channels"], 2 * self.latent_channels + self.known_mask_channel
        if channels != expected:
            raise ValueError(
                f"The network has {channels} input channels, but {expected} are needed: twice the autoencoder's"
                f" {self.latent_channels}" + (" and one for the known mask." if self.known_mask_channel else ".")
            )
        if self.unet.config["context_dim"] is not None and self.context_encoder is None:
            raise ValueError("The network has cross attention, so the prior needs a `context_encoder`.")
        if isinstance(self.context_encoder, ContextEncoder):
            expected = (self.unet.config["text_tokens"], self.unet.config["context_dim"])
            if (given := tuple(self.context_encoder.text_tokens.shape[1:])) != expected:
                raise ValueError(f"The network wants text tokens of shape {expected}, but the encoder's are {given}.")
        if self.unet.config["context_dim"] is None and self.settings.cfg_scale != 1:
            raise ValueError(
                f"`cfg_scale` is {self.settings.cfg_scale}, but a network without context has no unconditional pass;"
                " set it to 1."
            )
        self._check_size(self.settings.height, self.settings.width)
