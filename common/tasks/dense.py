"""Dense prediction, first stage: what is known of every pixel of an image becomes codes, and a map again."""

from typing import Any

from common import weights
from common.data.batches import EvalBatches
from common.data.columns import Column, kept_codes
from common.data.split import Split
from common.data.targets import Truths, check_maps, eval_maps, eval_shown, train_columns
from common.evaluation.dense import MapEvaluator, check_known
from common.evaluation.evaluator import Evaluator
from common.evaluation.shown import MOST_SHOWN
from common.models import find_model
from common.system.errors import UserError
from common.tasks.start import Start, adapted, prepared


def models(plan: Any) -> dict[str, Start]:
    """The model that is trained.

    Raises UserError for one that does not compress maps of the recipe's target, and where the images have none such.
    """
    config, recipe = plan.config, plan.recipe
    row, target = find_model(config.model), recipe.task.target
    if getattr(row.config(), "target", None) != target:
        raise UserError(
            f"--recipe {recipe.name} trains VQ-VAEs of {target} and {config.model} is none; choose a --model such as "
            f"UViM-T/8-{target}."
        )
    check_maps(plan.splits["train"], row.config(), config.dataset)
    if row.config().levels and (config.frozen_codebook or config.commitment_weight is not None):
        flag = "--frozen_codebook" if config.frozen_codebook else "--commitment_weight"
        raise UserError(f"{flag} is for codebooks, and {config.model} rounds numbers to levels; leave it out.")
    size = (recipe.crop, recipe.crop)
    model, arrays, card = weights.starting_values(
        row, plan.weights_file, None, config.seed, image_size=size, patch_size=config.patch_size, say=plan.notes.append
    )
    card = card.over(row.card)
    start = Start(model, arrays, card, prepared(recipe, card, config.exif))
    for name, split in plan.splits.items():
        if name != "train":
            check_known(Truths(split, target, start.preprocessing), name)
    return {"model": adapted(start, plan)}


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images and what belongs to each of their pixels; in training, which codes the decoder sees."""
    recipe, target = plan.recipe, plan.recipe.task.target
    if not train:
        return eval_shown(target, plan.preprocessing), eval_maps(target, plan.preprocessing)
    kind = recipe.task.code_dropout
    return *train_columns(target, recipe), *(kept_codes(plan.model_config.num_codes, kind) if kind != "none" else ())


def evaluators(plan: Any) -> list[Evaluator]:
    """How good the maps of every split but `train` are once they were codes."""
    target, found = plan.recipe.task.target, []
    for name, split in plan.splits.items():
        if name == "train":
            continue
        batches = EvalBatches(split, None, plan.recipe.batch_eval, columns=columns(plan, split, train=False))
        shows = MOST_SHOWN if name == plan.held_out else 0
        found.append(MapEvaluator(name, batches, Truths(split, target, plan.preprocessing), shows=shows))
    return found


def card(plan: Any) -> dict[str, Any]:
    """How images are prepared."""
    return {**plan.preprocessing.facts(), "skipped_images": plan.dataset.skipped}
