"""Classification: every image has one class, or any number of them."""

from collections.abc import Callable
from typing import Any

from common import weights
from common.data.batches import EvalBatches
from common.data.columns import Column, labels
from common.data.split import Split
from common.evaluation.classification import ClassificationEvaluator
from common.evaluation.evaluator import Evaluator
from common.models import find_model, with_noise
from common.tasks.seen import image_columns, image_size, of_drawn_patches, seeing
from common.tasks.start import Start, adapted, prepared


def models(plan: Any) -> dict[str, Start]:
    """The one that is trained, with the dataset's classes, at the recipe's resolution."""
    config, recipe = plan.config, plan.recipe
    plan.dataset.check_labels()
    model_config, arrays, card = weights.starting_values(
        find_model(config.model), plan.weights_file, plan.dataset.num_classes, config.seed,
        image_size=image_size(recipe), patch_size=config.patch_size, head_bias=recipe.head_bias, say=plan.notes.append,
    )  # fmt: skip
    model_config = seeing(of_drawn_patches(model_config, recipe), plan)
    model_config = with_noise(model_config, recipe.dropout, recipe.stochastic_depth, recipe.patch_dropout)
    start = Start(model_config, arrays, card, prepared(recipe, card, config.exif, config.tokens))
    return {"model": adapted(start, plan)}


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images and what they show."""
    return *image_columns(plan, train), labels(split)


def evaluators(plan: Any, kind: Callable[..., Evaluator] = ClassificationEvaluator) -> list[Evaluator]:
    """One for every split but `train`; of held-out images with one class each, it keeps what they are taken for."""
    found = []
    for name, split in plan.splits.items():
        if name != "train":
            batches = EvalBatches(
                split, None, plan.recipe.batch_eval, columns=plan.task.columns(plan, split, train=False)
            )
            keeps = name == plan.held_out and not split.is_multi_label
            found.append(kind(name, batches, split.labels if keeps else None))
    return found


def card(plan: Any) -> dict[str, Any]:
    """The classes, how images are prepared, and the loss."""
    return {
        "class_names": plan.dataset.class_names,
        **plan.preprocessing.facts(),
        "skipped_images": plan.dataset.skipped,
        "loss": plan.recipe.task.loss,
    }
