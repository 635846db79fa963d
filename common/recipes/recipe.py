"""Recipes: from the facts of a dataset to the plain numbers of one training run."""

import dataclasses
import math
from typing import NamedTuple

from common.recipes import schedules
from common.recipes.choices import RESIZE_MODES, STRONGEST
from common.recipes.rules import RULES
from common.system.errors import UserError


class UpdateNumbers(NamedTuple):
    """What differs from one update to the next."""

    gain: float  # what the gradient is multiplied by where it is added to the first moment
    rate: float  # what the direction is multiplied by where it is taken from the parameter
    decay: float  # part of itself that a decayed parameter loses besides
    epsilon: float  # added to the root of the second moment
    ema: float  # part of the moving average that stays
    rho: float = 0.0  # how far the parameters ascend before SAM takes the gradients: the length of the whole way


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that shapes a run, written into its folder; nothing else does but the seed.

    An update of the parameter w with the gradient g, after clipping (u is the direction, r the update's rate):
        sgd:   first = momentum * first + g;  u = first
        adam:  first = beta1 * first + (1 - beta1) * g;  second = beta2 * second + (1 - beta2) * g * g
               u = first / (1 - beta1^t) / (sqrt(second / (1 - beta2^t)) + epsilon)
        w = w - r * u
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
    crop_min_area: float  # below 1: a random box of at least this part of the image instead of resize and crop
    mixup: float  # alpha; 0: off
    momentum: float  # of sgd
    weight_decay: float
    flip: float = 0.5  # part of the training images that are mirrored
    resize_kind: str = "bilinear"  # of training images
    # To a square; or `small_side`: the smaller side to `resize`, the aspect ratio kept; or `whole`: `resize` is `crop`
    resize_mode: str = "squash"
    eval_resize: int = 0  # px of the smaller side before evaluation's central crop; 0: squashed to `crop`
    eval_resize_kind: str = "bilinear"
    randaugment_layers: int = 0  # random operations on every training image; 0: off
    randaugment_magnitude: float = 0.0  # their strength, from 0 to 20
    dropout: float = 0.0  # part of the activations that are zeroed
    stochastic_depth: float = 0.0  # part of the examples that skip a residual branch of the last block; fewer below
    loss: str = "softmax"  # or sigmoid: the sum over the classes of the binary cross-entropies
    label_smoothing: float = 0.0  # part of a label that is spread: over all classes, or in sigmoid towards a half
    head_bias: float = 0.0  # initial bias of a new head
    optimizer: str = "sgd"  # or adam
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = False  # added before the bias of the second moment is corrected, as Keras and coyo-vit do
    # How the first moment is kept between updates: float32, or the parameters' float64; or bfloat16, as optax's
    # `mu_dtype` and `accumulator_dtype` do: momentum or beta1, and its product with the moment, are rounded, too.
    first_moment: str = "float32"
    momentum_rate: str = "outside"  # of the first moment of sgd; or inside: a change of the rate takes effect slowly
    clip: float = 0.0  # longest global norm of the gradients; 0: any
    base_lr: float = 1.0  # where the schedule's factor is 1
    # gradient:    g = g + weight_decay * w, before the moments
    # decoupled:   w = w - r * weight_decay * w (PyTorch's AdamW)
    # independent: w = w - r / base_lr * weight_decay * w (big_vision: the schedule's factor, whatever the rate)
    decay: str = "gradient"
    decay_mask: str = "kernels"  # what decays: or all
    # Moving average of the parameters, which is evaluated and saved: its decay, and min(ema, (1 + t) / (10 + t)) after
    # t updates, as in `optimizers/ema.py` of coyo-vit, but starting from the parameters and not from zeros; 0: off
    ema: float = 0.0
    # SAM: the gradients are taken where the parameters have gone `rho` uphill. Its size follows the rate, from `rho` at
    # base_lr to `rho_min` at end_lr ; equal ones are SAM's constant one. 0: off
    rho: float = 0.0
    rho_min: float = 0.0
    gsam_alpha: float = 0.0  # GSAM: how much of the gradients' part across the new ones is taken away; 0: SAM
    sam_group: int = 0  # images whose gradients show one way uphill; 0: all of the batch
    end_lr: float = 0.0  # where the schedule stands after the last update
    train_only: str = "all"  # or what is not frozen: see `trained_parameters` of common/models/

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"A recipe's {name} is {getattr(self, name)!r}, expected {' or '.join(allowed)}.")
        if self.momentum_rate == "inside" and self.optimizer != "sgd":
            raise UserError(f"A recipe's momentum_rate is inside, expected outside: {self.optimizer} has no momentum.")

    @property
    def first_decay(self) -> float:
        """What the first moment is multiplied by in an update, in the type in which it is kept."""
        decay = self.momentum if self.optimizer == "sgd" else self.beta1
        return decay if self.first_moment == "float32" else nearest_bfloat16(decay)

    @property
    def num_steps(self) -> int:
        """Updates in the whole run."""
        return len(self.lrs)

    def decays(self, is_kernel: bool) -> bool:
        """Whether weight decay applies to a parameter."""
        return self.weight_decay > 0 and (is_kernel or self.decay_mask == "all")

    def update_numbers(self, step: int) -> UpdateNumbers:
        """The numbers of the update that follows `step` completed ones."""
        lr, t = self.lrs[step], step + 1
        decay = {"gradient": 0.0, "decoupled": lr, "independent": lr / self.base_lr if self.base_lr else 0.0}
        # u = first / c1 / (sqrt(second) / c2 + epsilon) = first * (c2 / c1) / (sqrt(second) + c2 * epsilon)
        c1, c2 = 1 - self.beta1**t, math.sqrt(1 - self.beta2**t)
        sgd = {"outside": (1.0, lr), "inside": (lr, 1.0)}
        gain, rate = sgd[self.momentum_rate] if self.optimizer == "sgd" else (1 - self.beta1, lr * c2 / c1)
        return UpdateNumbers(
            gain=gain,
            rate=rate,
            decay=self.weight_decay * decay[self.decay],
            epsilon=self.epsilon * (1 if self.epsilon_hat else c2),
            ema=min(self.ema, (1 + t) / (10 + t)),
            rho=self.rho_at(step),
        )

    def rho_at(self, step: int) -> float:
        """How far the update that follows `step` completed ones ascends.

        By the rate of the update after it: the original counts steps from 1 here, and from 0 in its schedule.
        """
        lr = self.lrs[step + 1] if step + 1 < self.num_steps else self.end_lr
        return schedules.follow(lr, self.base_lr, self.end_lr, self.rho, self.rho_min)


