"""The parts of a transformer that images and texts share, in JAX. B batch, L tokens, D width."""

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import Attention, LayerNorm, Mlp, drop_branch, dropout
from common.models import TextConfig, ViTConfig


class Block(nnx.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ViTConfig | TextConfig):
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.attn = Attention(config.width, config.num_heads, causal=config.causal)
        self.norm2 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout)
        self.dropout = config.dropout

    def __call__(self, x: Array, kept: Array | None = None, seeds: Array | None = None) -> Array:
        # x [B, L, D], kept [B, 2], seeds [B, 3, 2]
        kept = (None, None) if kept is None else kept.T
        seeds = (None, None, None) if seeds is None else seeds.swapaxes(0, 1)
        out = self.norm1(x)
        x = x + drop_branch(dropout(self.attn(out, out), seeds[0], self.dropout), kept[0])
        out = self.mlp(self.norm2(x), seeds[1])
        return x + drop_branch(dropout(out, seeds[2], self.dropout), kept[1])


class AttentionPool(nnx.Module):
    """One learned query that attends to every token, then an MLP: "MAP" (https://arxiv.org/abs/2106.04560, 3.2)."""

    def __init__(self, config: ViTConfig | TextConfig):
        self.probe = nnx.Param(jnp.zeros((1, 1, config.width)))
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def __call__(self, x: Array) -> Array:  # [B, L, D] -> [B, D]
        x = self.attn(jnp.tile(self.probe[...].astype(x.dtype), (x.shape[0], 1, 1)), x)
        return (x + self.mlp(self.norm(x)))[:, 0]
