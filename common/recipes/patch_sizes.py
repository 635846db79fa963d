"""Which size of patches a FlexiViT sees in a step (https://arxiv.org/abs/2212.08013): a flag's words, and the draw."""

import functools
import math
import re
from collections.abc import Iterator

import numpy as np

from common.system.errors import UserError


@functools.cache
def sides(patch_sizes: str) -> dict[int, float]:
    """{side in pixels: probability} of `8,12,16`, or with weights `8:1,12:2.5`, in this order. Raises UserError."""
    weights = dict(parsed(str(patch_sizes)))
    return {side: weight / sum(weights.values()) for side, weight in weights.items()}


def parsed(patch_sizes: str) -> Iterator[tuple[int, float]]:
    """(side, weight) of each. Raises UserError for what is no list of them."""
    found = [re.fullmatch(r"([1-9][0-9]{0,4})(?::([0-9.]{1,12}))?", part) for part in patch_sizes.split(",")]
    try:
        pairs = [(int(part[1]), float(part[2] or 1)) for part in found]
        wrong = len(dict(pairs)) < len(pairs) or not all(weight > 0 and math.isfinite(weight) for _, weight in pairs)
    except (TypeError, ValueError):
        wrong = True
    if wrong:
        raise UserError(
            f"--patch_sizes is {patch_sizes}, expected sides in pixels, each once, such as 8,12,16, or with weights above 0, "
            "8:1,12:2; correct the flag."
        )
    yield from pairs


def drawn(patch_sizes: str, seed: int, step: int) -> int:
    """The side of the patches in the update that follows `step` completed ones.

    Source: `flexi` of `trainers/proj/flexi/common.py` of google-research/big_vision, which counts steps from 1 and has (0, 0)
    in the place of (seed, 0): of the seed 0 these are its draws.
    """
    probabilities = sides(patch_sizes)
    rng = np.random.default_rng([seed, 0, step + 1])
    return int(rng.choice([*probabilities], p=[*probabilities.values()]))
