"""Checks of the fields of a configuration (sizes, epsilons, choices), made whenever one is created."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from common.recipes.lora import Lora
from common.system.errors import UserError

MOST = 2**31 - 1  # of any size: what a file declares is compared with its arrays later


class Kind(NamedTuple):
    """The values that a field takes, and their description in words."""

    holds: Callable[[Any], bool]
    expected: str


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return type(value) is int and 1 <= value <= MOST


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return type(value) in (int, float) and 0 < value <= MOST and math.isfinite(value)


def is_counts(value: Any) -> bool:
    """Whether a value is a tuple of whole numbers of at least 1."""
    return isinstance(value, tuple) and all(map(is_count, value))


COUNT = Kind(is_count, "a whole number of at least 1")
OPTIONAL = Kind(lambda value: value is None or is_count(value), "a whole number of at least 1, or none")
COUNTS = Kind(is_counts, "whole numbers of at least 1")
PAIR = Kind(lambda value: is_counts(value) and len(value) == 2, "two whole numbers of at least 1")
OPTIONAL_PAIR = Kind(lambda value: value is None or PAIR.holds(value), f"{PAIR.expected}, or none")
POSITIVE = Kind(is_positive, "a finite number above 0")
RATE = Kind(lambda value: type(value) in (int, float) and 0 <= value < 1, "at least 0 and less than 1")
DEPTH = Kind(lambda value: type(value) is int and 0 <= value <= MOST, "a whole number of at least 0")
LORA = Kind(lambda value: value is None or isinstance(value, Lora), "a Lora, or none")
FLAG = Kind(lambda value: isinstance(value, bool), "true or false")


def choice(*allowed: str) -> Kind:
    """One of some words."""
    return Kind(lambda value: isinstance(value, str) and value in allowed, f"one of {', '.join(allowed)}")


def some_of(*allowed: str) -> Kind:
    """Some of some words, in their order."""
    holds = lambda value: isinstance(value, tuple) and value == tuple(word for word in allowed if word in value)
    return Kind(holds, f"some of {', '.join(allowed)}, in this order")


def check_fields(config: Any, what: str, kinds: dict[str, Kind]) -> None:
    """Raise UserError for the first field of `config`, called `what`, that is not of its kind."""
    for name, kind in kinds.items():
        value = getattr(config, name)
        if not kind.holds(value):
            raise UserError(f"{what}'s {name} is {value!r}, expected {kind.expected}.")


def check_groups(config: Any, what: str) -> None:
    """Raise UserError where the groups of a ResNet's norms do not divide its widths, all multiples of the stem's."""
    if config.stem_width < 1 or config.stem_width % config.num_groups:
        raise UserError(
            f"{what}'s num_groups is {config.num_groups}, expected a divisor of its stem's width, {config.stem_width}."
        )
