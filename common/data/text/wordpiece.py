"""Texts as BERT's word pieces, computed by the `tokenizers` library.

`lower="unicode"` is google-research/bert's and Hugging Face's text; `fold` is that of `tensorflow_text.BertTokenizer`, which
LiT was trained with (`python/ops/bert_tokenizer.py` of tensorflow/text): NFKC case folding, and control characters part
words instead of vanishing. A text that spells `[CLS]` holds no such token.
"""

import re
from pathlib import Path

from common.data.text.tokenizer import Vocabulary, Words, library, unreadable
from common.models.tokens import Text
from common.system.files import read_regular

START, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
PLAIN = re.compile("[ -~]*")  # printable ASCII
PLAIN_WORDS = re.compile("[0-9A-Za-z]+|[^ 0-9A-Za-z]")


def read_vocabulary(text: Text, path: Path) -> Vocabulary:
    """The tokens in `path`, one a line, whose number is the id. Raises UserError."""
    tokens = read_tokens(path)
    model = build(tokens, text)
    names = list(tokens)
    joined = lambda ids: " ".join(names[number] for number in ids).replace(" ##", "")
    return Vocabulary(len(tokens), tokens[START], tokens.get(END), Words(model, PLAIN, PLAIN_WORDS, str), joined)


def read_tokens(path: Path) -> dict[str, int]:
    """{token: id}. Raises UserError where BERT's own are missing, or one stands there twice."""
    try:
        lines = [line.removesuffix("\r") for line in read_regular(path).decode().removesuffix("\n").split("\n")]
        tokens = {token: number for number, token in enumerate(lines)}
        if missing := [token for token in (START, UNKNOWN) if token not in tokens]:
            raise ValueError(f"it lacks {missing[0]}")
        if len(tokens) != len(lines):
            raise ValueError("a token stands in it twice")
        return tokens
    except (OSError, ValueError) as error:
        raise unreadable(path, "word pieces", error) from error


def build(tokens: dict[str, int], text: Text):
    """A `tokenizers.Tokenizer` of these tokens, which gets texts as they are."""
    tokenizers = library("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(tokens, unk_token=UNKNOWN))
    normalizers, lower = tokenizers.normalizers, text.lower == "unicode"
    bert = normalizers.BertNormalizer(
        clean_text=text.lower != "fold", handle_chinese_chars=True, strip_accents=lower, lowercase=lower
    )
    made.normalizer = normalizers.Sequence([*folding(tokenizers), bert]) if text.lower == "fold" else bert
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return made


def folding(tokenizers) -> list:
    """The steps of NFKC case folding, then without accents."""
    normalizers, regex = tokenizers.normalizers, tokenizers.Regex
    return [
        normalizers.NFKC(),
        normalizers.Lowercase(),
        normalizers.Replace("ß", "ss"),
        normalizers.Replace("ς", "σ"),
        normalizers.NFD(),
        normalizers.Replace("\u0345", "ι"),  # the iota below a Greek letter is a letter to case folding
        normalizers.Replace(regex(r"[\p{Mn}\p{Default_Ignorable_Code_Point}]"), ""),
        normalizers.Replace(regex(r"[\p{Cc}\p{Cf}]"), " "),
        normalizers.Replace(
            regex("[\u1680\u2028\u2029]"), "\ue000"
        ),  # spaces that part no words there: any unknown letter
    ]
