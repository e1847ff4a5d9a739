"""`ContextEncoder`: the tokens that ViewCrafter's cross attention sees, from a fixed prompt and the photograph.

What it computes is section 2 of viewcrafter-architecture.md: all tokens of a CLIP text tower, then those of a CLIP
image tower through the projector. The unconditional context is the empty prompt with a grey image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionModel, PreTrainedModel

from guidedvd_ns.priors.viewcrafter.projector import ImageProjector

TOKENIZED_PROMPTS = ((49406, 32265, 1093, 539, 320, 3562, 49407), (49406, 49407))
"""OpenCLIP's token ids of "Rotating view of a scene", which ViewCrafter was trained on, and of the empty prompt."""
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

CONTEXT_COMPONENTS = {
    "text_encoder": ("transformers", CLIPTextModel),
    "image_encoder": ("transformers", CLIPVisionModel),
    "image_projector": ("guidedvd_ns.priors.viewcrafter.projector", ImageProjector),
}
"""Folder of a saved prior -> library and class of what it holds."""


class ContextEncoder:
    """Encodes photographs on the device that they lie on; the prompts are encoded once, at construction.

    Args:
        text_encoder: CLIP text tower without its last block, of which all tokens after the final norm are taken.
        image_encoder: CLIP image tower, of which all tokens before the final norm are taken.
        image_projector: maps image tokens to context tokens.
        tokenized_prompts: token ids of the prompt and of the empty prompt, without padding.
        offload: whether image tower and projector wait on the CPU between two photographs, so that sampling has the
            memory of the GPU; may be changed at any time.

    Raises:
        ValueError: where the parts do not fit together, or the prompts do not fit the text tower.
    """

    def __init__(
        self,
        text_encoder: CLIPTextModel,
        image_encoder: CLIPVisionModel,
        image_projector: ImageProjector,
        *,
        tokenized_prompts: Sequence[Sequence[int]] = TOKENIZED_PROMPTS,
        offload: bool = False,
    ):
        _check_widths(text_encoder, image_encoder, image_projector)
        self.text_encoder: CLIPTextModel | Path = text_encoder.eval().requires_grad_(False)
        """The text tower, or the folder to load it from: it is not needed again but to be saved."""
        self.image_encoder = image_encoder.eval().requires_grad_(False)
        self.image_projector = image_projector.eval().requires_grad_(False)
        self.tokenized_prompts = tokenized_prompts
        self.offload = offload
        self.text_tokens = encode_prompts(text_encoder, tokenized_prompts)
        """[2, text tokens, D] of the prompt and the empty prompt."""
        self._grey_tokens: Tensor | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        tokenized_prompts: Sequence[Sequence[int]] = TOKENIZED_PROMPTS,
        offload: bool = False,
    ) -> ContextEncoder:
        """Load from the folders `CONTEXT_COMPONENTS` of a saved prior; the text tower is not kept in memory.

        Raises:
            ValueError: where a folder lacks weights, or the parts do not fit together.
        """
        folder = Path(folder)
        text_encoder, image_encoder, image_projector = (
            _load(component, folder / name, dtype) for name, (_, component) in CONTEXT_COMPONENTS.items()
        )
        home = "cpu" if offload else device
        encoder = cls(
            text_encoder.to(device),
            image_encoder.to(home),
            image_projector.to(home),
            tokenized_prompts=tokenized_prompts,
            offload=offload,
        )
        encoder.text_encoder = folder / "text_encoder"
        return encoder

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "5GB") -> None:
        """Write the folders `CONTEXT_COMPONENTS`, in the precision of the weights; what they held is replaced."""
        text_encoder = self.text_encoder
        if isinstance(text_encoder, Path):
            text_encoder = _load(CLIPTextModel, text_encoder, self.image_projector.dtype)
        for name, component in zip(
            CONTEXT_COMPONENTS, (text_encoder, self.image_encoder, self.image_projector), strict=True
        ):
            component.save_pretrained(Path(folder) / name, max_shard_size=max_shard_size)

    @torch.no_grad()
    def __call__(
        self,
        photograph: Tensor,  # [H, W, 3] in [0, 1]
    ) -> tuple[Tensor, Tensor]:  # [1, text tokens + image tokens, D] each
        """The conditional and the unconditional context."""
        device = photograph.device
        towers = nn.ModuleList([self.image_encoder, self.image_projector]).to(device)
        if self._grey_tokens is None:
            self._grey_tokens = self._image_tokens(torch.full_like(photograph, 0.5))
        image_tokens = torch.cat([self._image_tokens(photograph), self._grey_tokens.to(device)])
        if self.offload:
            towers.to("cpu")
        contexts = torch.cat([self.text_tokens.to(device), image_tokens], dim=1)
        return contexts[:1], contexts[1:]

    def _image_tokens(self, photograph: Tensor) -> Tensor:  # [1, queries, D]
        pixels = clip_pixels(photograph, cast(int, self.image_encoder.config.image_size))
        tokens = self.image_encoder(pixels.to(self.image_encoder.dtype)).last_hidden_state
        return self.image_projector(tokens)


