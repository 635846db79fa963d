"""ViT-VQ-VAE in TensorFlow (https://arxiv.org/abs/2205.10337). B images, L patches, N codes of C numbers, D width."""

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import dense
from bit_tf2.layers import Dense, Layer, LayerNorm, PatchEmbedding, registered, uninitialized
from bit_tf2.model import Model
from bit_tf2.quantizers import Codebook, Levels, learned
from bit_tf2.transformer import Block
from common.models import VqVaeConfig
from common.models.vqvae import check_given, resize_matrices
from common.recipes.recipe import Recipe

Run = Callable[..., Tensor]  # a block, perhaps twice (`Model._run`)


class Coder(Layer):
    """What the encoder and the decoder have in common: tokens that see the image go through blocks."""

    def __init__(self, config: VqVaeConfig, depth: int, sees_image: bool, **kwargs):
        super().__init__(**kwargs)
        self.context = PatchEmbedding(3, config.width, config.patch_size) if sees_image else None
        self.pos_embedding = self.add_weight(
            (1, config.grid[0] * config.grid[1], config.width), "zeros", name="pos_embedding"
        )
        self.blocks = [Block(config) for _ in range(depth)]
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)

    def seen(self, x: Tensor, images: Tensor, run: Run) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x if self.context is None else x + self.context(images)
        x = x + tf.cast(self.pos_embedding, x.dtype)
        for block in self.blocks:
            x = run(block, x)
        return self.norm(x)


@registered
class MapEncoder(Coder):
    """Maps {name: [B, L, b * P]} to vectors [B, N, C] in the type of the parameters."""

    def __init__(self, config: VqVaeConfig, **kwargs):
        super().__init__(config, config.encoder_depth, config.encoder_context, **kwargs)
        sizes = zip(config.names, config.bins)
        self.stem = {name: Dense(bins * config.num_pixels, config.width) for name, bins in sizes}
        shape = config.grid[0] * config.grid[1], config.num_codes
        self.squeeze = None if config.resizes else self.add_weight(shape, uninitialized, name="squeeze")
        self.head, self.config = Dense(config.width, config.code_width), config

    def call(self, maps: dict[str, Tensor], images: Tensor, run: Run) -> Tensor:
        x = self.seen(sum(self.stem[name](values) for name, values in maps.items()), images, run)
        x = tf.cast(x, self.pos_embedding.dtype)
        matrix = tf.cast(resize_matrices(self.config)[0] if self.squeeze is None else self.squeeze, x.dtype)
        return self.head(tf.einsum("bld,ln->bnd", x, matrix))


@registered
class MapDecoder(Coder):
    """Vectors [B, N, C] to what is predicted of maps, {name: [B, L, b, P]}, in the type of the parameters."""

    def __init__(self, config: VqVaeConfig, **kwargs):
        super().__init__(config, config.decoder_depth, config.decoder_context, **kwargs)
        self.stem, self.config = Dense(config.code_width, config.width), config
        shape = config.num_codes, config.grid[0] * config.grid[1]
        self.spread = None if config.resizes else self.add_weight(shape, uninitialized, name="spread")
        sizes = zip(config.names, config.bins)
        self.head = {name: Dense(config.width, bins * config.num_pixels) for name, bins in sizes}

    def call(self, z: Tensor, images: Tensor, run: Run) -> dict[str, Tensor]:
        x = self.stem(z)
        matrix = tf.cast(resize_matrices(self.config)[1] if self.spread is None else self.spread, x.dtype)
        spread = tf.cast(tf.einsum("bnd,nl->bld", x, matrix), images.dtype)
        x = tf.cast(self.seen(spread, images, run), x.dtype)
        return {
            name: tf.reshape(head(x), (-1, x.shape[1], bins, self.config.num_pixels))
            for bins, (name, head) in zip(self.config.bins, self.head.items())
        }


@registered
class VqVae(Model):
    """Maps of a batch and images [B, H, W, 3] to codes, and codes and images to maps (bit_tf2/dense.py)."""

    def __init__(self, config: VqVaeConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.encoder = MapEncoder(config)
        self.codebook = Levels(config) if config.levels else Codebook(config)
        self.decoder = MapDecoder(config)

    def call(
        self, maps: dict[str, Tensor], images: Tensor | None = None, kept_codes: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """(what is predicted of `maps` as `dense.read` gives them, vectors [B, N, C], what they became, codes int [B, N]).

        Training may give `kept_codes`, bool [B, N]: those that the decoder sees, others are zeros to it.
        """
        check_given(maps, images)
        z, near, codes = self.codebook.coded(self.vectors(maps, images))
        kept = near if kept_codes is None else near * tf.cast(kept_codes[:, :, None], near.dtype)
        return self.decoder(kept, images, run=self._run), z, near, codes

    def vectors(self, maps: dict[str, Tensor], images: Tensor) -> Tensor:
        """[B, N, C] of maps that were read. Raises UserError for images of another size than the model's."""
        self.config.check_image(*images.shape[1:3])
        return self.encoder(dense.shown(maps, self.config, images.dtype), images, run=self._run)

    def encode(self, maps: Tensor, images: Tensor) -> Tensor:
        """Codes int [B, N] of maps [B, H, W, n] as batches have them."""
        return self.codebook.coded(self.vectors(dense.read(maps, self.config, self.dtype), images))[2]

    def decode(self, codes: Tensor, images: Tensor) -> Tensor:
        """The maps [B, H, W, n] of codes int [B, N] (`dense.predicted`)."""
        found = self.decoder(self.codebook.look_up(codes, self.dtype), images, run=self._run)
        return dense.predicted(found, self.config)

    def renewed(self, measured: dict[str, Tensor], batch: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
        """What was measured, and USAGE; the codebook follows the vectors of the whole batch, unless the task freezes it."""
        found = {name: measured.pop(name) * recipe.batch for name in self.config.measured(())}
        counts = found["code_counts"]
        if self.config.renews and not recipe.task.frozen_codebook:
            book, numbers = self.codebook, {name: getattr(self.config, name) for name in ("momentum", "least_count")}
            state = book.dictionary.value, book.counts.value
            own, seed = map(self.devices.local, state), self.devices.local(batch["renewal_seed"])
            new = learned(*own, counts, found["code_sums"], seed, **numbers)
            self.devices.on_each(lambda *state: [old.assign(value) for old, value in zip(state, new)], *state)
        zeros = tf.reduce_mean(tf.cast(counts == 0, counts.dtype))
        most = tf.reduce_max(counts) / tf.reduce_sum(counts)
        return measured | {"codebook_zeros_ratio": zeros, "codebook_max_ratio": most}
