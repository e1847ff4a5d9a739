"""Names of the weights: for each weight of a part as we load it, where it lies in the published checkpoint.

The tables go from our names to the original ones, so that what a checkpoint lacks can be named as the checkpoint would
name it. Original keys are written without the prefix of their part (`PREFIXES`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.model.",
    "image_encoder": "embedder.model.",
    "image_projector": "image_proj_model.",
}
"""Folder of a part in the converted prior -> prefix of its keys in the checkpoint."""

_CLIP = (
    (r"^(?:text|vision)_model\.", ""),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
)

_RENAMES = {
    "unet": (
        (r"^time_embedding\.linear_1\.", "time_embed.0."),
        (r"^time_embedding\.linear_2\.", "time_embed.2."),
        (r"^fs_embedding\.linear_1\.", "fps_embedding.0."),
        (r"^fs_embedding\.linear_2\.", "fps_embedding.2."),
        (r"^temporal_in\.", "init_attn.0."),
        (r"^conv_norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
        (r"\.res\.spatial\.norm1\.", ".res.in_layers.0."),
        (r"\.res\.spatial\.conv1\.", ".res.in_layers.2."),
        (r"\.res\.spatial\.time_emb_proj\.", ".res.emb_layers.1."),
        (r"\.res\.spatial\.norm2\.", ".res.out_layers.0."),
        (r"\.res\.spatial\.conv2\.", ".res.out_layers.3."),
        (r"\.res\.spatial\.conv_shortcut\.", ".res.skip_connection."),
        (r"\.res\.temporal\.", ".res.temopral_conv."),
        # A block of the original is a list: residual block, spatial and temporal transformer, change of resolution.
        (r"^mid_blocks\.1\.res\.", "middle_block.3."),
        (r"^mid_blocks\.0\.", "middle_block."),
        (r"^conv_in\.", "input_blocks.0.0."),
        (r"^down_blocks\.(\d+)\.conv\.", lambda match: f"input_blocks.{int(match[1]) + 1}.0.op."),
        (r"^down_blocks\.(\d+)\.", lambda match: f"input_blocks.{int(match[1]) + 1}."),
        (r"^up_blocks\.", "output_blocks."),
        (r"\.res\.", ".0."),
        (r"\.spatial\.", ".1."),
        (r"\.temporal\.", ".2."),
        (r"\.block\.", ".transformer_blocks.0."),
    ),
    "vae": (
        (r"\.mid_block\.resnets\.(\d)\.", lambda match: f".mid.block_{int(match[1]) + 1}."),
        (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
        (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
        (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
        (r"\.down_blocks\.", ".down."),
        (r"\.up_blocks\.", ".up."),
        (r"\.resnets\.", ".block."),
        (r"\.(down|up)samplers\.0\.", r".\1sample."),
        (r"\.conv_shortcut\.", ".nin_shortcut."),
        (r"\.conv_norm_out\.", ".norm_out."),
    ),
    "text_encoder": (
        *_CLIP,
        (r"^embeddings\.token_embedding\.", "token_embedding."),
        (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^final_layer_norm\.", "ln_final."),
    ),
    "image_encoder": (
        *_CLIP,
        (r"^embeddings\.patch_embedding\.", "conv1."),
        (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^embeddings\.", ""),
        (r"^pre_layrnorm\.", "ln_pre."),
        (r"^post_layernorm\.", "ln_post."),
        (r"^", "visual."),
    ),
    "image_projector": (
        (r"\.ln0\.", ".0.norm1."),
        (r"\.ln1\.", ".0.norm2."),
        (r"\.attn\.to_[kv]\.", ".0.to_kv."),
        (r"\.attn\.to_q\.", ".0.to_q."),
        (r"\.attn\.to_out\.0\.", ".0.to_out."),
        (r"\.ff\.0\.", ".1.0."),
        (r"\.ff\.1\.net\.0\.proj\.", ".1.1."),
        (r"\.ff\.1\.net\.2\.", ".1.3."),
    ),
}

_PIECES = (("q_proj", "k_proj", "v_proj"), ("to_k", "to_v"))
"""Layers of ours that the original holds as one, in the order in which they are stacked along the first axis."""
_STACKED = re.compile(r"\.attn\.in_proj_|\.to_kv\.")

_KERNELS = {
    "unet": re.compile(r"^init_attn\.0\.proj_(?:in|out)\.weight$"),
    "vae": re.compile(r"\.mid\.attn_1\.(?:q|k|v|proj_out)\.weight$"),
}
"""Original keys of 1x1 convolutions that are linear layers of ours, and how many axes of length one they have more."""
_KERNEL_AXES = {"unet": 1, "vae": 2}


@dataclass(frozen=True)
class Origin:
    """Where one weight of ours lies in the checkpoint."""

    key: str
    """Its key, without the prefix of the part."""
    piece: int = 0
    """Which of the `pieces` it is."""
    pieces: int = 1
    """Into how many equal pieces the original is cut along its first axis."""
    kernel_axes: int = 0
    """Trailing axes of length one that only the original has."""

    def take(self, original: Tensor) -> Tensor:
        """Our weight, as a view of the original one."""
        matrix = original.reshape(original.shape[: original.dim() - self.kernel_axes])
        return matrix.chunk(self.pieces)[self.piece]

    def original_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the original where our weight has the given one."""
        if self.pieces > 1:
            shape = torch.Size([self.pieces * shape[0], *shape[1:]])
        return torch.Size([*shape, *[1] * self.kernel_axes])


def origins(
    part: str,  # a key of `PREFIXES`
    names: Collection[str],  # of all weights of the part, as in its `state_dict`
) -> dict[str, Origin]:
    """Where each of our weights comes from."""
    return {name: _origin(part, name, names) for name in names}


def _origin(part: str, name: str, names: Collection[str]) -> Origin:
    key = name
    for pattern, replacement in _RENAMES[part]:
        key = re.sub(pattern, replacement, key)
    if part == "unet":
        # The upsampling is last in its list, behind the transformers where there are some.
        has_transformers = name.replace(".upsample.conv.", ".spatial.proj_out.") in names
        key = key.replace(".upsample.", ".3." if has_transformers else ".1.")
    if part == "vae":
        levels = len({other.split(".")[2] for other in names if other.startswith("decoder.up_blocks.")})
        # The original counts the levels of both halves from the full resolution.
        key = re.sub(r"^decoder\.up\.(\d+)\.", lambda match: f"decoder.up.{levels - 1 - int(match[1])}.", key)
    kernel = part in _KERNELS and _KERNELS[part].search(key)
    if _STACKED.search(key) is None:
        return Origin(key, kernel_axes=_KERNEL_AXES[part] if kernel else 0)
    layer = name.split(".")[-2]
    pieces = next(pieces for pieces in _PIECES if layer in pieces)
    return Origin(key, piece=pieces.index(layer), pieces=len(pieces))
