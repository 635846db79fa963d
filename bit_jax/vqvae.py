"""ViT-VQ-VAE in JAX (https://arxiv.org/abs/2205.10337). B images, L patches, N codes of C numbers, D width."""

from collections.abc import Callable

from flax import nnx
from jax import Array
from jax import numpy as jnp

from bit_jax import dense
from bit_jax.layers import HIGHEST, Dense, LayerNorm, PatchEmbedding
from bit_jax.model import Model
from bit_jax.quantizers import Codebook, Levels, learned
from bit_jax.transformer import Block
from common.models import VqVaeConfig
from common.models.vqvae import check_given, resize_matrices
from common.recipes.recipe import Recipe

Run = Callable[..., Array]  # a block, perhaps twice (`Model._run`)


class Coder(nnx.Module):
    """What the encoder and the decoder have in common: tokens that see the image go through blocks."""

    def __init__(self, config: VqVaeConfig, depth: int, sees_image: bool):
        self.context = PatchEmbedding(3, config.width, config.patch_size) if sees_image else None
        self.pos_embedding = nnx.Param(jnp.zeros((1, config.grid[0] * config.grid[1], config.width)))
        self.blocks = nnx.List(Block(config) for _ in range(depth))
        self.norm = LayerNorm(config.width, epsilon=config.layer_norm_epsilon)

    def seen(self, x: Array, images: Array, run: Run) -> Array:
        """[B, L, D] -> [B, L, D]."""
        x = x if self.context is None else x + self.context(images)
        x = x + self.pos_embedding[...].astype(x.dtype)
        for block in self.blocks:
            x = run(block, x)
        return self.norm(x)


class MapEncoder(Coder):
    """Maps {name: [B, L, b * P]} to vectors [B, N, C] in the type of the parameters."""

    def __init__(self, config: VqVaeConfig):
        super().__init__(config, config.encoder_depth, config.encoder_context)
        sizes = zip(config.names, config.bins)
        self.stem = nnx.Dict({name: Dense(bins * config.num_pixels, config.width) for name, bins in sizes})
        shape = config.grid[0] * config.grid[1], config.num_codes
        self.squeeze = None if config.resizes else nnx.Param(jnp.zeros(shape))
        self.head, self.config = Dense(config.width, config.code_width), config

    def __call__(self, maps: dict[str, Array], images: Array, run: Run) -> Array:
        x = self.seen(sum(self.stem[name](values) for name, values in maps.items()), images, run)
        x = x.astype(self.pos_embedding.dtype)
        matrix = jnp.asarray(resize_matrices(self.config)[0], x.dtype) if self.squeeze is None else self.squeeze[...]
        return self.head(jnp.einsum("bld,ln->bnd", x, matrix, precision=HIGHEST))


class MapDecoder(Coder):
    """Vectors [B, N, C] to what is predicted of maps, {name: [B, L, b, P]}, in the type of the parameters."""

    def __init__(self, config: VqVaeConfig):
        super().__init__(config, config.decoder_depth, config.decoder_context)
        self.stem, self.config = Dense(config.code_width, config.width), config
        shape = config.num_codes, config.grid[0] * config.grid[1]
        self.spread = None if config.resizes else nnx.Param(jnp.zeros(shape))
        sizes = zip(config.names, config.bins)
        self.head = nnx.Dict({name: Dense(config.width, bins * config.num_pixels) for name, bins in sizes})

    def __call__(self, z: Array, images: Array, run: Run) -> dict[str, Array]:
        x = self.stem(z)
        matrix = jnp.asarray(resize_matrices(self.config)[1], x.dtype) if self.spread is None else self.spread[...]
        spread = jnp.einsum("bnd,nl->bld", x, matrix, precision=HIGHEST).astype(images.dtype)
        x = self.seen(spread, images, run).astype(x.dtype)
        shape = *x.shape[:2], -1, self.config.num_pixels
        return {name: head(x).reshape(shape) for name, head in self.head.items()}


class VqVae(Model):
    """Maps of a batch and images [B, H, W, 3] to codes, and codes and images to maps (bit_jax/dense.py)."""

    def __init__(self, config: VqVaeConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.encoder = MapEncoder(config)
        self.codebook = Levels(config) if config.levels else Codebook(config)
        self.decoder = MapDecoder(config)

    def __call__(
        self, maps: dict[str, Array], images: Array | None = None, kept_codes: Array | None = None
    ) -> tuple[dict[str, Array], Array, Array, Array]:
        """(what is predicted of `maps` as `dense.read` gives them, vectors [B, N, C], what they became, codes int [B, N]).

        Training may give `kept_codes`, bool [B, N]: those that the decoder sees, others are zeros to it.
        """
        check_given(maps, images)
        z, near, codes = self.codebook.coded(self.vectors(maps, images))
        kept = near if kept_codes is None else near * kept_codes[:, :, None].astype(near.dtype)
        return self.decoder(kept, images, run=self._run), z, near, codes

    def vectors(self, maps: dict[str, Array], images: Array) -> Array:
        """[B, N, C] of maps that were read. Raises UserError for images of another size than the model's."""
        self.config.check_image(*images.shape[1:3])
        return self.encoder(dense.shown(maps, self.config, images.dtype), images, run=self._run)

    def encode(self, maps: Array, images: Array) -> Array:
        """Codes int [B, N] of maps [B, H, W, n] as batches have them."""
        return self.codebook.coded(self.vectors(dense.read(maps, self.config, self.dtype), images))[2]

    def decode(self, codes: Array, images: Array) -> Array:
        """The maps [B, H, W, n] of codes int [B, N] (`dense.predicted`)."""
        found = self.decoder(self.codebook.look_up(codes, self.dtype), images, run=self._run)
        return dense.predicted(found, self.config)

    def renewed(self, measured: dict[str, Array], batch: dict[str, Array], recipe: Recipe) -> dict[str, Array]:
        """What was measured, and USAGE; the codebook follows the vectors of the whole batch, unless the task freezes it."""
        found = {name: measured.pop(name) * recipe.batch for name in self.config.measured(())}
        counts = found["code_counts"]
        if self.config.renews and not recipe.task.frozen_codebook:
            book, numbers = self.codebook, {name: getattr(self.config, name) for name in ("momentum", "least_count")}
            state = book.dictionary.get_value(), book.counts.get_value()
            new = learned(*state, counts, found["code_sums"], batch["renewal_seed"], **numbers)
            book.dictionary.set_value(new[0])
            book.counts.set_value(new[1])
        zeros = (counts == 0).astype(counts.dtype).mean()
        return measured | {"codebook_zeros_ratio": zeros, "codebook_max_ratio": counts.max() / counts.sum()}