@torch.no_grad()
def encode_prompts(
    text_encoder: CLIPTextModel,
    tokenized_prompts: Sequence[Sequence[int]],
) -> Tensor:  # [prompts, positions, D]
    """All tokens of each prompt; padding is 0 and attended to, as the network was trained.

    Raises:
        ValueError: where a prompt has more tokens than the tower has positions, or a token that it does not know.
    """
    config = text_encoder.config
    length, vocabulary = config.max_position_embeddings, config.vocab_size
    for prompt in tokenized_prompts:
        if len(prompt) > length or not all(0 <= token < vocabulary for token in prompt):
            raise ValueError(
                f"A prompt must have at most {length} tokens below {vocabulary} for this text encoder but is"
                f" {list(prompt)}; give its own `tokenized_prompts`."
            )
    ids = torch.tensor([[*prompt, *[0] * (length - len(prompt))] for prompt in tokenized_prompts])
    return text_encoder(ids.to(text_encoder.device)).last_hidden_state


def clip_pixels(
    photograph: Tensor,  # [H, W, 3] in [0, 1]
    size: int = 224,
) -> Tensor:  # [1, 3, size, size] float32
    """Resize the whole photograph to a square, without keeping its aspect ratio, and normalise it as CLIP wants it.

    Where it shrinks it is blurred first; the cubic interpolation has aligned corners and is not clamped.
    """
    pixels = photograph.float().movedim(-1, 0)[None]
    if max(pixels.shape[-2:]) > size:
        for axis in (-2, -1):
            pixels = _blur(pixels, axis, pixels.shape[axis] / size)
    pixels = F.interpolate(pixels, (size, size), mode="bicubic", align_corners=True)
    mean, std = (pixels.new_tensor(values).reshape(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std


def _blur(images: Tensor, axis: int, factor: float) -> Tensor:
    """Gaussian blur along one axis before shrinking it by `factor`; an axis that grows stays as it is."""
    sigma = max((factor - 1) / 2, 0.001)
    radius = int(max(4 * sigma, 3)) // 2
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    padding = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
    windows = F.pad(images, padding, mode="reflect").unfold(axis, 2 * radius + 1, 1)
    # A sum and not a convolution, which a GPU may compute in TF32.
    return (windows * (weights / weights.sum())).sum(dim=-1)


def _load(component: type[PreTrainedModel] | type[ModelMixin], folder: Path, dtype: torch.dtype) -> Any:
    loaded: Any = component.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True)
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(
            f"{folder} lacks weights of a {component.__name__}: {', '.join(sorted(info['missing_keys']))}."
        )
    return model


def _check_widths(text_encoder: CLIPTextModel, image_encoder: CLIPVisionModel, image_projector: ImageProjector) -> None:
    for name, given, expected in (
        ("image encoder", image_encoder.config.hidden_size, image_projector.config["embed_dims"]),
        ("text encoder", text_encoder.config.hidden_size, image_projector.config["output_dims"]),
    ):
        if given != expected:
            raise ValueError(f"The {name}'s tokens have {given} channels, but the image projector wants {expected}.")
