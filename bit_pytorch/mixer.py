"""MLP-Mixer in PyTorch (https://arxiv.org/abs/2105.01601). B batch, L tokens, D width."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bit_pytorch.layers import Dense, LayerNorm, Mlp, PatchEmbedding, checked, drop_branch, on_grid, part
from bit_pytorch.model import Model
from common.models import MixerConfig
from common.models.intermediates import Intermediate, block_labels, chosen

for function in ("checked", "drop_branch", "part"):  # which decide by values: nodes of a graph that torch.fx traces
    torch.fx.wrap(function)


class Block(nn.Module):
    """An MLP over the tokens of each channel, then one over the channels of each token, each added to its input."""

    def __init__(self, config: MixerConfig):
        super().__init__()
        num_tokens = config.grid[0] * config.grid[1]
        self.norm1 = LayerNorm(config.width, config.layer_norm_epsilon)
        self.token_mixing = Mlp(num_tokens, config.tokens_mlp_dim, gelu=config.gelu)
        self.norm2 = LayerNorm(config.width, config.layer_norm_epsilon)
        self.channel_mixing = Mlp(config.width, config.channels_mlp_dim, gelu=config.gelu)

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:  # [B, L, D], [B, 2]
        out = self.token_mixing(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + drop_branch(out, part(kept, 0))
        return x + drop_branch(self.channel_mixing(self.norm2(x)), part(kept, 1))


class Mixer(Model):
    """Images [B, 3, H, W] in [-1, 1] to logits [B, num_classes]."""

    def __init__(self, config: MixerConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.stem = PatchEmbedding(3, config.width, config.patch_size, config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon)
        self.head = Dense(config.width, config.num_classes) if config.num_classes else None
        self._adapt()

    def forward(self, images: Tensor, kept_branches: Tensor | None = None) -> Tensor:
        return self.logits(self.features(images, kept_branches))

    def features(self, images: Tensor, kept_branches: Tensor | None = None) -> Tensor:
        """Pooled features [B, width], in the type of the parameters; training may give bool [B, 2 * depth]."""
        x = self.stem(checked(images, self.config.image_size))  # [B, L, D]
        for i, block in enumerate(self.blocks):
            x = self._run(block, x, part(kept_branches, slice(2 * i, 2 * i + 2)))
        return self.norm(x).to(self.dtype).mean(1)

    def intermediates(
        self, images: Tensor, *, indices: int | Sequence[int] | None = None, norm: bool = False
    ) -> list[Intermediate]:
        """Outputs of the blocks, which `indices` choose (common/models/intermediates.py); with `norm`, behind the last norm."""
        self.config.check_image(*images.shape[2:])
        x, found = self.stem(images), []
        for block in self.blocks:
            x = self._run(block, x, None)
            found.append(self.norm(x) if norm else x)
        labels = block_labels(self.config)
        return [
            Intermediate(*labels[i], on_grid(found[i], self.config.grid), found[i]) for i in chosen(len(found), indices)
        ]
