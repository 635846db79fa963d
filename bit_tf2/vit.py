"""Vision Transformer in TensorFlow (https://arxiv.org/abs/2010.11929). B batch, L tokens, D width, H x W pixels."""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.keras_model import takes_images, takes_inputs
from bit_tf2.layers import (
    Attention,
    Dense,
    Layer,
    LayerNorm,
    Mlp,
    PatchEmbedding,
    drop_branch,
    dropout,
    fixed_positions,
    on_grid,
    registered,
)  # fmt: skip
from bit_tf2.model import Model
from bit_tf2.resnet_v1 import Backbone
from common.models import ViTConfig
from common.models.intermediates import Intermediate, block_labels, chosen


class Block(Layer):
    """Pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.attn = Attention(config.width, config.num_heads)
        self.norm2 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout)
        self.dropout = config.dropout

    def call(self, x: Tensor, kept: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
        # x [B, L, D], kept [B, 2], seeds [B, 3, 2]
        kept = (None, None) if kept is None else tf.unstack(kept, axis=1)
        seeds = (None, None, None) if seeds is None else tf.unstack(seeds, axis=1)
        out = self.norm1(x)
        x = x + drop_branch(dropout(self.attn(out, out), seeds[0], self.dropout), kept[0])
        out = self.mlp(self.norm2(x), seeds[1])
        return x + drop_branch(dropout(out, seeds[2], self.dropout), kept[1])


class AttentionPool(Layer):
    """One learned query that attends to every token, then an MLP: "MAP" (https://arxiv.org/abs/2106.04560, 3.2)."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.probe = self.add_weight((1, 1, config.width), "zeros", name="probe")
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def call(self, x: Tensor) -> Tensor:  # [B, L, D] -> [B, D]
        x = self.attn(tf.tile(tf.cast(self.probe, x.dtype), (tf.shape(x)[0], 1, 1)), x)
        return (x + self.mlp(self.norm(x)))[:, 0]


@registered
class ViT(Model):
    """Images [B, H, W, 3] in [-1, 1] to logits [B, num_classes], or [B, L, num_classes] without pooling."""

    def __init__(self, config: ViTConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.backbone = Backbone(config.backbone, remat=remat) if config.backbone else None
        self.stem = PatchEmbedding(config.backbone.width if config.backbone else 3, config.width, config.patch_size)
        if config.pooling == "token":
            self.cls = self.add_weight((1, 1, config.width), "zeros", name="cls")
        if config.positions == "learned":
            self.pos_embedding = self.add_weight((1, config.num_positions, config.width), "zeros", name="pos_embedding")
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        self.head = Dense(config.feature_width, config.num_classes) if config.num_classes else None

    @takes_images
    def features(
        self, images: Tensor, kept_branches: Tensor | None = None, dropout_seeds: Tensor | None = None
    ) -> Tensor:
        """The input of the head, in the type of the parameters: [B, feature_width], or [B, L, feature_width] unpooled.

        Training may give `kept_branches`, bool [B, 2 * depth], and `dropout_seeds`, int32 [B, 1 + 3 * depth, 2].
        """
        self.config.check_image(*images.shape[1:3])
        x = self.stem(self.backbone(images) if self.backbone else images)  # [B, L, D]
        x = dropout(self.embed(x), None if dropout_seeds is None else dropout_seeds[:, 0], self.config.dropout)
        for i, block in enumerate(self.blocks):
            kept = None if kept_branches is None else kept_branches[:, 2 * i : 2 * i + 2]
            seeds = None if dropout_seeds is None else dropout_seeds[:, 3 * i + 1 : 3 * i + 4]
            x = self._run(block, x, kept, seeds)
        x = tf.cast(self.pooled(self.norm(x)), self.dtype)
        return tf.tanh(self.pre_logits(x)) if self.pre_logits else x

    @takes_inputs
    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
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

    def embed(self, x: Tensor) -> Tensor:
        """Tokens with their positions, after the class token where there is one."""
        config = self.config
        learned = config.positions == "learned"
        positions = (
            tf.convert_to_tensor(self.pos_embedding) if learned else fixed_positions(config.grid, config.width, x.dtype)
        )
        if config.pooling != "token":
            return x + tf.cast(positions, x.dtype)
        cls = tf.tile(tf.cast(self.cls, x.dtype), (tf.shape(x)[0], 1, 1))
        if learned and config.cls_position:
            return tf.concat([cls, x], 1) + tf.cast(positions, x.dtype)
        return tf.concat([cls, x + tf.cast(positions, x.dtype)], 1)

    def pooled(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, D], or unchanged."""
        pooling = self.config.pooling
        if pooling in ("token", "first"):
            return x[:, 0]
        if pooling == "gap":
            return tf.reduce_mean(tf.cast(x, self.dtype), 1)
        return self.pool(x) if pooling == "map" else x
