"""Text transformer in TensorFlow. B batch, L tokens, D width."""

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.layers import Dense, LayerNorm, TokenEmbedding, registered
from bit_tf2.model import Model
from bit_tf2.transformer import AttentionPool, Block
from common.models import TextConfig

POOLINGS = {  # [B, L, D] and tokens [B, L] to [B, D]
    "last": lambda x, tokens: x[:, -1],
    "first": lambda x, tokens: x[:, 0],
    "gap": lambda x, tokens: tf.reduce_mean(x, 1),
    "max": lambda x, tokens: tf.reduce_max(x, 1),
    "end": lambda x, tokens: tf.gather(x, tf.argmax(tokens, 1), batch_dims=1),
}


@registered
class Text(Model):
    """Tokens int [B, L] to what the head makes of them [B, num_classes], or to features [B, D]."""

    def __init__(self, config: TextConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.stem = TokenEmbedding(config.vocabulary, config.width)
        self.pos_embedding = self.add_weight((1, config.length, config.width), "zeros", name="pos_embedding")
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.head = Dense(config.width, config.num_classes, bias=config.head_bias) if config.num_classes else None

    def features(self, tokens: Tensor) -> Tensor:
        """The input of the head [B, D], in the type of the parameters. Raises UserError for another number of tokens."""
        self.config.check_tokens(tokens.shape[1])
        x = tf.cast(self.stem(tokens) + self.pos_embedding, self.compute_dtype)
        for block in self.blocks:
            x = self._run(block, x)
        return tf.cast(self.pooled(self.norm(x), tokens), self.dtype)

    def pooled(self, x: Tensor, tokens: Tensor) -> Tensor:
        """[B, L, D] to [B, D]."""
        return self.pool(x) if self.pool else POOLINGS[self.config.pooling](x, tokens)
