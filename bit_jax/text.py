"""Text transformer in JAX. B batch, L tokens, D width."""

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax.layers import Dense, LayerNorm, TokenEmbedding
from bit_jax.model import Model
from bit_jax.transformer import AttentionPool, Block
from common.models import TextConfig

POOLINGS = {  # [B, L, D] and tokens [B, L] to [B, D]
    "last": lambda x, tokens: x[:, -1],
    "first": lambda x, tokens: x[:, 0],
    "gap": lambda x, tokens: x.mean(1),
    "max": lambda x, tokens: x.max(1),
    "end": lambda x, tokens: x[jnp.arange(len(x)), tokens.argmax(1)],
}


class Text(Model):
    """Tokens int [B, L] to what the head makes of them [B, num_classes], or to features [B, D]."""

    def __init__(self, config: TextConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.stem = TokenEmbedding(config.vocabulary, config.width)
        self.pos_embedding = nnx.Param(jnp.zeros((1, config.length, config.width)))
        self.blocks = nnx.List(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.head = Dense(config.width, config.num_classes, bias=config.head_bias) if config.num_classes else None

    def features(self, tokens: Array) -> Array:
        """The input of the head [B, D], in the type of the parameters. Raises UserError for another number of tokens."""
        self.config.check_tokens(tokens.shape[1])
        x = (self.stem(tokens) + self.pos_embedding[...]).astype(self.compute_dtype)
        for block in self.blocks:
            x = self._run(block, x)
        return self.pooled(self.norm(x), tokens).astype(self.dtype)

    def pooled(self, x: Array, tokens: Array) -> Array:
        """[B, L, D] to [B, D]."""
        return self.pool(x) if self.pool else POOLINGS[self.config.pooling](x, tokens)
