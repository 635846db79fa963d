"""Vision Transformer in JAX (https://arxiv.org/abs/2010.11929). B batch, L tokens, D width, H x W pixels."""

import math
from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import (
    Dense,
    LayerNorm,
    PatchEmbedding,
    dropout,
    fixed_positions,
    fixed_rotation,
    keep_patches,
    mean,
    normed_patches,
    on_grid,
    positions_in,
    regrid,
    seen,
    turned_as,
)
from bit_jax.model import Model
from bit_jax.resnet_v1 import Backbone
from bit_jax.transformer import AttentionPool, Block
from common.models import ViTConfig
from common.models.intermediates import Intermediate, block_labels, chosen
from common.models.positions import prefix_tokens


class ViT(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes], or [B, L, num_classes] without pooling."""

    def __init__(self, config: ViTConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.backbone = Backbone(config.backbone, remat=remat) if config.backbone else None
        in_width = config.backbone.width if config.backbone else 3
        self.stem = PatchEmbedding(in_width, config.width, config.stored_kernel, bias=config.stem_bias)
        size, norms = math.prod(config.patch_size) * in_width, config.patch_norms
        self.image_norm = LayerNorm(size, epsilon=config.layer_norm_epsilon) if "pre" in norms else None
        self.embed_norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon) if "post" in norms else None
        self.cls = nnx.Param(jnp.zeros((1, 1, config.width))) if config.has_cls else None
        self.dist = nnx.Param(jnp.zeros((1, 1, config.width))) if config.distilled else None
        self.registers = nnx.Param(jnp.zeros((1, config.registers, config.width))) if config.registers else None
        if config.positions == "learned":
            self.pos_embedding = nnx.Param(jnp.zeros((1, config.num_positions, config.width)))
        self.pre_norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon) if config.pre_norm else None
        self.blocks = nnx.List(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon) if config.norm_first else None
        self.pool_norm = None if config.norm_first else LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        width, classes = config.head_width, config.num_classes
        self.head = Dense(width, classes, bias=config.head_bias) if classes else None
        self.head_dist = Dense(width, classes, bias=config.head_bias) if classes and config.distilled else None
        self._adapt()

    def __call__(
        self, images: Array, kept_branches: Array | None = None, dropout_seeds: Array | None = None,
        kept_patches: Array | None = None, patch_size: tuple[int, int] | None = None,
        coordinates: Array | None = None, patch_mask: Array | None = None,
    ) -> Array:  # fmt: skip
        return self.logits(
            self.features(images, kept_branches, dropout_seeds, kept_patches, patch_size, coordinates, patch_mask)
        )

    def logits(self, features: Array) -> Array:
        """The head's output for features, or the mean of both heads'; the features themselves where there is no head."""
        if self.head_dist is None:
            return super().logits(features)
        first, second = jnp.split(features, 2, -1)
        return (self.head(first) + self.head_dist(second)) / 2

    def features(
        self, images: Array, kept_branches: Array | None = None, dropout_seeds: Array | None = None,
        kept_patches: Array | None = None, patch_size: tuple[int, int] | None = None,
        coordinates: Array | None = None, patch_mask: Array | None = None,
    ) -> Array:  # fmt: skip
        """The input of the head, in the type of the parameters: [B, feature_width], or [B, L, feature_width] unpooled.

        Of a distilled model, those of its two heads one after the other.

        Training may give `kept_branches`, bool [B, 2 * depth], `dropout_seeds`, int32 [B, 1 + 3 * depth, 2], and
        `kept_patches`, int32 [B, K], of which images see K patches only. A FlexiViT computes with
        patches of another `patch_size`, height and width in pixels. A NaFlex takes patches of images that keep their own
        aspect ratios, one below the other as images of one patch's width, with `coordinates`, int32 [B, L, 2], their rows
        and columns, and `patch_mask`, bool [B, L], False for those that are padding (common/data/naflex.py).
        """
        config = self.config.at_patch(patch_size)
        config.check_image(*images.shape[1:3], None if coordinates is None else coordinates.shape[1])
        x = self.patches(images, patch_size)  # [B, L, D]
        x = dropout(
            self.embed(x, kept_patches, patch_size, coordinates),
            None if dropout_seeds is None else dropout_seeds[:, 0],
            self.config.dropout,
        )
        rotation = self.rotation(x, kept_patches)
        visible = seen(patch_mask, self.config.num_prefix) if self.config.naflex else None  # [B, tokens]
        for i, block in enumerate(self.blocks):
            kept = None if kept_branches is None else kept_branches[:, 2 * i : 2 * i + 2]
            seeds = None if dropout_seeds is None else dropout_seeds[:, 3 * i + 1 : 3 * i + 4]
            x = self._run(block, x, kept, seeds, rotation, visible)
        x = pooled(self, self.normed(x), visible).astype(self.dtype)
        return jnp.tanh(self.pre_logits(x)) if self.pre_logits else x

    def intermediates(
        self, images: Array, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the blocks, which `indices` choose (common/models/intermediates.py); with `norm`, behind the last norm."""
        self.config.check_image(*images.shape[1:3])
        x, found = self.embed(self.patches(images)), []
        rotation = self.rotation(x)
        for block in self.blocks:
            x = self._run(block, x, None, None, rotation)
            found.append(self.normed(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]

    def patches(self, images: Array, patch_size: tuple[int, int] | None = None) -> Array:
        """Tokens [B, L, D] of the patches of images, or of what the backbone makes of them."""
        x = self.backbone(images) if self.backbone else images
        patch_size = patch_size or self.config.patch_size
        x = self.stem(normed_patches(x, self.image_norm, patch_size) if self.image_norm else x, patch_size=patch_size)
        return self.embed_norm(x) if self.embed_norm else x

    def embed(
        self, x: Array, kept_patches: Array | None = None, patch_size: tuple[int, int] | None = None,
        coordinates: Array | None = None,
    ) -> Array:  # fmt: skip
        """Tokens with their positions, after those that are no patch; normalised where the model has `pre_norm`."""
        x = self.placed(x, patch_size, coordinates)
        x = keep_patches(x, kept_patches, x.shape[1] - self.config.num_prefix)
        return x if self.pre_norm is None else self.pre_norm(x)

    def placed(self, x: Array, patch_size: tuple[int, int] | None, coordinates: Array | None) -> Array:
        """Tokens with their positions, after the class tokens and the registers where there are some."""
        prefix, place, positions = [], 0, self.positions(x.dtype, patch_size, coordinates)
        for name, count, positioned in prefix_tokens(self.config):
            token = getattr(self, name)[...].astype(x.dtype)
            if positioned:
                token, place = token + positions[:1, place : place + count], place + count
            prefix.append(jnp.tile(token, (x.shape[0], 1, 1)))
        x = x if positions is None else x + positions[:, place:]
        return jnp.concatenate([*prefix, x], 1) if prefix else x

    def positions(
        self, dtype: jnp.dtype, patch_size: tuple[int, int] | None, coordinates: Array | None
    ) -> Array | None:
        """What is added to the tokens: [1, L, D], or [B, L, D] of a NaFlex; None where positions are rotary."""
        config = self.config.at_patch(patch_size)
        if config.positions != "learned":
            return None if config.rotary else fixed_positions(config.grid, config.width, dtype)
        positions = self.pos_embedding[...]
        if config.naflex:
            return positions_in(positions, config.stored_grid, coordinates).astype(dtype)
        if config.grid != config.stored_grid:
            positions = regrid(positions, config.stored_grid, config.grid)
        return positions.astype(dtype)

    def rotation(self, x: Array, kept_patches: Array | None = None) -> Array | None:
        """How the queries and keys of patches turn: [2, B or 1, L, K]; None where positions are not rotary."""
        config = self.config
        if not config.rotary:
            return None
        return turned_as(fixed_rotation(config.grid, config.width // config.num_heads, x.dtype), kept_patches)

    def normed(self, x: Array) -> Array:
        """Tokens behind the last norm, where it comes before the pooling."""
        return x if self.norm is None else self.norm(x)


def pooled(model: ViT, x: Array, visible: Array | None = None) -> Array:
    """[B, L, D] to [B, D], or unchanged; of a NaFlex, without what is padding."""
    pooling = model.config.pooling
    if pooling == "token":
        return x[:, :2].reshape(x.shape[0], -1) if model.config.distilled else x[:, 0]
    token, x = x[:, 0], x[:, model.config.num_prefix :]
    visible = None if visible is None else visible[:, model.config.num_prefix :]
    if pooling == "first":
        return x[:, 0]
    if pooling == "gap":
        return mean(x.astype(model.dtype), visible)
    if pooling == "gap_norm":
        return model.pool_norm(mean(x.astype(model.dtype), visible))
    if pooling == "token_gap":
        return jnp.concatenate([token.astype(model.dtype), mean(x.astype(model.dtype), visible)], -1)
    return model.pool(x, visible) if pooling == "map" else x
