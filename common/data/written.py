"""The columns of models that write: texts, which of their tokens count or are hidden, and what a text begins with."""

from collections.abc import Callable, Sequence

import numpy as np

from common.data.columns import Column, Stream, captions
from common.data.split import Split
from common.data.text.tokenizer import Tokenizer
from common.system.errors import UserError

Encode = Callable[[Sequence[str]], np.ndarray]


def texts(split: Split, encode: Encode, shape: tuple[int, ...], *, drawn: bool) -> Column:
    """int32 [L]: one of an example's captions, drawn anew for every step, or else the first."""
    if drawn:
        return captions(split, lambda text: encode([text])[0], shape)
    known = split.captions
    return Column("tokens", shape, np.int32, lambda example: encode([known[example.number][0]])[0])


def counted(written: Column, padding: int) -> Column:
    """bool [L]: which tokens of the column `written` are to be predicted: all but padding."""
    make = lambda example, *draws: written.make(example, *draws) != padding
    return written._replace(name="counted", dtype=bool, make=make)


def parallel(part: float) -> Column:
    """bool []: whether an example's tokens are predicted all at once."""
    return Column("parallel", (), bool, lambda example, draw: np.bool_(draw < part), (Stream("parallel_draws", 9, ()),))


def masked(shape: tuple[int, ...], part: float) -> Column:
    """bool [L]: which tokens are hidden where all are predicted at once: int(part * L) of them, wherever they are."""
    (length,), stream = shape, Stream("mask_draws", 10, shape)
    count = int(part * length)
    return Column("masked", shape, bool, lambda example, draws: np.argsort(np.argsort(draws)) < count, (stream,))


def prompts(tokenizer: Tokenizer, prompt: str, seed: int | None = None) -> tuple[Column, ...]:
    """`prompt` int32 [L], the tokens that every text begins with and then 0; `end` int32 []; with a seed `draws` [L] in [0, 1).

    Raises UserError for a prompt that leaves no room, and for a tokenizer whose texts have no end.
    """
    if tokenizer.end is None:
        raise UserError(
            "The texts of the model's card have no end token, so nothing says where one ends; mend the card."
        )
    first = tokens_of(tokenizer, prompt)
    shape = (tokenizer.length,)
    found = [
        Column("prompt", shape, np.int32, lambda example: first),
        Column("end", (), np.int32, lambda example: np.int32(tokenizer.end)),
    ]
    if seed is not None:
        draw = lambda example: np.random.default_rng([seed, 11, example.number]).random(shape)
        found.append(Column("draws", shape, np.float64, draw))
    return tuple(found)


def tokens_of(tokenizer: Tokenizer, prompt: str) -> np.ndarray:
    """int32 [L]: the tokens of a prompt, and 0 where the model goes on. Raises UserError where it leaves no room."""
    (tokens,) = tokenizer.encode([prompt])
    places = np.flatnonzero(tokens == tokenizer.end)
    count = int(places[0]) if len(places) else len(tokens)
    if count >= len(tokens) - 1:
        raise UserError(f"--prompt has {count} tokens and the model writes {len(tokens)}; give a shorter one.")
    return np.where(np.arange(len(tokens)) < count, tokens, 0).astype(np.int32)
