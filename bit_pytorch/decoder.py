"""Models that write, in PyTorch (https://arxiv.org/abs/2306.07915). B images, P patches, L tokens, D width, V vocabulary."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_pytorch.layers import Attention, Dense, LayerNorm, Mlp, TokenEmbedding
from bit_pytorch.model import Model
from bit_pytorch.vit import ViT
from common.models import DecoderConfig

Pair = tuple[Tensor, Tensor]  # keys and values [B, N, L or P, K]


class Memory(NamedTuple):
    """What each block knows while a text is written: of the tokens so far, and of the image."""

    tokens: list[Pair]
    image: list[Pair]


def spread(image: Pair, count: int) -> Pair:
    """The keys and values of images [B, ...] for `count` texts, of which equally many follow one another about each image."""
    times = count // len(image[0])
    return tuple(part.repeat_interleave(times, 0) for part in image) if times > 1 else image


class DecoderBlock(nn.Module):
    """Pre-norm block: attention to tokens, attention to an image, then an MLP, each added to its input."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        width, epsilon = config.width, config.layer_norm_epsilon
        self.norm1, self.norm2, self.norm3 = (LayerNorm(width, epsilon, bias=config.bias) for _ in range(3))
        self.attn = Attention(width, config.num_heads, biases=())
        self.cross_attn = Attention(width, config.num_heads, biases=(), seen_width=config.image.width)
        self.mlp = Mlp(width, config.mlp_dim, gelu=config.gelu, bias=config.bias)

    # [B, L, D], patches [B, P, E] or their keys and values, [B or 1, 1, L, L] -> [B, L, D]
    def forward(self, x: Tensor, encoded: Tensor | Pair, mask: Tensor) -> Tensor:
        normed = self.norm1(x)
        return self.after(x, normed, self.attn.keys_and_values(normed), encoded, mask)

    def after(self, x: Tensor, normed: Tensor, tokens: Pair, encoded: Tensor | Pair, mask: Tensor) -> Tensor:
        """The output for tokens [B, Q, D] that see keys and values of others, and the image."""
        image = encoded if isinstance(encoded, tuple) else self.cross_attn.keys_and_values(encoded)
        image = spread(image, len(x))
        x = x + self.attn.look(normed, *tokens, mask)
        x = x + self.cross_attn.look(self.norm2(x), *image)
        return x + self.mlp(self.norm3(x))

    def step(self, x: Tensor, kept: Pair, image: Pair, place: int) -> tuple[Tensor, Pair]:
        """(the output for the token [B, 1, D] at `place`, the keys and values of all up to it, in their memory)."""
        normed = self.norm1(x)
        for memory, new in zip(kept, self.attn.keys_and_values(normed)):
            memory[:, :, place] = new[:, :, 0]
        seen = torch.arange(kept[0].shape[2], device=x.device) <= place
        return self.after(x, normed, kept, image, seen[None, None, None]), kept


class Decoder(Model):
    """Images [B, 3, H, W] and texts int [B, L] to logits [B, L, V] of each token, which sees those before it only."""

    def __init__(self, config: DecoderConfig, *, remat: bool = False):
        super().__init__(config, remat=remat)
        self.image = ViT(config.image, remat=remat)
        self.stem = TokenEmbedding(config.vocabulary + config.masked, config.width)
        self.pos_embedding = nn.Parameter(torch.zeros(1, config.length, config.width))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.norm = LayerNorm(config.width, config.layer_norm_epsilon)
        self.head = Dense(config.width, config.vocabulary)
        self._adapt()

    def forward(
        self, images: Tensor, tokens: Tensor | None = None, parallel: Tensor | None = None, masked: Tensor | None = None
    ) -> Tensor:
        """Training may give `parallel`, bool [B]: whose tokens are predicted at once, where `masked`, bool [B, L], hides them."""
        self.config.check_given(tokens)
        return self.decode(self.encode(images), tokens, parallel, masked)

    def features(self, images: Tensor) -> Tensor:
        """The mean of the image's patches [B, E]."""
        return self.encode(images).mean(1).to(self.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """The patches [B, P, E] that the decoder looks at."""
        return self.image(images).to(self.compute_dtype)

    def decode(
        self, encoded: Tensor | list[Pair], tokens: Tensor, parallel: Tensor | None = None, masked: Tensor | None = None
    ) -> Tensor:
        """Logits [B, L, V] of tokens [B, L], from patches, or from each block's keys and values of them.

        Raises UserError for more tokens than there are positions.
        """
        self.config.check_tokens(tokens.shape[1])
        shown, mask = self.shown(tokens, parallel, masked)
        x = (self.stem(shown) + self.pos_embedding[:, : tokens.shape[1]]).to(self.compute_dtype)
        for number, block in enumerate(self.blocks):
            x = self._run(block, x, encoded[number] if isinstance(encoded, list) else encoded, mask)
        return self.logits(x)

    def shown(self, tokens: Tensor, parallel: Tensor | None, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """(what the decoder is shown in the place of tokens [B, L], which places each of them sees [B or 1, 1, L, L])."""
        before = F.pad(tokens, (1, 0))[:, :-1]
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).tril()[None, None]
        if parallel is None:
            return before, mask
        hidden = torch.where(masked, self.config.vocabulary, tokens)
        return torch.where(parallel[:, None], hidden, before), mask | parallel[:, None, None, None]

    def logits(self, x: Tensor) -> Tensor:
        """The head's output [B, L, V] for what the blocks make of tokens, in the type of the parameters."""
        return self.head(self.norm(x).to(self.dtype))

    def look_at(self, encoded: Tensor) -> list[Pair]:
        """Each block's keys and values of patches [B, P, E]."""
        return [block.cross_attn.keys_and_values(encoded) for block in self.blocks]

    def empty(self, image: list[Pair], length: int) -> Memory:
        """The memory of texts of `length` tokens about images, as `look_at` gives them, before the first token."""
        count, heads, _, size = image[0][0].shape
        kept = [tuple(image[0][0].new_zeros(count, heads, length, size) for _ in range(2)) for _ in self.blocks]
        return Memory(kept, image)

    def step(self, token: Tensor, place: int, memory: Memory) -> tuple[Tensor, Memory]:
        """(logits [B, V] of the token at `place`, the memory of all before it): `token` [B] is the one before, 0 at first."""
        position = self.pos_embedding[:, place : place + 1]
        x, tokens = (self.stem(token[:, None]) + position).to(self.compute_dtype), []
        for block, kept, image in zip(self.blocks, *memory):
            x, kept = block.step(x, kept, image, place)
            tokens.append(kept)
        return self.logits(x)[:, 0], memory._replace(tokens=tokens)
