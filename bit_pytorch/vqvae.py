"""ViT-VQ-VAE in PyTorch (https://arxiv.org/abs/2205.10337). B images, L patches, N codes of C numbers, D width."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bit_pytorch import dense
from bit_pytorch.layers import Dense, LayerNorm, PatchEmbedding
from bit_pytorch.model import Model
from bit_pytorch.quantizers import Codebook, Levels, learned
from bit_pytorch.transformer import Block
from common.models import VqVaeConfig
from common.models.vqvae import check_given, resize_matrices
from common.recipes.recipe import Recipe

Run = Callable[..., Tensor]  # a block, perhaps twice (`Model._run`)


@functools.cache
def matrices(config: VqVaeConfig, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """`resize_matrices`, kept on the device."""
    return tuple(torch.tensor(matrix, dtype=dtype, device=device) for matrix in resize_matrices(config))


class Coder(nn.Module):
    """What the encoder and the decoder have in common: tokens that see the image go through blocks."""

    def __init__(self, config: VqVaeConfig, depth: int, sees_image: bool):
        super().__init__()
        self.context = PatchEmbedding(3, config.width, config.patch_size, config.patch_size) if sees_image else None
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.grid[0] * config.grid[1], config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(depth))
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon)

    def seen(self, x: Tensor, images: Tensor, run: Run) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x = x if self.context is None else x + self.context(images)
        x = x + self.pos_embedding.to(x.dtype)
        for block in self.blocks:
            x = run(block, x)
        return self.norm(x)


class MapEncoder(Coder):
    """Maps {name: [B, L, b * P]} to vectors [B, N, C] in the type of the parameters."""

    def __init__(self, config: VqVaeConfig):
        super().__init__(config, config.encoder_depth, config.encoder_context)
        sizes = zip(config.names, config.bins)
        self.stem = nn.ModuleDict({name: Dense(bins * config.num_pixels, config.width) for name, bins in sizes})
        shape = config.grid[0] * config.grid[1], config.num_codes
        self.squeeze = None if config.resizes else nn.Parameter(torch.zeros(shape))
        self.head, self.config = Dense(config.width, config.code_width), config

    def forward(self, maps: dict[str, Tensor], images: Tensor, run: Run) -> Tensor:
        x = self.seen(sum(self.stem[name](values) for name, values in maps.items()), images, run)
        x = x.to(self.pos_embedding.dtype)
        matrix = matrices(self.config, x.dtype, x.device)[0] if self.squeeze is None else self.squeeze
        return self.head(torch.einsum("bld,ln->bnd", x, matrix))


class MapDecoder(Coder):
    """Vectors [B, N, C] to what is predicted of maps, {name: [B, L, b, P]}, in the type of the parameters."""

    def __init__(self, config: VqVaeConfig):
        super().__init__(config, config.decoder_depth, config.decoder_context)
        self.stem, self.config = Dense(config.code_width, config.width), config
        shape = config.num_codes, config.grid[0] * config.grid[1]
        self.spread = None if config.resizes else nn.Parameter(torch.zeros(shape))
        sizes = zip(config.names, config.bins)
        self.head = nn.ModuleDict({name: Dense(config.width, bins * config.num_pixels) for name, bins in sizes})

    def forward(self, z: Tensor, images: Tensor, run: Run) -> dict[str, Tensor]:
        x = self.stem(z)
        matrix = matrices(self.config, x.dtype, x.device)[1] if self.spread is None else self.spread
        x = self.seen(torch.einsum("bnd,nl->bld", x, matrix).to(images.dtype), images, run).to(x.dtype)
        return {name: head(x).unflatten(2, (-1, self.config.num_pixels)) for name, head in self.head.items()}


class VqVae(Model):
    """Maps of a batch and images [B, 3, H, W] to codes, and codes and images to maps (bit_pytorch/dense.py)."""

    def __init__(self, config: VqVaeConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.encoder = MapEncoder(config)
        self.codebook = Levels(config) if config.levels else Codebook(config)
        self.decoder = MapDecoder(config)

    def forward(
        self, maps: dict[str, Tensor], images: Tensor | None = None, kept_codes: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """(what is predicted of `maps` as `dense.read` gives them, vectors [B, N, C], what they became, codes int [B, N]).

        Training may give `kept_codes`, bool [B, N]: those that the decoder sees, others are zeros to it.
        """
        check_given(maps, images)
        z, near, codes = self.codebook.coded(self.vectors(maps, images))
        kept = near if kept_codes is None else near * kept_codes[:, :, None].to(near.dtype)
        return self.decoder(kept, images, run=self._run), z, near, codes

    def vectors(self, maps: dict[str, Tensor], images: Tensor) -> Tensor:
        """[B, N, C] of maps that were read. Raises UserError for images of another size than the model's."""
        self.config.check_image(*images.shape[2:])
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
            state = book.dictionary.detach(), book.counts.detach()
            new = learned(*state, counts, found["code_sums"], batch["renewal_seed"], **numbers)
            for old, value in zip(state, new):
                old.copy_(value)
        zeros = (counts == 0).to(counts.dtype).mean()
        return measured | {"codebook_zeros_ratio": zeros, "codebook_max_ratio": counts.amax() / counts.sum()}
