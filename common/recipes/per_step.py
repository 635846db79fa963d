"""What each step draws anew: the size of a FlexiViT's patches (https://arxiv.org/abs/2212.08013), the number of a NaFlex's."""

import functools
import math
import re
from collections.abc import Iterator

import numpy as np

from common.recipes.choices import LONGEST_SIDE
from common.system.errors import UserError

FLAGS = {  # flag -> (what its numbers are, an example, and one with weights)
    "patch_sizes": ("sides in pixels", "8,12,16", "8:1,12:2"),
    "token_lengths": ("numbers of patches", "64,144,256", "64:1,256:2"),
}


@functools.cache
def probabilities(words: str, flag: str = "patch_sizes") -> dict[int, float]:
    """{number: probability} of `8,12,16`, or with weights `8:1,12:2.5`, in this order. Raises UserError."""
    weights = dict(parsed(str(words), flag))
    return {number: weight / sum(weights.values()) for number, weight in weights.items()}


def parsed(words: str, flag: str) -> Iterator[tuple[int, float]]:
    """(number, weight) of each. Raises UserError for what is no list of them."""
    found = [re.fullmatch(r"([1-9][0-9]{0,4})(?::([0-9.]{1,12}))?", part) for part in words.split(",")]
    try:
        pairs = [(int(part[1]), float(part[2] or 1)) for part in found]
        right = [number <= LONGEST_SIDE and weight > 0 and math.isfinite(weight) for number, weight in pairs]
        wrong = len(dict(pairs)) < len(pairs) or not all(right)
    except (TypeError, ValueError):
        wrong = True
    if wrong:
        what, plain, weighted = FLAGS[flag]
        raise UserError(
            f"--{flag} is {words}, expected {what}, each once, such as {plain}, or with weights above 0, {weighted}; correct "
            "the flag."
        )
    yield from pairs


sides = functools.partial(probabilities, flag="patch_sizes")
lengths = functools.partial(probabilities, flag="token_lengths")


def drawn(words: str, seed: int, step: int) -> int:
    """The number for the update that follows `step` completed ones.

    Source: `flexi` of `trainers/proj/flexi/common.py` of google-research/big_vision, which counts steps from 1 and has (0, 0)
    in the place of (seed, 0): of the seed 0 these are its draws.
    """
    found = probabilities(words)
    rng = np.random.default_rng([seed, 0, step + 1])
    return int(rng.choice([*found], p=[*found.values()]))
