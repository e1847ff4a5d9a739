"""The sizes of each part of the model, read off the shapes of a checkpoint's weights.

A size is what most of the weights that show it say, so that a single weight of a wrong shape does not change it and can
be named afterwards.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from guidedvd_ns.priors.viewcrafter.keys import PREFIXES
from guidedvd_ns.priors.viewcrafter.projector import ImageProjector
from guidedvd_ns.priors.viewcrafter.unet import INITIAL_ATTENTION_HEADS, ViewCrafterUNet


@dataclass(frozen=True)
class ViewCrafterFacts:
    """What the shapes of the weights do not tell; the defaults are the published model's."""

    text_head_channels: int = 64
    """Channels of one attention head of the text encoder."""
    image_head_channels: int = 80
    """Channels of one attention head of the image encoder."""
    projector_head_channels: int = 64
    """Channels of one attention head of the image projector."""
    image_size: int = 224
    """Pixels a side that the image encoder takes."""
    image_tokens_per_frame: int = 16
    """Image tokens of one frame, where every frame has its own."""
    queries_per_frame: int = 16
    """The image projector has a multiple of this many queries."""
    default_fs: int = 10
    """Frame rate that the network is told."""
    latent_scale: float = 0.18215
    """Factor between the autoencoder's latents and those that the network sees."""


def build_parts(shapes: Mapping[str, Sequence[int]], facts: ViewCrafterFacts) -> dict[str, nn.Module]:
    """Each part of the model at the checkpoint's sizes, on the meta device: shapes and configuration, no memory.

    Args:
        shapes: of every weight of the checkpoint, by its original key.
        facts: what they do not tell.

    Raises:
        ValueError: where the weights that show a size are all missing, or sizes contradict each other.
    """
    whole = _PartShapes(shapes, "")
    parts = {part: _PartShapes(shapes, prefix) for part, prefix in PREFIXES.items()}
    with torch.device("meta"):
        vae = _vae(parts["vae"], facts)
        text_encoder = _text_encoder(parts["text_encoder"], whole, facts)
        image_encoder = _image_encoder(parts["image_encoder"], whole, facts)
        return {
            "unet": _unet(parts["unet"], vae.config, text_encoder.config, facts),
            "vae": vae,
            "text_encoder": text_encoder,
            "image_encoder": image_encoder,
            "image_projector": _image_projector(parts["image_projector"], image_encoder.config, facts),
        }


class _PartShapes:
    """Shapes of the weights of one part, by their original keys without the prefix."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], prefix: str):
        self.prefix = prefix
        self.shapes = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}

    def size(self, *shown_by: tuple[str, int]) -> int:
        """What most of the weights say; each pair is a pattern of keys and the axis that has the size."""
        witnesses: dict[int, list[str]] = {}
        for pattern, axis in shown_by:
            for key, shape in self.shapes.items():
                if re.fullmatch(pattern, key) and len(shape) > axis:
                    witnesses.setdefault(shape[axis], []).append(f"{self.prefix}{key}")
        if not witnesses:
            example = re.sub(r"\\d\+|\\", "", shown_by[0][0]).replace("(weight|bias)", "weight")
            raise ValueError(f"The checkpoint lacks weights of ViewCrafter, for instance `{self.prefix}{example}`.")
        (size, keys), *others = sorted(witnesses.items(), key=lambda item: -len(item[1]))
        if others and len(others[0][1]) == len(keys):
            raise ValueError(
                f"Two weights of the checkpoint contradict each other: `{keys[0]}` has length {size} where"
                f" `{others[0][1][0]}` has {others[0][0]}."
            )
        return size

    def found(self, pattern: str) -> int:
        """How many keys match."""
        return sum(re.fullmatch(pattern, key) is not None for key in self.shapes)

    def indices(self, pattern: str) -> list[int]:
        """What the pattern's group matches in as good as all weights that a layer of this kind has."""
        votes = Counter(int(match[1]) for key in self.shapes if (match := re.match(pattern, key)))
        return sorted(index for index, count in votes.items() if 2 * count >= max(votes.values()))

    def count(self, pattern: str) -> int:
        """How many layers there are, counted by the last one's index."""
        return max(self.indices(pattern), default=-1) + 1


