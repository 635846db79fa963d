"""Texts as the integers of a model: one face for every kind of tokenizer, and the one place where a text is cut or filled up."""

import importlib
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from common.models.tokens import Text
from common.system.errors import UserError, printable, shortened


class Vocabulary(NamedTuple):
    """What the library of a kind makes of a vocabulary's file."""

    size: int
    start: int | None  # the id that every text begins with; None: none
    end: int | None
    ids: Callable[[list[str]], list[list[int]]]  # of the texts alone, however long
    text: Callable[[list[int]], str]  # of ids alone, without start and end


class Tokenizer:
    """The tokenizer that a model was trained with: `encode` has no options, since the card states all of them.

    Every text has `length` tokens. What is too long loses its last tokens, but never a sticky end token; what is short, or
    empty, is filled up with the padding id behind its end. No mask is made: a model that has one (BERT) derives it from
    the ids, and others were trained without.
    """

    def __init__(self, text: Text, vocabulary: Vocabulary):
        """Raises UserError where the vocabulary lacks the padding id or the end token of the card."""
        self.text, self.kind, self.length = text, text.kind, text.length
        self.vocab_size, self._vocabulary = vocabulary.size, vocabulary
        if text.padding >= vocabulary.size:
            raise UserError(
                f"The padding id is {text.padding} and {text.vocabulary} has {vocabulary.size:,} tokens; mend the card."
            )
        if text.end != "none" and vocabulary.end is None:
            raise UserError(
                f"{text.vocabulary} has no end token, which the model's texts end with; choose another file."
            )

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [N, L]: the ids of N texts. Raises UserError for what is no list of texts."""
        rows = self._vocabulary.ids(checked(texts))
        start, end = self._vocabulary.start, self._vocabulary.end if self.text.end != "none" else None
        first = int(start is not None)
        room = self.length - first - int(self.text.end == "sticky")
        rows = [row[:room] for row in rows]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.full((len(rows), self.length), self.text.padding, np.int32)
        if first:
            tokens[:, 0] = start
        is_text = np.arange(room) < lengths[:, None]  # [N, room]
        tokens[:, first : first + room][is_text] = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
        if end is not None:
            places = first + lengths
            has_end = np.flatnonzero(places < self.length)
            tokens[has_end, places[has_end]] = end
        return tokens

    @property
    def end(self) -> int | None:
        """The id that ends a text; None where there is none."""
        return self._vocabulary.end if self.text.end != "none" else None

    def decode(self, tokens: np.ndarray) -> list[str]:
        """The texts of ids int [N, L]: what stands before the end, or else without padding behind."""
        start, texts = self._vocabulary.start, []
        for row in tokens.tolist():
            row = row[1:] if row and row[0] == start else row
            row = row[: row.index(self.end)] if self.end in row else row
            while row and row[-1] == self.text.padding:
                row.pop()
            texts.append(self._vocabulary.text(row).strip())
        return texts

    def check_model(self, vocabulary: int, length: int) -> None:
        """Raise UserError where a model's embeddings are not of this vocabulary or not for this length."""
        if (vocabulary, length) != (self.vocab_size, self.length):
            raise UserError(
                f"The model has embeddings of {vocabulary:,} tokens at {length:,} places, and the texts of its card are "
                f"{self.length:,} of {self.text.vocabulary}'s {self.vocab_size:,} tokens; name the model's own vocabulary."
            )


def checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list. Raises UserError for a single text, for another type, and for what is no Unicode."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"The texts are {shortened(repr(texts))}, expected a list of strings.")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        broken = next(text for text in texts if error.object[error.start] in text)
        raise UserError(
            f"The text {shortened(printable(broken))!r} is no Unicode ({error.reason}); mend its encoding."
        ) from error
    return list(texts)


class Words:
    """The ids of plain texts word by word, each word asked of the library once; of other texts, as the library has them.

    Captions have few different words, and in these two kinds a word's ids do not depend on its neighbours. Measured on English
    captions: a fourth of the work of the library's own batches for byte pairs, a ninth for word pieces.
    """

    MOST = 2**17  # words that are remembered

    def __init__(self, model: Any, plain: re.Pattern, words: re.Pattern, prepare: Callable[[str], str]):
        """`model` is a `tokenizers.Tokenizer`; `words` finds those of a text of which `plain` matches all; `prepare` is for any."""
        self._model, self._plain, self._words, self._prepare = model, plain, words, prepare
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text."""
        texts = [self._prepare(text) for text in texts]
        rows = [self._split(text) if self._plain.fullmatch(text) else None for text in texts]
        others = [number for number, row in enumerate(rows) if row is None]
        found = self._model.encode_batch_fast([texts[number] for number in others], add_special_tokens=False)
        for number, encoding in zip(others, found):
            rows[number] = encoding.ids
        return rows

    def _split(self, text: str) -> list[int]:
        known, row = self._known, []
        for word in self._words.findall(text):
            if (ids := known.get(word)) is None:
                if len(known) >= self.MOST:
                    known.clear()
                ids = known[word] = self._model.encode(word, add_special_tokens=False).ids
            row += ids
        return row


def library(name: str) -> ModuleType:
    """A package of the extra `text`. Raises UserError where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed and these texts need it; `pip install '.[text]'`.") from error


def unreadable(path: Path, kind: str, error: Exception | str) -> UserError:
    """The sentence on a vocabulary that is none."""
    return UserError(f"{path} is no vocabulary of {kind} ({printable(str(error).strip())[:200]}); fetch it again.")
