"""Captioning: a model predicts one of the texts of an image, token by token."""

from typing import Any

import numpy as np

from common import weights
from common.data.batches import EvalBatches
from common.data.columns import Column, check_captions
from common.data.split import Split
from common.data.written import counted, masked, parallel, prompts, texts
from common.evaluation.captioning import WRITTEN, CaptionEvaluator, LikelihoodEvaluator
from common.evaluation.evaluator import Evaluator
from common.models import DecoderConfig, find_model
from common.models.family import within
from common.system.errors import UserError
from common.tasks.contrastive import Texts, tokenizer_of, tower_values
from common.tasks.seen import image_columns, image_size
from common.tasks.start import Start, adapted, prepared


def models(plan: Any) -> dict[str, Start]:
    """The model that is trained; its image tower may come from a file of its own.

    Raises UserError for a model that does not write, and where it would have to hide tokens that it has no embedding for.
    """
    config, recipe = plan.config, plan.recipe
    row = find_model(config.model)
    if not isinstance(row.config(), DecoderConfig):
        raise UserError(
            f"--recipe {recipe.name} trains models that write and {config.model} is none; choose a --model such as CapPa-T/8."
        )
    if recipe.task.parallel and not row.config().masked:
        raise UserError(
            f"--parallel {recipe.task.parallel:g} hides tokens and {config.model} has no embedding for those; give 0, or a "
            "CapPa model."
        )
    check_captions(plan.splits["train"])
    model, arrays, card = weights.starting_values(
        row, plan.weights_file, None, config.seed, image_size=image_size(recipe), patch_size=config.patch_size,
        say=plan.notes.append,
    )  # fmt: skip
    if config.image_weights:
        arrays |= within("image", tower_values(config.image_weights, model.image, plan.notes.append))
    card = card.over(row.card)
    tokenizer_of(config, card.text, model)  # to be refused where a vocabulary is missing
    return {"model": adapted(Start(model, arrays, card, prepared(recipe, card, config.exif)), plan)}


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images and one text of each, in training drawn; which of its tokens count; in CapPa, which of them are hidden."""
    made, recipe = Texts(plan), plan.recipe
    written = texts(split, made.encode, made.form["shape"], drawn=train)
    found = *image_columns(plan, train), written, counted(written, plan.models["model"].card.text.padding)
    if train and recipe.task.parallel:
        found += parallel(recipe.task.parallel), masked(made.form["shape"], recipe.task.masking_ratio)
    return found


def evaluators(plan: Any) -> list[Evaluator]:
    """How likely the texts of every split but `train` are; and what is written of images, with --captions_of."""
    found, made = [], Texts(plan)
    for name, split in plan.splits.items():
        if name == "train" or split.captions is None:
            continue
        pairs = split.pairs()
        batches = EvalBatches(pairs, None, plan.recipe.batch_eval, columns=columns(plan, pairs, train=False))
        found.append(LikelihoodEvaluator(name, batches))
    count = plan.config.captions_of
    if count and (whole := plan.splits[plan.held_out]).captions is not None:
        split = whole.take(np.arange(min(count, len(whole))))
        shown = *image_columns(plan, train=False), *prompts(made.tokenizer, "")
        batches = EvalBatches(split, None, min(plan.recipe.batch_eval, len(split)), columns=shown)
        seen = plan.held_out, len(whole)
        found.append(CaptionEvaluator(WRITTEN, batches, made.tokenizer.decode, split.captions, split=seen))
    return found


def card(plan: Any) -> dict[str, Any]:
    """How images and texts are prepared."""
    return {
        "text": plan.models["model"].card.text.facts(),
        **plan.preprocessing.facts(),
        "skipped_images": plan.dataset.skipped,
    }
