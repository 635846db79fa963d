"""Vision Transformer in PyTorch (https://arxiv.org/abs/2010.11929). B batch, L tokens, D width, H x W pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bit_pytorch.layers import (
    Dense,
    LayerNorm,
    PatchEmbedding,
    dropout,
    keep_patches,
    on_grid,
    part,
    positions_at,
    takes,
)
from bit_pytorch.model import Model
from bit_pytorch.resnet_v1 import Backbone
from bit_pytorch.transformer import AttentionPool, Block
from common.models import ViTConfig
from common.models.intermediates import Intermediate, block_labels, chosen
from common.models.positions import sincos2d

for function in (
    "dropout",
    "keep_patches",
    "part",
    "positions_at",
    "takes",
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
        if config.pooling == "token":
            self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        if config.positions == "learned":
            self.pos_embedding = nn.Parameter(torch.zeros(1, config.num_positions, config.width))
        else:
            self.register_buffer("positions", torch.from_numpy(sincos2d(*config.grid, config.width)), persistent=False)
        self.pre_norm = LayerNorm(config.width, config.layer_norm_epsilon) if config.pre_norm else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon)
        self.pool = AttentionPool(config) if config.pooling == "map" else None
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        self.head = (
            Dense(config.feature_width, config.num_classes, bias=config.head_bias) if config.num_classes else None
        )

    def forward(
        self,
        images: Tensor,
        kept_branches: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        kept_patches: Tensor | None = None,
        patch_size: tuple[int, int] | None = None,
    ) -> Tensor:
        return self.logits(self.features(images, kept_branches, dropout_seeds, kept_patches, patch_size))

    def features(
        self,
        images: Tensor,
        kept_branches: Tensor | None = None,
        dropout_seeds: Tensor | None = None,
        kept_patches: Tensor | None = None,
        patch_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """The input of the head, in the type of the parameters: [B, feature_width], or [B, L, feature_width] unpooled.

        Training may give `kept_branches`, bool [B, 2 * depth], `dropout_seeds`, int32 [B, 1 + 3 * depth, 2], and
        `kept_patches`, int32 [B, K], of which images see K patches only. A FlexiViT computes with
        patches of another `patch_size`, height and width in pixels.
        """
        images = takes(self.config, images, patch_size)
        x = self.stem(images if self.backbone is None else self.backbone(images), patch_size=patch_size)  # [B, L, D]
        x = dropout(self.embed(x, kept_patches, patch_size), part(dropout_seeds, 0), self.config.dropout)
        for i, block in enumerate(self.blocks):
            kept, seeds = part(kept_branches, slice(2 * i, 2 * i + 2)), part(dropout_seeds, slice(3 * i + 1, 3 * i + 4))
            x = self._run(block, x, kept, seeds)
        x = self.pooled(self.norm(x)).to(self.dtype)
        return torch.tanh(self.pre_logits(x)) if self.pre_logits else x

    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the blocks, which `indices` choose (common/models/intermediates.py); with `norm`, behind the last norm."""
        self.config.check_image(*images.shape[2:])
        x = self.stem(self.backbone(images) if self.backbone else images, patch_size=self.config.patch_size)
        x, found = self.embed(x), []
        for block in self.blocks:
            x = self._run(block, x, None, None)
            found.append(self.norm(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]

    def embed(self, x: Tensor, kept_patches: Tensor | None = None, patch_size: tuple[int, int] | None = None) -> Tensor:
        """Tokens with their positions, after the class token where there is one; normalised where the model has `pre_norm`."""
        x = self.placed(x, patch_size)
        x = keep_patches(x, kept_patches, x.shape[1] - self.config.num_prefix)
        return x if self.pre_norm is None else self.pre_norm(x)

    def placed(self, x: Tensor, patch_size: tuple[int, int] | None) -> Tensor:
        """Tokens with their positions, after the class token where there is one."""
        config = self.config
        learned = config.positions == "learned"
        positions = self.pos_embedding if learned else self.positions
        if config.kernel_size:
            positions = positions_at(positions, config, patch_size)
        positions = positions.to(x.dtype)
        if config.pooling != "token":
            return x + positions
        cls = self.cls.to(x.dtype).expand(x.shape[0], -1, -1)
        if learned and config.cls_position:
            return torch.cat([cls, x], 1) + positions
        return torch.cat([cls, x + positions], 1)

    def pooled(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, D], or unchanged."""
        pooling = self.config.pooling
        if pooling in ("token", "first"):
            return x[:, 0]
        if pooling == "gap":
            return x.to(self.dtype).mean(1)
        return self.pool(x) if pooling == "map" else x
