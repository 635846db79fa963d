"""BERT in PyTorch (https://arxiv.org/abs/1810.04805). B batch, L tokens, D width."""

import torch
from torch import Tensor, nn

from bit_pytorch.layers import Attention, Dense, LayerNorm, Mlp, TokenEmbedding
from bit_pytorch.model import Model
from common.models import BertConfig


class BertBlock(nn.Module):
    """Post-norm transformer block: attention, then an MLP, each added to its input and normalised."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attn = Attention(config.width, config.num_heads)
        self.norm1 = LayerNorm(config.width, config.layer_norm_epsilon)
        self.mlp = Mlp(config.width, config.mlp_dim, gelu=config.gelu)
        self.norm2 = LayerNorm(config.width, config.layer_norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # [B, L, D], [B, L]
        x = self.norm1(x + self.attn(x, x, mask))
        return self.norm2(x + self.mlp(x))


class Bert(Model):
    """Tokens int [B, L], 0 where nothing stands, to what the head makes of them [B, num_classes], or to features [B, D]."""

    def __init__(self, config: BertConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.stem = TokenEmbedding(config.vocabulary, config.width)
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.length, config.width))
        self.segment_embedding = nn.Parameter(torch.zeros(config.segments, config.width))
        self.pre_norm = LayerNorm(config.width, config.layer_norm_epsilon)
        self.blocks = nn.ModuleList(BertBlock(config) for _ in range(config.depth))
        self.pre_logits = Dense(config.width, config.pre_logits) if config.pre_logits else None
        self.head = Dense(config.feature_width, config.num_classes) if config.num_classes else None

    def features(self, tokens: Tensor) -> Tensor:
        """The input of the head, the first token's [B, D], in the type of the parameters. Raises UserError for too many tokens."""
        self.config.check_tokens(tokens.shape[1])
        x = self.stem(tokens) + self.pos_embedding[:, : tokens.shape[1]] + self.segment_embedding[0]
        x = self.pre_norm(x).to(self.compute_dtype)
        for block in self.blocks:
            x = self._run(block, x, tokens != 0)
        x = x[:, 0].to(self.dtype)
        return torch.tanh(self.pre_logits(x)) if self.pre_logits else x
