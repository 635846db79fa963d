"""Captioning: a model predicts one of the texts of an image, token by token."""

from pathlib import Path
from typing import Any

from common import weights
from common.data.batches import EvalBatches
from common.data.columns import Column, check_captions
from common.data.split import Split, evenly
from common.data.text.prompts import PLACE, prompts_of
from common.data.written import behind, parallel, prompts, texts, tokens_of, told
from common.evaluation.captioning import WRITTEN, CaptionEvaluator, LikelihoodEvaluator, scorers
from common.evaluation.evaluator import Evaluator
from common.models import DecoderConfig, find_model
from common.models.family import within
from common.system.errors import UserError
from common.tasks.contrastive import Texts, tokenizer_of, tower_values
from common.tasks.seen import image_columns, image_size
from common.tasks.start import Start, adapted, prepared
from common.weights.source import declared


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
    check_texts(plan)
    if config.captions_of:
        scorers()  # to be refused where their package is missing
    if row.text is None and plan.weights_file is None:
        raise UserError(
            f"{config.model} is made for codes and nothing tells which texts it writes; choose a --model such as CapPa-T/8."
        )
    check_writes_texts(
        plan.weights_file, "train it by --recipe uvim_codes and with its --oracle, or name other weights"
    )
    model, arrays, card = weights.starting_values(
        row, plan.weights_file, None, config.seed, image_size=image_size(recipe), patch_size=config.patch_size,
        say=plan.notes.append,
    )  # fmt: skip
    if config.image_weights:
        arrays |= within("image", tower_values(config.image_weights, model.image, plan.notes.append))
    card = card.over(row.card)
    tokenizer = tokenizer_of(config, card.text, model)  # to be refused where a vocabulary is missing
    for prompt in (card.prompt if config.prompt is None else config.prompt, config.class_prompt):
        tokens_of(tokenizer, prompt or "")  # and where there is no room for a text
    return {"model": adapted(Start(model, arrays, card, prepared(recipe, card, config.exif)), plan)}


def check_texts(plan: Any) -> None:
    """Raise UserError where images have no captions and, with --class_prompt, where one has not one class."""
    train, prompt = plan.splits["train"], plan.config.class_prompt
    if prompt is None:
        check_captions(train)
    elif not plan.dataset.class_names or train.is_multi_label:
        raise UserError(
            f"--class_prompt {prompt!r} is for images with one class each, which those of {plan.dataset.name} have not; leave it "
            "out."
        )


def check_writes_texts(path: Path | None, instead: str = "name with --oracle what makes maps of them") -> None:
    """Raise UserError for weights that were trained to write codes, before they are read; `instead` is what to do."""
    if path and declared(path).card.oracle:
        raise UserError(f"{path} writes codes of maps; {instead}.")


def prompt_of(plan: Any) -> str:
    """What every caption begins with: --prompt, or what the model was trained with."""
    given = plan.config.prompt
    return (plan.models["model"].card.prompt or "") if given is None else given


def columns(plan: Any, split: Split, train: bool) -> tuple[Column, ...]:
    """Images and one text of each, in training drawn; which of its tokens count; in CapPa, which of them are hidden."""
    task, own, names = plan.recipe.task, plan.config.class_prompt, ()
    if own is not None:
        names, _ = prompts_of(plan.dataset, (PLACE,), plan.models["model"].card.text)
    at_once = train and task.parallel
    written = texts(
        Texts(plan).tokenizer, told(split, prompt_of(plan), own, names), drawn=train,
        hidden=task.masking_ratio if at_once else None,
    )  # fmt: skip
    return (*image_columns(plan, train), *written, *([parallel(task.parallel)] if at_once else ()))


def evaluators(plan: Any) -> list[Evaluator]:
    """How likely the texts of every split but `train` are; and what is written of images, with --captions_of."""
    found, made = [], Texts(plan)
    for name, split in plan.splits.items():
        if name == "train" or (split.captions is None and plan.config.class_prompt is None):
            continue
        pairs = split if split.captions is None else split.pairs()
        batches = EvalBatches(pairs, None, plan.recipe.batch_eval, columns=columns(plan, pairs, train=False))
        found.append(LikelihoodEvaluator(name, batches))
    count = plan.config.captions_of
    if count and (whole := plan.splits[plan.held_out]).captions is not None:
        numbers = evenly(len(whole), count)
        split = whole.take(numbers)
        shown = *image_columns(plan, train=False), *prompts(made.tokenizer, prompt_of(plan))
        batches = EvalBatches(split, None, min(plan.recipe.batch_eval, len(split)), columns=shown)
        seen = plan.held_out, len(whole)
        decode = behind(made.tokenizer, prompt_of(plan))
        found.append(CaptionEvaluator(WRITTEN, batches, decode, split.captions, split=seen, numbers=numbers))
    return found


def card(plan: Any) -> dict[str, Any]:
    """How images and texts are prepared, and what texts begin with."""
    return ({"prompt": prompt_of(plan)} if prompt_of(plan) else {}) | {
        "text": plan.models["model"].card.text.facts(),
        **plan.preprocessing.facts(),
        "skipped_images": plan.dataset.skipped,
    }
