"""Which parameters a run trains and decays, and how fast they learn: patterns over canonical names, the same in all engines."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from common.recipes.choices import TrainOnly
from common.recipes.schedules import Schedule

DecayMask = Literal["kernels", "all"]


@dataclasses.dataclass(frozen=True)
class Group:
    """What holds for the parameters whose whole canonical name fits the pattern; None: what earlier groups say."""

    pattern: str  # a regular expression, such as `blocks/0/.*`
    trained: bool | None = None  # all parameters are, unless a group differs
    decayed: bool | None = None  # by the recipe's weight decay: none are
    rate: float | None = None  # what the learning rate is multiplied by: 1
    schedule: Schedule | None = None  # in the place of the recipe's
    bounds: tuple[float, float] | None = None  # least and most, to which an update brings what it leads beyond: none

    def record(self) -> dict[str, Any]:
        """The pattern and its numbers, as JSON holds them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


class Part(NamedTuple):
    """What holds for one parameter."""

    trained: bool = True
    decayed: bool = False
    rate: float = 1.0
    schedule: Schedule | None = None
    bounds: tuple[float, float] | None = None


Groups = tuple[Group, ...]
HEAD = Group(r"((image|text)/)?head(_dist)?/(kernel|bias)", trained=True)
NORMS = Group(r"(.*/)?(\w+_)?norm\d?/(scale|bias)", trained=True)
STATE = Group(
    r"(.*/)?codebook/(dictionary|counts)", trained=False
)  # which no gradient moves, whatever a recipe's groups say
FROZEN: Groups = (Group(".*", trained=False),)  # a whole model, such as a teacher
TRAIN_ONLY: dict[TrainOnly, Groups] = {"all": (), "head": (*FROZEN, HEAD), "norm": (*FROZEN, HEAD, NORMS)}
ADAPTERS: Groups = (  # of LoRA, which are parts of kernels; and what image-text models have beside heads
    Group(r"(.*/)?lora_[ab]", trained=True, decayed=True),
    Group("[tb]|third/.*", trained=True),
)
DECAY_MASKS: dict[DecayMask, Groups] = {
    "kernels": (Group(r"(.*/)?kernel", decayed=True),),
    "all": (Group(".*", decayed=True),),
}


def temperature_group(most: float) -> Group:
    """Keeps exp(t) between 1 and `most`, at least 1, as `open_clip_train/train.py` of mlfoundations/open_clip does at 100."""
    return Group("t", bounds=(0.0, math.log(most)))


def create_groups(
    train_only: TrainOnly = "all", decay_mask: DecayMask = "kernels", locked: str = "", lora: bool = False
) -> Groups:
    """The groups of the flags --train_only and --locked, a pattern, and of a recipe's decay mask.

    With `lora`, its matrices are trained beside the head, and with --train_only norm beside norms.
    """
    only = TRAIN_ONLY["head" if lora and train_only == "all" else train_only] + (ADAPTERS if lora else ())
    return DECAY_MASKS[decay_mask] + only + ((Group(locked, trained=False),) if locked else ())


@functools.lru_cache(64)
def parts(groups: Groups, names: tuple[str, ...]) -> tuple[Part, ...]:
    """The numbers of each parameter: those of the last group whose pattern its name fits."""
    found = [{} for _ in names]
    for group in (*groups, STATE):
        said = {name: value for name, value in vars(group).items() if name != "pattern" and value is not None}
        for name, part in zip(names, found):
            if re.fullmatch(group.pattern, name):
                part |= said
    return tuple(Part(**part) for part in found)


def trained(groups: Groups, names: Iterable[str]) -> frozenset[str]:
    """Those of the parameters that are trained."""
    names = tuple(names)
    return frozenset(name for name, part in zip(names, parts(groups, names)) if part.trained)
