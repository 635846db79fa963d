"""Texts as pieces of a sentencepiece model, as big_vision tokenizes for SigLIP (`pp/ops_text.py`), or Hugging Face does."""

import re
import string
from pathlib import Path
from typing import Any

from common.data.text.tokenizer import Vocabulary, library, unreadable
from common.models.tokens import Text

ASCII_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
EXTRA = re.compile("▁?<extra_id_[0-9]+>")  # behind T5's pieces; no image-text model has rows for them
MANY = 256  # texts that are worth the start of threads


def read_vocabulary(text: Text, path: Path) -> Vocabulary:
    """The model in `path`. Raises UserError where it is none."""
    model = opened(path)
    size = model.get_piece_size()
    while size and EXTRA.fullmatch(model.id_to_piece(size - 1)):
        size -= 1
    unknown = model.unk_id()

    def ids(texts: list[str]) -> list[list[int]]:
        lines = [prepared(line, text) for line in texts]
        rows = model.encode(lines, num_threads=-1) if len(lines) >= MANY else [model.encode(line) for line in lines]
        if size == model.get_piece_size():
            return rows
        return [[number if number < size else unknown for number in row] for row in rows]

    return Vocabulary(size, None, model.eos_id() if model.eos_id() >= 0 else None, ids, model.decode)


def opened(path: Path) -> Any:
    """The library's model in `path`. Raises UserError where it is none."""
    module = library("sentencepiece")
    try:
        return module.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise unreadable(path, "sentencepiece", error) from error


def prepared(line: str, text: Text) -> str:
    """A text as the library gets it; `removed` is `canonicalize_text` of transformers' tokenization_siglip.py."""
    if text.lower == "unicode":
        line = line.lower()
    elif text.lower == "ascii":
        line = ascii_lower(line)
    return " ".join(line.translate(WITHOUT_PUNCTUATION).split()) if text.punctuation == "removed" else line


def ascii_lower(line: str) -> str:
    """A to Z in lower case, as `tf.strings.lower` does without an encoding."""
    return line.lower() if line.isascii() else line.translate(ASCII_LOWER)
