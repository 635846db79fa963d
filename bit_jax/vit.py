"""Vision Transformer in JAX (https://arxiv.org/abs/2010.11929). B batch, L tokens, D width, H x W pixels."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import Dense, LayerNorm, PatchEmbedding, dropout, fixed_positions, keep_patches, on_grid, regrid
from bit_jax.model import Model
from bit_jax.resnet_v1 import Backbone
from bit_jax.transformer import AttentionPool, Block
from common.models import ViTConfig
from common.models.intermediates import Intermediate, block_labels, chosen


class ViT(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes], or [B, L, num_classes] without pooling."""

    def __init__(self, config: ViTConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.backbone = Backbone(config.backbone, remat=remat) if config.backbone else None
        in_width = config.backbone.width if config.backbone else 3
        self.stem = PatchEmbedding(in_width, config.width, config.stored_kernel, bias=config.stem_bias)
        if config.pooling == "token":
            self.cls = nnx.Param(jnp.zeros((1, 1, config.width)))
        if config.positions == "learned":
            self.pos_embedding = nnx.Param(jnp.zeros((1, config.num_positions, config.width)))
        self.pre_norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon) if config.pre_norm else None
        self.blocks = nnx.List(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        self.head = (
            Dense(config.feature_width, config.num_classes, bias=config.head_bias) if config.num_classes else None
        )

    def __call__(
        self,
        images: Array,
        kept_branches: Array | None = None,
        dropout_seeds: Array | None = None,
        kept_patches: Array | None = None,
        patch_size: tuple[int, int] | None = None,
    ) -> Array:
        return self.logits(self.features(images, kept_branches, dropout_seeds, kept_patches, patch_size))

    def features(
        self,
        images: Array,
        kept_branches: Array | None = None,
        dropout_seeds: Array | None = None,
        kept_patches: Array | None = None,
        patch_size: tuple[int, int] | None = None,
    ) -> Array:
        """The input of the head, in the type of the parameters: [B, feature_width], or [B, L, feature_width] unpooled.

        Training may give `kept_branches`, bool [B, 2 * depth], `dropout_seeds`, int32 [B, 1 + 3 * depth, 2], and
        `kept_patches`, int32 [B, K], of which images see K patches only. A FlexiViT computes with
        patches of another `patch_size`, height and width in pixels.
        """
        config = self.config.at_patch(patch_size)
        config.check_image(*images.shape[1:3])
        x = self.stem(
            images if self.backbone is None else self.backbone(images), patch_size=config.patch_size
        )  # [B, L, D]
        x = dropout(
            self.embed(x, kept_patches, patch_size),
            None if dropout_seeds is None else dropout_seeds[:, 0],
            self.config.dropout,
        )
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
        x = self.stem(self.backbone(images) if self.backbone else images, patch_size=self.config.patch_size)
        x, found = self.embed(x), []
        for block in self.blocks:
            x = self._run(block, x, None, None)
            found.append(self.norm(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]

    def embed(self, x: Array, kept_patches: Array | None = None, patch_size: tuple[int, int] | None = None) -> Array:
        """Tokens with their positions, after the class token where there is one; normalised where the model has `pre_norm`."""
        x = self.placed(x, patch_size)
        x = keep_patches(x, kept_patches, x.shape[1] - self.config.num_prefix)
        return x if self.pre_norm is None else self.pre_norm(x)

    def placed(self, x: Array, patch_size: tuple[int, int] | None) -> Array:
        """Tokens with their positions, after the class token where there is one."""
        config = self.config.at_patch(patch_size)
        learned = config.positions == "learned"
        positions = self.pos_embedding[...] if learned else fixed_positions(config.grid, config.width, x.dtype)
        if learned and config.grid != config.stored_grid:
            positions = regrid(positions, config.stored_grid, config.grid)
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
