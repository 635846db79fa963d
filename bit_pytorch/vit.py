"""Vision Transformer in PyTorch (https://arxiv.org/abs/2010.11929). B batch, L tokens, D width, H x W pixels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bit_pytorch.layers import (
    Dense,
    LayerNorm,
    PatchEmbedding,
    dropout,
    keep_patches,
    mean,
    normed_patches,
    on_grid,
    part,
    positions_at,
    positions_in,
    seen,
    takes,
    turned_as,
)
from bit_pytorch.model import Model
from bit_pytorch.resnet_v1 import Backbone
from bit_pytorch.transformer import AttentionPool, Block
from common.models import ViTConfig
from common.models.intermediates import Intermediate, block_labels, chosen
from common.models.positions import prefix_tokens, rotary, sincos2d

for function in (
    "dropout",
    "keep_patches",
    "part",
    "positions_at",
    "takes",
    "turned_as",
):  # which decide by values: nodes of torch.fx's graphs
    torch.fx.wrap(function)


class ViT(Model):
    """Images [B, 3, H, W] in [-1, 1] to logits [B, num_classes], or [B, L, num_classes] without pooling."""

    def __init__(self, config: ViTConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.backbone = Backbone(config.backbone, remat=remat) if config.backbone else None
        in_width = config.backbone.width if config.backbone else 3
        self.stem = PatchEmbedding(
            in_width, config.width, config.stored_kernel, config.patch_size, bias=config.stem_bias
        )
        size, norms = math.prod(config.patch_size) * in_width, config.patch_norms
        self.image_norm = LayerNorm(size, config.layer_norm_epsilon) if "pre" in norms else None
        self.embed_norm = LayerNorm(config.width, config.layer_norm_epsilon) if "post" in norms else None
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width)) if config.has_cls else None
        self.dist = nn.Parameter(torch.zeros(1, 1, config.width)) if config.distilled else None
        self.registers = nn.Parameter(torch.zeros(1, config.registers, config.width)) if config.registers else None
        if config.positions == "learned":
            self.pos_embedding = nn.Parameter(torch.zeros(1, config.num_positions, config.width))
        elif config.rotary:
            angles = rotary(*config.grid, config.width // config.num_heads)
            self.register_buffer("fixed_rotation", torch.from_numpy(angles), persistent=False)
        else:
            waves = sincos2d(*config.grid, config.width)
            self.register_buffer("fixed_positions", torch.from_numpy(waves), persistent=False)
        self.pre_norm = LayerNorm(config.width, config.layer_norm_epsilon) if config.pre_norm else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon) if config.norm_first else None
        self.pool_norm = None if config.norm_first else LayerNorm(config.width, config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        width, classes = config.head_width, config.num_classes
        self.head = Dense(width, classes, bias=config.head_bias) if classes else None
        self.head_dist = Dense(width, classes, bias=config.head_bias) if classes and config.distilled else None
        self._adapt()

    def forward(
        self, images: Tensor, kept_branches: Tensor | None = None, dropout_seeds: Tensor | None = None,
        kept_patches: Tensor | None = None, patch_size: tuple[int, int] | None = None,
        coordinates: Tensor | None = None, patch_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return self.logits(
            self.features(images, kept_branches, dropout_seeds, kept_patches, patch_size, coordinates, patch_mask)
        )

    def logits(self, features: Tensor) -> Tensor:
        """The head's output for features, or the mean of both heads'; the features themselves where there is no head."""
        if self.head_dist is None:
            return super().logits(features)
        first, second = features.chunk(2, -1)
        return (self.head(first) + self.head_dist(second)) / 2

    def features(
        self, images: Tensor, kept_branches: Tensor | None = None, dropout_seeds: Tensor | None = None,
        kept_patches: Tensor | None = None, patch_size: tuple[int, int] | None = None,
        coordinates: Tensor | None = None, patch_mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The input of the head, in the type of the parameters: [B, feature_width], or [B, L, feature_width] unpooled.

        Of a distilled model, those of its two heads one after the other.

        Training may give `kept_branches`, bool [B, 2 * depth], `dropout_seeds`, int32 [B, 1 + 3 * depth, 2], and
        `kept_patches`, int32 [B, K], of which images see K patches only. A FlexiViT computes with
        patches of another `patch_size`, height and width in pixels. A NaFlex takes patches of images that keep their own
        aspect ratios, one below the other as images of one patch's width, with `coordinates`, int32 [B, L, 2], their rows
        and columns, and `patch_mask`, bool [B, L], False for those that are padding (common/data/naflex.py).
        """
        images = takes(self.config, images, patch_size, coordinates)
        x = self.patches(images, patch_size)  # [B, L, D]
        x = dropout(self.embed(x, kept_patches, patch_size, coordinates), part(dropout_seeds, 0), self.config.dropout)
        rotation = self.rotation(x, kept_patches)
        visible = seen(patch_mask, self.config.num_prefix) if self.config.naflex else None  # [B, tokens]
        for i, block in enumerate(self.blocks):
            kept, seeds = part(kept_branches, slice(2 * i, 2 * i + 2)), part(dropout_seeds, slice(3 * i + 1, 3 * i + 4))
            x = self._run(block, x, kept, seeds, rotation, visible)
        x = pooled(self, self.normed(x), visible).to(self.dtype)
        return torch.tanh(self.pre_logits(x)) if self.pre_logits else x

    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the blocks, which `indices` choose (common/models/intermediates.py); with `norm`, behind the last norm."""
        self.config.check_image(*images.shape[2:])
        x, found = self.embed(self.patches(images)), []
        rotation = self.rotation(x)
        for block in self.blocks:
            x = self._run(block, x, None, None, rotation)
            found.append(self.normed(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]

    def patches(self, images: Tensor, patch_size: tuple[int, int] | None = None) -> Tensor:
        """Tokens [B, L, D] of the patches of images, or of what the backbone makes of them."""
        x = self.backbone(images) if self.backbone else images
        x = normed_patches(x, self.image_norm, self.config.patch_size) if self.image_norm else x
        x = self.stem(x, patch_size=patch_size)
        return self.embed_norm(x) if self.embed_norm else x

    def embed(
        self, x: Tensor, kept_patches: Tensor | None = None, patch_size: tuple[int, int] | None = None,
        coordinates: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Tokens with their positions, after those that are no patch; normalised where the model has `pre_norm`."""
        x = self.placed(x, patch_size, coordinates)
        x = keep_patches(x, kept_patches, x.shape[1] - self.config.num_prefix)
        return x if self.pre_norm is None else self.pre_norm(x)

    def placed(self, x: Tensor, patch_size: tuple[int, int] | None, coordinates: Tensor | None) -> Tensor:
        """Tokens with their positions, after the class tokens and the registers where there are some."""
        prefix, place, positions = [], 0, self.positions(x.dtype, patch_size, coordinates)
        for name, count, positioned in prefix_tokens(self.config):
            token = getattr(self, name).to(x.dtype)
            if positioned:
                token, place = token + positions[:1, place : place + count], place + count
            prefix.append(token.expand(x.shape[0], -1, -1))
        x = x if positions is None else x + positions[:, place:]
        return torch.cat([*prefix, x], 1) if prefix else x

    def positions(
        self, dtype: torch.dtype, patch_size: tuple[int, int] | None, coordinates: Tensor | None
    ) -> Tensor | None:
        """What is added to the tokens: [1, L, D], or [B, L, D] of a NaFlex; None where positions are rotary."""
        config = self.config
        if config.rotary:
            return None
        if config.naflex:
            return positions_in(self.pos_embedding, config.stored_grid, coordinates).to(dtype)
        positions = self.pos_embedding if config.positions == "learned" else self.fixed_positions
        return (positions_at(positions, config, patch_size) if config.kernel_size else positions).to(dtype)

    def rotation(self, x: Tensor, kept_patches: Tensor | None = None) -> Tensor | None:
        """How the queries and keys of patches turn: [2, B or 1, L, K]; None where positions are not rotary."""
        return turned_as(self.fixed_rotation.to(x.dtype), kept_patches) if self.config.rotary else None

    def normed(self, x: Tensor) -> Tensor:
        """Tokens behind the last norm, where it comes before the pooling."""
        return x if self.norm is None else self.norm(x)


def pooled(model: ViT, x: Tensor, visible: Tensor | None = None) -> Tensor:
    """[B, L, D] to [B, D], or unchanged; of a NaFlex, without what is padding."""
    pooling = model.config.pooling
    if pooling == "token":
        return x[:, :2].flatten(1) if model.config.distilled else x[:, 0]
    token, x = x[:, 0], x[:, model.config.num_prefix :]
    visible = None if visible is None else visible[:, model.config.num_prefix :]
    if pooling == "first":
        return x[:, 0]
    if pooling == "gap":
        return mean(x.to(model.dtype), visible)
    if pooling == "gap_norm":
        return model.pool_norm(mean(x.to(model.dtype), visible))
    if pooling == "token_gap":
        return torch.cat([token.to(model.dtype), mean(x.to(model.dtype), visible)], -1)
    return model.pool(x, visible) if pooling == "map" else x
