"""Models that write, in JAX (https://arxiv.org/abs/2306.07915). B images, P patches, L tokens, D width, V vocabulary."""

from typing import NamedTuple

from flax import nnx
from jax import Array, lax
from jax import numpy as jnp

from bit_jax.layers import Attention, Dense, LayerNorm, Mlp, TokenEmbedding
from bit_jax.model import Model
from bit_jax.vit import ViT
from common.models import DecoderConfig

Pair = tuple[Array, Array]  # keys and values [B, L or P, N, K]


class Memory(NamedTuple):
    """What each block knows while a text is written: of the tokens so far, and of the image."""

    tokens: list[Pair]
    image: list[Pair]


def spread(image: Pair, count: int) -> Pair:
    """The keys and values of images [B, ...] for `count` texts, of which equally many follow one another about each image."""
    times = count // len(image[0])
    return tuple(part.repeat(times, 0) for part in image) if times > 1 else image


class DecoderBlock(nnx.Module):
    """Pre-norm block: attention to tokens, attention to an image, then an MLP, each added to its input."""

    def __init__(self, config: DecoderConfig):
        width, epsilon = config.width, config.layer_norm_epsilon
        self.norm1, self.norm2, self.norm3 = (LayerNorm(width, epsilon=epsilon, bias=config.bias) for _ in range(3))
        self.attn = Attention(width, config.num_heads, biases=())
        self.cross_attn = Attention(width, config.num_heads, biases=(), seen_width=config.image.width)
        self.mlp = Mlp(width, config.mlp_dim, gelu=config.gelu, bias=config.bias)

    # [B, L, D], patches [B, P, E] or their keys and values, [B or 1, 1, L, L] -> [B, L, D]
    def __call__(self, x: Array, encoded: Array | Pair, mask: Array) -> Array:
        normed = self.norm1(x)
        return self.after(x, normed, self.attn.keys_and_values(normed), encoded, mask)

    def after(self, x: Array, normed: Array, tokens: Pair, encoded: Array | Pair, mask: Array) -> Array:
        """The output for tokens [B, Q, D] that see keys and values of others, and the image."""
        image = encoded if isinstance(encoded, tuple) else self.cross_attn.keys_and_values(encoded)
        image = spread(image, len(x))
        x = x + self.attn.look(normed, *tokens, mask)
        x = x + self.cross_attn.look(self.norm2(x), *image)
        return x + self.mlp(self.norm3(x))

    def step(self, x: Array, kept: Pair, image: Pair, place: Array) -> tuple[Array, Pair]:
        """(the output for the token [B, 1, D] at `place`, the keys and values of all up to it)."""
        normed = self.norm1(x)
        found = self.attn.keys_and_values(normed)
        kept = tuple(lax.dynamic_update_slice_in_dim(memory, new, place, 1) for memory, new in zip(kept, found))
        return self.after(x, normed, kept, image, jnp.arange(kept[0].shape[1]) <= place), kept


class Decoder(Model):
    """Images [B, H, W, 3] and texts int [B, L] to logits [B, L, V] of each token, which sees those before it only."""

    def __init__(self, config: DecoderConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.image = ViT(config.image, remat=remat)
        self.stem = TokenEmbedding(config.vocabulary + config.masked, config.width)
        self.pos_embedding = nnx.Param(jnp.zeros((1, config.length, config.width)))
        self.blocks = nnx.List(DecoderBlock(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)
        self.head = Dense(config.width, config.vocabulary)
        self._adapt()

    def __call__(
        self, images: Array, tokens: Array | None = None, parallel: Array | None = None, masked: Array | None = None
    ) -> Array:
        """Training may give `parallel`, bool [B]: whose tokens are predicted at once, where `masked`, bool [B, L], hides them."""
        self.config.check_given(tokens)
        return self.decode(self.encode(images), tokens, parallel, masked)

    def features(self, images: Array) -> Array:
        """The mean of the image's patches [B, E]."""
        return self.encode(images).mean(1).astype(self.dtype)

    def encode(self, images: Array) -> Array:
        """The patches [B, P, E] that the decoder looks at."""
        return self.image(images).astype(self.compute_dtype)

    def decode(
        self, encoded: Array | list[Pair], tokens: Array, parallel: Array | None = None, masked: Array | None = None
    ) -> Array:
        """Logits [B, L, V] of tokens [B, L], from patches, or from each block's keys and values of them.

        Raises UserError for more tokens than there are positions.
        """
        self.config.check_tokens(tokens.shape[1])
        shown, mask = self.shown(tokens, parallel, masked)
        x = (self.stem(shown) + self.pos_embedding[:, : tokens.shape[1]]).astype(self.compute_dtype)
        for number, block in enumerate(self.blocks):
            x = self._run(block, x, encoded[number] if isinstance(encoded, list) else encoded, mask)
        return self.logits(x)

    def shown(self, tokens: Array, parallel: Array | None, masked: Array | None) -> tuple[Array, Array]:
        """(what the decoder is shown in the place of tokens [B, L], which places each of them sees [B or 1, 1, L, L])."""
        before = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        mask = jnp.tri(tokens.shape[1], dtype=bool)[None, None]
        if parallel is None:
            return before, mask
        hidden = jnp.where(masked, self.config.vocabulary, tokens)
        return jnp.where(parallel[:, None], hidden, before), mask | parallel[:, None, None, None]

    def logits(self, x: Array) -> Array:
        """The head's output [B, L, V] for what the blocks make of tokens, in the type of the parameters."""
        return self.head(self.norm(x).astype(self.dtype))

    def look_at(self, encoded: Array) -> list[Pair]:
        """Each block's keys and values of patches [B, P, E]."""
        return [block.cross_attn.keys_and_values(encoded) for block in self.blocks]

    def empty(self, image: list[Pair], length: int) -> Memory:
        """The memory of texts of `length` tokens about images, as `look_at` gives them, before the first token."""
        count, _, heads, size = image[0][0].shape
        nothing = jnp.zeros((count, length, heads, size), image[0][0].dtype)
        return Memory([(nothing, nothing) for _ in self.blocks], image)

    def step(self, token: Array, place: Array, memory: Memory) -> tuple[Array, Memory]:
        """(logits [B, V] of the token at `place`, the memory of all before it): `token` [B] is the one before, 0 at first."""
        position = lax.dynamic_slice_in_dim(self.pos_embedding[...], place, 1, 1)
        x, tokens = (self.stem(token[:, None]) + position).astype(self.compute_dtype), []
        for block, kept, image in zip(self.blocks, *memory):
            x, kept = block.step(x, kept, image, place)
            tokens.append(kept)
        return self.logits(x)[:, 0], memory._replace(tokens=tokens)
