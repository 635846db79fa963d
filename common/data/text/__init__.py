"""Texts as a model takes them: integers of its tokenizer, or pixels. The model's card states everything that decides them."""

import functools
from pathlib import Path

from common.data.text import bpe, sentencepiece, wordpiece
from common.data.text.render import Renderer
from common.data.text.tokenizer import Tokenizer
from common.data.text.vocabulary import check_vocabulary, find_vocabulary
from common.models.decoder import DecoderConfig
from common.models.published import DOWNLOADS
from common.models.tokens import Text
from common.models.two_towers import TwoTowersConfig

READERS = {
    "sentencepiece": sentencepiece.read_vocabulary,
    "bpe": bpe.read_vocabulary,
    "wordpiece": wordpiece.read_vocabulary,
}

__all__ = ["Renderer", "Tokenizer", "find_vocabulary", "fitting", "kept_tokenizer", "open_tokenizer"]


def open_tokenizer(
    text: Text, vocabulary: Path | str | None = None, folder: Path | str = DOWNLOADS
) -> Tokenizer | Renderer:
    """The tokenizer of a card; `vocabulary` is its file where it has another name or place than the card says.

    Raises UserError where the file is missing, damaged or another one, or the package that reads it is missing.
    """
    path = find_vocabulary(text, folder) if vocabulary is None else check_vocabulary(text, Path(vocabulary))
    return Renderer(text, path) if text.kind == "unifont" else Tokenizer(text, READERS[text.kind](text, path))


kept_tokenizer = functools.lru_cache(maxsize=8)(open_tokenizer)  # for who asks again and again: read once


def fitting(
    tokenizer: Tokenizer | Renderer, model: TwoTowersConfig | DecoderConfig, side: int | None
) -> Tokenizer | Renderer:
    """The tokenizer, which makes what a model takes; `side` px is that of its images. Raises UserError for another model's."""
    tower = model if isinstance(model, DecoderConfig) else model.text
    tokenizer.check_model(*((tower.vocabulary, tower.places(tokenizer.length)) if tower else (0, side)))
    return tokenizer
