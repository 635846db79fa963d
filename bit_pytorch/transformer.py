"""The parts of a transformer that images and texts share, in PyTorch. B batch, L tokens, D width."""

import torch
from torch import Tensor, nn

from bit_pytorch.layers import Attention, LayerNorm, LayerScale, Mlp, drop_branch, dropout, part
from common.models import TextConfig, ViTConfig

for function in ("drop_branch", "dropout", "part"):  # which decide by values: nodes of torch.fx's graphs
    torch.fx.wrap(function)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each added to its input; or both of one input (`parallel`)."""

    def __init__(self, config: ViTConfig | TextConfig):
        super().__init__()
        self.norm1 = LayerNorm(config.width, config.layer_norm_epsilon)
        self.attn = Attention(
            config.width, config.num_heads, causal=config.causal, biases=config.attn_biases,
            norm=config.layer_norm_epsilon if config.qk_norm else None,
        )  # fmt: skip
        self.layer_scale1, self.layer_scale2 = (
            LayerScale(config.width) if config.layer_scale else None for _ in range(2)
        )
        self.norm2 = None if config.parallel else LayerNorm(config.width, config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout, gated=config.swiglu)
        self.dropout = config.dropout

    # [B, L, D], [B, 2], [B, 3, 2], [2, B or 1, P, K], [B, L]
    def forward(
        self,
        x: Tensor,
        kept: Tensor | None = None,
        seeds: Tensor | None = None,
        rotation: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        normed = self.norm1(x)
        out = dropout(self.attn(normed, normed, visible, rotation), part(seeds, 0), self.dropout)
        x = x + drop_branch(self.layer_scale1(out) if self.layer_scale1 else out, part(kept, 0))
        out = self.mlp(self.norm2(x) if self.norm2 else normed, part(seeds, 1))
        out = dropout(out, part(seeds, 2), self.dropout)
        return x + drop_branch(self.layer_scale2(out) if self.layer_scale2 else out, part(kept, 1))


class AttentionPool(nn.Module):
    """One learned query that attends to every token, then an MLP: "MAP" (https://arxiv.org/abs/2106.04560, 3.2)."""

    def __init__(self, config: ViTConfig | TextConfig):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, config.width))
        self.attn = Attention(config.width, config.num_heads)
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:  # [B, L, D], [B, L] -> [B, D]
        x = self.attn(self.queries(x), x, visible)
        return (x + self.mlp(self.norm(x)))[:, 0]

    def queries(self, x: Tensor) -> Tensor:
        """The probe for every row of x [B, L, D]: [B, 1, D]."""
        return self.probe.to(x.dtype).expand(x.shape[0], -1, -1)

    def shares(self, x: Tensor, visible: Tensor | None = None) -> Tensor:  # [B, L, D], [B, L] -> [B, N, 1, L]
        """What part of the attention of the probe each token has, in every head."""
        return self.attn.shares(self.queries(x), x, visible, None, slice(None))
