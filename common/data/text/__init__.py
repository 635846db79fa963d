"""Texts as a model takes them: integers of its tokenizer, or pixels. The model's card states everything that decides them."""

from pathlib import Path

from common.data.text import bpe, sentencepiece, wordpiece
from common.data.text.render import Renderer
from common.data.text.tokenizer import Tokenizer
from common.data.text.vocabulary import check_vocabulary, find_vocabulary
from common.models.published import DOWNLOADS
from common.models.tokens import Text

READERS = {
    "sentencepiece": sentencepiece.read_vocabulary,
    "bpe": bpe.read_vocabulary,
    "wordpiece": wordpiece.read_vocabulary,
}

__all__ = ["Renderer", "Tokenizer", "find_vocabulary", "open_tokenizer"]


def open_tokenizer(
    text: Text, vocabulary: Path | str | None = None, folder: Path | str = DOWNLOADS
) -> Tokenizer | Renderer:
    """The tokenizer of a card; `vocabulary` is its file where it has another name or place than the card says.

    Raises UserError where the file is missing, damaged or another one, or the package that reads it is missing.
    """
    path = find_vocabulary(text, folder) if vocabulary is None else check_vocabulary(text, Path(vocabulary))
    return Renderer(text, path) if text.kind == "unifont" else Tokenizer(text, READERS[text.kind](text, path))
