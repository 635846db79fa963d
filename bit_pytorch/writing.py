"""How texts about images are written token by token, in PyTorch: likeliest tokens, beams, or draws."""

import torch
from torch import Tensor

from bit_pytorch.decoder import Decoder, Memory, spread
from common.recipes.task import Writing

AS_LIKELY = 1 - 1e-4  # of the least share in a nucleus: down to it, rounding alone tells tokens apart


def write(
    model: Decoder, encoded: Tensor, prompt: Tensor, end: Tensor, writing: Writing, draws: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(tokens int64 [B, L], log-likelihoods [B]) of texts about patches [B, P, E]; behind the `end` int [B] come zeros.

    Of fewer images, B / K, each has K texts that follow one another.

    Where `prompt` int [B, L] is not 0, the text has its token, which costs nothing. With `writing.beams`, so many
    likeliest beginnings are kept; with `writing.top_p`, tokens are drawn by the numbers `draws` [B, L] in [0, 1) from the
    likeliest ones that have this share together (nucleus sampling, https://arxiv.org/abs/1904.09751), at `writing.temperature`.
    """
    (count, length), beams = prompt.shape, writing.beams
    memory = model.empty([spread(image, count * beams) for image in model.look_at(encoded)], length)
    tokens = prompt.new_zeros(count, beams, length, dtype=torch.int64)
    token, ended = tokens[:, :, 0], tokens[:, :, 0] > 0
    scores = torch.full((count, beams), -torch.inf, dtype=model.dtype, device=encoded.device)
    scores[:, 0] = 0
    for place in range(length):
        logits, memory = model.step(token.flatten(), place, memory)
        rated = allowed(logits.log_softmax(1).unflatten(0, (count, beams)), prompt[:, place], ended)  # [B, W, V]
        if writing.top_p:
            token = drawn(rated[:, 0], draws[:, place], writing)[:, None]
            scores = scores + rated.gather(2, token[:, :, None])[:, :, 0]
        else:
            scores, chosen = _largest((scores[:, :, None] + rated).flatten(1), beams)
            parent, token = chosen // rated.shape[2], chosen % rated.shape[2]
            if beams > 1:
                tokens, ended, memory = followed(tokens, ended, memory, parent)
        tokens[:, :, place] = token
        ended = ended | (token == end[:, None])
        if ended.all():
            break
    return tokens[:, 0], scores[:, 0]


def allowed(rated: Tensor, prompt: Tensor, ended: Tensor) -> Tensor:
    """Log-likelihoods [B, W, V], but 0 of the one token that may follow: the prompt's [B], or 0 where a text has `ended` [B, W]."""
    forced = torch.where(ended, 0, prompt[:, None])[:, :, None]
    only = torch.where(torch.arange(rated.shape[2], device=rated.device) == forced, 0.0, -torch.inf).to(rated.dtype)
    return torch.where((ended | (prompt[:, None] > 0))[:, :, None], only, rated)


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(the `count` largest of values [B, K], their places), of equals the first: torch.topk takes any."""
    found = []
    for _ in range(count):
        place = values.argmax(1, keepdim=True)
        found.append((values.gather(1, place), place))
        values = values.scatter(1, place, -torch.inf)
    return tuple(torch.cat(parts, 1) for parts in zip(*found))


def drawn(rated: Tensor, draws: Tensor, writing: Writing) -> Tensor:
    """A token [B] for each row of log-likelihoods [B, V] and number [B].

    Tokens divide [0, 1) in the order of the vocabulary. By falling shares, rounding would order those that are as likely as one
    another, like all that no text of the training had, and each engine would draw others.
    """
    shares = (rated / writing.temperature).softmax(1)
    if writing.top_p < 1:
        largest = shares.sort(dim=1, descending=True).values
        is_kept = largest.cumsum(1) - largest < writing.top_p
        least = torch.where(is_kept, largest, torch.inf).amin(1, keepdim=True)
        shares = torch.where(shares >= AS_LIKELY * least, shares, 0)
    until = shares.cumsum(1)
    mass = until[:, -1:]
    return ((until <= draws[:, None].to(mass.dtype) * mass) & (until < mass)).sum(1)  # rounding may give 1 * mass


def followed(tokens: Tensor, ended: Tensor, memory: Memory, parent: Tensor) -> tuple[Tensor, Tensor, Memory]:
    """What belongs to the beams `parent` [B, W] that live on."""
    tokens = tokens.gather(1, parent[:, :, None].expand_as(tokens))
    rows = (parent + parent.shape[1] * torch.arange(len(parent), device=parent.device)[:, None]).flatten()
    kept = [tuple(part[rows] for part in pair) for pair in memory.tokens]  # beams of one image see the same patches
    return tokens, ended.gather(1, parent), memory._replace(tokens=kept)
