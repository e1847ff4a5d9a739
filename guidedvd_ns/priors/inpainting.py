"""Single-image inpainting in place of a video prior: the baseline that knows no other view, nor the frame before.

Each frame is filled by itself, from what is known of it, at the size at which the bundled prior samples, so that a
comparison is about the prior and not about resolution.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guidedvd_ns.priors.base import SamplerOverrides, SamplerSettings
from guidedvd_ns.priors.choice import BUNDLED, DIFFUSION_INPAINTER, OPENCV_INPAINTERS

RADIUS = 3.0
"""Pixels around a point that OpenCV's methods look at."""
DIFFUSION_STEPS = 30


class FrameInpainter(ABC):
    """Fills the unknown pixels of one image at a time."""

    size_multiple = 16
    """Heights and widths must be multiples of this; the bundled prior's."""
    adjustable: tuple[str, ...] = ("num_frames",)
    """Fields of `SamplerOverrides` that make a difference."""

    def __init__(self) -> None:
        bundled = json.loads((BUNDLED / "prior.json").read_text())["settings"]
        self.settings = SamplerSettings(**{key: bundled[key] for key in ("num_frames", "height", "width")}, num_steps=1)

    def override(self, overrides: SamplerOverrides) -> None:
        """Take over the settings that a user set.

        Raises:
            ValueError: where one is out of range or this inpainter has none of that name.
        """
        for name, value in vars(overrides).items():
            if value is not None and name not in self.adjustable:
                raise ValueError(
                    f"--pipeline.datamanager.sampler.{name.replace('_', '-')} says nothing to single-image inpainting:"
                    f" it has {', '.join(each.replace('_', '-') for each in self.adjustable)} only."
                )
        self.settings = overrides.apply(self.settings)

    @abstractmethod
    def inpaint(
        self,
        image: Tensor,  # [H, W, 3] in [0, 1]
        known: Tensor,  # [H, W, 1] bool
        generator: torch.Generator,
    ) -> Tensor:  # [H, W, 3]
        """The image with its unknown pixels filled; known ones stay as they are."""

    def complete(
        self,
        frames: Tensor,  # [L, H, W, 3] in [0, 1]
        known: Tensor,  # [L, H, W, 1] bool
        reference: Tensor,  # [H, W, 3] in [0, 1], the photograph at the first frame's pose
        generator: torch.Generator,
    ) -> Generator[int, None, Tensor]:
        """Complete a sequence a frame at a time: yields each frame's number, returns [L, H, W, 3]; frame 0 is given."""
        filled = [reference]
        for index in range(1, len(frames)):
            filled.append(self.inpaint(frames[index], known[index], generator))
            yield index
        return torch.stack(filled)


class OpenCVInpainter(FrameInpainter):
    """OpenCV's Telea (fast marching, 2004) or Navier-Stokes (Bertalmio 2001); works on 8-bit images, offline."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def inpaint(self, image: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        import cv2

        flag = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}[self.method]
        hole = (~known[..., 0]).to(torch.uint8).cpu().numpy()
        filled = cv2.inpaint((255 * image).round().to(torch.uint8).cpu().numpy(), hole, RADIUS, flag)
        return torch.where(known, image, torch.from_numpy(filled).to(image) / 255)


class DiffusionInpainter(FrameInpainter):
    """diffusers' `StableDiffusionInpaintPipeline` with an empty prompt, at the model's own area."""

    adjustable = ("num_frames", "num_steps", "eta")

    def __init__(self, source: str, device: torch.device | str) -> None:
        """Load a model from a folder in diffusers' layout, or from the hub: naming one there asks for its download.

        Raises:
            FileNotFoundError: where there is no such model and it could not be downloaded.
        """
        super().__init__()
        self.settings = replace(self.settings, num_steps=DIFFUSION_STEPS, eta=0.0)
        self.pipeline = _load_pipeline(source, torch.device(device))

    @torch.no_grad()
    def inpaint(self, image: Tensor, known: Tensor, generator: torch.Generator) -> Tensor:
        height, width = self._own_size(*image.shape[:2])
        channels_first = image.movedim(-1, 0)[None]
        large = F.interpolate(channels_first, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
        hole = F.interpolate((~known).float().movedim(-1, 0)[None], (height, width), mode="nearest")
        filled = self.pipeline(
            prompt="",
            image=large,
            mask_image=hole,
            height=height,
            width=width,
            num_inference_steps=self.settings.num_steps,
            # An empty prompt is the unconditional one: guidance between the two would change nothing.
            guidance_scale=1.0,
            eta=self.settings.eta,
            generator=generator,
            output_type="pt",
        ).images
        small = F.interpolate(filled.to(image), image.shape[:2], mode="bilinear", antialias=True).clamp(0, 1)
        return torch.where(known, image, small[0].movedim(0, -1))

    def _own_size(self, height: int, width: int) -> tuple[int, int]:
        """The frames' aspect ratio at the area that the model was trained at, in whole blocks of its network."""
        blocks = 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        multiple = blocks * self.pipeline.vae_scale_factor
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        scale = side / math.sqrt(height * width)
        fitted = [max(multiple, round(each * scale / multiple) * multiple) for each in (height, width)]
        return fitted[0], fitted[1]


def _load_pipeline(source: str, device: torch.device) -> Any:
    from diffusers import StableDiffusionInpaintPipeline

    folder = Path(source).expanduser()
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    try:
        pipeline = StableDiffusionInpaintPipeline.from_pretrained(
            str(folder) if folder.is_dir() else source,
            torch_dtype=dtype,
            # A checker that blackens frames would count as inpainting.
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no inpainting model '{source}': give {DIFFUSION_INPAINTER}:FOLDER with a saved"
            f" StableDiffusionInpaintPipeline, or {DIFFUSION_INPAINTER}:owner/name on the Hugging Face hub"
            f" ({str(error).splitlines()[0]})."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_inpainter(name: str, device: torch.device | str) -> FrameInpainter:
    """The inpainter of a name that `choice.is_inpainter` knows.

    Raises:
        ValueError: where the name lacks or has too much after its colon.
        FileNotFoundError: where the model it names is not to be had.
    """
    kind, _, source = name.partition(":")
    if kind in OPENCV_INPAINTERS and not source:
        return OpenCVInpainter(kind)
    if kind == DIFFUSION_INPAINTER and source:
        return DiffusionInpainter(source, device)
    raise ValueError(
        f"There is no inpainter '{name}': give {', '.join(OPENCV_INPAINTERS)}, or {DIFFUSION_INPAINTER}:MODEL with a"
        " folder or owner/name on the Hugging Face hub."
    )
