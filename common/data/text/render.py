"""Texts as pixels: CLIPPO's tower sees them as images, drawn with the 16 x 16 bits of GNU Unifont.

Source: `pp/proj/clippo/pp_ops.py` of google-research/big_vision (paper: 2212.08045), whose layout is kept with its oddities: a
letter keeps `spacing` empty columns at its left and one fewer at its right, a row ends before the image does by the width of
the widest letter, and rows below the image are cut.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.text.sentencepiece import ascii_lower
from common.data.text.tokenizer import checked, unreadable
from common.models.tokens import Text
from common.system.errors import UserError
from common.system.files import read_regular

SIDE = 16  # px of a letter
MOST_LETTERS = 768  # of a text; the others are cut
BACKGROUND, INK = 127, 0
CODES = 0x110000


class Renderer:
    """A tokenizer's face for a model whose texts are images: `length` is the side in pixels, there is no vocabulary."""

    vocab_size = 0

    def __init__(self, text: Text, path: Path):
        """Raises UserError where `path` is no hex file of Unifont."""
        self.text, self.kind, self.length = text, text.kind, text.length
        self._font = read_font(path)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """uint8 [N, S, S, 3]: the pictures of N texts. Raises UserError for what is no list of texts."""
        texts = [ascii_lower(text) if self.text.lower == "ascii" else text for text in checked(texts)]
        pictures = [render(text, self._font, self.length) for text in texts]
        return np.array(pictures, np.uint8).reshape(-1, self.length, self.length, 3)

    def check_model(self, vocabulary: int, length: int) -> None:
        """Raise UserError where a model takes images of another side, in pixels; it has no embeddings of tokens."""
        if (vocabulary, length) != (0, self.length):
            raise UserError(
                f"The model takes images of {length} px and its card has texts drawn into {self.length} px; mend the card."
            )


def read_font(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(row of each code point, bool [rows, 16, 16]) of lines such as `0041:0000...`; row 0 is an empty letter.

    A letter has 32 digits, for 8 columns of which the others stay empty, or 64. Raises UserError.
    """
    try:
        lines = [line.split(":") for line in read_regular(path).decode("ascii").split()]
        rows, bits = np.zeros(CODES, np.int32), np.zeros((len(lines) + 1, SIDE, 2), np.uint8)
        for row, (code, digits) in enumerate(lines, 1):
            letter = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(SIDE, -1)
            rows[int(code, 16)] = row
            bits[row, :, : letter.shape[1]] = letter
        return rows, np.unpackbits(bits, axis=2).astype(bool)
    except (OSError, ValueError, IndexError) as error:
        raise unreadable(path, "Unifont", error) from error


def render(text: str, font: tuple[np.ndarray, np.ndarray], side: int, *, background: int = BACKGROUND, ink: int = INK,
           monospace: bool = False, spacing: int = 1, min_width: int = 4, most: int = MOST_LETTERS) -> np.ndarray:  # fmt: skip
    """uint8 [side, side, 3]: a text as CLIPPO sees it. `spacing` and `min_width` are columns, `most` letters are drawn.

    A code point that the font lacks is an empty letter.
    """
    codes = np.frombuffer(text[:most].encode("utf-32-le"), np.uint32)
    rows, glyphs = font
    letters = glyphs[rows[codes]]  # [T, 16, 16]
    start, stop = (
        (np.zeros(len(codes), int), np.full(len(codes), SIDE)) if monospace else trim(letters, spacing, min_width)
    )
    columns = np.arange(SIDE)
    is_drawn = (start[:, None] <= columns) & (columns < stop[:, None])  # [T, 16]
    widths = stop - start
    ends = widths.cumsum()
    row = ends // (side - widths.max(initial=0))  # of each letter
    before = ends - widths
    left = before - before[np.searchsorted(row, row)] if len(row) else before  # px from the row's first letter
    letter, column = np.nonzero(is_drawn)
    place = left[letter] + column - start[letter]
    canvas = np.zeros((int(row.max(initial=0)) + 1, side, SIDE), bool)  # columns of letters
    canvas[row[letter], place] = letters[letter, :, column]
    picture = canvas.transpose(0, 2, 1).reshape(-1, side)[:side]
    image = np.full((side, side), background, np.uint8)
    image[: len(picture)][picture] = ink
    return np.repeat(image[..., None], 3, axis=2)


def trim(letters: np.ndarray, spacing: int, min_width: int) -> tuple[np.ndarray, np.ndarray]:
    """(first column, column after the last) of each letter [T, 16, 16]."""
    has_ink = letters.any(1)  # [T, 16]
    is_empty = ~has_ink.any(1)
    first = np.where(is_empty, 0, has_ink.argmax(1))
    last = np.where(is_empty, 0, SIDE - 1 - has_ink[:, ::-1].argmax(1))
    start = np.maximum(first - spacing, 0)
    return start, np.minimum(np.maximum(last + spacing, start + min_width), SIDE)
