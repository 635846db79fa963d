"""Models that write, in TensorFlow (https://arxiv.org/abs/2306.07915). B images, P patches, L tokens, D width, V vocabulary."""

from typing import NamedTuple

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2.layers import Attention, Dense, Layer, LayerNorm, Mlp, TokenEmbedding, registered
from bit_tf2.model import Model
from bit_tf2.vit import ViT
from common.models import DecoderConfig

Pair = tuple[Tensor, Tensor]  # keys and values [B, N, L or P, K]


class Memory(NamedTuple):
    """What each block knows while a text is written: of the tokens so far, and of the image."""

    tokens: list[Pair]
    image: list[Pair]


def spread(image: Pair, count: int) -> Pair:
    """The keys and values of images [B, ...] for `count` texts, of which equally many follow one another about each image."""
    times = count // image[0].shape[0]
    return tuple(tf.repeat(part, times, 0) for part in image) if times > 1 else image


@registered
class DecoderBlock(Layer):
    """Pre-norm block: attention to tokens, attention to an image, then an MLP, each added to its input."""

    def __init__(self, config: DecoderConfig, **kwargs):
        super().__init__(**kwargs)
        width, epsilon = config.width, config.layer_norm_epsilon
        self.norm1, self.norm2, self.norm3 = (LayerNorm(width, epsilon=epsilon, bias=config.bias) for _ in range(3))
        self.attn = Attention(width, config.num_heads, biases=())
        self.cross_attn = Attention(width, config.num_heads, biases=(), seen_width=config.image.width)
        self.mlp = Mlp(width, config.mlp_dim, gelu=config.gelu, bias=config.bias)

    # [B, L, D], patches [B, P, E] or their keys and values, [B or 1, 1, L, L] -> [B, L, D]
    def call(self, x: Tensor, encoded: Tensor | Pair, mask: Tensor) -> Tensor:
        normed = self.norm1(x)
        return self.after(x, normed, self.attn.keys_and_values(normed), encoded, mask)

    def after(self, x: Tensor, normed: Tensor, tokens: Pair, encoded: Tensor | Pair, mask: Tensor) -> Tensor:
        """The output for tokens [B, Q, D] that see keys and values of others, and the image."""
        image = encoded if isinstance(encoded, tuple) else self.cross_attn.keys_and_values(encoded)
        image = spread(image, x.shape[0])
        x = x + self.attn.look(normed, *tokens, mask)
        x = x + self.cross_attn.look(self.norm2(x), *image)
        return x + self.mlp(self.norm3(x))

    def step(self, x: Tensor, kept: Pair, image: Pair, place: Tensor) -> tuple[Tensor, Pair]:
        """(the output for the token [B, 1, D] at `place`, the keys and values of all up to it)."""
        normed = self.norm1(x)
        found = self.attn.keys_and_values(normed)
        places = tf.range(kept[0].shape[2])
        kept = tuple(tf.where((places == place)[:, None], new, memory) for memory, new in zip(kept, found))
        return self.after(x, normed, kept, image, places <= place), kept


@registered
class Decoder(Model):
    """Images [B, H, W, 3] and texts int [B, L] to logits [B, L, V] of each token, which sees those before it only."""

    def __init__(self, config: DecoderConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.image = ViT(config.image, remat=remat, **kwargs)
        self.stem = TokenEmbedding(config.vocabulary + config.masked, config.width)
        self.pos_embedding = self.add_weight((1, config.length, config.width), "zeros", name="pos_embedding")
        self.blocks = [DecoderBlock(config) for _ in range(config.depth)]
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.head = Dense(config.width, config.vocabulary)
        self._adapt()

    def call(
        self, images: Tensor, tokens: Tensor | None = None, parallel: Tensor | None = None, masked: Tensor | None = None
    ) -> Tensor:
        """Training may give `parallel`, bool [B]: whose tokens are predicted at once, where `masked`, bool [B, L], hides them."""
        self.config.check_given(tokens)
        return self.decode(self.encode(images), tokens, parallel, masked)

    def features(self, images: Tensor) -> Tensor:
        """The mean of the image's patches [B, E]."""
        return tf.cast(tf.reduce_mean(self.encode(images), 1), self.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """The patches [B, P, E] that the decoder looks at."""
        return tf.cast(self.image(images), self.compute_dtype)

    def decode(
        self, encoded: Tensor | list[Pair], tokens: Tensor, parallel: Tensor | None = None, masked: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, V] of tokens [B, L], from patches, or from each block's keys and values of them.

        Raises UserError for more tokens than there are positions.
        """
        self.config.check_tokens(tokens.shape[1])
        shown, mask = self.shown(tokens, parallel, masked)
        x = self.stem(shown)
        positions = tf.cast(self.pos_embedding[:, : tokens.shape[1]], x.dtype)  # Keras gives the computing type
        x = tf.cast(x + positions, self.compute_dtype)
        for number, block in enumerate(self.blocks):
            x = self._run(block, x, encoded[number] if isinstance(encoded, list) else encoded, mask)
        return self.logits(x)

    def shown(self, tokens: Tensor, parallel: Tensor | None, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what the decoder is shown in the place of tokens [B, L], which places each of them sees [B or 1, 1, L, L])."""
        before = tf.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        mask = tf.linalg.band_part(tf.ones((1, 1, tokens.shape[1], tokens.shape[1]), tf.bool), -1, 0)
        if parallel is None:
            return before, mask
        hidden = tf.where(masked, self.config.vocabulary, tokens)
        return tf.where(parallel[:, None], hidden, before), mask | parallel[:, None, None, None]

    def logits(self, x: Tensor) -> Tensor:
        """The head's output [B, L, V] for what the blocks make of tokens, in the type of the parameters."""
        return self.head(tf.cast(self.norm(x), self.dtype))

    def look_at(self, encoded: Tensor) -> list[Pair]:
        """Each block's keys and values of patches [B, P, E]."""
        return [block.cross_attn.keys_and_values(encoded) for block in self.blocks]

    def empty(self, image: list[Pair], length: int) -> Memory:
        """The memory of texts of `length` tokens about images, as `look_at` gives them, before the first token."""
        _, heads, _, size = image[0][0].shape
        nothing = tf.zeros((tf.shape(image[0][0])[0], heads, length, size), image[0][0].dtype)
        return Memory([(nothing, nothing) for _ in self.blocks], image)

    def step(self, token: Tensor, place: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """(logits [B, V] of the token at `place`, the memory of all before it): `token` [B] is the one before, 0 at first."""
        position = tf.gather(self.pos_embedding, [place], axis=1)
        x, tokens = tf.cast(self.stem(token[:, None]) + position, self.compute_dtype), []
        for block, kept, image in zip(self.blocks, *memory):
            x, kept = block.step(x, kept, image, place)
            tokens.append(kept)
        return self.logits(x)[:, 0], memory._replace(tokens=tokens)
