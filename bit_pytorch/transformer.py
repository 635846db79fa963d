"""The parts of a transformer that images and texts share, in PyTorch. B batch, L tokens, D width."""

import torch
from torch import Tensor, nn

from bit_pytorch.layers import Attention, LayerNorm, Mlp, drop_branch, dropout, part
from common.models import TextConfig, ViTConfig

for function in ("drop_branch", "dropout", "part"):  # which decide by values: nodes of torch.fx's graphs
    torch.fx.wrap(function)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ViTConfig | TextConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.width, config.layer_norm_epsilon)
        self.attn = Attention(config.width, config.num_heads, causal=config.causal)
        self.norm2 = LayerNorm(config.width, config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout)
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, kept: Tensor | None = None, seeds: Tensor | None = None
    ) -> Tensor:  # [B, L, D], [B, 2], [B, 3, 2]
        out = self.norm1(x)
        x = x + drop_branch(dropout(self.attn(out, out), part(seeds, 0), self.dropout), part(kept, 0))
        out = self.mlp(self.norm2(x), part(seeds, 1))
        return x + drop_branch(dropout(out, part(seeds, 2), self.dropout), part(kept, 1))


class AttentionPool(nn.Module):
    """One learned query that attends to every token, then an MLP: "MAP" (https://arxiv.org/abs/2106.04560, 3.2)."""

    def __init__(self, config: ViTConfig | TextConfig):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.width))
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def forward(self, x: Tensor) -> Tensor:  # [B, L, D] -> [B, D]
        x = self.attn(self.probe.to(x.dtype).expand(x.shape[0], -1, -1), x)
        return (x + self.mlp(self.norm(x)))[:, 0]
