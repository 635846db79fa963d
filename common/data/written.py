"""The columns of models that write: texts, which of their tokens count or are hidden, and what a text begins with."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.data.columns import CAPTION, Column, Stream
from common.data.split import Example, Split
from common.data.text.tokenizer import Tokenizer
from common.system.errors import UserError, printable, shortened


class Told(NamedTuple):
    """A text of an image, and the prompt before it, which is given: it is not predicted."""

    prompt: str
    text: str


Telling = Callable[[int], list[Told]]  # the texts of an example


def told(split: Split, prompt: str, class_prompt: str | None = None, names: Sequence[str] = ()) -> Telling:
    """(example) -> its captions behind `prompt`, and with a `class_prompt` the name of its class behind that.

    Several tasks are told apart by prompts in https://arxiv.org/abs/2303.17376.
    """

    def of(example: int) -> list[Told]:
        found = [Told(prompt, text) for text in (() if split.captions is None else split.captions[example])]
        return found if class_prompt is None else [*found, Told(class_prompt, names[split.labels[example]])]

    return of


def texts(tokenizer: Tokenizer, told: Telling, *, drawn: bool, hidden: float | None = None) -> tuple[Column, ...]:
    """`tokens` int32 [L]: one of an example's texts behind its prompt, drawn anew for every step, or else the first.

    `counted` bool [L]: which of them are to be predicted, neither padding nor the prompt. With `hidden`, `masked` bool [L]: which are
    hidden where all are predicted at once: int(hidden * L) of them, wherever they are, but those of the prompt.
    """
    shape, streams = (tokenizer.length,), (CAPTION,) * drawn
    begins = functools.cache(lambda prompt: tokens_of(tokenizer, prompt))

    def one(example: Example, draw: float = 0.0) -> Told:
        found = told(example.number)
        return found[int(draw * len(found))]

    def tokens(example: Example, *draw: float) -> np.ndarray:
        return joined(tokenizer, *one(example, *draw), begins)

    def counted(example: Example, *draw: float) -> np.ndarray:
        return (tokens(example, *draw) != tokenizer.text.padding) & (begins(one(example, *draw).prompt) == 0)

    def masked(example: Example, order: Sequence[float], *draw: float) -> np.ndarray:
        return (np.argsort(np.argsort(order)) < int(hidden * len(order))) & (begins(one(example, *draw).prompt) == 0)

    found = Column("tokens", shape, np.int32, tokens, streams), Column("counted", shape, bool, counted, streams)
    order = Stream("mask_draws", 10, shape)
    return found if hidden is None else (*found, Column("masked", shape, bool, masked, (order, *streams)))


def joined(tokenizer: Tokenizer, prompt: str, text: str, begins: Callable[[str], np.ndarray]) -> np.ndarray:
    """int32 [L]: a text behind a prompt. Raises UserError where the prompt's tokens are others there than alone."""
    (tokens,) = tokenizer.encode([f"{prompt} {text}" if prompt else text])
    first = begins(prompt)
    if (tokens != first)[first != 0].any():
        raise UserError(
            f"The prompt {printable(prompt)!r} has other tokens before {shortened(printable(text))!r} than alone; end it with a "
            "whole word."
        )
    return tokens


def parallel(part: float) -> Column:
    """bool []: whether an example's tokens are predicted all at once."""
    return Column("parallel", (), bool, lambda example, draw: np.bool_(draw < part), (Stream("parallel_draws", 9, ()),))


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
        raise UserError(
            f"The prompt {shortened(printable(prompt))!r} leaves no room for a text in the {len(tokens)} tokens that the model writes; "
            "give a shorter one."
        )
    return np.where(np.arange(len(tokens)) < count, tokens, 0).astype(np.int32)


def behind(tokenizer: Tokenizer, prompt: str) -> Callable[[np.ndarray], list[str]]:
    """(tokens [N, L]) -> what stands behind the tokens of a prompt, as texts."""
    count = int((tokens_of(tokenizer, prompt) != 0).sum())
    return lambda tokens: tokenizer.decode(tokens[:, count:])
