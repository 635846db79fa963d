"""The plain numbers of one training run; `create_recipe` of common/recipes/create.py makes them."""

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from common.flags import check_choices
from common.recipes import schedules
from common.recipes.choices import Optimizer, ResizeKind, ResizeMode
from common.recipes.groups import Groups, Part, create_groups, parts
from common.recipes.lora import Lora
from common.recipes.schedules import Schedule
from common.recipes.task import Classification, Task, task_record
from common.system.errors import UserError


class UpdateNumbers(NamedTuple):
    """The numbers that differ from one update to the next."""

    gain: float  # what the gradient is multiplied by where it is added to the first moment
    rate: float  # what the direction is multiplied by where it is taken from the parameter
    decay: float  # part of itself that a decayed parameter loses besides
    epsilon: float  # added to the root of the second moment
    ema: float  # part of the moving average that stays
    rho: float = 0.0  # how far the parameters ascend before SAM takes the gradients: the length of the whole way
    second_decay: float = 0.0  # of adafactor: part of the second moment that stays
    second_gain: float = 0.0  # of adafactor: what the square of the gradient is multiplied by where it is added
    others: tuple["UpdateNumbers", ...] = ()  # the same by the other schedules, in the order of `Recipe.schedules`


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that shapes a run, written into its folder; nothing else does but the seed.

    An update of the parameter w with the gradient g, after clipping (u is the direction, r the update's rate):
        sgd:   first = momentum * first + g;  u = first
        adam:  first = beta1 * first + (1 - beta1) * g;  second = beta2 * second + (1 - beta2) * g * g
               u = first / (1 - beta1^t) / (sqrt(second / (1 - beta2^t)) + epsilon)
        adafactor:  d = min(beta2, 1 - t^-0.8), in float32;  second = d * second + (1 - d) * (g * g + 1e-30)
               first = beta1 * first + (1 - beta1) * g / sqrt(second);  u = first
        w = w - r * u
    Adafactor (https://arxiv.org/abs/1804.04235) is that of `optax.py` of google-research/big_vision: where the two longest
    axes of a parameter, heads on one of their own, have 32 entries or more, `second` is kept as its means over the longest
    axis, rows, and over the second longest, columns, and is rows / mean(rows) * columns.
    With `momentum_rate` inside, as in Keras: first = momentum * first + r * g;  w = w - first.
    """

    name: str
    batch: int  # images per update
    batch_split: int  # micro-batches per update
    batch_eval: int
    # The rate of the update that follows `step` completed ones is lrs[step]; too many to be hashed at every step.
    lrs: tuple[float, ...] = dataclasses.field(hash=False)
    resize: int  # px; training images become squares of this side, or what `resize_mode` says ...
    crop: int  # px; ... and the model sees a random square of this side
    crop_min_area: float = 1.0  # below 1: a random box of at least this part of the image instead of resize and crop
    mixup: float = 0.0  # alpha; 0: off
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    flip: float = 0.5  # part of the training images that are mirrored
    resize_kind: ResizeKind = "bilinear"  # of training images
    # To a square; or `small_side`: the smaller side to `resize`, the aspect ratio kept; or `whole`: `resize` is `crop`
    resize_mode: ResizeMode = "squash"
    eval_resize: int = 0  # px of the smaller side before evaluation's central crop; 0: squashed to `crop`
    eval_resize_kind: ResizeKind = "bilinear"
    randaugment_layers: int = 0  # random operations on every training image; 0: off
    randaugment_magnitude: float = 0.0  # their strength, from 0 to 20
    dropout: float = 0.0  # part of the activations that are zeroed
    stochastic_depth: float = 0.0  # part of the examples that skip a residual branch of the last block; fewer below
    patch_sizes: str = ""  # sides in pixels of a ViT's patches, of which each step draws one (per_step.py)
    token_lengths: str = ""  # most patches of an image that keeps its aspect ratio, of which each step draws one number
    patch_dropout: float = 0.0  # part of a training image's patches that the model does not see
    lora: Lora | None = None  # small matrices that learn in the place of kernels
    task: Task = dataclasses.field(default=Classification())
    head_bias: float = 0.0  # initial bias of a new head
    optimizer: Optimizer = "sgd"
    beta1: float = 0.9
    beta2: float = 0.999  # of adafactor: the most that stays of the second moment
    epsilon: float = 1e-8
    epsilon_hat: bool = False  # added before the bias of the second moment is corrected, as Keras and coyo-vit do
    # How the first moment is kept: float32, or the parameters' float64; or bfloat16, as optax's `mu_dtype` and
    # `accumulator_dtype` do: momentum or beta1, and its product with the moment, are rounded, too.
    first_moment: Literal["float32", "bfloat16"] = "float32"
    momentum_rate: Literal["outside", "inside"] = "outside"  # of sgd; inside, a change of the rate takes effect slowly
    clip: float = 0.0  # longest global norm of the gradients; 0: any
    base_lr: float = 1.0  # where the schedule's factor is 1
    # gradient:    g = g + weight_decay * w, before the moments
    # decoupled:   w = w - r * weight_decay * w (PyTorch's AdamW)
    # independent: w = w - r / base_lr * weight_decay * w (big_vision: the schedule's factor, whatever the rate)
    decay: Literal["gradient", "decoupled", "independent"] = "gradient"
    # Moving average of the parameters, which is evaluated and saved: its decay, and min(ema, (1 + t) / (10 + t)) after
    # t updates, as in `optimizers/ema.py` of coyo-vit, but starting from the parameters and not from zeros; 0: off
    ema: float = 0.0
    # SAM: the gradients are taken where the parameters have gone `rho` uphill. Its size follows the rate, from `rho` at
    # base_lr to `rho_min` at end_lr; equal ones are SAM's constant one. 0: off
    rho: float = 0.0
    rho_min: float = 0.0
    gsam_alpha: float = 0.0  # GSAM: how much of the gradients' part across the new ones is taken away; 0: SAM
    sam_group: int = 0  # images whose gradients show one way uphill; 0: all of the batch
    end_lr: float = 0.0  # where the schedule stands after the last update
    groups: Groups = dataclasses.field(default=create_groups())  # what is trained and decays, and how fast

    def __post_init__(self):
        check_choices(self, "A recipe's {}")
        if self.momentum_rate == "inside" and self.optimizer != "sgd":
            raise UserError(f"A recipe's momentum_rate is inside, expected outside: {self.optimizer} has no momentum.")

    @property
    def first_decay(self) -> float:
        """The factor of the first moment in an update, in the type in which it is kept."""
        decay = self.momentum if self.optimizer == "sgd" else self.beta1
        return decay if self.first_moment == "float32" else nearest_bfloat16(decay)

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        return len(self.lrs)

    @property
    def measures(self) -> tuple[str, ...]:
        """What a step measures: its loss, and what else the task has it measure."""
        return "loss", *self.task.measures

    def record(self) -> dict[str, Any]:
        """What recipe.json holds: every field, of the task its name and numbers, of groups what they say."""
        groups = [group.record() for group in self.groups]
        return dataclasses.asdict(self) | {"task": task_record(self.task), "groups": groups}

    def constants(self) -> dict[str, Any]:
        """Every field, those of the task among them: as checkpoints have stated them since there was but one task."""
        record = self.record()
        numbers = record.pop("task")
        return record | {"task": numbers.pop("name")} | numbers

    @property
    def num_parts(self) -> int:
        """Parts of a batch, each with a loss of its own; one where the loss is of the whole."""
        return self.batch_split if self.task.splits_batches else 1

    @property
    def num_ascents(self) -> int:
        """Ways uphill in one update, each shown by the gradients of `sam_group` images; 1 without SAM."""
        return self.batch // self.sam_group if self.rho and self.sam_group else 1

    @property
    def ascent(self) -> "Recipe":
        """What gradients of one `sam_group` are taken by: this recipe with its part of the micro-batches."""
        return dataclasses.replace(self, batch_split=max(1, self.batch_split // self.num_ascents))

    def parts(self, names: tuple[str, ...]) -> tuple[Part, ...]:
        """What holds for each of the parameters of these canonical names; without weight decay none is decayed."""
        found = parts(self.groups, names)
        return found if self.weight_decay else tuple(part._replace(decayed=False) for part in found)

    @functools.cached_property
    def schedules(self) -> tuple[Schedule, ...]:
        """Those of groups, besides the recipe's own."""
        return tuple(dict.fromkeys(group.schedule for group in self.groups if group.schedule))

    def numbers_of(self, part: Part, numbers: UpdateNumbers) -> UpdateNumbers:
        """The numbers of an update for parameters of which `part` holds."""
        if part.schedule:
            numbers = numbers.others[self.schedules.index(part.schedule)]
        if part.rate == 1:
            return numbers
        name = "rate" if self.momentum_rate == "outside" else "gain"
        return numbers._replace(decay=part.rate * numbers.decay, **{name: part.rate * getattr(numbers, name)})

    def update_numbers(self, step: int) -> UpdateNumbers:
        """The numbers of the update that follows `step` completed ones."""
        rates = [schedules.rates(schedule, self.num_steps, self.base_lr)[step] for schedule in self.schedules]
        numbers = numbers_at(self, self.lrs[step], step)
        return numbers._replace(others=tuple(numbers_at(self, lr, step) for lr in rates))

    def rho_at(self, step: int) -> float:
        """The length of the ascent in the update that follows `step` completed ones.

        By the rate of the update after it: the original counts steps from 1 here, and from 0 in its schedule.
        """
        lr = self.lrs[step + 1] if step + 1 < self.num_steps else self.end_lr
        return schedules.follow(lr, self.base_lr, self.end_lr, self.rho, self.rho_min)


def numbers_at(recipe: Recipe, lr: float, step: int) -> UpdateNumbers:
    """The numbers of the update that follows `step` completed ones by the rate `lr`, whatever the schedules say."""
    t = step + 1
    decay = {"gradient": 0.0, "decoupled": lr, "independent": lr / recipe.base_lr if recipe.base_lr else 0.0}
    # u = first / c1 / (sqrt(second) / c2 + epsilon) = first * (c2 / c1) / (sqrt(second) + c2 * epsilon)
    c1, c2 = 1 - recipe.beta1**t, math.sqrt(1 - recipe.beta2**t)
    sgd = {"outside": (1.0, lr), "inside": (lr, 1.0)}[recipe.momentum_rate]
    ways = {"sgd": sgd, "adam": (1 - recipe.beta1, lr * c2 / c1), "adafactor": (1 - recipe.beta1, lr)}
    gain, rate = ways[recipe.optimizer]
    second_decay = min(np.float32(recipe.beta2), 1 - np.float32(t) ** np.float32(-0.8))
    return UpdateNumbers(
        gain=gain,
        rate=rate,
        decay=recipe.weight_decay * decay[recipe.decay],
        epsilon=recipe.epsilon * (1 if recipe.epsilon_hat else c2),
        ema=min(recipe.ema, (1 + t) / (10 + t)),
        rho=recipe.rho_at(step),
        second_decay=float(second_decay),
        second_gain=float(1 - second_decay),
    )


def upgraded(constants: dict[str, Any]) -> dict[str, Any]:
    """The `constants` of an older version, in whose checkpoints names of groups stood for them."""
    if "groups" in constants:
        return constants
    names = {name: constants[name] for name in ("train_only", "decay_mask") if name in constants}
    return constants | {"groups": [group.record() for group in create_groups(**names)]}


def nearest_bfloat16(number: float) -> float:
    """The nearest number of 8 significant bits; of two, the one whose last bit is 0."""
    fraction, exponent = math.frexp(number)
    return math.ldexp(round(fraction * 256), exponent - 8)


def check_sharing(recipe: Recipe, num_devices: int) -> None:
    """Raise UserError where a batch cannot be cut into `batch_split` micro-batches on each of `num_devices` devices."""
    groups = f" groups of {recipe.sam_group} images (--sam_group)" if recipe.num_ascents > 1 else ""
    share, rest = divmod(recipe.batch // recipe.num_ascents, num_devices)
    if rest:
        what = groups or f" a batch of {recipe.batch}"
        raise UserError(f"{num_devices} devices cannot share{what}; choose a multiple.")
    micro_batch, rest = divmod(share, recipe.ascent.batch_split)
    if rest:
        raise UserError(
            f"--batch_split {recipe.batch_split} does not divide the {'groups' if groups else 'batch'} of {share}"
            f"{' on each device' if num_devices > 1 else ''}; choose a divisor."
        )
    if recipe.mixup > 0 and micro_batch % 2:
        raise UserError(
            f"Mixup blends pairs of neighbours and the (micro-)batch has {micro_batch} images; "
            "make it even or give --mixup 0."
        )
