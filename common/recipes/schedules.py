"""Learning rates as plain numbers: the rate of the update that follows `step` completed ones is `lrs[step]`.

Every schedule rises linearly from zero over `warmup` steps, so the first update has the rate zero, unless `warmup` is 0.
With `beyond`, the rates of so many steps after the end follow: where a schedule stands once the run has ended.
Source: `create_learning_rate_schedule` in `utils.py` of google-research/big_vision, which vision_transformer and
coyo-vit agree with; of `stepwise`: common/recipes/hyperrule.py.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

from common.recipes import hyperrule
from common.system.errors import UserError

Rates = tuple[float, ...]


def warmed_up(num_steps: int, warmup: int, base_lr: float, factor: Callable[[int], float]) -> Rates:
    """`base_lr` times a factor that depends on the steps since the end of the warm-up."""
    return tuple(
        base_lr * factor(max(0, step - warmup)) * (min(1.0, step / warmup) if warmup else 1.0)
        for step in range(num_steps)
    )


def cosine(num_steps: int, warmup: int, base_lr: float, *, beyond: int = 0) -> Rates:
    """Half a cosine down to zero at the end of the run."""
    length = max(1, num_steps - warmup)
    factor = lambda steps: 0.5 * (1 + math.cos(math.pi * steps / length))
    return warmed_up(num_steps + beyond, warmup, base_lr, factor)


def linear(num_steps: int, warmup: int, base_lr: float, end: float = 0.0, *, beyond: int = 0) -> Rates:
    """A straight line down to `end` x base_lr."""
    length = max(1, num_steps - warmup)
    return warmed_up(num_steps + beyond, warmup, base_lr, lambda steps: end + (1 - end) * (1 - steps / length))


def rsqrt(
    num_steps: int, warmup: int, base_lr: float, timescale: int = 10_000, cooldown: int = 0, *, beyond: int = 0
) -> Rates:
    """One over the root of 1 + steps / timescale, and times a straight line to zero over the last `cooldown` steps."""
    lrs = warmed_up(num_steps + beyond, warmup, base_lr, lambda steps: 1 / math.sqrt(1 + steps / timescale))
    return tuple(lr * min(1.0, (num_steps - step) / cooldown) if cooldown else lr for step, lr in enumerate(lrs))


def stepwise(
    num_steps: int, warmup: int, base_lr: float, points: tuple[int, ...] = (3, 6, 8, 9), *, beyond: int = 0
) -> Rates:
    """Down by ten after each of `points`, whose last one is the end, stretched to `num_steps`; BiT's by default."""
    decays = tuple(round(point * num_steps / points[-1]) for point in points)
    lrs = tuple(hyperrule.learning_rate(step, (warmup, *decays), base_lr) for step in range(num_steps))
    return lrs + lrs[-1:] * beyond


def follow(lr: float, base_lr: float, end_lr: float, most: float, least: float) -> float:
    """A number that follows the rate in a straight line: `most` at `base_lr`, `least` at `end_lr`; else always `most`.

    Not clipped: below `end_lr`, as in the first steps of a warm-up, it is below `least`. Source: rho of GSAM
    (https://arxiv.org/abs/2203.08065), `trainers/proj/gsam/gsam.py` of google-research/big_vision, which rounds it to
    float32.
    """
    return least + (most - least) * (lr - end_lr) / (base_lr - end_lr) if base_lr != end_lr else most


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The schedule of some parameters, which reaches the recipe's base_lr, too. Raises UserError for an unknown kind."""

    kind: str  # one of SCHEDULES
    warmup_steps: int = 0

    def __post_init__(self):
        if self.kind not in SCHEDULES:
            raise UserError(f"A group's schedule is {self.kind!r}, expected one of {', '.join(SCHEDULES)}.")


@functools.lru_cache(16)
def rates(schedule: Schedule, num_steps: int, base_lr: float) -> Rates:
    """Those of a run that `schedule` tells."""
    return SCHEDULES[schedule.kind](num_steps, schedule.warmup_steps, base_lr)


SCHEDULES = {schedule.__name__: schedule for schedule in (cosine, linear, rsqrt, stepwise)}
