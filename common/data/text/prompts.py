"""Prompts: what a text tower is told of a class, so that an image finds its class among texts.

Source: `evaluators/proj/image_text/prompt_engineering.py` of google-research/big_vision. The sentences are those of CLIP's
paper (https://arxiv.org/abs/2103.00020) and its notebook `Prompt_Engineering_for_ImageNet.ipynb`.
"""

import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.data.lists import lines
from common.data.split import Dataset
from common.models.published import prompted_classes
from common.models.tokens import Text
from common.system.errors import UserError, nearest, printable

WORDNET_ID = re.compile(r"n\d{8}")  # what ImageNet calls its class folders
PLACE = "{}"  # of a class's name in a prompt
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Seven of CLIP's 80, which its authors found the best together, and the bare name.
CLIP_BEST = """
itap of a {}.
a bad photo of the {}.
a origami {}.
a photo of the large {}.
a {} in a video game.
art of the {}.
a photo of the small {}.
{}
"""

# CLIP's 80, and the bare name.
CLIP_PAPER = """
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
{}
"""

PROMPTS = {  # what --prompts takes besides a file
    "class_name_only": (PLACE,),
    "clip_best": tuple(CLIP_BEST.strip().splitlines()),
    "clip_paper": tuple(CLIP_PAPER.strip().splitlines()),
}


def read_prompts(given: str) -> tuple[str, ...]:
    """The prompts of a list of PROMPTS, or of a file with one in each line. Raises UserError for what is neither."""
    if given in PROMPTS:
        return PROMPTS[given]
    if not Path(given).exists():
        raise UserError(
            f"No list of prompts or file is called {given!r}{nearest(given, PROMPTS)} Give one of {', '.join(PROMPTS)}, or a "
            "file with a prompt such as `a photo of a {}.` in each line."
        )
    found = tuple(checked_lines(Path(given)))
    if not found:
        raise UserError(f"{given} holds no prompt; write one such as `a photo of a {{}}.` in each line.")
    return found


def checked_lines(path: Path) -> Iterator[str]:
    """Every line that is not empty. UserError for one without exactly one place for a class's name, or not in Unicode."""
    for number, text in lines(path):
        where = f"Line {number} of {path}, {printable(text)!r},"
        if text.count(PLACE) != 1:
            raise UserError(
                f"{where} has {text.count(PLACE)} places {{}} for the name of a class, expected one; correct the line."
            )
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UserError(f"{where} is not in UTF-8; save the file in it.")
        yield text


def canonical(text: str, keep: str = "") -> str:
    """`text` in lower case, with blanks for underscores, without ASCII punctuation but for the exact string `keep`.

    This is what SigLIP and LiT were evaluated with; CLIP was with names and prompts as they are.
    """
    parts = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    text = keep.join(part.translate(WITHOUT_PUNCTUATION) for part in parts).lower()
    return re.sub(r"\s+", " ", text).strip()


def names_of(dataset: str, class_names: Sequence[str]) -> Sequence[str]:
    """What prompts call the classes of a dataset: their names or, where these are WordNet's numbers, CLIP's for ImageNet.

    Raises UserError for a number that ImageNet's 1,000 classes do not have.
    """
    if not all(map(WORDNET_ID.fullmatch, class_names)):
        return class_names
    known = prompted_classes()
    if unknown := [name for name in class_names if name not in known]:
        raise UserError(
            f"{dataset} calls a class {unknown[0]}, which is none of ImageNet's 1,000; give its folder a name in words."
        )
    return [known[name] for name in class_names]


def doubts(dataset: Dataset) -> list[str]:
    """A sentence where the classes are only numbered, as those of archives without a list are; or none."""
    if [*dataset.class_names] != [*map(str, range(len(dataset.class_names)))]:
        return []
    return [
        f"The classes of {dataset.name} are called 0, 1, ..., and so prompts speak of numbers; name them, for archives by a list "
        "classnames.txt beside them, unless numbers is what they are."
    ]


def prompts_of(dataset: Dataset, prompts: Sequence[str], text: Text) -> tuple[list[str], np.ndarray]:
    """`prompted` names of a dataset's classes, for a model that takes texts so.

    CLIP was evaluated with names and prompts as they are, the others with `canonical` ones.
    """
    names = names_of(dataset.name, dataset.class_names)
    return prompted(names, prompts, canonicalize=text.kind != "bpe")


def prompted(
    class_names: Sequence[str], prompts: Sequence[str], *, canonicalize: bool = True, aliases: bool = False
) -> tuple[list[str], np.ndarray]:
    """(texts, int32 [P] the class of each): for one class after the other, its name in every prompt.

    Of the names between a class's commas the first is taken or, with `aliases`, all; a name after a comma keeps its blank,
    as in big_vision. With `canonicalize`, names and prompts are made `canonical` first. Raises UserError for a class of
    which nothing is left.
    """
    names_of = [canonical(names, keep=",") for names in class_names] if canonicalize else class_names
    if canonicalize:
        prompts = [canonical(prompt, keep=PLACE) for prompt in prompts]
    texts, classes = [], []
    for number, names in enumerate(names_of):
        for name in names.split(",")[: None if aliases else 1]:
            if not name.strip():
                raise UserError(f"The class {class_names[number]!r} has no name that a prompt could hold; rename it.")
            texts += [prompt.replace(PLACE, name) for prompt in prompts]
            classes += [number] * len(prompts)
    return texts, np.array(classes, np.int32)
