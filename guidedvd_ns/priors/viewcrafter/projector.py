"""ViewCrafter's image projector: learned queries gather what the image encoder's tokens say into context tokens."""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from diffusers.models.modeling_utils import ModelMixin


class ImageProjector(IPAdapterPlusImageProjection, ModelMixin, ConfigMixin):
    """Maps the tokens of an image, [B, N, embed_dims], to context tokens, [B, num_queries, output_dims].

    This is the Resampler of viewcrafter-architecture.md, section 2: diffusers' IP-Adapter Plus projection at the sizes
    of the public checkpoint, as a model that can be saved and loaded by itself.

    Args:
        embed_dims: width of the image tokens.
        output_dims: width of the context tokens.
        hidden_dims: width of the queries.
        depth: number of attention and feed-forward layers.
        dim_head: channels of one attention head.
        heads: number of attention heads.
        num_queries: number of context tokens (the checkpoint: 16 for each of 16 frames).
        ffn_ratio: width of the feed-forward layers as a multiple of `hidden_dims`.
    """

    @register_to_config
    def __init__(
        self,
        *,
        embed_dims: int = 1280,
        output_dims: int = 1024,
        hidden_dims: int = 1024,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 12,
        num_queries: int = 256,
        ffn_ratio: int = 4,
    ):
        super().__init__(embed_dims, output_dims, hidden_dims, depth, dim_head, heads, num_queries, ffn_ratio)
