"""The parts of a transformer that images and texts share, in JAX. B batch, L tokens, D width."""

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import Attention, LayerNorm, LayerScale, Mlp, drop_branch, dropout
from common.models import TextConfig, ViTConfig


class Block(nnx.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input; or both of one input (`parallel`)."""

    def __init__(self, config: ViTConfig | TextConfig):
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.attn = Attention(
            config.width, config.num_heads, causal=config.causal, biases=config.attn_biases,
            norm=config.layer_norm_epsilon if config.qk_norm else None,
        )  # fmt: skip
        self.layer_scale1, self.layer_scale2 = (
            LayerScale(config.width) if config.layer_scale else None for _ in range(2)
        )
        self.norm2 = None if config.parallel else LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout, gated=config.swiglu)
        self.dropout = config.dropout

    # [B, L, D], [B, 2], [B, 3, 2], [2, B or 1, P, K], [B, L]
    def __call__(
        self,
        x: Array,
        kept: Array | None = None,
        seeds: Array | None = None,
        rotation: Array | None = None,
        visible: Array | None = None,
    ) -> Array:
        kept = (None, None) if kept is None else kept.T
        seeds = (None, None, None) if seeds is None else seeds.swapaxes(0, 1)
        normed = self.norm1(x)
        out = dropout(self.attn(normed, normed, visible, rotation), seeds[0], self.dropout)
        x = x + drop_branch(self.layer_scale1(out) if self.layer_scale1 else out, kept[0])
        out = self.mlp(self.norm2(x) if self.norm2 else normed, seeds[1])
        out = dropout(out, seeds[2], self.dropout)
        return x + drop_branch(self.layer_scale2(out) if self.layer_scale2 else out, kept[1])


class AttentionPool(nnx.Module):
    """One learned query that attends to every token, then an MLP: "MAP" (https://arxiv.org/abs/2106.04560, 3.2)."""

    def __init__(self, config: ViTConfig | TextConfig):
        self.probe = nnx.Param(jnp.zeros((1, 1, config.width)))
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def __call__(self, x: Array, visible: Array | None = None) -> Array:  # [B, L, D], [B, L] -> [B, D]
        x = self.attn(self.queries(x), x, visible)
        return (x + self.mlp(self.norm(x)))[:, 0]

    def queries(self, x: Array) -> Array:
        """The probe for every row of x [B, L, D]: [B, 1, D]."""
        return jnp.tile(self.probe[...].astype(x.dtype), (x.shape[0], 1, 1))

    def shares(self, x: Array, visible: Array | None = None) -> Array:  # [B, L, D], [B, L] -> [B, N, 1, L]
        """What part of the attention of the probe each token has, in every head."""
        return self.attn.shares(self.queries(x), x, visible, None, slice(None))
