"""A Recipe from the facts of a dataset and the flags of a command, and the numbers that contradict one another."""

import dataclasses

from common import flags
from common.recipes.bit import COMPAT
from common.recipes.groups import Group, create_groups, temperature_group
from common.recipes.lora import TARGETS, Lora
from common.recipes.recipe import Recipe, check_sharing
from common.recipes.rules import RULES
from common.recipes.schedules import SCHEDULES
from common.recipes.task import Captioning, Coded, Contrastive, Dense, Distillation, Rewarded, create_task
from common.system.errors import UserError

MOST_STEPS = 20_000_000  # of 10 ms each they take more than two days; their rates take 0.6 GB and half a minute
NEEDS = {  # flag -> the one without which it is of no use, and what that turns on
    **dict.fromkeys(("rho_min", "gsam_alpha", "sam_group"), ("rho", "SAM")),
    "randaugment_magnitude": ("randaugment_layers", "RandAugment"),
    **dict.fromkeys(("lora_alpha", "lora_targets"), ("lora_rank", "LoRA")),
    "examples_per_class_seed": ("examples_per_class", "a choice of images"),
}
OF_ONE_SIZE = ("resize", "crop", "eval_resize", "patch_size")  # flags
MOST_BYTES = 2**34  # of a batch's pixels, of which a process holds two at least; 65,536 images of 224 px are 9 GiB


def create_recipe(
    config, num_examples: int, image_size: tuple[int, int], dataset_flags: dict, own_size: int | None = None
) -> Recipe:
    """The recipe that a TrainConfig asks for: a flag wins over --compat, then the dataset's row, then the rule.

    Models of images and texts, and of maps, see images at `own_size`, that of their weights, unless a flag gives another crop.
    Raises UserError for numbers that contradict one another, and for flags that the recipe has no use for.
    """
    flags.check(config)
    check_use(config, "recipes", config.recipe)
    given = {name: value for name, value in flags.given(config).items() if name in flags.replacing(type(config))}
    row = dict(dataset_flags) if config.recipe == "bit_finetune" else {}
    if "crop" in given:
        row.pop("resize", None)  # it was chosen for the row's own crop
    wanted = row | COMPAT.get(config.compat, {}) | given
    if config.epochs is not None:
        batch = wanted.get("batch") or RULES[config.recipe](num_examples, image_size, wanted)["batch"]
        wanted["steps"] = max(1, round(config.epochs * num_examples / batch))
    rule = RULES[config.recipe](num_examples, image_size, wanted)
    if rule.get("task") in (Contrastive.name, Captioning.name, Dense.name, Rewarded.name, Coded.name) and own_size:
        wanted = {"crop": own_size} | wanted
        rule = RULES[config.recipe](num_examples, image_size, wanted)
    check_use(config, "tasks", rule.get("task", "classification"))
    check_length(config, rule, wanted)
    check_distance(rule, wanted)
    check_optimizer(config, rule)
    values = rule | wanted
    if config.tokens:
        values.setdefault("token_lengths", str(config.tokens))
    if values.get("token_lengths"):
        check_aspect(config, values)
    if values.get("third_tower") == "":
        raise UserError(
            "Three towers need a third one; name a published model, a file or the folder of a run with --third_tower."
        )
    if values.get("resize_mode") == "whole":
        values["resize"] = values["crop"]
    values.setdefault("eval_resize_kind", values.get("resize_kind", "bilinear"))
    *lrs, end_lr = create_rates(values, own_schedule=rule["schedule"])
    values.setdefault("rho_min", values.get("rho", 0.0))
    values["end_lr"] = end_lr if values.get("rho") else 0.0  # of no use to others, nor in what older runs kept
    if rank := values.get("lora_rank"):
        check_lora(config)
        values["lora"] = Lora(rank, values.get("lora_alpha", float(rank)), values.get("lora_targets", TARGETS))
    values["batch_eval"] = wanted.get("batch_eval", values["batch"])
    fields = {field.name for field in dataclasses.fields(Recipe)} & values.keys() - {"task"}
    own = {"name": config.recipe, "batch_split": config.batch_split, "lrs": tuple(lrs)}
    own["groups"] = create_groups(
        config.train_only, values.get("decay_mask", "kernels"), values.get("locked", ""), bool(values.get("lora_rank"))
    )
    own["groups"] += tuple(Group(pattern, rate=rate) for pattern, rate in rule.get("rates", {}).items())
    if values.get("task") == Contrastive.name and values["loss"] == "softmax":
        own["groups"] += (Group("b", trained=False),)  # which it does not depend on
    if values.get("third_tower") and config.train_only != "all":
        own["groups"] += (Group("third/.*", trained=True),)  # new projections, without which its features are noise
    if most := values.get("most_temperature"):
        check_temperature(most, values.get("first_temperature", Contrastive.first_temperature))
        own["groups"] += (temperature_group(most),)
    recipe = Recipe(**{name: values[name] for name in fields} | own, task=create_task(values))
    check(recipe)
    return recipe


