"""The files with which Hugging Face's `AutoTokenizer` makes the ids that a model was trained with.

Beside the vocabulary they say all that its classes otherwise assume: the length, the padding id, no mask. Where a class of
their own cannot do what the card says (`SiglipTokenizer` drops punctuation, `BertTokenizer` adds `[SEP]`), a tokenizer.json
does, which holds every step.
"""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from common.data.text import bpe, wordpiece
from common.data.text.sentencepiece import ASCII_LOWER, opened
from common.data.text.tokenizer import library, unreadable
from common.models.tokens import Text
from common.system import protobuf
from common.system.errors import UserError
from common.system.files import read_regular

GENERAL = "PreTrainedTokenizerFast"  # the class without assumptions, which reads tokenizer.json
NORMAL, USER_DEFINED = 1, 4  # types of pieces


def peer_files(text: Text, path: Path, *, siglip2: bool = False) -> tuple[dict[str, bytes], list[str]]:
    """({name: contents} of the tokenizer in `path`, notes on what the peer does otherwise). UserError for pixels.

    `siglip2`: beside a `Siglip2Model`, of which `AutoTokenizer` takes its own class whatever the files say.
    """
    if text.kind == "unifont":
        raise UserError("Hugging Face has no texts that are drawn as pixels; convert the image tower alone.")
    files, told, notes = WRITERS[text.kind](text, path)
    config = {
        "model_max_length": text.length,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    notes = [*notes, *siglip2_notes(text, path)] if siglip2 else notes
    return files | {"tokenizer_config.json": as_json(config | told)}, notes


def siglip2_notes(text: Text, path: Path) -> list[str]:
    """How `Siglip2Tokenizer` of transformers 5.23 differs: byte pairs, of texts in lower case."""
    advice = "PreTrainedTokenizerFast.from_pretrained reads the files as they are"
    if text.kind != "sentencepiece" or not read_pieces(path).is_bpe:
        return [f"AutoTokenizer takes Siglip2Tokenizer here, which makes other numbers of {text.vocabulary}; {advice}"]
    if text.lower != "unicode":
        return [f"AutoTokenizer takes Siglip2Tokenizer here, which lowers all capitals, not only A to Z; {advice}"]
    return []


def as_json(value: Any) -> bytes:
    """A file of JSON."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


# --- byte pairs


def write_bpe(text: Text, path: Path) -> tuple[dict[str, bytes], dict[str, Any], list[str]]:
    """Of `CLIPTokenizer`."""
    merges = bpe.read_merges(path)
    numbers = bpe.vocabulary(merges)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    told = {
        "tokenizer_class": "CLIPTokenizer",
        "do_lower_case": True,
        "bos_token": bpe.START,
        "eos_token": bpe.END,
        "unk_token": bpe.END,
        "pad_token": bpe.END,
        "model_input_names": ["input_ids", "attention_mask"],  # CLIP's text tower is causal: its mask changes nothing
    }
    notes = ["Hugging Face's CLIPTokenizer repairs no mojibake, curly quotes or HTML entities, as CLIP's own does"]
    if text.padding != numbers[bpe.END]:  # a letter as padding token would be padding within texts, too
        notes.append(f"it fills texts up with {bpe.END}, which a causal tower that ends at the first one does not see")
    return {"vocab.json": as_json(numbers), "merges.txt": ("\n".join(lines) + "\n").encode()}, told, notes


# --- word pieces


def write_wordpiece(text: Text, path: Path) -> tuple[dict[str, bytes], dict[str, Any], list[str]]:
    """Of `BertTokenizer` where the card is BERT's."""
    tokens = wordpiece.read_tokens(path)
    names = {"unk_token": wordpiece.UNKNOWN, "cls_token": wordpiece.START, "pad_token": list(tokens)[text.padding]}
    names |= {"sep_token": wordpiece.END} if wordpiece.END in tokens else {}
    masked = {"model_input_names": ["input_ids", "attention_mask"], "split_special_tokens": True}
    files = {"vocab.txt": read_regular(path)}
    if text.end == "sticky" and text.lower != "fold":
        told = {"tokenizer_class": "BertTokenizer", "do_lower_case": text.lower == "unicode"}
        return files, told | names | masked, []
    made = wordpiece.build(tokens, text)
    ends = [name for name in (wordpiece.START, wordpiece.END if text.end == "sticky" else None) if name]
    surround(made, ends[:1], ends[1:], tokens)
    return files | {"tokenizer.json": made.to_str().encode()}, {"tokenizer_class": GENERAL} | names | masked, []


def surround(made: Any, start: list[str], end: list[str], numbers: dict[str, int]) -> None:
    """Let a `tokenizers.Tokenizer` put special tokens around a text."""
    template = library("tokenizers").processors.TemplateProcessing
    made.post_processor = template(
        single=[*start, "$A", *end], special_tokens=[(name, numbers[name]) for name in start + end]
    )


# --- sentencepiece


class Pieces(NamedTuple):
    """What a sentencepiece model holds (`src/sentencepiece_model.proto` of google/sentencepiece)."""

    pieces: list[tuple[str, float, int]]  # text, score, type
    is_bpe: bool
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    one_space: bool  # runs of spaces become one, those at the ends none


def read_pieces(path: Path) -> Pieces:
    """The pieces and the normalization of a model. Raises UserError."""
    try:
        model = [*protobuf.fields(read_regular(path))]
        trainer, normalizer = (dict(protobuf.fields(dict(model)[number])) for number in (2, 3))
        pieces = [dict(protobuf.fields(value)) for number, value in model if number == 1]
        found = [
            (p[1].decode(), struct.unpack("<f", p.get(2, 0).to_bytes(4, "little"))[0], p.get(3, 1)) for p in pieces
        ]
        said = normalizer.get(2, b""), bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
        return Pieces(found, trainer.get(3, 1) == 2, bool(trainer.get(35, 0)), *said)
    except (OSError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise unreadable(path, "sentencepiece", error) from error


def write_sentencepiece(text: Text, path: Path) -> tuple[dict[str, bytes], dict[str, Any], list[str]]:
    """Of `SiglipTokenizer` where the card drops punctuation, as that does."""
    found = read_pieces(path)
    names = [piece for piece, _, _ in found.pieces]
    model = opened(path)
    end, unknown = model.eos_id(), model.unk_id()
    told = {
        "unk_token": names[unknown],
        "pad_token": names[text.padding],
        "model_input_names": ["input_ids"],  # the model was trained without a mask
        "split_special_tokens": True,
    } | ({"eos_token": names[end]} if end >= 0 else {})
    notes = ["Hugging Face keeps the end token of texts that are too long"] if text.end == "cut" else []
    files = {"spiece.model": read_regular(path)}
    if (text.lower, text.punctuation, text.end, found.is_bpe) == ("unicode", "removed", "sticky", False):
        return files, told | {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True}, notes
    made = build_pieces(found, unknown, text)
    surround(made, [], [names[end]] if text.end != "none" else [], {name: number for number, name in enumerate(names)})
    return files | {"tokenizer.json": made.to_str().encode()}, told | {"tokenizer_class": GENERAL}, notes


def build_pieces(found: Pieces, unknown: int, text: Text) -> Any:
    """A `tokenizers.Tokenizer` that does what a sentencepiece model and a card say.

    One difference cannot be helped: a text that spells a control piece, such as `</s>`, holds that piece. Raises UserError for a
    damaged normalization.
    """
    tokenizers = library("tokenizers")
    models, normalizers = tokenizers.models, tokenizers.normalizers
    if found.is_bpe:
        numbers = {piece: number for number, (piece, _, _) in enumerate(found.pieces)}
        model = models.BPE(numbers, merges_of(found), unk_token=found.pieces[unknown][0], fuse_unk=True,
                           byte_fallback=found.byte_fallback)  # fmt: skip
    else:
        scores = [(piece, score) for piece, score, _ in found.pieces]
        model = models.Unigram(scores, unk_id=unknown, byte_fallback=found.byte_fallback)
    made = tokenizers.Tokenizer(model)
    try:
        steps = [normalizers.Precompiled(found.charsmap)] if found.charsmap else []
    except Exception as error:  # the library has no types of its own
        raise UserError(f"The normalization of {text.vocabulary} is damaged ({error}); fetch it again.") from error
    if found.one_space:
        steps += [normalizers.Replace(tokenizers.Regex(" {2,}"), " "), normalizers.Strip()]
    if found.dummy_prefix:
        steps.append(normalizers.Replace(tokenizers.Regex("^(?=.)"), " "))
    made.normalizer = normalizers.Sequence([*canonical(tokenizers, text), *steps, normalizers.Replace(" ", "▁")])
    symbols = [piece for piece, _, kind in found.pieces if kind == USER_DEFINED]
    made.add_tokens([tokenizers.AddedToken(symbol, normalized=True) for symbol in symbols])
    return made


def canonical(tokenizers: Any, text: Text) -> list:
    """The steps of a card before those of a sentencepiece model."""
    normalizers = tokenizers.normalizers
    lower = {
        "ascii": [normalizers.Replace(chr(upper), letter) for upper, letter in ASCII_LOWER.items()],
        "unicode": [normalizers.Lowercase()],
        "none": [],
    }[text.lower]
    if text.punctuation == "kept":
        return lower
    regex = tokenizers.Regex
    return [
        *lower,
        normalizers.Replace(regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Replace(regex(r"\s+"), " "),
        normalizers.Strip(),
    ]


def merges_of(found: Pieces) -> list[tuple[str, str]]:
    """The pairs of which each piece can be made, best first: sentencepiece ranks a pair by the score of what it makes."""
    numbers = {piece: number for number, (piece, _, _) in enumerate(found.pieces)}
    pairs = []
    for piece, score, kind in found.pieces:
        if kind != NORMAL:
            continue
        halves = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs += [(-score, numbers[a], numbers[b], a, b) for a, b in halves if a in numbers and b in numbers]
    return [(a, b) for *_, a, b in sorted(pairs)]


WRITERS = {"bpe": write_bpe, "wordpiece": write_wordpiece, "sentencepiece": write_sentencepiece}