def _unet(unet: _PartShapes, vae: Mapping[str, Any], text: CLIPTextConfig, facts: ViewCrafterFacts) -> ViewCrafterUNet:
    blocks = unet.indices(r"input_blocks\.(\d+)\.0\.(?:in|out|emb)_layers\.")
    changes = unet.indices(r"input_blocks\.(\d+)\.0\.op\.")
    levels = 1 + sum(index < max(blocks, default=0) for index in changes)
    per_level = max(len(blocks) // levels, 1)
    width = unet.size(
        (r"input_blocks\.0\.0\.(weight|bias)", 0),
        (r"time_embed\.0\.weight", 1),
        (r"fps_embedding\.0\.weight", 1),
        (r"out\.0\.(weight|bias)", 0),
    )
    mults, attended = [], []
    for level in range(levels):
        own = "|".join(str(index) for index in blocks[level * per_level : (level + 1) * per_level])
        norms = rf"input_blocks\.(?:{own})\.0\.out_layers\.[03]\.(weight|bias)"
        mults.append(unet.size((norms, 0)) // width)
        # The two transformers of a block have six of these weights each; half of them tell enough.
        if unet.found(rf"input_blocks\.(?:{own})\.[12]\.(?:norm|proj_in|proj_out)\.(?:weight|bias)") >= 6 * per_level:
            attended.append(2**level)
    return ViewCrafterUNet(
        in_channels=2 * vae["latent_channels"],
        out_channels=vae["latent_channels"],
        model_channels=width,
        channel_mult=tuple(mults),
        num_res_blocks=per_level,
        attention_resolutions=tuple(reversed(attended)),
        num_head_channels=unet.size((r"init_attn\.0\.transformer_blocks\.0\.norm\d\.(weight|bias)", 0))
        // INITIAL_ATTENTION_HEADS,
        context_dim=unet.size((r".*\.attn2\.to_[kv]_ip\.weight", 1)),
        text_tokens=text.max_position_embeddings,
        image_tokens_per_frame=facts.image_tokens_per_frame,
        default_fs=facts.default_fs,
    )


def _vae(vae: _PartShapes, facts: ViewCrafterFacts) -> AutoencoderKL:
    levels = vae.count(r"encoder\.down\.(\d+)\.block\.")
    blocks = r"encoder\.down\.{}\.block\.\d+\.(?:norm2|conv1|conv2)\.(weight|bias)"
    return AutoencoderKL(
        latent_channels=vae.size((r"post_quant_conv\.(weight|bias)", 0), (r"decoder\.conv_in\.weight", 1)),
        block_out_channels=tuple(vae.size((blocks.format(level), 0)) for level in range(levels)),  # pyright: ignore[reportArgumentType]
        layers_per_block=vae.count(r"encoder\.down\.\d+\.block\.(\d+)\."),
        down_block_types=("DownEncoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * levels,  # pyright: ignore[reportArgumentType]
        scaling_factor=facts.latent_scale,
    )


def _text_encoder(text: _PartShapes, whole: _PartShapes, facts: ViewCrafterFacts) -> CLIPTextModel:
    """All blocks but the last, which is never used (viewcrafter-architecture.md, section 2)."""
    vocabulary = whole.size((r".*\.token_embedding\.weight", 0))
    transformer = _transformer(text, "", facts.text_head_channels, "text_head_channels")
    transformer["num_hidden_layers"] -= 1
    return CLIPTextModel(
        CLIPTextConfig(
            **transformer,
            vocab_size=vocabulary,
            max_position_embeddings=whole.size((r".*\.model\.positional_embedding", 0)),
            projection_dim=_projection_width(whole),
            # The two last tokens of CLIP's vocabulary open and close a text, and 0 fills up (section 2).
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=0,
        )
    )


def _image_encoder(image: _PartShapes, whole: _PartShapes, facts: ViewCrafterFacts) -> CLIPVisionModel:
    patches = max(image.size((r"visual\.positional_embedding", 0)) - 1, 1)
    patch_sizes = Counter([facts.image_size // max(math.isqrt(patches), 1)])
    patch_sizes.update(image.size((r"visual\.conv1\.weight", axis)) for axis in (2, 3))
    return CLIPVisionModel(
        CLIPVisionConfig(
            **_transformer(image, "visual.", facts.image_head_channels, "image_head_channels"),
            projection_dim=_projection_width(whole),
            image_size=facts.image_size,
            patch_size=patch_sizes.most_common(1)[0][0],
        )
    )


def _projection_width(whole: _PartShapes) -> int:
    """Width of CLIP's common space, which the model does without."""
    return whole.size((r".*\.model\.text_projection", 1), (r".*\.visual\.proj", 1))


def _transformer(tower: _PartShapes, prefix: str, head_channels: int, fact: str) -> dict:
    blocks = re.escape(f"{prefix}transformer.resblocks.")
    width = tower.size((blocks + r"\d+\.ln_[12]\.(weight|bias)", 0))
    return {
        "hidden_size": width,
        "intermediate_size": tower.size((blocks + r"\d+\.mlp\.c_fc\.(weight|bias)", 0)),
        "num_hidden_layers": tower.count(blocks + r"(\d+)\."),
        "num_attention_heads": _heads(width, head_channels, fact),
        "hidden_act": "gelu",
    }


def _image_projector(projector: _PartShapes, image: CLIPVisionConfig, facts: ViewCrafterFacts) -> ImageProjector:
    queries = projector.size((r"layers\.\d+\.0\.norm[12]\.(weight|bias)", 0))
    inner = projector.size((r"layers\.\d+\.0\.to_q\.weight", 0), (r"layers\.\d+\.0\.to_out\.weight", 1))
    feed_forward = projector.size((r"layers\.\d+\.1\.1\.weight", 0), (r"layers\.\d+\.1\.3\.weight", 1))
    # Only one weight shows the number of queries: a wrong one does not pass where it is rounded.
    frames = max(round(projector.size((r"latents", 1)) / facts.queries_per_frame), 1)
    return ImageProjector(
        embed_dims=image.hidden_size,
        output_dims=projector.size((r"norm_out\.(weight|bias)", 0), (r"proj_out\.(weight|bias)", 0)),
        hidden_dims=queries,
        depth=projector.count(r"layers\.(\d+)\."),
        dim_head=facts.projector_head_channels,
        heads=_heads(inner, facts.projector_head_channels, "projector_head_channels"),
        num_queries=frames * facts.queries_per_frame,
        ffn_ratio=feed_forward // queries,
    )


def _heads(width: int, head_channels: int, fact: str) -> int:
    if width % head_channels:
        raise ValueError(f"`{fact}`={head_channels} does not divide the width {width} of the checkpoint's attention.")
    return width // head_channels
