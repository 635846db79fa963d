"""Vision Transformer in JAX (https://arxiv.org/abs/2010.11929). B batch, L tokens, D width, H x W pixels."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import (
    Attention,
    Dense,
    LayerNorm,
    Mlp,
    PatchEmbedding,
    drop_branch,
    dropout,
    fixed_positions,
    on_grid,
)
from bit_jax.model import Model
from bit_jax.resnet_v1 import Backbone
from common.models import ViTConfig
from common.models.intermediates import Intermediate, block_labels, chosen


class Block(nnx.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ViTConfig):
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout)
        self.dropout = config.dropout

    def __call__(self, x: Array, kept: Array | None, seeds: Array | None) -> Array:  # [B, L, D], [B, 2], [B, 3, 2]
        kept = (None, None) if kept is None else kept.T
        seeds = (None, None, None) if seeds is None else seeds.swapaxes(0, 1)
        out = self.norm1(x)
        x = x + drop_branch(dropout(self.attn(out, out), seeds[0], self.dropout), kept[0])
        out = self.mlp(self.norm2(x), seeds[1])
        return x + drop_branch(dropout(out, seeds[2], self.dropout), kept[1])


class AttentionPool(nnx.Module):
    """One learned query that attends to every token, then an MLP: "MAP" (https://arxiv.org/abs/2106.04560, 3.2)."""

    def __init__(self, config: ViTConfig):
        self.probe = nnx.Param(jnp.zeros((1, 1, config.width)))
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def __call__(self, x: Array) -> Array:  # [B, L, D] -> [B, D]
        x = self.attn(jnp.tile(self.probe[...].astype(x.dtype), (x.shape[0], 1, 1)), x)
        return (x + self.mlp(self.norm(x)))[:, 0]


class ViT(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes], or [B, L, num_classes] without pooling."""

    def __init__(self, config: ViTConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.backbone = Backbone(config.backbone, remat=remat) if config.backbone else None
        self.stem = PatchEmbedding(config.backbone.width if config.backbone else 3, config.width, config.patch_size)
        if config.pooling == "token":
            self.cls = nnx.Param(jnp.zeros((1, 1, config.width)))
        if config.positions == "learned":
            self.pos_embedding = nnx.Param(jnp.zeros((1, config.num_positions, config.width)))
        self.blocks = nnx.List(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        self.head = Dense(config.feature_width, config.num_classes) if config.num_classes else None

    def __call__(self, images: Array, kept_branches: Array | None = None, dropout_seeds: Array | None = None) -> Array:
        return self.logits(self.features(images, kept_branches, dropout_seeds))

    def features(self, images: Array, kept_branches: Array | None = None, dropout_seeds: Array | None = None) -> Array:
        """The input of the head, in the type of the parameters: [B, feature_width], or [B, L, feature_width] unpooled.

        Training may give `kept_branches`, bool [B, 2 * depth], and `dropout_seeds`, int32 [B, 1 + 3 * depth, 2].
        """
        self.config.check_image(*images.shape[1:3])
        x = self.stem(images if self.backbone is None else self.backbone(images))  # [B, L, D]
        x = dropout(self.embed(x), None if dropout_seeds is None else dropout_seeds[:, 0], self.config.dropout)
        for i, block in enumerate(self.blocks):
            kept = None if kept_branches is None else kept_branches[:, 2 * i : 2 * i + 2]
            seeds = None if dropout_seeds is None else dropout_seeds[:, 3 * i + 1 : 3 * i + 4]
            x = self._run(block, x, kept, seeds)
        x = self.pooled(self.norm(x)).astype(self.dtype)
        return jnp.tanh(self.pre_logits(x)) if self.pre_logits else x

    def intermediates(
        self, images: Array, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the blocks, which `indices` choose (common/models/intermediates.py); with `norm`, behind the last norm."""
        self.config.check_image(*images.shape[1:3])
        x, found = self.embed(self.stem(self.backbone(images) if self.backbone else images)), []
        for block in self.blocks:
            x = self._run(block, x, None, None)
            found.append(self.norm(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]

    def embed(self, x: Array) -> Array:
        """Tokens with their positions, after the class token where there is one."""
        config = self.config
        learned = config.positions == "learned"
        positions = self.pos_embedding[...] if learned else fixed_positions(config.grid, config.width, x.dtype)
        if config.pooling != "token":
            return x + positions.astype(x.dtype)
        cls = jnp.tile(self.cls[...].astype(x.dtype), (x.shape[0], 1, 1))
        if learned and config.cls_position:
            return jnp.concatenate([cls, x], 1) + positions.astype(x.dtype)
        return jnp.concatenate([cls, x + positions.astype(x.dtype)], 1)

    def pooled(self, x: Array) -> Array:
        """[B, L, D] to [B, D], or unchanged."""
        pooling = self.config.pooling
        if pooling in ("token", "first"):
            return x[:, 0]
        if pooling == "gap":
            return x.astype(self.dtype).mean(1)
        return self.pool(x) if pooling == "map" else x
