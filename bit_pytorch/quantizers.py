"""How vectors become codes in PyTorch: by a codebook that follows them, or rounded (FSQ). N vectors of C numbers, V codes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_pytorch.layers import random_bits
from common.models import VqVaeConfig
from common.models.discrete import Rounding

PERTURBATION = 0.001  # of a word that takes a dead one's place
State = tuple[Tensor, Tensor, Tensor]  # dictionary [V, C], counts [V], number of words that were split


class Codebook(nn.Module):
    """V words, of which a vector, standardised, becomes the nearest. No gradient moves them: they are means of such vectors.

    `dictionary` / `counts` are sums and numbers of the vectors that had each word, discounted by `momentum` a step; a word is
    the quotient, of length 1. Sources: `models/proj/uvim/vit.py` of google-research/big_vision; VQ-VAE, appendix A.1
    (https://arxiv.org/abs/1711.00937).
    """

    def __init__(self, config: VqVaeConfig):
        super().__init__()
        self.dictionary = nn.Parameter(torch.zeros(config.vocabulary, config.code_width))
        self.counts = nn.Parameter(torch.zeros(config.vocabulary))
        self.momentum, self.least_count = config.momentum, config.least_count

    def words(self) -> Tensor:
        """[V, C], each of length 1."""
        means = self.dictionary / self.counts[:, None]
        return means / torch.linalg.vector_norm(means, dim=1, keepdim=True)

    def coded(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors standardised, the nearest words in their place, codes int [B, N]) of [B, N, C]; gradients pass through."""
        z, words = F.layer_norm(z, z.shape[-1:], eps=1e-5), self.words()
        codes = (words.square().sum(1) - 2 * z @ words.T).argmin(2)
        return z, z + (words[codes] - z).detach(), codes.int()

    def look_up(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """The words [B, N, C] of codes [B, N]."""
        return self.words().to(dtype)[codes.long()]

    def statistics(self, z: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Means over images: how many vectors [B, N, C] have each of the codes [B, N], and their sums."""
        sums = torch.zeros_like(self.dictionary).index_add_(0, codes.flatten(), z.flatten(0, 1))
        return {"code_counts": mean_counts(codes, len(self.counts), z.dtype), "code_sums": sums / len(codes)}


@torch.no_grad()
def learned(
    dictionary: Tensor, counts: Tensor, new_counts: Tensor, new_sums: Tensor, seed: Tensor, *, momentum: float, least_count: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(dictionary, counts) after a step, of whose vectors so many [V] have each code, with these sums [V, C].

    It waits for the device, to see whether a word is dead.
    """
    state = momentum * dictionary + new_sums, momentum * counts + new_counts, torch.zeros_like(seed)
    while has_dead_words(state, least_count):
        state = split(state, seed)
    return state[:2]


def has_dead_words(state: State, least_count: float) -> Tensor:
    """Whether a word is dead and another one frequent enough for two: where none is, splitting would never end."""
    _, counts, _ = state
    return (counts.amin() < least_count) & (counts.amax() >= 2 * least_count)


def split(state: State, seed: Tensor) -> State:
    """Put half of the most frequent word, a little changed by what is drawn, in the place of the least; in place."""
    dictionary, counts, number = state
    most, least = counts.argmax(), counts.argmin()
    drawn = random_bits(torch.stack([seed, number])[None], dictionary.shape[1])[0].to(counts.dtype) / 2**24
    half, count = dictionary[most] / 2, counts[most] / 2
    dictionary[least], dictionary[most] = half * (1 - PERTURBATION + 2 * PERTURBATION * drawn), half
    counts[least] = counts[most] = count
    return dictionary, counts, number + 1


class Levels(nn.Module):
    """Finite scalar quantization (https://arxiv.org/abs/2309.15505): each number of a vector is rounded to one of its levels."""

    def __init__(self, config: VqVaeConfig):
        super().__init__()
        self.levels, self.vocabulary = config.levels, config.vocabulary

    def coded(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(vectors bounded to [-1, 1], rounded, codes int [B, N]) of [B, N, C]; gradients pass through the rounding."""
        numbers = Rounding.of(self.levels)
        reach, offset, shift, half = (torch.tensor(row, dtype=z.dtype, device=z.device) for row in numbers[:4])
        bounded = torch.tanh(z + shift) * reach - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        basis = torch.tensor(numbers.basis, device=z.device)
        codes = ((bounded.detach().round() + half).long() * basis).sum(2)
        return bounded / half, rounded / half, codes.int()

    def look_up(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """The rounded vectors [B, N, C] of codes [B, N]."""
        numbers = Rounding.of(self.levels)
        half = torch.tensor(numbers.half, dtype=dtype, device=codes.device)
        basis, levels = (torch.tensor(row, device=codes.device) for row in (numbers.basis, self.levels))
        return (codes[:, :, None] // basis % levels - half) / half

    def statistics(self, z: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """The mean over images of how many vectors have each of the codes [B, N]."""
        return {"code_counts": mean_counts(codes, self.vocabulary, z.dtype)}


def mean_counts(codes: Tensor, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """[V]: how often codes [B, N] have each number, for an image."""
    ones = torch.ones(codes.numel(), dtype=dtype, device=codes.device)
    return torch.zeros(vocabulary, dtype=dtype, device=codes.device).index_add_(0, codes.flatten(), ones) / len(codes)