def create_rates(values: dict, own_schedule: str) -> tuple[float, ...]:
    """The rates that a rule and flags ask for, and the one after them; a rule's numbers are those of its own schedule."""
    kind = values["schedule"]
    numbers = values.get("schedule_numbers", {}) if kind == own_schedule else {}
    if "cooldown_steps" in values:
        numbers = numbers | {"cooldown": values["cooldown_steps"]}
    return SCHEDULES[kind](values["steps"], values["warmup_steps"], values["base_lr"], **numbers, beyond=1)


def check_use(config, option: str, name: str) -> None:
    """Raise UserError for a flag of other recipes than `name`, with the `option` recipes, or of other tasks."""
    for flag in flags.given(config):
        users = flags.options(type(config), flag).get(option)
        if users and name not in users:
            kind = option if len(users) > 1 else option.removesuffix("s")
            raise UserError(
                f"--{flag} belongs to the {kind} {' and '.join(users)}; {name} has no use for it, so leave it out."
            )


def check_distance(rule: dict, wanted: dict) -> None:
    """Raise UserError for a flag of another distance than that of distillation."""
    distance = wanted.get("distance", rule.get("distance", Distillation.distance))
    for user, names in Distillation.uses.items():
        for name in names:
            if rule.get("task") == Distillation.name and name in wanted and distance != user:
                raise UserError(
                    f"--{name} belongs to --distance {user}; {distance} has no use for it, so leave it out."
                )


def check_optimizer(config, rule: dict) -> None:
    """Raise UserError for an --optimizer without the momentum that the recipe says how to keep."""
    if config.optimizer not in (None, "sgd") and rule.get("momentum_rate") == "inside":
        raise UserError(
            f"--optimizer {config.optimizer} has no momentum, and {config.recipe} keeps its rate inside of one; leave the flag "
            "out, or choose another recipe."
        )


def check_length(config, rule: dict, wanted: dict) -> None:
    """Raise UserError for a run without end or that is all warm-up, and for flags that the others leave no use for."""
    if wanted.get("resize_mode") == "whole" and config.resize is not None:
        raise UserError("--resize_mode whole has no use for --resize; leave it out, or give --resize_mode squash.")
    if "cooldown_steps" in wanted and wanted.get("schedule", rule["schedule"]) != "rsqrt":
        raise UserError("--cooldown_steps belongs to --schedule rsqrt; the others end low by themselves.")
    given = flags.given(config)
    for flag, (needed, what) in NEEDS.items():
        if given.get(flag) and not (rule | wanted | given).get(needed):
            raise UserError(
                f"--{flag} {given[flag]} belongs to {what}, which is off; give --{needed}, too, or leave it out."
            )
    steps, warmup = wanted.get("steps", rule["steps"]), rule["warmup_steps"]
    for flag in ("warmup_steps", "cooldown_steps"):
        if wanted.get(flag, 0) > steps:
            raise UserError(f"--{flag} is {wanted[flag]} and the run has {steps} steps; give at most as many.")
    if steps > MOST_STEPS:
        raise UserError(f"The run has {steps:,} steps, expected at most {MOST_STEPS:,}; give fewer with --steps.")
    if "warmup_steps" not in wanted and warmup >= steps:
        raise UserError(
            f"The recipe {config.recipe} warms up over {warmup} steps and the run has {steps}; give --warmup_steps as well."
        )


