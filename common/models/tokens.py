"""The facts that decide which numbers a text becomes: a part of a model's card, and those of the published models.

They are the most silent source of errors with image-text models: a text in other ids is a worse text, and nothing fails.
So a card states all of them and `common/data/text/` has no other parameter.
"""

import dataclasses
import re
from typing import Any, Literal, get_args

from common.flags import check_choices
from common.system.errors import UserError

TextKind = Literal["sentencepiece", "bpe", "wordpiece", "unifont"]
End = Literal["sticky", "cut", "none"]  # the last token of a text that is too long; lost to the cut; there is none
Lower = Literal["ascii", "unicode", "fold", "none"]
Punctuation = Literal["kept", "removed"]
MOST_TOKENS = 2**16
NARROWEST_PX = 32  # two letters of Unifont

# What each kind of tokenizer can do, as the originals do it; other combinations have no original to be right against.
HONOURED = {
    "sentencepiece": {
        "end": get_args(End),
        "lower": ("ascii", "unicode", "none"),
        "punctuation": get_args(Punctuation),
    },
    "bpe": {"end": ("sticky",), "lower": ("unicode",), "punctuation": ("kept",)},
    "wordpiece": {"end": ("sticky", "none"), "lower": ("unicode", "fold", "none"), "punctuation": ("kept",)},
    "unifont": {"end": ("none",), "lower": ("ascii", "none"), "punctuation": ("kept",)},
}


@dataclasses.dataclass(frozen=True)
class Text:
    """The preparation of a model's texts. All of it is known to whoever trained the model, so only a digest has a default.

    `lower`: `ascii` changes A to Z alone (big_vision); `unicode` all letters (CLIP, Hugging Face; BERT then also drops
    accents); `fold` is NFKC case folding without accents (BERT in tensorflow_text, for LiT).
    `punctuation` removed: that of ASCII, and runs of spaces become one (Hugging Face's `SiglipTokenizer`).
    A start token is no fact of its own: CLIP's BPE and BERT have one, sentencepiece has none.

    Raises UserError for facts that contradict each other or that no original has.
    """

    kind: TextKind
    vocabulary: str  # name of the file
    length: int  # tokens of every text, whether short or long; unifont: px of the square that it is drawn into
    padding: int  # the id after a text's end; unifont: 0
    end: End
    lower: Lower
    punctuation: Punctuation
    sha256: str | None = None  # of the vocabulary; None: unknown, any file of this name is taken

    def __post_init__(self):
        check_choices(self, "A model's text {}")
        for name, allowed in HONOURED[self.kind].items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"A text of kind {self.kind} has {name} {getattr(self, name)!r}, expected {' or '.join(allowed)}."
                )
        least = NARROWEST_PX if self.kind == "unifont" else 3  # start, one token, end
        for name, low, high in (("length", least, MOST_TOKENS), ("padding", 0, 2**31 - 1)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UserError(f"A text has {name} {value!r}, expected a whole number from {low} to {high}.")
        if not isinstance(self.vocabulary, str) or not re.fullmatch(r"[\w.+-]*\w", self.vocabulary):
            raise UserError(f"A text has vocabulary {self.vocabulary!r}, expected the name of a file without a folder.")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(self.sha256)):
            raise UserError(f"A text has sha256 {self.sha256!r}, expected 64 hexadecimal digits or none.")

    def facts(self) -> dict[str, Any]:
        """The facts as JSON holds them, without an unknown digest."""
        return {name: value for name, value in vars(self).items() if value is not None}


def parse_text(record: Any, where: object) -> Text:
    """The facts in a JSON object. UserError where one is missing, unknown or cannot be one."""
    known = [field.name for field in dataclasses.fields(Text)]
    if not isinstance(record, dict) or not {*known[:-1]} <= {*record} <= {*known}:
        found = sorted(map(str, record)) if isinstance(record, dict) else record
        raise UserError(f"The card {where} has {found!r} as text, expected {', '.join(known)}; mend it.")
    try:
        return Text(**record)
    except (UserError, TypeError) as error:  # TypeError: of a list where a string was expected
        raise UserError(f"The card {where} is broken: {error} Mend it.") from error


# --- of published models

C4_EN = "1e5036bed065526c3c212dfbe288752391797c4bb1a284aa18c9a0b23fcaf8ec"
GEMMA = "61a7b147390c64585d6c3543dd6fc636906c9af3865a5548f27f31aee1d4c8e2"
CLIP_MERGES = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
BERT_UNCASED = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

# Sources: configs/proj/image_text/{SigLIP_demo.ipynb, SigLIP2_demo.ipynb, siglip_lit_coco.py, lit.ipynb}, pp/ops_text.py,
# pp/proj/paligemma/ops.py, pp/proj/flaxformer/bert_ops.py and configs/proj/clippo/train_clippo.py of
# google-research/big_vision; clip/clip.py and clip/simple_tokenizer.py of openai/CLIP.
SIGLIP = Text("sentencepiece", "c4_en.model", 64, 1, "sticky", "ascii", "kept", C4_EN)
SIGLIP_I18N = dataclasses.replace(SIGLIP, vocabulary="mc4.model", sha256=None)
SIGLIP2 = Text("sentencepiece", "gemma.model", 64, 0, "sticky", "ascii", "kept", GEMMA)
CLIP = Text("bpe", "bpe_simple_vocab_16e6.txt.gz", 77, 0, "sticky", "unicode", "kept", CLIP_MERGES)
LIT = Text("wordpiece", "bert_uncased.txt", 16, 0, "none", "fold", "kept", BERT_UNCASED)
BERT = Text("wordpiece", "bert_uncased.txt", 512, 0, "sticky", "unicode", "kept", BERT_UNCASED)
CLIPPO = Text("unifont", "unifont.hex", 224, 0, "none", "ascii", "kept")
EMBEDDED = "8cf93b2fb4db177672aef7f3ad13ed4cda49ab4c5e1c5c6e12c162259f614e1f"
TINY = Text("sentencepiece", "SigLIP-T_8.model", 16, 1, "sticky", "ascii", "removed", EMBEDDED)
TEXTS = {
    32_000: SIGLIP,
    250_000: SIGLIP_I18N,
    256_000: SIGLIP2,
    49_408: CLIP,
    30_522: LIT,
    1000: TINY,
}  # by tokens of the vocabulary
