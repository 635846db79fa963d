"""Texts as CLIP's byte pairs: `clip/simple_tokenizer.py` of openai/CLIP, computed by the `tokenizers` library.

A text that spells `<|startoftext|>` or `<|endoftext|>` holds that token, as in the original.
"""

import gzip
import html
import re
import zlib
from collections.abc import Callable
from pathlib import Path

from common.data.text.tokenizer import Vocabulary, Words, library, unreadable
from common.models.tokens import Text
from common.system.files import read_regular

START, END = "<|startoftext|>", "<|endoftext|>"
MOST_MERGES = 49152 - 256 - 2  # the file has more; the original leaves them out
# ſ: the original's pattern ignores case, and this is the one other letter that the case of these has.
WORDS = r"""'[sſ]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
PLAIN_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+"""  # the same in ASCII
PLAIN = re.compile(r"[ -%'-~]*")  # printable ASCII without `&`, in which there is nothing to repair


def read_vocabulary(text: Text, path: Path) -> Vocabulary:
    """The merges in `path`, plain or compressed: a first line of any kind, then a pair in each. Raises UserError."""
    fix = library("ftfy").fix_text
    model = build(read_merges(path))

    words = re.compile(rf"{re.escape(START)}|{re.escape(END)}|{PLAIN_WORDS}")
    ids = Words(model, PLAIN, words, lambda line: clean(line, fix).lower())
    return Vocabulary(model.get_vocab_size(), model.token_to_id(START), model.token_to_id(END), ids, reader(model))


def reader(model) -> Callable[[list[int]], str]:
    """What makes a text of ids: their letters are bytes, and a word ends with a space."""
    number = {letter: byte for byte, letter in zip(letter_bytes(), byte_letters())}

    def text(ids: list[int]) -> str:
        letters = "".join(map(model.id_to_token, ids)).replace("</w>", "\u0120")
        return bytes(number[letter] for letter in letters).decode(errors="replace")

    return text


def clean(line: str, fix) -> str:
    """A text without mojibake and HTML entities, its runs of spaces one space, as `basic_clean` and `whitespace_clean`."""
    if not PLAIN.fullmatch(line):
        line = html.unescape(html.unescape(fix(line)))
    return " ".join(line.split())


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs in their order. Raises UserError where a line is none."""
    try:
        data = read_regular(path)
        lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode().split("\n")[1 : MOST_MERGES + 1]
        merges = [tuple(line.split()) for line in lines if line.strip()]
        known = {*byte_letters(), *(f"{letter}</w>" for letter in byte_letters())}
        for pair in merges:
            if len(pair) != 2 or not known.issuperset(pair):
                raise ValueError(f"{' '.join(pair)} is no pair of tokens before it")
            known.add("".join(pair))
        return merges
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise unreadable(path, "byte pairs", error) from error


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """{token: id}: 256 bytes, the same at the end of a word, what each pair becomes, and the two ends."""
    letters = byte_letters()
    joined = ["".join(pair) for pair in merges]
    return {token: i for i, token in enumerate([*letters, *(f"{it}</w>" for it in letters), *joined, START, END])}


VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]


def letter_bytes() -> list[int]:
    """The 256 bytes in the order of the original's ids: those that are visible letters come first."""
    return [*VISIBLE, *(byte for byte in range(256) if byte not in VISIBLE)]


def byte_letters() -> list[str]:
    """A visible letter for each of them."""
    return [*map(chr, VISIBLE), *(chr(256 + i) for i in range(256 - len(VISIBLE)))]


def build(merges: list[tuple[str, str]]):
    """A `tokenizers.Tokenizer` of these merges, which gets texts that are clean."""
    tokenizers = library("tokenizers")
    pre = tokenizers.pre_tokenizers
    model = tokenizers.models.BPE(vocab=vocabulary(merges), merges=merges, end_of_word_suffix="</w>", fuse_unk=False)
    made = tokenizers.Tokenizer(model)
    words = pre.Split(tokenizers.Regex(WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre.Sequence([words, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.add_special_tokens([START, END])
    return made
