"""BERT in TensorFlow (https://arxiv.org/abs/1810.04805). B batch, L tokens, D width."""

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.layers import Attention, Dense, Layer, LayerNorm, Mlp, TokenEmbedding, registered
from bit_tf2.model import Model
from common.models import BertConfig


class BertBlock(Layer):
    """Post-norm transformer block: attention, then an MLP, each added to its input and normalised."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attn = Attention(config.width, config.num_heads)
        self.norm1 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)
        self.norm2 = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)

    def call(self, x: Tensor, mask: Tensor) -> Tensor:  # [B, L, D], [B, L]
        x = self.norm1(x + self.attn(x, x, mask))
        return self.norm2(x + self.mlp(x))


@registered
class Bert(Model):
    """Tokens int [B, L], 0 where nothing stands, to what the head makes of them [B, num_classes], or to features [B, D]."""

    def __init__(self, config: BertConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.stem = TokenEmbedding(config.vocabulary, config.width)
        self.pos_embedding = self.add_weight((1, config.length, config.width), "zeros", name="pos_embedding")
        self.segment_embedding = self.add_weight((config.segments, config.width), "zeros", name="segment_embedding")
        self.pre_norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.blocks = [BertBlock(config) for _ in range(config.depth)]
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        self.head = Dense(config.feature_width, config.num_classes) if config.num_classes else None

    def features(self, tokens: Tensor) -> Tensor:
        """The input of the head, the first token's [B, D], in the type of the parameters. Raises UserError for too many tokens."""
        self.config.check_tokens(tokens.shape[1])
        x = self.stem(tokens)
        for own in (self.pos_embedding[:, : tokens.shape[1]], self.segment_embedding[0]):
            x += tf.cast(own, x.dtype)  # Keras may give them in the computing type
        x = tf.cast(self.pre_norm(x), self.compute_dtype)
        for block in self.blocks:
            x = self._run(block, x, tokens != 0)
        x = tf.cast(x[:, 0], self.dtype)
        return tf.tanh(self.pre_logits(x)) if self.pre_logits else x
