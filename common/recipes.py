"""Recipes: from the facts of a dataset to the plain numbers of one training run."""

import dataclasses
import math

from common import hyperrule
from common.errors import UserError
from common.images import RESIZE_MODES
from common.randaugment import MAX_LEVEL


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that shapes a run, written into its folder; nothing else does but the seed."""

    name: str
    batch: int  # images per update
    batch_split: int  # micro-batches per update
    batch_eval: int
    lrs: tuple[float, ...]  # the rate of the update that follows `step` completed ones is lrs[step]
    resize: int  # px; training images become squares of this side, or what `resize_mode` says ...
    crop: int  # px; ... and the model sees a random square of this side
    crop_min_area: float  # below 1: a random box of at least this part of the image instead of resize and crop
    mixup: float  # alpha; 0: off
    momentum: float
    weight_decay: float  # added to the gradient of kernels: g + weight_decay * w
    resize_kind: str = "bilinear"
    resize_mode: str = "squash"  # to a square; or `small_side`: the smaller side to `resize`, the aspect ratio kept
    eval_resize: int = 0  # px of the smaller side before evaluation's central crop; 0: squashed to `crop`
    randaugment_layers: int = 0  # random operations on every training image; 0: off
    randaugment_magnitude: float = 0.0  # their strength, from 0 to 10
    dropout: float = 0.0  # part of the activations that are zeroed
    stochastic_depth: float = 0.0  # part of the examples that skip a residual branch of the last block; fewer below

    @property
    def num_steps(self) -> int:
        return len(self.lrs)


def bit_finetune(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """Fine-tune by the BiT-HyperRule (common/hyperrule.py): SGD with momentum 0.9, no weight decay.

    Expected: BiT-M-R50x1 reaches 97.4 % on CIFAR-10 (README of google-research/big_transfer); 10,000 steps of 512.
        python -m bit_pytorch.train --model BiT-M-R50x1 --dataset cifar10
    """
    resize, crop = hyperrule.resolution(image_size)
    schedule = hyperrule.schedule(num_examples)
    return {
        "batch": hyperrule.BATCH_SIZE,
        "resize": round(flags.get("crop", crop) * resize / crop),
        "crop": crop,
        "crop_min_area": 1.0,
        "mixup": hyperrule.mixup(num_examples),
        "weight_decay": 0.0,
        "lrs": stepwise(schedule, flags.get("base_lr", hyperrule.BASE_LR), flags),
    }


def bit_pretrain(num_examples: int, image_size: tuple[int, int], flags: dict, cosine: bool = True) -> dict:
    """Train from scratch as BiT was: SGD 0.9, rate 0.03 x batch / 256, weight decay 1e-4, 90 epochs, random boxes.

    Source: Big Transfer, section 3.2, whose decay is stepwise (`bit_pretrain_stepwise`: by ten after 1/3, 2/3 and
    8/9 of the run). Cosine is the default because it suits short runs better.
        python -m bit_pytorch.train --weights none --recipe bit_pretrain --model BiT-S-R50x1 --dataset imagenet2012
    """
    batch = flags.get("batch", 256)
    num_steps = flags.get("steps", math.ceil(90 * num_examples / batch))
    warmup = min(5000, num_steps // 20)
    crop = min(224, *image_size)
    base_lr = flags.get("base_lr", 0.03 * batch / 256)
    if cosine:
        lrs = cosine_decay(num_steps, flags.get("warmup_steps", warmup), base_lr)
    else:
        decays = (warmup, num_steps // 3, num_steps * 2 // 3, num_steps * 8 // 9, num_steps)
        lrs = stepwise(decays, base_lr, flags)
    return {
        "batch": batch,
        "resize": flags.get("crop", crop),
        "crop": crop,
        "crop_min_area": 0.08,
        "mixup": 0.0,
        "weight_decay": 1e-4,
        "lrs": lrs,
    }


def bit_pretrain_stepwise(num_examples: int, image_size: tuple[int, int], flags: dict) -> dict:
    """`bit_pretrain` with the decay of the paper."""
    return bit_pretrain(num_examples, image_size, flags, cosine=False)


RECIPES = {rule.__name__: rule for rule in (bit_finetune, bit_pretrain, bit_pretrain_stepwise)}
FLAGS = (
    "batch", "batch_eval", "base_lr", "steps", "warmup_steps", "mixup", "dropout", "stochastic_depth", "resize", "crop",
    "crop_min_area", "resize_mode", "eval_resize", "randaugment_layers", "randaugment_magnitude",
)  # fmt: skip


def stepwise(schedule: tuple[int, ...], base_lr: float, flags: dict) -> tuple[float, ...]:
    """The BiT-HyperRule's rates; `steps` stretches the whole schedule, `warmup_steps` replaces its first entry."""
    steps = flags.get("steps", schedule[-1])
    schedule = tuple(round(point * steps / schedule[-1]) for point in schedule)
    schedule = (flags.get("warmup_steps", schedule[0]), *schedule[1:])
    return tuple(hyperrule.learning_rate(step, schedule, base_lr) for step in range(steps))


def cosine_decay(num_steps: int, warmup: int, base_lr: float) -> tuple[float, ...]:
    """Linear warm-up from zero, then half a cosine down to zero."""
    lrs = []
    for step in range(num_steps):
        progress = (step - warmup) / max(1, num_steps - warmup)
        lrs.append(base_lr * (step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress))))
    return tuple(lrs)


def create_recipe(config, num_examples: int, image_size: tuple[int, int], dataset_flags: dict) -> Recipe:
    """The recipe that a TrainConfig asks for: a flag wins over the dataset's row, which wins over the rule.

    Raises UserError for numbers that contradict one another.
    """
    given = {name: getattr(config, name) for name in FLAGS if getattr(config, name) is not None}
    row = dict(dataset_flags) if config.recipe == "bit_finetune" else {}
    if "crop" in given:
        row.pop("resize", None)  # it was chosen for the row's own crop
    flags = row | given
    values = RECIPES[config.recipe](num_examples, image_size, flags)
    values |= {field.name: flags[field.name] for field in dataclasses.fields(Recipe) if field.name in flags}
    values["batch_eval"] = flags.get("batch_eval", values["batch"])
    recipe = Recipe(name=config.recipe, batch_split=config.batch_split, momentum=0.9, **values)
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Raise UserError where two numbers of a recipe contradict one another."""
    check_sharing(recipe, 1)
    if recipe.resize < recipe.crop:
        raise UserError(f"--resize {recipe.resize} is smaller than --crop {recipe.crop}; resize to at least the crop.")
    if not 0 < recipe.crop_min_area <= 1:
        raise UserError(
            f"--crop_min_area is {recipe.crop_min_area}, expected more than 0 and at most 1; correct the flag."
        )
    if recipe.resize_mode not in RESIZE_MODES:
        raise UserError(f"--resize_mode is {recipe.resize_mode!r}, expected {' or '.join(RESIZE_MODES)}; correct it.")
    if 0 < recipe.eval_resize < recipe.crop:
        raise UserError(
            f"--eval_resize {recipe.eval_resize} is smaller than --crop {recipe.crop}; give at least the crop, or 0."
        )
    if not 0 <= recipe.randaugment_magnitude <= MAX_LEVEL:
        raise UserError(
            f"--randaugment_magnitude is {recipe.randaugment_magnitude}, expected 0 to {MAX_LEVEL}; correct the flag."
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