def nearest_bfloat16(number: float) -> float:
    """The nearest number of 8 significant bits; of two, the one whose last bit is 0."""
    fraction, exponent = math.frexp(number)
    return math.ldexp(round(fraction * 256), exponent - 8)


SCHEDULES = {
    schedule.__name__: schedule
    for schedule in (schedules.cosine, schedules.linear, schedules.rsqrt, schedules.stepwise)
}
LOSSES = ("softmax", "sigmoid")
CHOICES = {
    "loss": LOSSES,
    "optimizer": ("sgd", "adam"),
    "first_moment": ("float32", "bfloat16"),
    "momentum_rate": ("outside", "inside"),
    "decay": ("gradient", "decoupled", "independent"),
    "decay_mask": ("kernels", "all"),
}
MOST_STEPS = 20_000_000  # of 10 ms each they take more than two days; their rates take 0.6 GB and half a minute
MOST_BYTES = 2**34  # of a batch's pixels, of which a process holds two at least; 65,536 images of 224 px are 9 GiB
DEFAULTS = {"crop_min_area": 1.0, "mixup": 0.0, "momentum": 0.9, "weight_decay": 0.0, "schedule_numbers": {}}
FLAGS = (
    "batch", "batch_eval", "base_lr", "steps", "warmup_steps", "schedule", "cooldown_steps", "mixup", "augmentation",
    "dropout", "stochastic_depth", "label_smoothing", "weight_decay", "clip", "ema", "resize", "crop", "crop_min_area",
    "resize_mode", "resize_kind", "flip", "eval_resize", "eval_resize_kind", "randaugment_layers",
    "randaugment_magnitude",
)  # fmt: skip
# What google-research/big_transfer did to images in TensorFlow and JAX: `input_pipeline_tf2_or_jax.py` calls
# `tf.image.flip_left_right` on every training image and `tf.image.resize` without antialias, in evaluation, too. Its
# PyTorch code flips half of them and resizes by Pillow.
COMPAT = {"bit2021": {"flip": 1.0, "resize_kind": "bilinear_aliased"}}


def create_recipe(config, num_examples: int, image_size: tuple[int, int], dataset_flags: dict) -> Recipe:
    """The recipe that a TrainConfig asks for: a flag wins over --compat, then the dataset's row, then the rule.

    Raises UserError for numbers that contradict one another, and for flags that the recipe has no use for.
    """
    given = {name: getattr(config, name) for name in FLAGS if getattr(config, name) is not None}
    row = dict(dataset_flags) if config.recipe == "bit_finetune" else {}
    if "crop" in given:
        row.pop("resize", None)  # it was chosen for the row's own crop
    flags = row | COMPAT.get(config.compat, {}) | given
    if config.epochs is not None:
        batch = flags.get("batch") or RULES[config.recipe](num_examples, image_size, flags)["batch"]
        flags["steps"] = max(1, round(config.epochs * num_examples / batch))
    rule = DEFAULTS | RULES[config.recipe](num_examples, image_size, flags)
    check_flags(config, rule, flags)
    values = rule | {name: value for name, value in flags.items() if name != "augmentation"}
    if values.get("resize_mode") == "whole":
        values["resize"] = values["crop"]
    values.setdefault("eval_resize_kind", values.get("resize_kind", "bilinear"))
    lrs = create_rates(values, own_schedule=rule["schedule"])
    values["batch_eval"] = flags.get("batch_eval", values["batch"])
    fields = {field.name for field in dataclasses.fields(Recipe)} & values.keys()
    own = {"name": config.recipe, "batch_split": config.batch_split, "train_only": config.train_only, "lrs": lrs}
    recipe = Recipe(**own, **{name: values[name] for name in fields})
    check(recipe)
    return recipe