def check_aspect(config, values: dict) -> None:
    """Raise UserError for flags and numbers that have no use where images keep their aspect ratio."""
    flag = "tokens" if config.tokens else "token_lengths"
    given = [name for name in OF_ONE_SIZE if name in flags.given(config)]
    given += ["resize_mode"] * (config.resize_mode not in (None, "whole"))
    given += ["patch_sizes"] * bool(values.get("patch_sizes"))
    if given:
        raise UserError(
            f"--{given[0]} is for images of one size and --{flag} keeps their aspect ratio; leave one of them out."
        )
    if values.get("mixup"):
        raise UserError(
            f"Mixup {values['mixup']:g} blends images of one shape and --{flag} keeps their aspect ratio; give --mixup 0."
        )
    if values.get("third_tower"):
        raise UserError(
            f"--third_tower sees images of one size and --{flag} keeps their aspect ratio; leave one of them out."
        )


def check_lora(config) -> None:
    """Raise UserError for flags that contradict LoRA."""
    if config.train_only == "head":
        raise UserError("--train_only head leaves what --lora_rank adds untrained; leave one of them out.")


def check_sharpness(recipe: Recipe) -> None:
    """Raise UserError where the numbers of SAM contradict one another, the batch or the task."""
    if not recipe.rho:
        return
    if recipe.rho_min > recipe.rho:
        raise UserError(f"--rho_min {recipe.rho_min:g} is above --rho {recipe.rho:g}; give at most as much.")
    if recipe.sam_group and recipe.batch % recipe.sam_group:
        raise UserError(
            f"--sam_group {recipe.sam_group} does not divide the batch of {recipe.batch}; choose a divisor, or 0 for all."
        )
    if recipe.num_ascents > 1 and not recipe.task.splits_batches:
        raise UserError(
            f"--sam_group cuts batches, and the loss of {recipe.task.name} is of a whole one; leave it out."
        )
    if recipe.batch_split > recipe.num_ascents and recipe.batch_split % recipe.num_ascents:
        raise UserError(
            f"--batch_split {recipe.batch_split} cannot cut the {recipe.num_ascents} groups of --sam_group "
            f"{recipe.sam_group} alike; choose a multiple of {recipe.num_ascents}, or fewer parts."
        )


def check_chunk(recipe: Recipe) -> None:
    """Raise UserError where the similarities of a batch cannot be cut into chunks of equal size."""
    chunk = getattr(recipe.task, "chunk", 0)
    if chunk and recipe.batch % chunk:
        raise UserError(f"--chunk {chunk} does not divide the batch of {recipe.batch}; choose a divisor, or 0 for all.")


def check_temperature(most: float, first: float) -> None:
    """Raise UserError where exp(t) would have to be more than `most`."""
    if most < 1:
        raise UserError(f"--most_temperature is {most:g}, expected at least 1, below which exp(t) never is, or 0: any.")
    if first > most:
        raise UserError(f"--first_temperature {first:g} is above --most_temperature {most:g}; give at most as much.")


def check_refused(recipe: Recipe) -> None:
    """Raise UserError for a number that the task has no use for."""
    for name in recipe.task.refuses:
        if value := getattr(recipe, name):
            raise UserError(f"--{name} {value:g} is of no use to the task {recipe.task.name}; leave it out.")


def check(recipe: Recipe) -> None:
    """Raise UserError where two numbers of a recipe contradict one another, or make too large a batch."""
    for flag, batch in (("batch", recipe.batch), ("batch_eval", recipe.batch_eval)):
        if (size := batch * recipe.crop**2 * 3) > MOST_BYTES:
            raise UserError(
                f"--{flag} {batch} of {recipe.crop} px is {-(-size // 2**30):,} GiB of pixels, expected at most "
                f"{MOST_BYTES // 2**30}; give fewer images or a smaller --crop."
            )
    check_refused(recipe)
    check_sharpness(recipe)
    check_chunk(recipe)
    check_sharing(recipe, 1)
    if recipe.resize < recipe.crop:
        raise UserError(f"--resize {recipe.resize} is smaller than --crop {recipe.crop}; resize to at least the crop.")
    if recipe.resize_mode == "whole" and recipe.crop_min_area < 1:
        raise UserError(
            f"--resize_mode whole keeps the whole image and --crop_min_area {recipe.crop_min_area} cuts boxes; give one."
        )
    if 0 < recipe.eval_resize < recipe.crop:
        raise UserError(
            f"--eval_resize {recipe.eval_resize} is smaller than --crop {recipe.crop}; give at least the crop, or 0."
        )
