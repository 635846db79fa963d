"""Cards: the facts of a model besides its arrays, such as its classes, the preparation of images and texts, and its loss.

A run's `card.json`, the record in a file that this project wrote, the config files of timm and Hugging Face and the
manifest all become one `Card`, and everything that prepares images reads `Card.preprocessing`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np

from common.flags import check_choices
from common.models.tokens import Text, parse_text
from common.recipes.choices import LONGEST_SIDE, Exif, Loss, ResizeKind, Rounding
from common.system.errors import UserError

HALVES = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preparation of a model's images: the pixels of a photograph that it sees, and their scale."""

    resolution: int | None = None  # px of the square that the model sees; None: what the user or the images suggest
    eval_resize: int = 0  # px of the smaller side before the central crop of `resolution`; 0: squashed to it
    resize_kind: ResizeKind = "bilinear"
    mean: tuple[float, float, float] = HALVES  # of pixel values in [0, 1]; with `std` 0.5, images lie in [-1, 1]
    std: tuple[float, float, float] = HALVES
    exif: Exif = "ignore"  # or `apply`: photographs are turned by their EXIF orientation
    rounding: Rounding = "big_vision"  # of sides and corners to whole pixels, for a central crop
    tokens: int | None = (
        None  # most patches of an image that keeps its aspect ratio; None: as many as there are positions
    )

    def __post_init__(self):
        check_choices(self, "A model's {}")

    @property
    def divisor(self) -> tuple[float, ...]:
        """Engines compute uint8 images / divisor - shift: (images / 255 - mean) / std."""
        return tuple(255 * std for std in self.std)

    @property
    def shift(self) -> tuple[float, ...]:
        """See `divisor`."""
        return tuple(mean / std for mean, std in zip(self.mean, self.std))

    def at(self, resolution: int) -> "Preprocessing":
        """The same at another resolution: the middle of a photograph that the model sees stays the same."""
        eval_resize = round(self.eval_resize * resolution / (self.resolution or resolution))
        return dataclasses.replace(self, resolution=resolution, eval_resize=eval_resize)

    def facts(self) -> dict[str, Any]:
        """What is known, as a card says it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def scale(self, view: np.ndarray, dtype: type = np.float32) -> np.ndarray:
        """uint8 [..., 3] as the numbers that a model takes, as every engine computes them on its device."""
        return view.astype(dtype) / np.array(self.divisor, dtype) - np.array(self.shift, dtype)


class Rule(NamedTuple):
    """Whether a value of a JSON file may be a fact, and what is expected."""

    holds: Callable[[Any], bool]
    expected: str


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def triple(least: float, most: float) -> Rule:
    """Of three numbers; those that belong to pixel values from 0 to 255 lie beyond `most`."""
    holds = lambda value: (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(is_number(it) and least <= it <= most for it in value)
    )
    return Rule(holds, f"three numbers from {least:g} to {most:g}, for pixel values in [0, 1]")


RULES = {
    "class_names": Rule(
        lambda names: isinstance(names, list | tuple) and all(isinstance(name, str) for name in names),
        "a list of names",
    ),
    "resolution": Rule(
        lambda side: type(side) is int and 1 <= side <= LONGEST_SIDE, f"whole pixels from 1 to {LONGEST_SIDE}"
    ),
    "eval_resize": Rule(
        lambda side: type(side) is int and 0 <= side <= LONGEST_SIDE, "0 or at least its resolution, in whole pixels"
    ),
    "tokens": Rule(
        lambda count: count is None or type(count) is int and 1 <= count <= LONGEST_SIDE,
        f"a number from 1 to {LONGEST_SIDE}, or null",
    ),
    "prompt": Rule(lambda prompt: isinstance(prompt, str), "a text"),
    "mean": triple(0, 1),
    "std": triple(0.001, 10),
    "oracle": Rule(lambda digest: isinstance(digest, str), "the digest of a file"),
}
CHOICES = {
    "resize_kind": get_args(ResizeKind),
    "exif": get_args(Exif),
    "rounding": get_args(Rounding),
    "loss": get_args(Loss),
}
FACTS = (*RULES, *CHOICES, "text")
PREPARED = tuple(field.name for field in dataclasses.fields(Preprocessing))


@dataclasses.dataclass(frozen=True)
class Card:
    """Facts of a model; None: unknown."""

    class_names: tuple[str, ...] | None = None
    resolution: int | None = None
    eval_resize: int | None = None
    resize_kind: ResizeKind | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    exif: Exif | None = None
    rounding: Rounding | None = None
    tokens: int | None = None
    loss: Loss | None = None
    text: Text | None = None  # of a model that takes texts
    prompt: str | None = None  # what the texts that it was trained to write begin with
    oracle: str | None = None  # digest of the file of the model whose codes this one writes

    @property
    def preprocessing(self) -> Preprocessing:
        """The preparation of the model's images, with this project's own choices for unknown facts."""
        return self.applied(Preprocessing())

    def applied(self, preprocessing: Preprocessing) -> Preprocessing:
        """`preprocessing` with the facts of this card."""
        told = {name: value for name, value in self.facts().items() if name in PREPARED}
        return dataclasses.replace(preprocessing, **told)

    def facts(self) -> dict[str, Any]:
        """The known facts, as JSON holds them."""
        texts = {"text": self.text.facts()} if self.text else {}
        return {name: value for name, value in vars(self).items() if value is not None} | texts

    def of_classes(self, num_classes: int | None) -> "Card":
        """These facts, without the names of classes where there are not as many."""
        is_named = self.class_names is None or len(self.class_names) == num_classes
        return self if is_named else dataclasses.replace(self, class_names=None)

    def over(self, other: "Card") -> "Card":
        """These facts, and those of `other` for unknown ones."""
        return dataclasses.replace(other, **{name: value for name, value in vars(self).items() if value is not None})


def nameless(count: int) -> list[str]:
    """What classes are called where nothing names them."""
    return [f"class {number}" for number in range(count)]


def parse_card(record: dict[str, Any], where: object) -> Card:
    """The facts in a JSON object; other keys are let be. UserError for a value that cannot be one."""
    found = {name: record[name] for name in FACTS if name in record}
    for name, value in found.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"The card {where} names no {name} of {', '.join(CHOICES[name])}; mend or remove it.")
        if name in RULES and not RULES[name].holds(value):
            raise UserError(f"The card {where} has {value!r} as {name}, expected {RULES[name].expected}; mend it.")
    if "text" in found:
        found["text"] = parse_text(found["text"], where)
    card = Card(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})
    if 0 < (card.eval_resize or 0) < (card.resolution or 1):
        raise UserError(
            f"The card {where} has {card.eval_resize} as eval_resize, expected 0 or at least its resolution, "
            f"{card.resolution}; mend it."
        )
    return card