def create_rates(values: dict, own_schedule: str) -> tuple[float, ...]:
    """The rates that a rule and flags ask for; a rule's numbers are those of its own schedule."""
    kind = values["schedule"]
    numbers = values["schedule_numbers"] if kind == own_schedule else {}
    if "cooldown_steps" in values:
        numbers = numbers | {"cooldown": values["cooldown_steps"]}
    return SCHEDULES[kind](values["steps"], values["warmup_steps"], values["base_lr"], **numbers)


def check_flags(config, rule: dict, flags: dict) -> None:
    """Raise UserError for a flag that a recipe has no use for, and for a run without end or that is all warm-up."""
    name = config.recipe
    if "augmentation" in flags and name != "augreg":
        raise UserError(f"--augmentation is a level of the recipe augreg; {name} has none, so leave it out.")
    if config.compat and name != "bit_finetune":
        raise UserError(
            f"--compat {config.compat} is how BiT was fine-tuned; {name} is another recipe, so leave it out."
        )
    if flags.get("resize_mode") == "whole" and config.resize is not None:
        raise UserError("--resize_mode whole has no use for --resize; leave it out, or give --resize_mode squash.")
    if "cooldown_steps" in flags and flags.get("schedule", rule["schedule"]) != "rsqrt":
        raise UserError("--cooldown_steps belongs to --schedule rsqrt; the others end low by themselves.")
    steps, warmup = flags.get("steps", rule["steps"]), rule["warmup_steps"]
    for flag in ("warmup_steps", "cooldown_steps"):
        if flags.get(flag, 0) > steps:
            raise UserError(f"--{flag} is {flags[flag]} and the run has {steps} steps; give at most as many.")
    if steps > MOST_STEPS:
        raise UserError(f"The run has {steps:,} steps, expected at most {MOST_STEPS:,}; give fewer with --steps.")
    if "warmup_steps" not in flags and warmup >= steps:
        raise UserError(
            f"The recipe {name} warms up over {warmup} steps and the run has {steps}; give --warmup_steps as well."
        )


def check(recipe: Recipe) -> None:
    """Raise UserError where two numbers of a recipe contradict one another, or make too large a batch."""
    for flag, batch in (("batch", recipe.batch), ("batch_eval", recipe.batch_eval)):
        if (size := batch * recipe.crop**2 * 3) > MOST_BYTES:
            raise UserError(
                f"--{flag} {batch} of {recipe.crop} px is {-(-size // 2**30):,} GiB of pixels, expected at most "
                f"{MOST_BYTES // 2**30}; give fewer images or a smaller --crop."
            )
    check_sharing(recipe, 1)
    if recipe.resize < recipe.crop:
        raise UserError(f"--resize {recipe.resize} is smaller than --crop {recipe.crop}; resize to at least the crop.")
    if not 0 < recipe.crop_min_area <= 1:
        raise UserError(
            f"--crop_min_area is {recipe.crop_min_area}, expected more than 0 and at most 1; correct the flag."
        )
    if recipe.resize_mode not in RESIZE_MODES:
        raise UserError(f"--resize_mode is {recipe.resize_mode!r}, expected {' or '.join(RESIZE_MODES)}; correct it.")
    if recipe.resize_mode == "whole" and recipe.crop_min_area < 1:
        raise UserError(
            f"--resize_mode whole keeps the whole image and --crop_min_area {recipe.crop_min_area} cuts boxes; give one."
        )
    if not 0 <= recipe.flip <= 1:
        raise UserError(f"--flip is {recipe.flip}, expected 0 to 1; correct the flag.")
    if 0 < recipe.eval_resize < recipe.crop:
        raise UserError(
            f"--eval_resize {recipe.eval_resize} is smaller than --crop {recipe.crop}; give at least the crop, or 0."
        )
    if not 0 <= recipe.randaugment_magnitude <= STRONGEST:
        raise UserError(
            f"--randaugment_magnitude is {recipe.randaugment_magnitude}, expected 0 to {STRONGEST}; correct the flag."
        )


def check_sharing(recipe: Recipe, num_devices: int) -> None:
    """Raise UserError where a batch cannot be cut into `batch_split` micro-batches on each of `num_devices` devices."""
    share, rest = divmod(recipe.batch, num_devices)
    if rest:
        raise UserError(f"{num_devices} devices cannot share a batch of {recipe.batch}; choose a multiple.")
    micro_batch, rest = divmod(share, recipe.batch_split)
    if rest:
        raise UserError(
            f"--batch_split {recipe.batch_split} does not divide the batch of {share}"
            f"{' on each device' if num_devices > 1 else ''}; choose a divisor."
        )
    if recipe.mixup > 0 and micro_batch % 2:
        raise UserError(
            f"Mixup blends pairs of neighbours and the (micro-)batch has {micro_batch} images; "
            "make it even or give --mixup 0."
        )
