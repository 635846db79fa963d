"""The parts of a transformer that images and texts share, in TensorFlow. B batch, L tokens, D width."""

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.layers import Attention, Layer, LayerNorm, Mlp, drop_branch, dropout
from common.models import TextConfig, ViTConfig


class Block(Layer):
    """Pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ViTConfig | TextConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.attn = Attention(config.width, config.num_heads, causal=config.causal)
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

    def __init__(self, config: ViTConfig | TextConfig):
        super().__init__()
        self.probe = self.add_weight((1, 1, config.width), "zeros", name="probe")
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def call(self, x: Tensor) -> Tensor:  # [B, L, D] -> [B, D]
        x = self.attn(tf.tile(tf.cast(self.probe, x.dtype), (tf.shape(x)[0], 1, 1)), x)
        return (x + self.mlp(self.norm(x)))[:, 0]
