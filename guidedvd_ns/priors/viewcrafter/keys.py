"""Names of the UNet's weights: from those of the published checkpoint to those of `ViewCrafterUNet`."""

from __future__ import annotations

import re

_RENAMES = (
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^(?:fps_embedding|framestride_embed)\.0\.", "fs_embedding.linear_1."),
    (r"^(?:fps_embedding|framestride_embed)\.2\.", "fs_embedding.linear_2."),
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^init_attn\.0\.", "temporal_in."),
    (r"^input_blocks\.(\d+)\.0\.op\.", lambda match: f"down_blocks.{int(match[1]) - 1}.conv."),
    (r"^input_blocks\.(\d+)\.", lambda match: f"down_blocks.{int(match[1]) - 1}."),
    (r"^middle_block\.3\.", "mid_blocks.1.0."),
    (r"^middle_block\.", "mid_blocks.0."),
    (r"^output_blocks\.(\d+)\.\d\.conv\.", r"up_blocks.\1.upsample.conv."),
    (r"^output_blocks\.", "up_blocks."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
    # Index 1 of a layer is its spatial, index 2 its temporal transformer.
    (r"^(\w+_blocks\.\d+)\.1\.", r"\1.spatial."),
    (r"^(\w+_blocks\.\d+)\.2\.", r"\1.temporal."),
    (r"^(\w+_blocks\.\d+)\.0\.temopral_conv\.", r"\1.res.temporal."),
    (r"^(\w+_blocks\.\d+)\.0\.", r"\1.res.spatial."),
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".conv_shortcut."),
    (r"\.transformer_blocks\.0\.", ".block."),
)


def original_to_ours(
    key: str,  # a name below `model.diffusion_model.` of the checkpoint
) -> str:
    """The name of the same weight in `ViewCrafterUNet.state_dict()`.

    Shapes agree but for `init_attn.0.proj_{in,out}.weight`, 1x1 Conv1d kernels whose last axis is to be dropped.
    """
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key
